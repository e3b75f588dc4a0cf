/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The fast path where packets enter the node. */
#pragma once

#include "fast_flows.h"
#include "fast_packet.h"
#include "fast_tunnel.h"

/* A packet after which the flow and its answers are none, or not those that they were. */
__cold int end(const struct key *key, int from_wire)
{
	struct key answers = { .family = key->family, .protocol = key->protocol };
	struct entry *found = place(FOUND);
	__u64 hash = hash_of(key);

	if (found && find(hash, key, &found->flow)) {
		copy4(answers.source, found->flow.destination);
		copy4(answers.destination, found->flow.source);
		answers.source_port = found->flow.destination_port;
		answers.destination_port = found->flow.source_port;
		answers.ifindex = found->flow.ifindex;
		add(ENDED, forget(hash) + forget(hash_of(&answers)));
	} else if (from_wire && !endpoint_of(key->family, key->destination)) {
		return TCX_NEXT;
	}
	return pass(CONTROL);
}

/*
 * Leaves a packet to the kernel, and takes note of it. To learn a flow costs more than a few packets save, and many flows
 * have no more, so that of a new one not every packet is looked at.
 */
__cold int leave(struct __sk_buff *skb, const struct packet *packet, const struct settings *set, int from_wire,
		 enum counter reason)
{
	__u32 zero = 0;
	struct note *note = bpf_map_lookup_elem(&notes, &zero);
	__u64 passed_by;

	if (!note)
		return TCX_NEXT;
	note->is_wrapped = 0;
	/* What is for nobody here is the node's own, and is not looked at where it leaves. */
	if (from_wire && !endpoint_of(packet->key.family, packet->key.destination)) {
		note->is_valid = 0;
		return TCX_NEXT;
	}
	/* Connection tracking settles flows of UDP only after two seconds, so those that it has settled are longer ones. */
	passed_by = packet->key.protocol == IPPROTO_UDP ? set->passed_by / 4 : set->passed_by;
	if (reason == UNKNOWN && bpf_get_prandom_u32() & passed_by) {
		note->is_valid = 0;
		return pass(reason);
	}
	skb->cb[0] = 0;
	note->key = packet->key;
	note->sequence = generation(SLOT_SEQUENCE);
	note->ethernet = packet->headers.ethernet;
	note->start = packet->start;
	note->ttl = packet->ttl;
	note->from_wire = from_wire;
	note->is_valid = 1;
	return pass(reason);
}

/* Why a packet of a flow that is known cannot do without the kernel's path; HIT if it can. */
static __always_inline enum counter judge(const struct packet *packet, const struct flow *flow, __u64 now, __u64 lifetime)
{
	/* Most of the time nothing at all has changed. */
	if (flow->sequence != generation(SLOT_SEQUENCE) && flow->generations != generations_of(flow))
		return STALE;
	/* Another processor may have had it meanwhile. */
	if ((__s64)(now - flow->validated) > (__s64)lifetime)
		return EXPIRED;
	if (packet->size > flow->biggest)
		return OVERSIZE;
	if (packet->ttl <= flow->hops)
		return LAST_HOP;
	if (!is_same_ethernet(&packet->headers.ethernet, &flow->before))
		return MOVED;
	return HIT;
}

static __always_inline __u64 replaced(__u32 was, __u32 is)
{
	return (__u64)(__u32)~was + is;
}

/* Sums of 32-bit words in one's complement (RFC 1071), folded. */
static __always_inline __u32 fold32(__u64 total)
{
	total = (__u32)total + (total >> 32);
	return total + (total >> 32);
}

/* What other addresses add to a sum over them. */
static __always_inline __u32 difference(const struct key *was, const struct flow *is)
{
	__u64 total = replaced(was->source[0], is->source[0]) + replaced(was->destination[0], is->destination[0]);

	if (was->family == 4)
		return fold32(total);
#pragma unroll
	for (int i = 1; i < 4; i++)
		total += replaced(was->source[i], is->source[i]) + replaced(was->destination[i], is->destination[i]);
	return fold32(total);
}

/* The transport's checksum covers addresses and ports. */
static __always_inline long translate(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow,
				      __u32 addresses)
{
	int is_udp = packet->key.protocol == IPPROTO_UDP;
	__u32 checksum = packet->transport + (is_udp ? UDP_CHECKSUM : TCP_CHECKSUM);
	__u64 flags = is_udp ? BPF_F_MARK_MANGLED_0 : 0;
	/* Both ports are one word to it. */
	union {
		__be16 ports[2];
		__be32 word;
	} was = { { packet->key.source_port, packet->key.destination_port } },
	  is = { { flow->source_port, flow->destination_port } };
	long error = bpf_l4_csum_replace(skb, checksum, 0, addresses, flags | BPF_F_PSEUDO_HDR);

	if (was.word == is.word)
		return error;
	return error | bpf_l4_csum_replace(skb, checksum, was.word, is.word, flags | sizeof(is));
}

