// SPDX-License-Identifier: Apache-2.0
/*
 * IP in IP without a tunnel device (RFC 2003, RFC 2473, RFC 4213): two tc programs on the uplink, for all four
 * combinations of IPv4 and IPv6. Who is where stands in maps, which the agent writes. Both programs and maps are
 * pinned, so packets flow while the agent is down.
 *
 * crates/kernel/src/ipip/layout.rs has the same layouts.
 */
#include "kernel.h"
#include "packet.h"

/* Where packets to a pod range go. */
struct route {
	struct address source;
	struct address destination;
	/* Unless the destination was heard within so many nanoseconds by the same protocol, nothing is sent; 0: always. */
	__u64 hold;
	/* Whether the next hop is asked of the kernel's routes for the outer destination; else it is the inner one's. */
	__u32 ask;
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct prefix4);
	__type(value, struct route);
} routes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct prefix6);
	__type(value, struct route);
} routes6 SEC(".maps");

/*
 * When a node was last heard, by the family of what it sent (CLOCK_MONOTONIC, ns; 0: never). To a NAT gateway protocols
 * 4 and 41 are two flows, and one says nothing of the other.
 */
struct heard {
	__u64 v4;
	__u64 v6;
};

/* The outer addresses that are taken for senders. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct address);
	__type(value, struct heard);
} nodes SEC(".maps");

/* The outer addresses at which this node takes packets. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct address);
	__type(value, __u32);
} locals SEC(".maps");

enum counter {
	ENCAPSULATED,
	DECAPSULATED,
	KEEPALIVES, /* heard, and that was all they were for */
	HELD,       /* not sent: the node has not been heard */
	REFUSED,    /* came from an address that is no node's */
	MALFORMED,  /* came from a node, but is not what it says it is */
	CONGESTED,  /* came marked as having met congestion, but its sender does not understand the mark */
	FAILED,     /* the kernel would not change the packet */
	COUNTERS,
};

#include "counters.h"

enum { OUTER_TTL = 64 };
enum { SLACK = 4 };

static __always_inline int drop(enum counter reason)
{
	count(reason);
	return TCX_DROP;
}

static __always_inline int is_tunnel(__u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

/*
 * Whether an address is that of this node's outer headers. What is a tunnel's and comes from there is wrapped already;
 * in a table that has nodes among the pods it would be again and again.
 */
static __always_inline int is_source4(const struct route *route, __be32 source)
{
	return route->source.family == 4 && route->source.words[0] == source;
}

static __always_inline int is_source6(const struct route *route, const __be32 *source)
{
	return route->source.family == 6 && is_same4(route->source.words, source);
}

/*
 * Makes room for an outer header. The size of GSO segments stays: it comes from the MTU of the route, which is the
 * uplink's less the outer header.
 */
static __always_inline long grow(struct __sk_buff *skb, int length, __u32 family)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	__u64 encap = family == 4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	__u64 as = family == 4 ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	__be16 kind = family == 4 ? be16(ETH_P_IP) : be16(ETH_P_IPV6);
	long error = bpf_skb_adjust_room(skb, length, BPF_ADJ_ROOM_MAC, flags | encap);

	if (error != -EALREADY)
		return error;
	/*
	 * The kernel takes a packet that came out of a tunnel for a tunnelled one until its end, and wraps none twice.
	 * But one that is passed on to another node has all the marks that it needs, those for GSO if both outer headers
	 * are of the same family. Only what protocol it is has to be said, and that goes with taking something away.
	 */
	if (skb->protocol == kind)
		return bpf_skb_adjust_room(skb, length, BPF_ADJ_ROOM_MAC, flags);
	error = bpf_skb_adjust_room(skb, length + SLACK, BPF_ADJ_ROOM_MAC, flags);
	if (error)
		return error;
	return bpf_skb_adjust_room(skb, -SLACK, BPF_ADJ_ROOM_MAC, flags | as);
}

/* What is too long for the field is a GSO packet, whose segments get lengths of their own. */
static __always_inline __be16 length_field(__u32 length)
{
	return length > 0xffff ? 0 : be16(length);
}

/* Says in the Ethernet header what follows it now. `is_new`: that it is another family than before. */
static __always_inline long store_kind(struct __sk_buff *skb, __be16 kind, int is_new)
{
	return is_new ? bpf_skb_store_bytes(skb, ETH_HLEN - sizeof(kind), &kind, sizeof(kind), 0) : 0;
}

