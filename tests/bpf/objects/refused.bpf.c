// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* A program that the verifier refuses: it reads packet bytes without looking where the packet ends.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int reads_beyond_the_end(struct __sk_buff *skb)
{
	return *(__u8 *)(long)skb->data;
}
