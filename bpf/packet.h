/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the programs know of packets. */
#pragma once

#include "kernel.h"

/* An address with its family, 4 or 6; network byte order, IPv4 in the first word. */
struct address {
	__u32 family;
	__be32 words[4];
};

/* The key of a map of prefixes: the length in bits, and the address. */
struct prefix4 {
	__u32 length;
	__be32 word;
};

struct prefix6 {
	__u32 length;
	__be32 words[4];
};

struct ipv4 {
	__u8 version_length;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6 {
	__u8 version_class;
	__u8 class_flow;
	__be16 flow;
	__be16 length;
	__u8 next;
	__u8 hops;
	__be32 source[4];
	__be32 destination[4];
};

struct udp {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
};

enum { DONT_FRAGMENT = 0x4000, MORE_FRAGMENTS = 0x2000, FRAGMENT_OFFSET = 0x1fff };
enum { ECN = 3, ECT1 = 1, ECT0 = 2, CE = 3 };

/*
 * Reads a header, or what else has a type. In all but odd packets it is in one piece with the start, and then there is
 * nothing to call.
 */
#define load_header(skb, at, to)                                                                   \
	({                                                                                         \
		const void *from_ = (const void *)(long)(skb)->data + (at);                        \
		int is_near_ = from_ + sizeof(*(to)) <= (const void *)(long)(skb)->data_end;       \
                                                                                                   \
		if (is_near_)                                                                      \
			*(to) = *(const typeof(*(to)) *)from_;                                     \
		is_near_ ? 0 : bpf_skb_load_bytes(skb, at, to, sizeof(*(to)));                     \
	})

static __always_inline __u8 traffic_class(const struct ipv6 *header)
{
	return header->version_class << 4 | header->class_flow >> 4;
}

static __always_inline void copy4(__be32 *to, const __be32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline int is_same4(const __be32 *one, const __be32 *other)
{
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3];
}

/* A sum of 16-bit words in one's complement, folded. */
static __always_inline __u16 fold16(__u32 total)
{
	total = (total & 0xffff) + (total >> 16);
	return total + (total >> 16);
}

/* The sum of 16-bit words (RFC 1071), not complemented; 0xffff over a header with a right checksum. */
static __always_inline __u16 sum(const __u16 *words, int number)
{
	__u32 total = 0;

#pragma unroll
	for (int i = 0; i < number; i++)
		total += words[i];
	return fold16(total);
}
