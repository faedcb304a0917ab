/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The one way out of a program: it counts the verdict and returns what the kernel is to do. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/pkt_cls.h>

#include "abi.h"
#include "maps.h"
#include "settings.h"

static __always_inline int verdict(struct __sk_buff *skb, enum hook hook, enum verdict verdict)
{
	__u32 key = hook * VERDICT_COUNT + verdict;
	struct count *count = bpf_map_lookup_elem(&verdicts, &key);

	if (count) {
		count->packets += 1;
		count->bytes += skb->len;
	}
	/* The one drop that the stack carries out, since it can answer; on egress nobody is left
	 * to. */
	if (verdict == VERDICT_DROP_UNMAPPED && hook != HOOK_TO_WIRE) {
		skb->mark |= reject_mark;
		return TC_ACT_UNSPEC;
	}
	if (verdict >= VERDICT_DROP_FIRST)
		return TC_ACT_SHOT;
	if (verdict >= VERDICT_SENT_FIRST)
		return TC_ACT_REDIRECT;
	/* Not TC_ACT_OK, which would skip the filters of others. */
	return TC_ACT_UNSPEC;
}
