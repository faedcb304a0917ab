// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The programs of a host, attached by agent/kernel/datapath.py: each judges a packet and leaves by
 * verdict(). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "pod.h"
#include "verdict.h"
#include "wire.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Ingress of the host's end of a pod's veth pair. */
SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	return verdict(skb, HOOK_FROM_POD, judge_from_pod(skb));
}

/* Ingress of an underlay device inside the domain. */
SEC("tc")
int from_wire(struct __sk_buff *skb)
{
	return verdict(skb, HOOK_FROM_WIRE, judge_from_wire(skb, false));
}

/* Egress of an underlay device inside the domain. */
SEC("tc")
int to_wire(struct __sk_buff *skb)
{
	return verdict(skb, HOOK_TO_WIRE, judge_to_wire(skb, false));
}

/* Ingress of an underlay device at the domain's edge. */
SEC("tc")
int from_edge(struct __sk_buff *skb)
{
	return verdict(skb, HOOK_FROM_WIRE, judge_from_wire(skb, true));
}

/* Egress of an underlay device at the domain's edge. */
SEC("tc")
int to_edge(struct __sk_buff *skb)
{
	return verdict(skb, HOOK_TO_WIRE, judge_to_wire(skb, true));
}
