/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The fast path where packets leave the node. */
#pragma once

#include "conntrack.h"
#include "fast_flows.h"
#include "fast_packet.h"
#include "fast_tunnel.h"

/* The slot of an address of another node's pod; 0 if it is none. */
static __always_inline __u32 slot_elsewhere(__u8 family, const __be32 *words)
{
	__u32 *slot;

	if (family == 4) {
		struct prefix4 key = { .length = 32, .word = words[0] };

		slot = bpf_map_lookup_elem(&ranges4, &key);
	} else {
		struct prefix6 key = { .length = 128 };

		copy4(key.words, words);
		slot = bpf_map_lookup_elem(&ranges6, &key);
	}
	return slot ? *slot : 0;
}

/* The slot of an end of a flow: a pod's at this link if it is a pod's, one of another node's else. */
static __always_inline __u32 slot_of(__u8 family, const __be32 *words, int is_wire, __u32 ifindex)
{
	struct endpoint *endpoint;

	if (is_wire)
		return slot_elsewhere(family, words);
	endpoint = endpoint_of(family, words);
	return endpoint && endpoint->ifindex == ifindex ? endpoint->slot : 0;
}

/* The slot of the frontend with an address, a port and a protocol. */
static __always_inline __u32 frontend_slot(const __be32 *words, __be16 port, __u8 protocol)
{
	__u32 mixed = words[0] ^ words[1] * 3 ^ words[2] * 5 ^ words[3] * 7 ^ ((__u32)port << 8 | protocol);

	return FIRST_SERVICE_SLOT + (mixed * 0x9e3779b1U >> 16) % SERVICE_SLOTS;
}

/* The slot of the service that a flow may be to: the one whose answers these are, or the one that is asked. */
static __always_inline __u32 service_slot(const struct key *was, const struct key *is)
{
	if (!is_same4(was->source, is->source) || was->source_port != is->source_port)
		return frontend_slot(is->source, is->source_port, is->protocol);
	return frontend_slot(was->destination, was->destination_port, was->protocol);
}

/* Whether a packet leaves as the answers to it say that it should: as the tuple of the other direction, turned round. */
static __always_inline int is_answered_by(const struct nf_conntrack_tuple *other, const struct key *key)
{
	if (other->src.u.all != key->destination_port || other->dst.u.all != key->source_port)
		return 0;
	if (other->src.u3.all[0] != key->destination[0] || other->dst.u3.all[0] != key->source[0])
		return 0;
	if (key->family == 4)
		return 1;
	return other->src.u3.all[1] == key->destination[1] && other->src.u3.all[2] == key->destination[2] &&
	       other->src.u3.all[3] == key->destination[3] && other->dst.u3.all[1] == key->source[1] &&
	       other->dst.u3.all[2] == key->source[2] && other->dst.u3.all[3] == key->source[3];
}

static __always_inline struct nf_conn *lookup(struct __sk_buff *skb, const struct key *key, struct bpf_ct_opts *options)
{
	if (key->family == 4) {
		struct bpf_sock_tuple4 tuple = {
			.source = key->source[0],
			.destination = key->destination[0],
			.source_port = key->source_port,
			.destination_port = key->destination_port,
		};

		return bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple), options, sizeof(*options));
	} else {
		struct bpf_sock_tuple6 tuple = {
			.source_port = key->source_port,
			.destination_port = key->destination_port,
		};

		copy4(tuple.source, key->source);
		copy4(tuple.destination, key->destination);
		return bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple), options, sizeof(*options));
	}
}

/* What connection tracking says against learning a flow from a packet that came as `was` and leaves as `is`; HIT: nothing. */
static __always_inline enum counter tracked(struct __sk_buff *skb, const struct key *was, const struct key *is)
{
	enum { SETTLED = IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED };
	enum { ODD = IPS_EXPECTED | IPS_SRC_NAT | IPS_SEQ_ADJUST | IPS_HELPER | IPS_OFFLOAD };
	struct bpf_ct_opts options = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = was->protocol };
	struct nf_conn *connection = lookup(skb, was, &options);
	enum counter verdict = HIT;
	struct settings *set;
	unsigned long status;
	__u32 zero = 0;
	int agrees;

	if (!connection)
		return UNSETTLED;
	status = connection->status;
	if (options.dir)
		agrees = is_answered_by(&connection->tuplehash[0].tuple, is);
	else
		agrees = is_answered_by(&connection->tuplehash[1].tuple, is);
	if ((status & (SETTLED | IPS_DYING)) != SETTLED)
		verdict = UNSETTLED;
	else if (was->protocol == IPPROTO_TCP && connection->proto.tcp.state != TCP_CONNTRACK_ESTABLISHED)
		verdict = UNSETTLED;
	else if (status & ODD || connection->master)
		verdict = SPECIAL;
	else if (!agrees)
		verdict = DIFFERENT;
	set = bpf_map_lookup_elem(&settings, &zero);
	/*
	 * Connection tracking takes data for not acknowledged if it has not seen the acknowledgement, and such a
	 * connection for dead after minutes. Here it may just not have passed by.
	 */
	if (verdict == HIT && was->protocol == IPPROTO_TCP && set && set->established)
		bpf_ct_change_timeout(connection, set->established);
	bpf_ct_release(connection);
	return verdict;
}

