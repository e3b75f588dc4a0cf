/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The fast path where packets enter the node. */
#pragma once

#include "fast_packet.h"
#include "fast_tunnel.h"

/* Forgets a flow and its answers. */
static __always_inline void end(const struct key *key, const struct flow *flow)
{
	struct key answers = {
		.source_port = flow->destination_port,
		.destination_port = flow->source_port,
		.ifindex = flow->ifindex,
		.family = key->family,
		.protocol = key->protocol,
	};

	copy4(answers.source, flow->destination);
	copy4(answers.destination, flow->source);
	if (!bpf_map_delete_elem(&flows, key))
		count(ENDED);
	if (!bpf_map_delete_elem(&flows, &answers))
		count(ENDED);
}

/* Leaves a packet to the kernel, and takes note of it. */
static __always_inline int leave(struct __sk_buff *skb, const struct packet *packet, int from_wire, enum counter reason)
{
	__u32 zero = 0;
	struct note *note = bpf_map_lookup_elem(&notes, &zero);

	if (!note)
		return TCX_NEXT;
	note->is_wrapped = 0;
	/* What is for nobody here is the node's own, and is not looked at where it leaves. */
	if (from_wire && !endpoint_of(packet->key.family, packet->key.destination)) {
		note->is_valid = 0;
		return TCX_NEXT;
	}
	skb->cb[0] = 0;
	note->key = packet->key;
	note->sequence = generation(SLOT_SEQUENCE);
	note->ethernet = packet->ethernet;
	note->start = packet->start;
	note->ttl = packet->ttl;
	note->from_wire = from_wire;
	note->is_valid = 1;
	return pass(reason);
}

/* Why a packet of a flow that is known cannot do without the kernel's path; HIT if it can. */
static __always_inline enum counter judge(const struct packet *packet, const struct flow *flow, __u64 now, __u64 lifetime)
{
	const __u32 *one = packet->ethernet.words, *other = flow->before.words;

	if (flow->all != generation(SLOT_ALL) || flow->near != generation(flow->near_slot) ||
	    flow->far != generation(flow->far_slot) || flow->service != generation(flow->service_slot))
		return STALE;
	/* Another processor may have had it meanwhile. */
	if ((__s64)(now - flow->validated) > (__s64)lifetime)
		return EXPIRED;
	if (packet->size > flow->biggest)
		return OVERSIZE;
	if (packet->ttl <= flow->hops)
		return LAST_HOP;
	if (one[0] != other[0] || one[1] != other[1] || one[2] != other[2])
		return MOVED;
	return HIT;
}

/* The transport's checksum covers the addresses, and ports are beside it. */
static __always_inline long translate(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	int is_udp = packet->key.protocol == IPPROTO_UDP;
	__u32 checksum = packet->transport + (is_udp ? UDP_CHECKSUM : TCP_CHECKSUM);
	__u64 flags = is_udp ? BPF_F_MARK_MANGLED_0 : 0;
	/* Both ports are one word to the checksum. */
	union {
		__be16 ports[2];
		__be32 word;
	} was = { { packet->key.source_port, packet->key.destination_port } },
	  is = { { flow->source_port, flow->destination_port } };
	__be32 before[8], after[8];
	__u32 words = packet->key.family == 4 ? 1 : 4;
	__s64 difference;
	long error;

	copy4(before, packet->key.source);
	copy4(before + words, packet->key.destination);
	copy4(after, flow->source);
	copy4(after + words, flow->destination);
	if (packet->key.family == 4)
		difference = bpf_csum_diff(before, 2 * sizeof(*before), after, 2 * sizeof(*after), 0);
	else
		difference = bpf_csum_diff(before, sizeof(before), after, sizeof(after), 0);
	if (difference < 0)
		return difference;
	error = bpf_l4_csum_replace(skb, checksum, 0, difference, flags | BPF_F_PSEUDO_HDR);
	if (was.word == is.word)
		return error;
	error |= bpf_l4_csum_replace(skb, checksum, was.word, is.word, flags | sizeof(is));
	return error | bpf_skb_store_bytes(skb, packet->transport, &is, sizeof(is), 0);
}

