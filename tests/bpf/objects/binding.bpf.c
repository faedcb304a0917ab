// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* What the tests of the libbpf binding load: a constant, a ring buffer, maps, and damage to a
 * checksum. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 answer;
const volatile __u8 after_answer = 7;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1000);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

SEC("tc")
int give_answer(struct __sk_buff *skb)
{
	(void)skb;
	return answer + after_answer;
}

SEC("tc")
int send_record(struct __sk_buff *skb)
{
	__u64 length = skb->len;

	return bpf_ringbuf_output(&records, &length, sizeof(length), 0);
}

SEC("tc")
int break_checksum(struct __sk_buff *skb)
{
	__u64 key = 1, *value = bpf_map_lookup_elem(&table, &key);
	__u8 hop_limit = value ? *value : 1;

	return bpf_skb_store_bytes(skb, 21, &hop_limit, sizeof(hop_limit), 0);
}
