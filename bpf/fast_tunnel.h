/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * VXLAN (RFC 7348) without its device. What the outer header is like was learned from a packet to which the device has
 * given one. The device's counters do not know of these packets.
 */
#pragma once

#include "fast_flows.h"
#include "fast_packet.h"

enum { VXLAN_FLAGS = 0x08000000 };
enum { UDP_AND_VXLAN = sizeof(struct udp) + sizeof(struct vxlan) };
enum {
	OUTER4 = ETH_HLEN + sizeof(struct ipv4) + UDP_AND_VXLAN,
	OUTER6 = ETH_HLEN + sizeof(struct ipv6) + UDP_AND_VXLAN,
};

/* What a packet in VXLAN says of the tunnel. */
struct envelope {
	__be32 source[4];
	__be32 destination[4];
	/* In bytes, with the Ethernet header. */
	__u32 length;
	__u8 family;
	__u8 class;
};

/* The device whose packet this would be, by port and network; 0: none's. */
static __always_inline const struct tunnel *open(struct __sk_buff *skb, struct envelope *envelope)
{
	const struct tunnel *tunnel;
	struct {
		struct udp udp;
		struct vxlan vxlan;
	} inside;
	__u32 payload = skb->len - ETH_HLEN;
	__u32 which = skb->protocol == be16(ETH_P_IPV6);

	if (skb->vlan_present || (!which && skb->protocol != be16(ETH_P_IP)))
		return 0;
	tunnel = bpf_map_lookup_elem(&tunnels, &which);
	if (!tunnel || !tunnel->ifindex || tunnel->ifindex == skb->ifindex)
		return 0;
	if (which) {
		struct ipv6 ip;

		if (load_header(skb, ETH_HLEN, &ip))
			return 0;
		payload -= sizeof(ip);
		if (ip.version_class >> 4 != 6 || ip.next != IPPROTO_UDP || be16(ip.length) != payload)
			return 0;
		copy4(envelope->source, ip.source);
		copy4(envelope->destination, ip.destination);
		envelope->length = OUTER6;
		envelope->family = 6;
		envelope->class = traffic_class(&ip);
	} else {
		struct ipv4 ip;

		if (load_header(skb, ETH_HLEN, &ip))
			return 0;
		if (ip.version_length != 0x45 || ip.protocol != IPPROTO_UDP || be16(ip.length) != payload)
			return 0;
		if (ip.fragment & be16(MORE_FRAGMENTS | FRAGMENT_OFFSET))
			return 0;
		if (sum((const __u16 *)&ip, sizeof(ip) / 2) != 0xffff)
			return 0;
		payload -= sizeof(ip);
		envelope->source[0] = ip.source;
		envelope->destination[0] = ip.destination;
		envelope->length = OUTER4;
		envelope->family = 4;
		envelope->class = ip.tos;
	}
	if (load_header(skb, envelope->length - UDP_AND_VXLAN, &inside))
		return 0;
	if (inside.udp.destination != tunnel->port || be16(inside.udp.length) != payload)
		return 0;
	if (inside.vxlan.flags != be32(VXLAN_FLAGS) || inside.vxlan.vni != tunnel->vni)
		return 0;
	return tunnel;
}

/* Reads the packet inside. */
static __always_inline int read_inside(struct __sk_buff *skb, const struct envelope *envelope, struct packet *packet)
{
	__be16 kind;

	if (load_header(skb, envelope->length + ETH_HLEN - sizeof(kind), &kind))
		return 0;
	return read(skb, envelope->length, kind, packet);
}

/*
 * The device that would take this packet out of its outer header, if it is for this node and from another; else 0. One
 * that has met congestion is left to it (RFC 6040, section 4.2). The checksum of UDP may be looked at, and need not (RFC
 * 7348, section 5); that of the packet inside covers all that its flow is known by.
 */
static __always_inline const struct tunnel *arrives(struct __sk_buff *skb, struct envelope *envelope)
{
	const struct tunnel *tunnel = open(skb, envelope);
	struct address source = {};

	if (!tunnel || skb->pkt_type != PACKET_HOST || !is_same4(envelope->destination, tunnel->local))
		return 0;
	if ((envelope->class & ECN) == CE)
		return 0;
	source.family = envelope->family;
	copy4(source.words, envelope->source);
	return bpf_map_lookup_elem(&hosts, &source) ? tunnel : 0;
}

/* Takes the outer header away, but for the Ethernet header, which becomes that of the packet inside. */
static __always_inline long unwrap(struct __sk_buff *skb, __u32 length, struct packet *packet)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	__u64 as = packet->key.family == 4 ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	long error = bpf_skb_adjust_room(skb, -(int)length, BPF_ADJ_ROOM_MAC, flags | as);

	if (error)
		return error;
	packet->at = 0;
	packet->transport -= length;
	return 0;
}