/* How much of a packet is another than it was. */
static __always_inline enum change change(const struct note *note, const struct packet *packet, const struct flow *flow)
{
	const struct key *key = &note->key;

	if (!is_same4(key->source, flow->source) || !is_same4(key->destination, flow->destination) ||
	    key->source_port != flow->source_port || key->destination_port != flow->destination_port)
		return ENDS;
	return flow->hops || !is_same_ethernet(&note->ethernet, &packet->headers.ethernet) ? HEADER : NOTHING;
}

static __always_inline int store(struct __sk_buff *skb, const struct packet *packet, struct note *note,
				 struct entry *entry, int to_wire)
{
	struct flow *flow = &entry->flow;
	struct entry *found = place(FOUND);
	__u64 hash = hash_of(&note->key);

	entry->key = note->key;
	flow->validated = bpf_ktime_get_coarse_ns();
	copy4(flow->source, packet->key.source);
	copy4(flow->destination, packet->key.destination);
	flow->source_port = packet->key.source_port;
	flow->destination_port = packet->key.destination_port;
	flow->ifindex = packet->key.ifindex;
	flow->hops = note->ttl - packet->ttl;
	flow->is_local = !to_wire;
	flow->priority = to_wire ? skb->priority : 0;
	flow->mark = to_wire ? skb->mark : 0;
	flow->change = change(note, packet, flow);
	flow->tunnel = 0;
	flow->uplink = 0;
	flow->before = note->ethernet;
	flow->after = packet->headers.ethernet;
	flow->biggest = packet->size;
	if (found && find(hash, &note->key, &found->flow)) {
		const struct flow *before = &found->flow;
		__u32 zero = 0;
		struct settings *set = bpf_map_lookup_elem(&settings, &zero);

		/* What was let through within the lifetime still counts, if it went this way. */
		if (set && flow->validated - before->validated <= set->lifetime && before->biggest > flow->biggest &&
		    before->generations == flow->generations && before->ifindex == flow->ifindex)
			flow->biggest = before->biggest;
	}
	flow->check = check_of(hash, flow);
	note->is_wrapped = to_wire;
	return pass(put(hash, entry) ? REFRESHED : LEARNED);
}

static __always_inline int depart(struct __sk_buff *skb, int to_wire)
{
	struct packet packet = {};
	struct entry *entry;
	struct flow *flow;
	struct note *note;
	enum counter verdict;
	__u32 zero = 0;

	if (skb->cb[0] == MARK0 && skb->cb[1] == MARK1 && skb->cb[2] == MARK2 && skb->cb[3] == MARK3)
		return TCX_NEXT;
	note = bpf_map_lookup_elem(&notes, &zero);
	if (!note)
		return TCX_NEXT;
	if (to_wire && note->is_wrapped) {
		note->is_wrapped = 0;
		learn_outer(skb, note);
		return TCX_NEXT;
	}
	if (!note->is_valid || (to_wire && note->from_wire))
		return TCX_NEXT;
	if (!read(skb, 0, skb->protocol, &packet) || packet.control)
		return TCX_NEXT;
	/* Of both ends one is never translated, or the flow is not for us. */
	if (note->key.protocol != packet.key.protocol || note->key.family != packet.key.family)
		return TCX_NEXT;
	if (!is_same4(note->key.source, packet.key.source) && !is_same4(note->key.destination, packet.key.destination))
		return TCX_NEXT;
	entry = place(LEARNED_NOW);
	if (!entry)
		return TCX_NEXT;
	flow = &entry->flow;
	flow->near_slot = slot_of(note->key.family, note->key.source, note->from_wire, note->key.ifindex);
	flow->far_slot = slot_of(packet.key.family, packet.key.destination, to_wire, packet.key.ifindex);
	if (flow->near_slot < FIRST_SLOT || flow->far_slot < FIRST_SLOT)
		return pass(OUTSIDE);
	flow->service_slot = service_slot(&note->key, &packet.key);
	flow->sequence = note->sequence;
	flow->generations = generations_of(flow);
	/* Who changes something counts the sequence first; the packet was noted before all of it was decided. */
	barrier();
	if (flow->sequence != generation(SLOT_SEQUENCE))
		return pass(OVERTAKEN);
	verdict = tracked(skb, &note->key, &packet.key);
	if (verdict != HIT)
		return pass(verdict);
	note->is_valid = 0;
	if (note->start != packet.start || (__u8)(note->ttl - packet.ttl) > 1)
		return pass(DIFFERENT);
	return store(skb, &packet, note, entry, to_wire);
}
