/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Addresses: what they are, back from ILA by arithmetic, and the stores.  Translation forward is a
 * look-up.  It is checksum-neutral, so the stores leave every checksum alone (ila/address.py).
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "settings.h"

#define LUID  1
#define C_BIT bpf_cpu_to_be64(1ULL << 60)

static __always_inline bool in_locator_space(__be64 prefix)
{
#pragma unroll
	for (__u32 i = 0; i < SPACES_MAX; i++) {
		if (i < locator_space_count &&
		    (prefix & locator_space[i].mask) == locator_space[i].prefix)
			return true;
	}
	return false;
}

/* Tell why an identifier cannot be one, if so. */
static __always_inline enum verdict check_identifier(__be64 identifier)
{
	if (identifier & C_BIT)
		return VERDICT_DROP_C_BIT;
	if (bpf_be64_to_cpu(identifier) >> 61 != LUID)
		return VERDICT_DROP_IDENTIFIER_TYPE;
	if (!(identifier & bpf_cpu_to_be64(0xffff)))
		return VERDICT_DROP_ZERO_LOW_BITS;
	return GO_ON;
}

static __always_inline __u64 sum_words(__u64 value)
{
	return (value & 0xffff) + (value >> 16 & 0xffff) + (value >> 32 & 0xffff) + (value >> 48);
}

/* Find the identifier behind an ILA address, or why there is none. */
static __always_inline enum verdict to_identifier(const struct address *ila, __be64 *identifier)
{
	const __be64 low = bpf_cpu_to_be64(0xffff);
	__u64 value = bpf_be64_to_cpu(ila->identifier);
	__u64 sum =
		(value & 0xffff) + bpf_ntohs(undo_sum) + sum_words(bpf_be64_to_cpu(ila->prefix));

	if (neutral_map && !(ila->identifier & C_BIT))
		return VERDICT_DROP_NO_C_BIT;
	if (!(ila->identifier & low))
		return VERDICT_DROP_ZERO_LOW_BITS;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*identifier = bpf_cpu_to_be64((value & ~0xffffULL) | sum);
	if (neutral_map)
		*identifier &= ~C_BIT;
	return check_identifier(*identifier);
}

static __always_inline int store_address(struct __sk_buff *skb, __u32 offset,
					 const struct address *address)
{
	if (!translate)
		return 0;
	return bpf_skb_store_bytes(skb, offset, address, sizeof(*address), 0);
}

static __always_inline int store_sir_address(struct __sk_buff *skb, __u32 offset, __be64 identifier)
{
	struct address sir = {.prefix = sir_prefix, .identifier = identifier};

	return store_address(skb, offset, &sir);
}

/*
 * An ICMPv6 error quotes the destination as the fabric saw it; sockets and conntrack know the SIR
 * address.  Only what a mapping confirms is restored (draft-herbert-intarea-ila-01 section 5.9.1).
 */
static __always_inline enum verdict restore_quote(struct packet *packet, int type)
{
	struct address quoted;
	struct mapping *mapping;
	__be64 identifier;
	__u8 message;

	if (type != IPPROTO_ICMPV6)
		return GO_ON;
	if (load(packet, &message, sizeof(message)))
		return VERDICT_DROP_MALFORMED;
	if (message & ICMPV6_INFOMSG_MASK)
		return GO_ON;
	packet->offset += sizeof(struct icmp6hdr) + DESTINATION_OFFSET - ETH_HLEN;
	if (load(packet, &quoted, sizeof(quoted)))
		return VERDICT_DROP_MALFORMED;
	if (!in_locator_space(quoted.prefix))
		return GO_ON;
	if (to_identifier(&quoted, &identifier) != GO_ON)
		return VERDICT_DROP_QUOTE_MISMATCH;
	mapping = bpf_map_lookup_elem(&mappings, &identifier);
	if (!mapping || mapping->ila.prefix != quoted.prefix ||
	    mapping->ila.identifier != quoted.identifier)
		return VERDICT_DROP_QUOTE_MISMATCH;
	if (store_sir_address(packet->skb, packet->offset, identifier))
		return VERDICT_DROP_NO_MEMORY;
	return VERDICT_PASS_QUOTE_RESTORED;
}
