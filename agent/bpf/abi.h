/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs share with user space, and nothing else: hooks, verdicts and the values of
 * maps. User space reads all of it from the object's BTF; no name, number or size is written down
 * twice.
 */
#pragma once

#include <linux/types.h>

/* Where a program looks at a packet; the edge variants count with their hook. */
enum hook {
	HOOK_FROM_POD,
	HOOK_FROM_WIRE,
	HOOK_TO_WIRE,
};

#define HOOK_COUNT         3
#define VERDICT_COUNT      64
#define VERDICT_SENT_FIRST 16
#define VERDICT_DROP_FIRST 32

/*
 * What became of a packet and why.  The word after VERDICT_ is the kind (the stack goes on with the
 * packet, BPF redirected it, it ends here); the rest, in lower case, is its name in metrics.
 */
enum verdict {
	GO_ON, /* no verdict yet: never leaves a program */

	VERDICT_PASS_OTHER,          /* wire: nothing of ours */
	VERDICT_PASS_OTHER_HOST,     /* wire: a frame flooded to us */
	VERDICT_PASS_NODE,           /* from_pod: to a node address */
	VERDICT_PASS_OUTSIDE,        /* from_pod: to anywhere else */
	VERDICT_PASS_LOCAL,          /* to a local endpoint, by the stack */
	VERDICT_PASS_REMOTE,         /* from_pod: to_wire will translate it */
	VERDICT_PASS_TRANSLATED,     /* to_wire: SIR to ILA */
	VERDICT_PASS_ILA,            /* to_wire: translated before */
	VERDICT_PASS_RESTORED,       /* from_wire: ILA to SIR */
	VERDICT_PASS_QUOTE_RESTORED, /* from_wire: an ICMPv6 error for the host itself */
	VERDICT_PASS_TO_STACK,       /* cannot be redirected: the stack makes the ICMPv6 error */

	VERDICT_SENT_DELIVERED = VERDICT_SENT_FIRST, /* into the pod's device */
	VERDICT_SENT_FORWARDED,                      /* from_pod: translated, to the wire */
	VERDICT_SENT_NEXT_HOP, /* to_wire: translated, to the locator's own next hop */
	VERDICT_SENT_ONWARD,   /* from_wire: to the locator where the identifier is */

	VERDICT_DROP_NOT_IPV6 = VERDICT_DROP_FIRST, /* from_pod: ARP, IPv4, VLANs */
	VERDICT_DROP_MALFORMED,            /* no IPv6 header, or an error that quotes none */
	VERDICT_DROP_HEADER_CHAIN,         /* from_pod: the header to be judged is out of reach */
	VERDICT_DROP_SOURCE_ROUTE,         /* from_pod: a routing header with segments left */
	VERDICT_DROP_ROUTER_ADVERTISEMENT, /* from_pod */
	VERDICT_DROP_ICMPV6_REDIRECT,      /* from_pod */
	VERDICT_DROP_LINK_LOCAL_SOURCE,    /* from_pod: NDP and MLD of a new interface */
	VERDICT_DROP_SPOOFED_SOURCE,       /* from_pod: not the pod's own SIR address */
	VERDICT_DROP_LOCATOR_SOURCE,       /* wire: T14, T15 */
	VERDICT_DROP_SIR_SOURCE,           /* edge: T14 */
	VERDICT_DROP_LOCATOR_DESTINATION,  /* from_pod: T24; edge: T13, T14 */
	VERDICT_DROP_SIR_DESTINATION,      /* edge: T13 */
	VERDICT_DROP_FOREIGN_LOCATOR,      /* from_wire: another node's */
	VERDICT_DROP_CLOSED_PORT,          /* from_pod: ilanet's own ports on nodes */
	VERDICT_DROP_C_BIT,                /* set where it must be clear: T5, T29 */
	VERDICT_DROP_NO_C_BIT,             /* clear where it must be set: no ILA address */
	VERDICT_DROP_IDENTIFIER_TYPE,      /* no LUID: T4 */
	VERDICT_DROP_ZERO_LOW_BITS,        /* what translation does not bring back: T28 */
	VERDICT_DROP_NO_ENDPOINT,          /* mapped to this node, but its pod is not wired (yet) */
	VERDICT_DROP_MISROUTED,            /* to_wire: mapped to this node */
	VERDICT_DROP_UNMAPPED,             /* T25; on ingress the reject rule answers */
	VERDICT_DROP_UNMAPPED_INCOMPLETE,  /* the same while mappings are still being read */
	VERDICT_DROP_QUOTE_MISMATCH,       /* from_wire: T11 */
	VERDICT_DROP_NO_MEMORY,            /* the kernel could not make the packet writable */
};

struct address {
	__be64 prefix;
	__be64 identifier;
};

struct mapping {
	struct address ila;
	__u64 epoch;
	__u64 revision;
};

struct endpoint {
	__u32 ifindex;
	__u8 pod_mac[6]; /* with host_mac the first 12 bytes of a frame to the pod */
	__u8 host_mac[6];
	__u32 by_stack; /* plugins work on its packets in this host's stack: both ways through it */
};

struct state {
	__u32 complete; /* mappings: a miss is known to be no mapping */
};

struct count {
	__u64 packets;
	__u64 bytes;
};
