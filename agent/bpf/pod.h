/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a pod may send, and where it goes. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "forward.h"
#include "maps.h"
#include "parse.h"
#include "settings.h"
#include "translate.h"

#define ROUTER_ADVERTISEMENT 134
#define REDIRECT             137

static __always_inline bool is_link_local(__be64 prefix)
{
	return bpf_be64_to_cpu(prefix) >> 54 == 0xfe80 >> 6;
}

static __always_inline bool is_multicast(__be64 prefix)
{
	return bpf_be64_to_cpu(prefix) >> 56 == 0xff;
}

/* No extension header or fragment hides a message that only routers send (CVE-2020-10749, RFC
 * 7113). */
static __always_inline enum verdict check_headers(struct packet *packet, int type)
{
	__u8 message;

	if (packet->source_routed)
		return VERDICT_DROP_SOURCE_ROUTE;
	if (type == NO_HEADER)
		return VERDICT_DROP_HEADER_CHAIN;
	if (type != IPPROTO_ICMPV6)
		return GO_ON;
	if (load(packet, &message, sizeof(message)))
		return VERDICT_DROP_HEADER_CHAIN;
	if (message == ROUTER_ADVERTISEMENT)
		return VERDICT_DROP_ROUTER_ADVERTISEMENT;
	if (message == REDIRECT)
		return VERDICT_DROP_ICMPV6_REDIRECT;
	return GO_ON;
}

static __always_inline enum verdict check_source(const struct packet *packet, bool *by_stack)
{
	struct address source = packet->ip.source;
	struct endpoint *endpoint;

	if (is_link_local(source.prefix) || !(source.prefix | source.identifier))
		return VERDICT_DROP_LINK_LOCAL_SOURCE;
	if (source.prefix != sir_prefix)
		return VERDICT_DROP_SPOOFED_SOURCE;
	endpoint = bpf_map_lookup_elem(&endpoints, &source.identifier);
	if (!endpoint || endpoint->ifindex != packet->skb->ifindex)
		return VERDICT_DROP_SPOOFED_SOURCE;
	*by_stack = endpoint->by_stack;
	return GO_ON;
}

/* The node next door answers to link-local and multicast addresses too. */
static __always_inline enum verdict to_node_or_outside(struct packet *packet, int type)
{
	struct address destination = packet->ip.destination;
	__be16 ports[2];
	bool node = bpf_map_lookup_elem(&nodes, &destination);

	if (!node && !is_link_local(destination.prefix) && !is_multicast(destination.prefix))
		return VERDICT_PASS_OUTSIDE;
	if (type == IPPROTO_TCP || type == IPPROTO_UDP) {
		if (load(packet, ports, sizeof(ports)))
			return VERDICT_DROP_HEADER_CHAIN;
#pragma unroll
		for (__u32 i = 0; i < PORTS_MAX; i++) {
			if (i < closed_ports_count && ports[1] == closed_ports[i])
				return VERDICT_DROP_CLOSED_PORT;
		}
	}
	return node ? VERDICT_PASS_NODE : VERDICT_PASS_OUTSIDE;
}

static __always_inline enum verdict to_identified(struct packet *packet, bool by_stack)
{
	__be64 identifier = packet->ip.destination.identifier;
	enum verdict wrong = check_identifier(identifier);
	struct endpoint *endpoint;
	struct mapping *mapping;

	if (wrong)
		return wrong;
	mapping = bpf_map_lookup_elem(&mappings, &identifier);
	/* The stack has routes to its own pods, and needs no second look-up to find one. */
	if (by_stack && mapping && mapping->ila.prefix != own_locator)
		return VERDICT_PASS_REMOTE;
	endpoint = bpf_map_lookup_elem(&endpoints, &identifier);
	if (endpoint)
		return by_stack ? VERDICT_PASS_LOCAL
				: deliver(packet, endpoint, VERDICT_PASS_LOCAL);
	if (!mapping)
		return unmapped();
	if (mapping->ila.prefix == own_locator)
		return VERDICT_DROP_NO_ENDPOINT;
	if (!can_forward(packet, underlay_ifindex))
		return VERDICT_PASS_TO_STACK;
	return send_translated(packet, mapping, VERDICT_SENT_FORWARDED);
}

static __always_inline enum verdict judge_from_pod(struct __sk_buff *skb)
{
	struct packet packet;
	enum verdict wrong;
	bool by_stack = false;
	int type;

	if (!is_ipv6(skb))
		return VERDICT_DROP_NOT_IPV6;
	type = parse_ipv6(&packet, skb);
	if (type == NO_HEADER)
		return VERDICT_DROP_MALFORMED;
	type = parse_extensions(&packet, type);
	wrong = check_headers(&packet, type);
	if (wrong)
		return wrong;
	wrong = check_source(&packet, &by_stack);
	if (wrong)
		return wrong;
	if (packet.ip.destination.prefix == sir_prefix)
		return to_identified(&packet, !host_routing || by_stack);
	if (in_locator_space(packet.ip.destination.prefix))
		return VERDICT_DROP_LOCATOR_DESTINATION;
	return to_node_or_outside(&packet, type);
}
