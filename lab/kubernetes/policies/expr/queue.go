// SPDX-License-Identifier: Apache-2.0

// Package expr has what stands in for queue.go of github.com/google/nftables/expr where the kernel has no nft_queue:
// a rule that queues says so by the target NFQUEUE of xtables, which does the same.
package expr

import (
	"encoding/binary"
	"errors"

	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// QueueFlag is the same in nft_queue and in NFQUEUE.
type QueueFlag uint16

const (
	// QueueFlagBypass lets packets pass while nobody reads the queue.
	QueueFlagBypass QueueFlag = unix.NFT_QUEUE_FLAG_BYPASS
	// QueueFlagFanout chooses the queue by CPU.
	QueueFlagFanout QueueFlag = unix.NFT_QUEUE_FLAG_CPU_FANOUT
)

// Queue hands packets to user space.
type Queue struct {
	Num   uint16
	Total uint16
	Flag  QueueFlag
}

func (e *Queue) marshal(fam byte) ([]byte, error) {
	target, err := e.marshalData(fam)
	if err != nil {
		return nil, err
	}
	return netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_EXPR_NAME, Data: []byte("target\x00")},
		{Type: unix.NLA_F_NESTED | unix.NFTA_EXPR_DATA, Data: target},
	})
}

// marshalData writes struct xt_NFQ_info_v3 of linux/netfilter/xt_NFQUEUE.h, aligned as xtables aligns.
func (e *Queue) marshalData(byte) ([]byte, error) {
	info := make([]byte, 8)
	binary.NativeEndian.PutUint16(info[0:], e.Num)
	binary.NativeEndian.PutUint16(info[2:], max(e.Total, 1))
	binary.NativeEndian.PutUint16(info[4:], uint16(e.Flag))
	return netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TARGET_NAME, Data: []byte("NFQUEUE\x00")},
		{Type: unix.NFTA_TARGET_REV, Data: binaryutil.BigEndian.PutUint32(3)},
		{Type: unix.NFTA_TARGET_INFO, Data: info},
	})
}

func (e *Queue) unmarshal(byte, []byte) error {
	return errors.New("a rule with nft_queue, which this kernel does not have")
}
