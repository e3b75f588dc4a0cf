/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The flows that the fast path remembers. */
#pragma once

#include "fast_maps.h"

/* The compiler forgets what it has read of memory. */
#define barrier() asm volatile("" ::: "memory")

static __always_inline __u64 generation(__u32 slot)
{
	__u64 *value = bpf_map_lookup_elem(&generations, &slot);

	return value ? *(volatile __u64 *)value : 0;
}

/* A sum over some 64-bit words, each with a weight of its own, by how many words there are before it. */
static __always_inline __u64 weigh(const void *what, unsigned int bytes, unsigned int before)
{
	const __u64 *words = what;
	__u64 total = 0;

#pragma unroll
	for (unsigned int i = 0; i < bytes / 8; i++)
		total += words[i] * (__s32)(0x9e3779b1U * (before + i + 1) | 1);
	return total;
}

/*
 * Never 0. The weights are random and nobody else's (multiply-shift hashing), so nobody can send packets whose flows take the
 * places of others. All bits of the key have a say in the upper bits.
 */
static __always_inline __u64 hash_of(const struct key *key)
{
	const __u64 *words = (const __u64 *)key;
	const struct weights *weights;
	__u32 zero = 0;
	__u64 hash = 0;

	weights = bpf_map_lookup_elem(&hash_weights, &zero);
	if (!weights)
		return 1;
#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		hash += words[i] * weights->of[i];
	return hash | 1;
}

/* A sum over the key, by its hash, and the flow. */
static __always_inline __u64 check_of(__u64 hash, const struct flow *flow)
{
	return hash + weigh(&flow->validated, sizeof(*flow) - sizeof(flow->check), KEY_WORDS);
}

/* One over what the flow gets before its packets, which goes with this flow as it is and no other. */
static __always_inline __u64 wrapping_check(const struct flow *flow, const union outer *outer)
{
	return flow->check + weigh(outer, sizeof(*outer), 0);
}

/* This processor's place for an entry. */
static __always_inline struct entry *place(enum scratch which)
{
	__u32 key = which;

	return bpf_map_lookup_elem(&scratch, &key);
}

static __always_inline int is_same_key(const struct key *one, const struct key *other)
{
	const __u64 *words = (const __u64 *)one, *others = (const __u64 *)other;
	__u64 differences = 0;

#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		differences |= words[i] ^ others[i];
	return !differences;
}

static __always_inline struct bucket *bucket_of(__u64 hash)
{
	__u32 number = hash >> (64 - BUCKET_BITS);

	return bpf_map_lookup_elem(&flows, &number);
}

/* Where a flow is in its bucket; WAYS if it is not there. */
static __always_inline __u32 way_of(const struct bucket *bucket, __u64 hash)
{
	__u32 way;

#pragma unroll
	for (way = 0; way < WAYS; way++)
		if (bucket->hashes[way] == hash)
			break;
	return way;
}

/*
 * Copies a flow as it is in the map, and says where it is; 0 if there is none, or it is being changed: another processor may
 * write while it is read, so what was read may be a part of one flow and a part of another.
 */
static __always_inline const struct entry *find(__u64 hash, const struct key *key, struct flow *flow)
{
	const struct bucket *bucket = bucket_of(hash);
	const struct entry *entry;
	__u32 way;

	if (!bucket)
		return 0;
	way = way_of(bucket, hash);
	if (way >= WAYS)
		return 0;
	entry = &bucket->entries[way];
	if (!is_same_key(&entry->key, key))
		return 0;
	*flow = entry->flow;
	barrier();
	return flow->check == check_of(hash, flow) ? entry : 0;
}

/*
 * Where a flow is to be written: where it is already, or where there is none, or in place of the one that was on the kernel's
 * path the longest ago.
 */
static __always_inline __u32 place_for(const struct bucket *bucket, __u64 hash)
{
	__u64 oldest = ~0ULL;
	__u32 way, best = 0;

#pragma unroll
	for (way = 0; way < WAYS; way++) {
		__u64 there = bucket->hashes[way];
		__u64 validated = there == hash ? 0 : there ? bucket->entries[way].flow.validated : 1;

		if (validated < oldest) {
			oldest = validated;
			best = way;
		}
	}
	return best;
}

/* Writes a flow; whether it was there before. Readers see by its sum when it is all there. */
static __always_inline int put(__u64 hash, const struct entry *entry)
{
	struct bucket *bucket = bucket_of(hash);
	__u64 before;
	__u32 way;

	if (!bucket)
		return 0;
	way = place_for(bucket, hash);
	before = bucket->hashes[way];
	if (before && before != hash)
		count(EVICTED);
	bucket->entries[way] = *entry;
	bucket->hashes[way] = hash;
	return before == hash;
}

/*
 * Forgets a flow; how many there were. Two processors that learn the same flow at the same time may have it in two places.
 */
static __always_inline __u64 forget(__u64 hash)
{
	struct bucket *bucket = bucket_of(hash);
	__u64 forgotten = 0;

	if (!bucket)
		return 0;
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		if (bucket->hashes[way] != hash)
			continue;
		bucket->hashes[way] = 0;
		forgotten++;
	}
	return forgotten;
}

/* The numbers that a flow depends on. Each only grows, so the sum is what it was as long as none has changed. */
static __always_inline __u64 generations_of(const struct flow *flow)
{
	return generation(SLOT_ALL) + generation(flow->near_slot) + generation(flow->far_slot) +
	       generation(flow->service_slot);
}
