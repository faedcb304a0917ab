/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Sending a packet on.  Where BPF redirects, this host's stack does not forward: the hop limit is
 * lowered here, and what the stack would answer with an error goes to the stack untranslated.
 * The redirects need an Ethernet header: veth pairs and Ethernet underlay devices.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "parse.h"
#include "settings.h"
#include "translate.h"

/* Every link that carries IPv6 takes so much (RFC 8200 section 5). */
#define SMALLEST_MTU 1280
#define AF_INET6     10

/* Whether a redirect may replace the stack: the redirects check none of this, and keep a tag. */
static __always_inline bool can_forward(const struct packet *packet, __u32 ifindex)
{
	__u32 mtu = 0;

	return packet->ip.hop_limit > 1 && packet->skb->pkt_type == PACKET_HOST &&
	       !packet->skb->vlan_present &&
	       (packet->skb->len <= ETH_HLEN + SMALLEST_MTU ||
		!bpf_check_mtu(packet->skb, ifindex, &mtu, 0, BPF_MTU_CHK_SEGS));
}

/* Not checksum-neutral: a sum over the whole packet (CHECKSUM_COMPLETE) must follow. */
static __always_inline int lower_hop_limit(struct packet *packet)
{
	__u8 hop_limit = packet->ip.hop_limit - 1;

	return bpf_skb_store_bytes(packet->skb, HOP_LIMIT_OFFSET, &hop_limit, sizeof(hop_limit),
				   BPF_F_RECOMPUTE_CSUM);
}

/* Into the pod; passed is the verdict where the stack does it. */
static __always_inline enum verdict deliver(struct packet *packet, const struct endpoint *endpoint,
					    enum verdict passed)
{
	if (!host_routing || endpoint->by_stack)
		return passed;
	if (!can_forward(packet, endpoint->ifindex))
		return VERDICT_PASS_TO_STACK;
	if (lower_hop_limit(packet) ||
	    bpf_skb_store_bytes(packet->skb, 0, endpoint->pod_mac, 2 * ETH_ALEN, 0))
		return VERDICT_DROP_NO_MEMORY;
	bpf_redirect_peer(endpoint->ifindex, 0);
	return VERDICT_SENT_DELIVERED;
}

static __always_inline bool next_hop_per_locator(void)
{
	return !(gateway.prefix | gateway.identifier);
}

/* By the underlay device; a gateway that takes all packets saves looking a route up for each. */
static __always_inline void send_on(__u32 ifindex)
{
	struct bpf_redir_neigh hop = {.nh_family = AF_INET6};
	struct address address = {.prefix = gateway.prefix, .identifier = gateway.identifier};

	if (next_hop_per_locator()) {
		bpf_redirect_neigh(ifindex, NULL, 0, 0);
		return;
	}
	__builtin_memcpy(hop.ipv6_nh, &address, sizeof(address));
	bpf_redirect_neigh(ifindex, &hop, sizeof(hop), 0);
}

/* To the mapping's locator, after can_forward(). */
static __always_inline enum verdict
send_translated(struct packet *packet, const struct mapping *mapping, enum verdict sent)
{
	if (lower_hop_limit(packet) ||
	    store_address(packet->skb, DESTINATION_OFFSET, &mapping->ila))
		return VERDICT_DROP_NO_MEMORY;
	send_on(underlay_ifindex);
	return sent;
}

/* A SIR address that nothing maps: an error to its sender only once we know that. */
static __always_inline enum verdict unmapped(void)
{
	__u32 key = 0;
	struct state *now = bpf_map_lookup_elem(&state, &key);

	return now && now->complete ? VERDICT_DROP_UNMAPPED : VERDICT_DROP_UNMAPPED_INCOMPLETE;
}
