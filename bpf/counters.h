/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Counting. It goes by the program's own enum counter, which ends with COUNTERS and stands before this. */
#pragma once

#include "kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void add(enum counter counter, __u64 number)
{
	__u32 key = counter;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		*value += number;
}

static __always_inline void count(enum counter counter)
{
	add(counter, 1);
}