static __always_inline int encapsulate(struct __sk_buff *skb, struct route *route, __u8 class, __u8 protocol)
{
	__u32 inner = skb->len - ETH_HLEN;
	long error;

	if (route->hold) {
		struct heard *heard = bpf_map_lookup_elem(&nodes, &route->destination);
		__u64 at = !heard ? 0 : protocol == IPPROTO_IPIP ? heard->v4 : heard->v6;

		if (!at || bpf_ktime_get_coarse_ns() - at > route->hold)
			return drop(HELD);
	}
	/* Outer traffic class: that of the inner header, as RFC 6040, section 4.1 (normal mode) and RFC 2983 have it. */
	if (route->destination.family == 4) {
		struct ipv4 outer = {
			.version_length = 0x45,
			.tos = class,
			.length = length_field(inner + sizeof(outer)),
			/* With "don't fragment" the id says nothing (RFC 6864, section 4.1). */
			.fragment = be16(DONT_FRAGMENT),
			.ttl = OUTER_TTL,
			.protocol = protocol,
			.source = route->source.words[0],
			.destination = route->destination.words[0],
		};

		outer.checksum = ~sum((__u16 *)&outer, sizeof(outer) / 2);
		if (grow(skb, sizeof(outer), 4))
			return drop(FAILED);
		error = bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0);
		error |= store_kind(skb, be16(ETH_P_IP), protocol != IPPROTO_IPIP);
	} else {
		/* Routers on the way spread flows by the label (RFC 6438). */
		__u32 flow = bpf_get_hash_recalc(skb) & 0xfffff;
		struct ipv6 outer = {
			.version_class = 0x60 | class >> 4,
			.class_flow = class << 4 | flow >> 16,
			.flow = be16(flow & 0xffff),
			.length = length_field(inner),
			.next = protocol,
			.hops = OUTER_TTL,
		};

#pragma unroll
		for (int i = 0; i < 4; i++) {
			outer.source[i] = route->source.words[i];
			outer.destination[i] = route->destination.words[i];
		}
		if (grow(skb, sizeof(outer), 6))
			return drop(FAILED);
		error = bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0);
		error |= store_kind(skb, be16(ETH_P_IPV6), protocol != IPPROTO_IPV6);
	}
	if (error)
		return drop(FAILED);
	count(ENCAPSULATED);
	if (!route->ask)
		return TCX_NEXT;
	/* It comes by here again, and passes: its destination is a node. */
	return bpf_redirect_neigh(skb->ifindex, 0, 0, 0);
}

SEC("classifier")
int cambric_egress(struct __sk_buff *skb)
{
	/* A tagged packet is that of a VLAN on top of the uplink, which routes of their own lead to. */
	if (skb->vlan_present)
		return TCX_NEXT;
	if (skb->protocol == be16(ETH_P_IP)) {
		struct prefix4 key = { .length = 32 };
		struct route *route;
		struct ipv4 header;

		if (load_header(skb, ETH_HLEN, &header))
			return TCX_NEXT;
		key.word = header.destination;
		route = bpf_map_lookup_elem(&routes4, &key);
		if (!route)
			return TCX_NEXT;
		if (is_tunnel(header.protocol) && is_source4(route, header.source))
			return TCX_NEXT;
		return encapsulate(skb, route, header.tos, IPPROTO_IPIP);
	}
	if (skb->protocol == be16(ETH_P_IPV6)) {
		struct prefix6 key = { .length = 128 };
		struct route *route;
		struct ipv6 header;

		if (load_header(skb, ETH_HLEN, &header))
			return TCX_NEXT;
		__builtin_memcpy(key.words, header.destination, sizeof(key.words));
		route = bpf_map_lookup_elem(&routes6, &key);
		if (!route)
			return TCX_NEXT;
		if (is_tunnel(header.next) && is_source6(route, header.source))
			return TCX_NEXT;
		return encapsulate(skb, route, traffic_class(&header), IPPROTO_IPV6);
	}
	return TCX_NEXT;
}

/* Whether the outer header's checksum is right. Once it is stripped nobody else looks. */
static __always_inline int is_intact(struct __sk_buff *skb, const struct ipv4 *header, __u32 length)
{
	__u16 words[30] = {};

	if (length == sizeof(*header))
		return sum((const __u16 *)header, sizeof(*header) / 2) == 0xffff;
	if (length < sizeof(*header) || length > sizeof(words))
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, words, length))
		return 0;
	return sum(words, 30) == 0xffff;
}

/* The inner ECN field after decapsulation (RFC 6040, section 4.2, figure 4); -1 if the packet must be dropped. */
static __always_inline int ecn_after(__u8 outer, __u8 inner)
{
	outer &= ECN;
	inner &= ECN;
	if (outer == CE)
		return inner ? CE : -1;
	if (outer == ECT1 && inner == ECT0)
		return ECT1;
	return inner;
}

static __always_inline int is_unspecified(const __be32 *words)
{
	return !(words[0] | words[1] | words[2] | words[3]);
}

/*
 * Takes `length` bytes of outer header away; `heard` is the node's that the packet comes from. A keepalive is an inner
 * header that announces nothing (protocol 59) to nobody (the unspecified address).
 */
