/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the fast path reads of packets. */
#pragma once

#include "fast_maps.h"

/* The first bytes of a transport's header. All but the ports is TCP's. */
struct transport {
	__be16 ports[2];
	__u8 unused[8];
	/* In its first four bits the length of TCP's header, in units of four bytes. */
	__u8 offset;
	__u8 flags;
};

/* The headers of a packet as far as they are of interest, in one piece. */
union headers {
	struct ethernet ethernet;
	struct {
		struct ethernet ethernet;
		struct ipv4 ip;
		struct transport transport;
	} v4;
	struct {
		struct ethernet ethernet;
		struct ipv6 ip;
		struct transport transport;
	} v6;
};

/* In the packet, where nothing stands before the Ethernet header: what changes of them, and all. */
enum {
	CHANGING4 = ETH_HLEN + sizeof(struct ipv4) + 2 * sizeof(__be16),
	CHANGING6 = ETH_HLEN + sizeof(struct ipv6) + 2 * sizeof(__be16),
	HEADERS4 = ETH_HLEN + sizeof(struct ipv4) + sizeof(struct transport),
	HEADERS6 = ETH_HLEN + sizeof(struct ipv6) + sizeof(struct transport),
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
enum { TCP_CHECKSUM = 16, UDP_CHECKSUM = 6, TCP_HEADER = 20, UDP_HEADER = 8 };

/* What packets are marked with between the program that sends them and those where they leave: random numbers. */
enum { MARK0 = 0x5fc1a937, MARK1 = 0x1be46d05, MARK2 = 0x6a02f3d9, MARK3 = 0x34975ec8 };

static __always_inline int pass(enum counter reason)
{
	count(reason);
	return TCX_NEXT;
}

/* Copies headers in words as they are aligned where they go; the compiler, which knows of no alignment, would go by bytes. */
static __always_inline void copy_headers(union headers *headers, const void *from, __u32 length)
{
	void *to = headers->ethernet.destination;
	__u32 done = sizeof(__u16) + sizeof(__u32);

	*(__u16 *)to = *(const __u16 *)from;
	*(__u32 *)(to + sizeof(__u16)) = *(const __u32 *)(from + sizeof(__u16));
#pragma unroll
	for (; done + sizeof(__u64) <= length; done += sizeof(__u64))
		*(__u64 *)(to + done) = *(const __u64 *)(from + done);
	if (length - done >= sizeof(__u32)) {
		*(__u32 *)(to + done) = *(const __u32 *)(from + done);
		done += sizeof(__u32);
	}
	if (length - done >= sizeof(__u16))
		*(__u16 *)(to + done) = *(const __u16 *)(from + done);
}

/*
 * Reads headers, which in all but odd packets are in one piece with the start. Those of UDP with next to nothing in it are
 * shorter than what there is to read of TCP. Behind an outer header they are not looked for there: the verifier would go on
 * from each of both.
 */
static __always_inline long load(struct __sk_buff *skb, __u32 at, union headers *headers, __u32 all, __u32 changing)
{
	const void *from = (const void *)(long)skb->data + at;

	if (__builtin_constant_p(at) && from + all <= (const void *)(long)skb->data_end) {
		copy_headers(headers, from, all);
		return 0;
	}
	return bpf_skb_load_bytes(skb, at, headers->ethernet.destination, skb->len >= at + all ? all : changing);
}

/*
 * Whether it is a packet that flows are made of; if so, what it says of itself. The Ethernet header is `at` bytes in, and
 * that of a packet of the kind.
 */
static __always_inline int read(struct __sk_buff *skb, __u32 at, __be16 kind, struct packet *packet)
{
	__u32 available = skb->len - at - ETH_HLEN;
	union headers *headers = &packet->headers;
	const struct transport *transport;
	__u32 header;

	if (skb->vlan_present)
		return 0;
	if (kind == be16(ETH_P_IP)) {
		struct ipv4 *ip = &packet->headers.v4.ip;

		if (load(skb, at, headers, HEADERS4, CHANGING4))
			return 0;
		if (ip->version_length != 0x45 || ip->fragment & be16(MORE_FRAGMENTS | FRAGMENT_OFFSET))
			return 0;
		if (be16(ip->length) != available)
			return 0;
		header = sizeof(*ip);
		transport = &packet->headers.v4.transport;
		packet->key.family = 4;
		packet->key.protocol = ip->protocol;
		packet->key.source[0] = ip->source;
		packet->key.destination[0] = ip->destination;
		packet->start = ip->version_length << 8 | ip->tos;
		packet->ttl = ip->ttl;
	} else if (kind == be16(ETH_P_IPV6)) {
		struct ipv6 *ip = &packet->headers.v6.ip;

		if (load(skb, at, headers, HEADERS6, CHANGING6))
			return 0;
		if (ip->version_class >> 4 != 6 || be16(ip->length) + sizeof(*ip) != available)
			return 0;
		header = sizeof(*ip);
		transport = &packet->headers.v6.transport;
		packet->key.family = 6;
		packet->key.protocol = ip->next;
		copy4(packet->key.source, ip->source);
		copy4(packet->key.destination, ip->destination);
		packet->start = ip->version_class << 24 | ip->class_flow << 16 | ip->flow;
		packet->ttl = ip->hops;
	} else {
		return 0;
	}
	packet->at = at;
	packet->transport = at + ETH_HLEN + header;
	packet->key.ifindex = skb->ifindex;
	packet->key.source_port = transport->ports[0];
	packet->key.destination_port = transport->ports[1];
	if (packet->key.protocol == IPPROTO_TCP) {
		if (available < header + TCP_HEADER)
			return 0;
		header += (transport->offset >> 4) * 4;
		packet->control = transport->flags & (TCP_SYN | TCP_FIN | TCP_RST);
	} else if (packet->key.protocol == IPPROTO_UDP) {
		header += UDP_HEADER;
	} else {
		return 0;
	}
	packet->size = skb->gso_size ? header + skb->gso_size : available;
	return 1;
}

static __always_inline int is_same_ethernet(const struct ethernet *one, const struct ethernet *other)
{
	const __u64 *words = (const __u64 *)one, *others = (const __u64 *)other;

	return words[0] == others[0] && words[1] == others[1];
}

static __always_inline struct endpoint *endpoint_of(__u8 family, const __be32 *words)
{
	struct address address = { .family = family };

	copy4(address.words, words);
	return bpf_map_lookup_elem(&endpoints, &address);
}
