/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A cursor over the headers of an Ethernet frame; each step checks its bounds once and returns the
 * next type. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stdbool.h>

#include "abi.h"

/* More extension headers than this hide what a packet is. */
#define EXTENSIONS_MAX 8

/* Returned beside the types of headers, which are 0 to 255. */
#define LATER_FRAGMENT 256
#define NO_HEADER      (-1)

#define VLAN_ID_MASK 0xfff

#define HOP_LIMIT_OFFSET   (ETH_HLEN + 7)
#define DESTINATION_OFFSET (ETH_HLEN + 24)

struct ipv6_header {
	__u8 version_class;
	__u8 class_flow;
	__be16 flow;
	__be16 payload_length;
	__u8 next;
	__u8 hop_limit;
	struct address source;
	struct address destination;
};

struct extension {
	__u8 next;
	__u8 length;
	union {
		__be16 fragment;
		struct {
			__u8 routing_type;
			__u8 segments_left;
		};
	};
};

struct packet {
	struct __sk_buff *skb;
	__u32 offset;       /* of the next header */
	__u32 end;          /* of the payload; bytes behind it are padding that no receiver reads */
	bool source_routed; /* a routing header with segments left went by */
	struct ipv6_header ip;
};

/* A frame with a VLAN's tag belongs to that VLAN's device; a priority tag (VLAN 0) means nothing.
 */
static __always_inline bool is_ipv6(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IPV6) &&
	       !(skb->vlan_present && skb->vlan_tci & VLAN_ID_MASK);
}

static __always_inline int load(const struct packet *packet, void *header, __u32 size)
{
	if (packet->offset + size > packet->end)
		return NO_HEADER;
	return bpf_skb_load_bytes(packet->skb, packet->offset, header, size);
}

/* Read in place where the header is in the linear part, as it nearly always is. */
static __always_inline int load_ipv6(struct packet *packet)
{
	const struct ipv6_header *ip = (void *)(long)packet->skb->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)packet->skb->data_end)
		return load(packet, &packet->ip, sizeof(packet->ip));
	packet->ip = *ip;
	return 0;
}

static __always_inline int parse_ipv6(struct packet *packet, struct __sk_buff *skb)
{
	packet->skb = skb;
	packet->offset = ETH_HLEN;
	packet->end = skb->len;
	packet->source_routed = false;
	if (load_ipv6(packet) || packet->ip.version_class >> 4 != 6)
		return NO_HEADER;
	packet->offset += sizeof(packet->ip);
	/* 0 is a jumbo payload (BIG TCP), which the stack takes whole and never reassembles. */
	if (packet->ip.payload_length)
		packet->end = packet->offset + bpf_ntohs(packet->ip.payload_length);
	return packet->ip.next;
}

/* Return the type of the upper-layer header, which the cursor is on then. */
static __always_inline int parse_extensions(struct packet *packet, int type)
{
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		struct extension extension;

		if (type != IPPROTO_HOPOPTS && type != IPPROTO_DSTOPTS && type != IPPROTO_ROUTING &&
		    type != IPPROTO_AH && type != IPPROTO_FRAGMENT)
			return type;
		if (load(packet, &extension, sizeof(extension)))
			return NO_HEADER;
		if (type == IPPROTO_FRAGMENT) {
			if (extension.fragment & bpf_htons(0xfff8))
				return LATER_FRAGMENT;
			packet->offset += 8;
		} else if (type == IPPROTO_AH) {
			packet->offset += (extension.length + 2) * 4;
		} else {
			if (type == IPPROTO_ROUTING && extension.segments_left)
				packet->source_routed = true;
			packet->offset += (extension.length + 1) * 8;
		}
		type = extension.next;
	}
	return NO_HEADER;
}