static __always_inline int decapsulate(struct __sk_buff *skb, struct heard *heard, __u32 length, __u8 class, __u8 protocol)
{
	/* It becomes the inner one when the outer header goes. */
	__be16 outer = skb->protocol;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	union {
		struct ipv4 v4;
		struct ipv6 v6;
	} inner;
	__u64 *at = protocol == IPPROTO_IPIP ? &heard->v4 : &heard->v6;
	__u64 now = bpf_ktime_get_coarse_ns();
	int ecn, is_keepalive;
	__u8 inner_class;
	__be16 kind;

	if (protocol == IPPROTO_IPIP) {
		if (load_header(skb, ETH_HLEN + length, &inner.v4))
			return drop(MALFORMED);
		if (inner.v4.version_length >> 4 != 4)
			return drop(MALFORMED);
		is_keepalive = inner.v4.protocol == IPPROTO_NONE && !inner.v4.destination;
		inner_class = inner.v4.tos;
		kind = be16(ETH_P_IP);
		flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	} else {
		if (load_header(skb, ETH_HLEN + length, &inner.v6))
			return drop(MALFORMED);
		if (inner.v6.version_class >> 4 != 6)
			return drop(MALFORMED);
		is_keepalive = inner.v6.next == IPPROTO_NONE && is_unspecified(inner.v6.destination);
		inner_class = traffic_class(&inner.v6);
		kind = be16(ETH_P_IPV6);
		flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	}
	/* The clock ticks every few milliseconds, so a busy sender does not have processors write in turns. */
	if (*at != now)
		*at = now;
	if (is_keepalive)
		return drop(KEEPALIVES);
	ecn = ecn_after(class, inner_class);
	if (ecn < 0)
		return drop(CONGESTED);
	if (bpf_skb_adjust_room(skb, -(int)length, BPF_ADJ_ROOM_MAC, flags))
		return drop(FAILED);
	if (ecn != (inner_class & ECN)) {
		long error;

		if (protocol == IPPROTO_IPIP) {
			__be16 was = *(__be16 *)&inner.v4;
			__u32 total;

			/* RFC 1624, equation 3. */
			inner.v4.tos = (inner_class & ~ECN) | ecn;
			total = (__u16)~inner.v4.checksum + (__u16)~was + *(__be16 *)&inner.v4;
			inner.v4.checksum = ~fold16(total);
			error = bpf_skb_store_bytes(skb, ETH_HLEN, &inner.v4, sizeof(inner.v4), BPF_F_RECOMPUTE_CSUM);
		} else {
			inner.v6.class_flow = (inner.v6.class_flow & ~(ECN << 4)) | ecn << 4;
			error = bpf_skb_store_bytes(skb, ETH_HLEN, &inner.v6, sizeof(inner.v6), BPF_F_RECOMPUTE_CSUM);
		}
		if (error)
			return drop(FAILED);
	}
	if (store_kind(skb, kind, kind != outer))
		return drop(FAILED);
	count(DECAPSULATED);
	return TCX_NEXT;
}

SEC("classifier")
int cambric_ingress(struct __sk_buff *skb)
{
	__u32 available = skb->len - ETH_HLEN;
	struct address source = {}, destination = {};
	struct heard *heard;

	if (skb->vlan_present)
		return TCX_NEXT;
	if (skb->protocol == be16(ETH_P_IP)) {
		struct ipv4 header;
		__u32 length, total;

		if (load_header(skb, ETH_HLEN, &header))
			return TCX_NEXT;
		if (!is_tunnel(header.protocol))
			return TCX_NEXT;
		source.family = destination.family = 4;
		source.words[0] = header.source;
		destination.words[0] = header.destination;
		if (!bpf_map_lookup_elem(&locals, &destination))
			return TCX_NEXT;
		heard = bpf_map_lookup_elem(&nodes, &source);
		if (!heard)
			return drop(REFUSED);
		length = (header.version_length & 0xf) * 4;
		total = be16(header.length);
		if (!total && skb->gso_size)
			total = available;
		if (header.version_length >> 4 != 4 || total < length || total > available)
			return drop(MALFORMED);
		/* Nodes send with "don't fragment", and a part cannot be told from a whole once it is stripped. */
		if (header.fragment & be16(MORE_FRAGMENTS | FRAGMENT_OFFSET))
			return drop(MALFORMED);
		if (!is_intact(skb, &header, length))
			return drop(MALFORMED);
		return decapsulate(skb, heard, length, header.tos, header.protocol);
	}
	if (skb->protocol == be16(ETH_P_IPV6)) {
		struct ipv6 header;
		__u32 payload;

		if (load_header(skb, ETH_HLEN, &header))
			return TCX_NEXT;
		/* Behind an extension header nothing is looked for: nodes send none, and the kernel takes no tunnels. */
		if (!is_tunnel(header.next))
			return TCX_NEXT;
		source.family = destination.family = 6;
		__builtin_memcpy(source.words, header.source, sizeof(source.words));
		__builtin_memcpy(destination.words, header.destination, sizeof(destination.words));
		if (!bpf_map_lookup_elem(&locals, &destination))
			return TCX_NEXT;
		heard = bpf_map_lookup_elem(&nodes, &source);
		if (!heard)
			return drop(REFUSED);
		payload = be16(header.length);
		if (payload + sizeof(header) > available)
			return drop(MALFORMED);
		return decapsulate(skb, heard, sizeof(header), traffic_class(&header), header.next);
	}
	return TCX_NEXT;
}

/* The programs call no helper that is for GPL programs only. */
char LICENSE[] SEC("license") = "Apache-2.0";