/* The IP header as it leaves. A checksum that is wrong stays wrong (RFC 1624, equation 3). */
static __always_inline long readdress(struct __sk_buff *skb, struct packet *packet, const struct flow *flow)
{
	if (packet->key.family == 4) {
		struct ipv4 *ip = &packet->ip.v4;
		__u32 total = (__u16)~ip->checksum;

		ip->checksum = 0;
		total += (__u16)~sum((const __u16 *)ip, sizeof(*ip) / 2);
		ip->ttl -= flow->hops;
		ip->source = flow->source[0];
		ip->destination = flow->destination[0];
		total += sum((const __u16 *)ip, sizeof(*ip) / 2);
		total = (total & 0xffff) + (total >> 16);
		ip->checksum = ~((total & 0xffff) + (total >> 16));
		/* The sum over the whole header stays what it was, and so does a sum over the packet by the adapter. */
		return bpf_skb_store_bytes(skb, packet->network, ip, sizeof(*ip), 0);
	}
	packet->ip.v6.hops -= flow->hops;
	copy4(packet->ip.v6.source, flow->source);
	copy4(packet->ip.v6.destination, flow->destination);
	return bpf_skb_store_bytes(skb, packet->network, &packet->ip.v6, sizeof(packet->ip.v6), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int forward(struct __sk_buff *skb, struct packet *packet, const struct flow *flow)
{
	struct {
		struct ethernet addresses;
		__be16 kind;
	} __packed ethernet = { flow->after, packet->key.family == 4 ? be16(ETH_P_IP) : be16(ETH_P_IPV6) };
	long error = 0;

	if (flow->is_translated)
		error |= translate(skb, packet, flow);
	if (flow->is_translated || flow->hops)
		error |= readdress(skb, packet, flow);
	error |= bpf_skb_store_bytes(skb, packet->network - ETH_HLEN, &ethernet, sizeof(ethernet), 0);
	if (flow->is_local && skb->pkt_type != PACKET_HOST)
		error |= bpf_skb_change_type(skb, PACKET_HOST);
	if (error) {
		count(FAILED);
		return TCX_DROP;
	}
	count(HIT);
	skb->priority = flow->priority;
	skb->mark = flow->mark;
	skb->cb[0] = MARK0;
	skb->cb[1] = MARK1;
	skb->cb[2] = MARK2;
	skb->cb[3] = MARK3;
	if (flow->is_local)
		return bpf_redirect_peer(flow->ifindex, 0);
	return bpf_redirect(flow->tunnel ? flow->uplink : flow->ifindex, 0);
}

static __always_inline int enter(struct __sk_buff *skb, int from_wire)
{
	const struct tunnel *tunnel = 0;
	struct envelope envelope = {};
	struct packet packet = {};
	struct settings *set;
	enum counter verdict;
	struct flow *flow;
	__u32 zero = 0;
	__u64 now;

	if (from_wire)
		tunnel = arrives(skb, &envelope);
	/* What the fast path does not take out of its outer header the device does, and it comes by here again. */
	if (tunnel) {
		if (!read_inside(skb, &envelope, &packet) || packet.control)
			return TCX_NEXT;
		packet.key.ifindex = tunnel->ifindex;
	} else if (!read(skb, 0, skb->protocol, &packet)) {
		return from_wire ? TCX_NEXT : pass(UNUSUAL);
	}
	if (packet.control) {
		flow = find(&packet.key);
		if (flow)
			end(&packet.key, flow);
		else if (from_wire && !endpoint_of(packet.key.family, packet.key.destination))
			return TCX_NEXT;
		return pass(CONTROL);
	}
	set = bpf_map_lookup_elem(&settings, &zero);
	now = bpf_ktime_get_coarse_ns();
	if (!set || now > set->until)
		return from_wire ? TCX_NEXT : pass(UNATTENDED);
	flow = find(&packet.key);
	verdict = flow ? judge(&packet, flow, now, set->lifetime) : UNKNOWN;
	if (tunnel) {
		if (verdict != HIT || unwrap(skb, envelope.length, &packet))
			return TCX_NEXT;
	} else if (verdict != HIT) {
		return leave(skb, &packet, from_wire, verdict);
	} else if (flow->tunnel && (!fits(skb) || wrap(skb, &packet, flow))) {
		return leave(skb, &packet, from_wire, UNUSUAL);
	}
	return forward(skb, &packet, flow);
}
