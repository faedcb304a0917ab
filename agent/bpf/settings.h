/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Constants of this node, set by user space before loading: the verifier sees their values and
 * removes what they switch off.
 */
#pragma once

#include <linux/types.h>
#include <stdbool.h>

#include "abi.h"

#define SPACES_MAX 8
#define PORTS_MAX  16

struct space {
	__be64 prefix;
	__be64 mask;
};

const volatile __be64 sir_prefix;
const volatile __be64 own_locator;
const volatile struct space locator_space[SPACES_MAX];
const volatile __u32 locator_space_count;

/* Checksum mode neutral-map; else neutral-map-auto. */
const volatile bool neutral_map;

/*
 * One's-complement sum, in network order, of the complement of the SIR prefix and of the C-bit
 * where the mode has one: all that undoing a translation adds to the words of the locator.
 */
const volatile __be16 undo_sum;

/* Redirect past the host's stack. */
const volatile bool host_routing;

/* Takes packets to all locators; all zero: the next hop of each locator is looked up. */
const volatile struct address gateway;

/* The device of the SIR route. */
const volatile __u32 underlay_ifindex;

/* TCP and UDP ports that pods do not reach on nodes. */
const volatile __be16 closed_ports[PORTS_MAX];
const volatile __u32 closed_ports_count;

/* The mark by which the reject rule knows a packet that nothing maps. */
const volatile __u32 reject_mark;

/* Off only to measure what the stores of addresses cost. */
const volatile bool translate;

/* An enum that nothing else keeps in the object's BTF. */
const volatile enum hook hook_names;
const volatile enum verdict verdict_names;
