/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The maps: pinned and filled by user space, read by the programs. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/in6.h>

#include "abi.h"

/* Identifier -> where it is, with the answer computed beforehand; memory grows with use. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be64);
	__type(value, struct mapping);
} mappings SEC(".maps");

/* Identifier -> the local endpoint that has it; an entry is replaced whole, since none is reused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be64);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* Node addresses, on which some ports are closed to pods; the value says nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct in6_addr);
	__type(value, __u32);
} nodes SEC(".maps");

/* What changes while the programs run and is no setting: one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

/* Packets and bytes by hook * VERDICT_COUNT + verdict. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_COUNT *VERDICT_COUNT);
	__type(key, __u32);
	__type(value, struct count);
} verdicts SEC(".maps");