/* Writes the headers as they leave. */
static __always_inline long rewrite(struct __sk_buff *skb, struct packet *packet, const struct flow *flow, __u32 addresses)
{
	union headers *headers = &packet->headers;
	__u64 hops;

	headers->ethernet = flow->after;
	if (packet->key.family == 4) {
		struct ipv4 *ip = &headers->v4.ip;
		/* Beside the time to live there is the protocol. A checksum that is wrong stays wrong (RFC 1624, equation 3). */
		__u16 was = *(__u16 *)&ip->ttl;

		ip->ttl -= flow->hops;
		ip->checksum = ~fold16((__u16)~ip->checksum + fold16(addresses) + (__u16)~was + *(__u16 *)&ip->ttl);
		ip->source = flow->source[0];
		ip->destination = flow->destination[0];
		headers->v4.transport.ports[0] = flow->source_port;
		headers->v4.transport.ports[1] = flow->destination_port;
		/* The sum over headers and data stays what it was, and so does that which an adapter has made. */
		return bpf_skb_store_bytes(skb, packet->at, headers->ethernet.destination, CHANGING4, 0);
	}
	/* Here no checksum makes up for the header, so a sum that an adapter has made is another. */
	hops = *(__u32 *)&headers->v6.ip.length;
	headers->v6.ip.hops -= flow->hops;
	hops = replaced(hops, *(__u32 *)&headers->v6.ip.length);
	copy4(headers->v6.ip.source, flow->source);
	copy4(headers->v6.ip.destination, flow->destination);
	headers->v6.transport.ports[0] = flow->source_port;
	headers->v6.transport.ports[1] = flow->destination_port;
	/* It refuses only where there is no such sum. */
	bpf_csum_update(skb, fold32(hops + addresses));
	return bpf_skb_store_bytes(skb, packet->at, headers->ethernet.destination, CHANGING6, 0);
}

/* Sends a packet. If an outer header was put before it or taken away, its Ethernet header is still to be written. */
static __always_inline int forward(struct __sk_buff *skb, struct packet *packet, const struct flow *flow, int is_moved)
{
	__u32 addresses = 0;
	long error = 0;

	if (flow->change == ENDS) {
		addresses = difference(&packet->key, flow);
		error |= translate(skb, packet, flow, addresses);
	}
	if (flow->change != NOTHING || is_moved)
		error |= rewrite(skb, packet, flow, addresses);
	if (flow->is_local && skb->pkt_type != PACKET_HOST)
		error |= bpf_skb_change_type(skb, PACKET_HOST);
	if (error) {
		count(FAILED);
		return TCX_DROP;
	}
	count(HIT);
	skb->priority = flow->priority;
	skb->mark = flow->mark;
	if (flow->is_local)
		return bpf_redirect_peer(flow->ifindex, 0);
	skb->cb[0] = MARK0;
	skb->cb[1] = MARK1;
	skb->cb[2] = MARK2;
	skb->cb[3] = MARK3;
	return bpf_redirect(flow->tunnel ? flow->uplink : flow->ifindex, 0);
}

static __always_inline int enter(struct __sk_buff *skb, int from_wire)
{
	const struct tunnel *tunnel = 0;
	struct envelope envelope = {};
	struct packet packet = {};
	const struct entry *entry;
	struct settings *set;
	enum counter verdict;
	struct flow flow;
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
	if (packet.control)
		return end(&packet.key, from_wire);
	set = bpf_map_lookup_elem(&settings, &zero);
	now = bpf_ktime_get_coarse_ns();
	if (!set || now > set->until)
		return from_wire ? TCX_NEXT : pass(UNATTENDED);
	entry = find(hash_of(&packet.key), &packet.key, &flow);
	verdict = entry ? judge(&packet, &flow, now, set->lifetime) : UNKNOWN;
	if (tunnel) {
		if (verdict != HIT || unwrap(skb, envelope.length, &packet))
			return TCX_NEXT;
	} else if (verdict != HIT) {
		return leave(skb, &packet, set, from_wire, verdict);
	} else if (flow.tunnel && (!fits(skb) || wrap(skb, &packet, &flow, entry))) {
		return leave(skb, &packet, set, from_wire, UNUSUAL);
	}
	return forward(skb, &packet, &flow, tunnel || flow.tunnel);
}