/* What the ECN field of the outer header is (RFC 6040, section 4.1, as the kernel does it). */
static __always_inline __u8 ecn_outside(const struct packet *packet)
{
	__u8 class = packet->key.family == 4 ? packet->headers.v4.ip.tos : traffic_class(&packet->headers.v6.ip);

	return (class & ECN) == CE ? ECT0 : class & ECN;
}

/* A copy of what a flow gets before its packets; 0 if it is being changed. */
static __always_inline union outer *outer_of(const struct entry *entry, const struct flow *flow)
{
	struct entry *copy = place(FOUND);

	if (!copy)
		return 0;
	copy->wrapping = entry->wrapping;
	barrier();
	return copy->wrapping.check == wrapping_check(flow, &copy->wrapping.outer) ? &copy->wrapping.outer : 0;
}

/*
 * Makes room for the outer header and fills it in, with zero for the checksum of UDP (RFC 7348, section 5; RFC 6935). The
 * Ethernet header of the packet inside is left to the caller. If the kernel says no, nothing has changed.
 */
static __always_inline long wrap(struct __sk_buff *skb, struct packet *packet, const struct flow *flow,
				 const struct entry *entry)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		      BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	union outer *outer = outer_of(entry, flow);
	__u32 frame = skb->len;
	__u8 ecn = ecn_outside(packet);
	long error;

	if (!outer)
		return -1;
	if (flow->tunnel == 4) {
		error = bpf_skb_adjust_room(skb, OUTER4, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
		if (error)
			return error;
		outer->v4.ip.tos = (outer->v4.ip.tos & ~ECN) | ecn;
		outer->v4.ip.length = be16(frame + UDP_AND_VXLAN + sizeof(outer->v4.ip));
		/* A packet that may be fragmented needs an id that others do not have (RFC 6864). */
		if (!(outer->v4.ip.fragment & be16(DONT_FRAGMENT)))
			outer->v4.ip.id = bpf_get_prandom_u32();
		outer->v4.ip.checksum = 0;
		outer->v4.ip.checksum = ~sum((const __u16 *)&outer->v4.ip, sizeof(outer->v4.ip) / 2);
		outer->v4.udp.length = be16(frame + UDP_AND_VXLAN);
		outer->v4.udp.checksum = 0;
		packet->at = OUTER4;
		packet->transport += OUTER4;
		return bpf_skb_store_bytes(skb, 0, outer->v4.ethernet.destination, OUTER4, 0);
	}
	error = bpf_skb_adjust_room(skb, OUTER6, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
	if (error)
		return error;
	outer->v6.ip.class_flow = (outer->v6.ip.class_flow & ~(ECN << 4)) | ecn << 4;
	outer->v6.ip.length = be16(frame + UDP_AND_VXLAN);
	outer->v6.udp.length = be16(frame + UDP_AND_VXLAN);
	outer->v6.udp.checksum = 0;
	packet->at = OUTER6;
	packet->transport += OUTER6;
	return bpf_skb_store_bytes(skb, 0, outer->v6.ethernet.destination, OUTER6, 0);
}

/* Whether there is room in the length fields. */
static __always_inline int fits(struct __sk_buff *skb)
{
	return skb->len + UDP_AND_VXLAN + sizeof(struct ipv4) <= 0xffff;
}

/*
 * Learns the outer header of the packet that a flow was learned from just now: the device is on the way from there to the
 * uplink. Whether it is still good is known by the same numbers as the flow.
 */
static __always_inline void learn_outer(struct __sk_buff *skb, const struct note *note)
{
	struct envelope envelope = {};
	struct packet packet = {};
	const struct key *key = &note->key;
	__u64 hash = hash_of(key);
	struct entry *entry = place(FOUND);
	const struct tunnel *tunnel = open(skb, &envelope);
	union outer *outer;
	struct flow *flow;

	if (!entry || !tunnel || !read_inside(skb, &envelope, &packet))
		return;
	flow = &entry->flow;
	outer = &entry->wrapping.outer;
	if (!find(hash, key, flow) || flow->ifindex != tunnel->ifindex || key->protocol != packet.key.protocol)
		return;
	if (!is_same4(flow->source, packet.key.source) || !is_same4(flow->destination, packet.key.destination))
		return;
	if (flow->source_port != packet.key.source_port || flow->destination_port != packet.key.destination_port)
		return;
	flow->tunnel = envelope.family;
	flow->uplink = skb->ifindex;
	flow->priority = skb->priority;
	flow->mark = skb->mark;
	__builtin_memset(outer, 0, sizeof(*outer));
	if (envelope.family == 4 ? bpf_skb_load_bytes(skb, 0, outer->v4.ethernet.destination, OUTER4) :
				   bpf_skb_load_bytes(skb, 0, outer->v6.ethernet.destination, OUTER6))
		return;
	entry->key = *key;
	flow->check = check_of(hash, flow);
	entry->wrapping.check = wrapping_check(flow, outer);
	put(hash, entry);
}
