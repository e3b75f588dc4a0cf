/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the fast path reads: packets, and flows. */
#pragma once

#include "fast_maps.h"

/* The headers of a packet that changes, in one piece. */
union headers {
	struct ethernet ethernet;
	struct {
		struct ethernet ethernet;
		struct ipv4 ip;
		__be16 ports[2];
	} v4;
	struct {
		struct ethernet ethernet;
		struct ipv6 ip;
		__be16 ports[2];
	} v6;
};

/* In the packet, where nothing stands before the Ethernet header. */
enum {
	HEADERS4 = ETH_HLEN + sizeof(struct ipv4) + 2 * sizeof(__be16),
	HEADERS6 = ETH_HLEN + sizeof(struct ipv6) + 2 * sizeof(__be16),
};

/* What a packet says of itself. */
struct packet {
	struct key key;
	union headers headers;
	__u32 start;
	/* In bytes from the IP header on; of a GSO packet, that of its segments. */
	__u32 size;
	/* Where the headers begin, and the transport's. */
	__u32 at;
	__u32 transport;
	__u8 ttl;
	__u8 control;
};

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4 };
enum { TCP_OFFSET_AND_FLAGS = 12, TCP_CHECKSUM = 16, UDP_CHECKSUM = 6, UDP_HEADER = 8 };
enum { ANY = 0 };

/* What packets are marked with between the program that sends them and those where they leave: random numbers. */
enum { MARK0 = 0x5fc1a937, MARK1 = 0x1be46d05, MARK2 = 0x6a02f3d9, MARK3 = 0x34975ec8 };

/* The compiler forgets what it has read of memory. */
#define barrier() asm volatile("" ::: "memory")

static __always_inline int pass(enum counter reason)
{
	count(reason);
	return TCX_NEXT;
}

static __always_inline __u64 generation(__u32 slot)
{
	__u64 *value = bpf_map_lookup_elem(&generations, &slot);

	return value ? *(volatile __u64 *)value : 0;
}

/*
 * Whether it is a packet that flows are made of; if so, what it says of itself. The Ethernet header is `at` bytes in, and
 * that of a packet of the kind.
 */
static __always_inline int read(struct __sk_buff *skb, __u32 at, __be16 kind, struct packet *packet)
{
	__u32 available = skb->len - at - ETH_HLEN;
	void *headers = packet->headers.ethernet.destination;
	__u32 header;

	if (skb->vlan_present)
		return 0;
	if (kind == be16(ETH_P_IP)) {
		struct ipv4 *ip = &packet->headers.v4.ip;

		if (bpf_skb_load_bytes(skb, at, headers, HEADERS4))
			return 0;
		if (ip->version_length != 0x45 || ip->fragment & be16(MORE_FRAGMENTS | FRAGMENT_OFFSET))
			return 0;
		if (be16(ip->length) != available)
			return 0;
		header = sizeof(*ip);
		packet->key.family = 4;
		packet->key.protocol = ip->protocol;
		packet->key.source[0] = ip->source;
		packet->key.destination[0] = ip->destination;
		packet->key.source_port = packet->headers.v4.ports[0];
		packet->key.destination_port = packet->headers.v4.ports[1];
		packet->start = ip->version_length << 8 | ip->tos;
		packet->ttl = ip->ttl;
	} else if (kind == be16(ETH_P_IPV6)) {
		struct ipv6 *ip = &packet->headers.v6.ip;

		if (bpf_skb_load_bytes(skb, at, headers, HEADERS6))
			return 0;
		if (ip->version_class >> 4 != 6 || be16(ip->length) + sizeof(*ip) != available)
			return 0;
		header = sizeof(*ip);
		packet->key.family = 6;
		packet->key.protocol = ip->next;
		copy4(packet->key.source, ip->source);
		copy4(packet->key.destination, ip->destination);
		packet->key.source_port = packet->headers.v6.ports[0];
		packet->key.destination_port = packet->headers.v6.ports[1];
		packet->start = ip->version_class << 24 | ip->class_flow << 16 | ip->flow;
		packet->ttl = ip->hops;
	} else {
		return 0;
	}
	packet->at = at;
	packet->transport = at + ETH_HLEN + header;
	packet->key.ifindex = skb->ifindex;
	if (packet->key.protocol == IPPROTO_TCP) {
		__u8 bytes[2];

		if (bpf_skb_load_bytes(skb, packet->transport + TCP_OFFSET_AND_FLAGS, bytes, sizeof(bytes)))
			return 0;
		header += (bytes[0] >> 4) * 4;
		packet->control = bytes[1] & (TCP_SYN | TCP_FIN | TCP_RST);
	} else if (packet->key.protocol == IPPROTO_UDP) {
		header += UDP_HEADER;
	} else {
		return 0;
	}
	packet->size = skb->gso_size ? header + skb->gso_size : available;
	return 1;
}

/*
 * A sum over the key and the flow. The kernel gives the place of a flow to another while it is read, so what was read may
 * be a part of one and a part of another.
 */
static __always_inline __u64 check_of(const struct key *key, const struct flow *flow)
{
	const __u64 *words = (const __u64 *)key;
	__u64 total = 0;

#pragma unroll
	for (unsigned int i = 0; i < sizeof(*key) / 8; i++)
		total += words[i] * (0x9e3779b97f4a7c15ULL * (i + 1) | 1);
	words = (const __u64 *)flow;
#pragma nounroll
	for (unsigned int i = 1; i < sizeof(*flow) / 8; i++)
		total += words[i] * (0xd6e8feb86659fd93ULL * (i + 1) | 1);
	return total;
}

/* This processor's place for a flow. */
static __always_inline struct flow *place(enum scratch which)
{
	__u32 key = which;

	return bpf_map_lookup_elem(&scratch, &key);
}

/* A copy of a flow as it is in the map; 0 if there is none, or it is being changed. */
static __always_inline struct flow *find(const struct key *key)
{
	const struct flow *found = bpf_map_lookup_elem(&flows, key);
	struct flow *flow;

	if (!found)
		return 0;
	flow = place(FOUND);
	if (!flow)
		return 0;
	__builtin_memcpy(flow, found, sizeof(*flow));
	barrier();
	return flow->check == check_of(key, flow) ? flow : 0;
}

static __always_inline struct endpoint *endpoint_of(__u8 family, const __be32 *words)
{
	struct address address = { .family = family };

	copy4(address.words, words);
	return bpf_map_lookup_elem(&endpoints, &address);
}
