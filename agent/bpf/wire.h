/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Packets that come from an underlay device and packets that leave by one. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "forward.h"
#include "maps.h"
#include "parse.h"
#include "settings.h"
#include "translate.h"

/* A SIR address is met with identifier checks (T5), an ILA address of ours is undone (T7). */
static __always_inline enum verdict identify(const struct address *destination, __be64 *identifier)
{
	if (destination->prefix == own_locator)
		return to_identifier(destination, identifier);
	*identifier = destination->identifier;
	return check_identifier(*identifier);
}

/* To a local endpoint, to where the identifier is now (T27), or back to who asked (T25). */
static __always_inline enum verdict arrive(struct packet *packet, __be64 identifier)
{
	bool is_ila = packet->ip.destination.prefix == own_locator;
	struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &identifier);
	struct mapping *mapping = NULL;

	if (!endpoint) {
		mapping = bpf_map_lookup_elem(&mappings, &identifier);
		if (mapping && mapping->ila.prefix == own_locator)
			return VERDICT_DROP_NO_ENDPOINT;
		/* In both host paths: conntrack would see one direction only. */
		if (mapping && can_forward(packet, underlay_ifindex))
			return send_translated(packet, mapping, VERDICT_SENT_ONWARD);
	}
	if (is_ila && store_sir_address(packet->skb, DESTINATION_OFFSET, identifier))
		return VERDICT_DROP_NO_MEMORY;
	if (endpoint)
		return deliver(packet, endpoint,
			       is_ila ? VERDICT_PASS_RESTORED : VERDICT_PASS_LOCAL);
	return mapping ? VERDICT_PASS_TO_STACK : unmapped();
}

static __always_inline enum verdict check_wire(const struct packet *packet, bool edge)
{
	const struct ipv6_header *ip = &packet->ip;

	if (in_locator_space(ip->source.prefix))
		return VERDICT_DROP_LOCATOR_SOURCE;
	if (edge && ip->source.prefix == sir_prefix)
		return VERDICT_DROP_SIR_SOURCE;
	if (edge && in_locator_space(ip->destination.prefix))
		return VERDICT_DROP_LOCATOR_DESTINATION;
	if (ip->destination.prefix != own_locator && in_locator_space(ip->destination.prefix))
		return VERDICT_DROP_FOREIGN_LOCATOR;
	return GO_ON;
}

static __always_inline enum verdict judge_from_wire(struct __sk_buff *skb, bool edge)
{
	struct packet packet;
	enum verdict wrong, quote;
	__be64 identifier;
	bool ours;
	int type;

	if (!is_ipv6(skb))
		return VERDICT_PASS_OTHER;
	if (skb->pkt_type == PACKET_OTHERHOST)
		return VERDICT_PASS_OTHER_HOST;
	type = parse_ipv6(&packet, skb);
	if (type == NO_HEADER)
		return VERDICT_DROP_MALFORMED;
	wrong = check_wire(&packet, edge);
	if (wrong)
		return wrong;
	ours = packet.ip.destination.prefix == own_locator ||
	       packet.ip.destination.prefix == sir_prefix;
	if (ours) {
		wrong = identify(&packet.ip.destination, &identifier);
		if (wrong)
			return wrong;
	}
	quote = restore_quote(&packet, type);
	if (quote >= VERDICT_DROP_FIRST)
		return quote;
	if (ours)
		return arrive(&packet, identifier);
	return quote == GO_ON ? VERDICT_PASS_OTHER : quote;
}

static __always_inline enum verdict judge_to_wire(struct __sk_buff *skb, bool edge)
{
	struct packet packet;
	struct mapping *mapping;
	__be64 identifier;
	enum verdict wrong;

	if (!is_ipv6(skb))
		return VERDICT_PASS_OTHER;
	if (parse_ipv6(&packet, skb) == NO_HEADER)
		return VERDICT_DROP_MALFORMED;
	if (in_locator_space(packet.ip.destination.prefix))
		return edge ? VERDICT_DROP_LOCATOR_DESTINATION : VERDICT_PASS_ILA;
	if (packet.ip.destination.prefix != sir_prefix)
		return VERDICT_PASS_OTHER;
	if (edge)
		return VERDICT_DROP_SIR_DESTINATION;
	identifier = packet.ip.destination.identifier;
	wrong = check_identifier(identifier);
	if (wrong)
		return wrong;
	mapping = bpf_map_lookup_elem(&mappings, &identifier);
	if (!mapping)
		return VERDICT_DROP_UNMAPPED;
	if (mapping->ila.prefix == own_locator)
		return VERDICT_DROP_MISROUTED;
	if (store_address(skb, DESTINATION_OFFSET, &mapping->ila))
		return VERDICT_DROP_NO_MEMORY;
	if (!next_hop_per_locator())
		return VERDICT_PASS_TRANSLATED;
	send_on(skb->ifindex);
	return VERDICT_SENT_NEXT_HOP;
}
