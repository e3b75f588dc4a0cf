// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The fast path: what the kernel's own path has done to the packets of an established flow is remembered and done again.
 *
 * Two programs look at packets where they enter the node, from a pod or from the wire. They send a packet of a flow that
 * is known to where it goes, and take note of any other. Two more look at packets where they leave. There the kernel has
 * decided: if the note of the same processor is about the same packet, and connection tracking has the flow established,
 * what became of the packet is learned. Nothing else writes flows, so nothing is decided here.
 *
 * "The wire" is an uplink or a VXLAN device. On an uplink these programs stand inside of those of IP in IP, so they see
 * packets without the outer header.
 *
 * crates/kernel/src/fast/layout.rs has the same layouts. The functions of connection tracking are for programs only that
 * may be used under the GPL, and so this one may be.
 */
#include "conntrack.h"
#include "kernel.h"
#include "packet.h"

/* A packet's flow, and where it enters the node. Addresses and ports are in network byte order. */
struct key {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__u32 ifindex;
	__u8 family;
	__u8 protocol;
	__u8 unused[6];
};

/* The Ethernet addresses of a frame: destination and source, as they stand in it. */
struct ethernet {
	__u32 words[3];
};

/* What becomes of a flow's packets. */
struct flow {
	/* Of the key and all that follows; see is_whole. */
	__u64 check;
	/* When the kernel's path has last had a packet (CLOCK_MONOTONIC, coarse, ns). */
	__u64 validated;
	/* The generations of everything and of both ends, as they were then. */
	__u64 all;
	__u64 near;
	__u64 far;
	__u32 near_slot;
	__u32 far_slot;
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	/* Where it leaves. */
	__u32 ifindex;
	/* The biggest packet that the kernel's path has let through, in bytes from the IP header on. */
	__u32 biggest;
	/* By how much routing has lowered the time to live. */
	__u8 hops;
	/* Whether it leaves into a pod. */
	__u8 is_local;
	/* Whether addresses or ports change. */
	__u8 is_translated;
	__u8 unused;
	/* The Ethernet header before and after. */
	struct ethernet before;
	struct ethernet after;
};

_Static_assert(sizeof(struct key) == 48 && sizeof(struct flow) == 120, "layout.rs has the same");

/* A packet that went the kernel's path, as it entered. */
struct note {
	struct key key;
	__u64 sequence;
	struct ethernet ethernet;
	/* The first four bytes of the IP header but for the length: traffic class and flow label. */
	__u32 start;
	__u8 ttl;
	__u8 is_valid;
	__u8 from_wire;
	__u8 unused[5];
};

/* A pod on this node. */
struct endpoint {
	__u32 ifindex;
	__u32 slot;
};

struct settings {
	/* No packet is sent by the fast path after this time, unless the agent has put it off (ns). */
	__u64 until;
	/* How long a flow is used without a packet on the kernel's path (ns). */
	__u64 lifetime;
	/* For how long connection tracking keeps an idle TCP connection (ms). */
	__u64 established;
};

struct prefix4 {
	__u32 length;
	__be32 word;
};

struct prefix6 {
	__u32 length;
	__be32 words[4];
};

/* Lists of the least recently used are per processor, so there is no lock that all take. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
	__uint(max_entries, 131072);
	__type(key, struct key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct note);
} notes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* The slots of other nodes, by their pod ranges. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix4);
	__type(value, __u32);
} ranges4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix6);
	__type(value, __u32);
} ranges6 SEC(".maps");

/* A flow is good as long as the numbers in its slots are what they were. */
enum { SLOT_ALL, SLOT_SEQUENCE, FIRST_SLOT, SLOTS = 65536 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} generations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

enum counter {
	HIT,
	/* Why a packet took the kernel's path. */
	UNKNOWN,     /* its flow is not known */
	EXPIRED,     /* its flow was not on the kernel's path for some time */
	STALE,       /* something has changed since its flow was learned */
	CONTROL,     /* TCP: SYN, FIN or RST */
	UNUSUAL,     /* neither TCP nor UDP, a fragment, IP options, or an odd length */
	OVERSIZE,    /* bigger than any of its flow that the kernel's path has let through */
	LAST_HOP,    /* its time to live ends here */
	MOVED,       /* it has other Ethernet addresses */
	UNATTENDED,  /* no agent looks after the fast path */
	/* What became of flows. */
	LEARNED,     /* a new one */
	REFRESHED,   /* one that was known already */
	ENDED,       /* by SYN, FIN or RST */
	/* Why a flow was not learned. */
	UNSETTLED,   /* connection tracking has not got it established */
	SPECIAL,     /* masqueraded, or connection tracking looks into it */
	OUTSIDE,     /* not between pods of the cluster */
	DIFFERENT,   /* the kernel's path has changed something else of the packet */
	OVERTAKEN,   /* something changed while the packet was on its way */
	FULL,        /* the map has refused it */
	FAILED,      /* dropped: the kernel would not change the packet */
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* What a packet says of itself. */
struct packet {
	struct key key;
	union {
		struct ipv4 v4;
		struct ipv6 v6;
	} ip;
	struct ethernet ethernet;
	__u32 start;
	/* In bytes from the IP header on; of a GSO packet, that of its segments. */
	__u32 size;
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

static __always_inline void count(enum counter counter)
{
	__u32 key = counter;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		*value += 1;
}

static __always_inline int pass(enum counter reason)
{
	count(reason);
	return TCX_NEXT;
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

static __always_inline __u64 generation(__u32 slot)
{
	__u64 *value = bpf_map_lookup_elem(&generations, &slot);

	return value ? *(volatile __u64 *)value : 0;
}

/* Whether it is a packet that flows are made of; if so, what it says of itself. */
static __always_inline int read(struct __sk_buff *skb, struct packet *packet)
{
	__u32 available = skb->len - ETH_HLEN;
	__u32 header;
	__be16 ports[2];

	if (skb->vlan_present)
		return 0;
	if (bpf_skb_load_bytes(skb, 0, &packet->ethernet, sizeof(packet->ethernet)))
		return 0;
	if (skb->protocol == be16(ETH_P_IP)) {
		struct ipv4 *ip = &packet->ip.v4;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(*ip)))
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
		packet->start = ip->version_length << 8 | ip->tos;
		packet->ttl = ip->ttl;
	} else if (skb->protocol == be16(ETH_P_IPV6)) {
		struct ipv6 *ip = &packet->ip.v6;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(*ip)))
			return 0;
		if (ip->version_class >> 4 != 6 || be16(ip->length) + sizeof(*ip) != available)
			return 0;
		header = sizeof(*ip);
		packet->key.family = 6;
		packet->key.protocol = ip->next;
		copy4(packet->key.source, ip->source);
		copy4(packet->key.destination, ip->destination);
		packet->start = ip->version_class << 24 | ip->class_flow << 16 | ip->flow;
		packet->ttl = ip->hops;
	} else {
		return 0;
	}
	packet->transport = ETH_HLEN + header;
	if (bpf_skb_load_bytes(skb, packet->transport, ports, sizeof(ports)))
		return 0;
	packet->key.source_port = ports[0];
	packet->key.destination_port = ports[1];
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
#pragma unroll
	for (unsigned int i = 1; i < sizeof(*flow) / 8; i++)
		total += words[i] * (0xd6e8feb86659fd93ULL * (i + 1) | 1);
	return total;
}

/* A flow as it is in the map; 0 if there is none, or it is being changed. */
static __always_inline int find(const struct key *key, struct flow *flow)
{
	const struct flow *found = bpf_map_lookup_elem(&flows, key);

	if (!found)
		return 0;
	__builtin_memcpy(flow, found, sizeof(*flow));
	barrier();
	return flow->check == check_of(key, flow);
}

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

static __always_inline struct endpoint *endpoint_of(__u8 family, const __be32 *words)
{
	struct address address = { .family = family };

	copy4(address.words, words);
	return bpf_map_lookup_elem(&endpoints, &address);
}

/* Leaves a packet to the kernel, and takes note of it. */
static __always_inline int leave(struct __sk_buff *skb, const struct packet *packet, int from_wire, enum counter reason)
{
	__u32 zero = 0;
	struct note *note = bpf_map_lookup_elem(&notes, &zero);

	if (!note)
		return TCX_NEXT;
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
	    flow->far != generation(flow->far_slot))
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
	__be16 ports[2] = { flow->source_port, flow->destination_port };
	__be32 before[8], after[8];
	__s64 difference;
	long error;

	copy4(before, packet->key.source);
	copy4(before + 4, packet->key.destination);
	copy4(after, flow->source);
	copy4(after + 4, flow->destination);
	difference = bpf_csum_diff(before, sizeof(before), after, sizeof(after), 0);
	if (difference < 0)
		return difference;
	error = bpf_l4_csum_replace(skb, checksum, 0, difference, flags | BPF_F_PSEUDO_HDR);
	error |= bpf_l4_csum_replace(skb, checksum, packet->key.source_port, ports[0], flags | sizeof(ports[0]));
	error |= bpf_l4_csum_replace(skb, checksum, packet->key.destination_port, ports[1], flags | sizeof(ports[1]));
	return error | bpf_skb_store_bytes(skb, packet->transport, ports, sizeof(ports), 0);
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
		return bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip), 0);
	}
	packet->ip.v6.hops -= flow->hops;
	copy4(packet->ip.v6.source, flow->source);
	copy4(packet->ip.v6.destination, flow->destination);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &packet->ip.v6, sizeof(packet->ip.v6), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int forward(struct __sk_buff *skb, struct packet *packet, const struct flow *flow)
{
	long error = 0;

	if (flow->is_translated)
		error |= translate(skb, packet, flow);
	if (flow->is_translated || flow->hops)
		error |= readdress(skb, packet, flow);
	error |= bpf_skb_store_bytes(skb, 0, &flow->after, sizeof(flow->after), 0);
	if (flow->is_local && skb->pkt_type != PACKET_HOST)
		error |= bpf_skb_change_type(skb, PACKET_HOST);
	if (error) {
		count(FAILED);
		return TCX_DROP;
	}
	count(HIT);
	skb->cb[0] = MARK0;
	skb->cb[1] = MARK1;
	skb->cb[2] = MARK2;
	skb->cb[3] = MARK3;
	return flow->is_local ? bpf_redirect_peer(flow->ifindex, 0) : bpf_redirect(flow->ifindex, 0);
}

static __always_inline int enter(struct __sk_buff *skb, int from_wire)
{
	struct packet packet = {};
	struct flow flow;
	struct settings *set;
	enum counter verdict;
	__u32 zero = 0;
	__u64 now;

	if (!read(skb, &packet))
		return from_wire ? TCX_NEXT : pass(UNUSUAL);
	if (packet.control) {
		if (find(&packet.key, &flow))
			end(&packet.key, &flow);
		else if (from_wire && !endpoint_of(packet.key.family, packet.key.destination))
			return TCX_NEXT;
		return pass(CONTROL);
	}
	set = bpf_map_lookup_elem(&settings, &zero);
	now = bpf_ktime_get_coarse_ns();
	if (!set || now > set->until)
		return from_wire ? TCX_NEXT : pass(UNATTENDED);
	if (!find(&packet.key, &flow))
		return leave(skb, &packet, from_wire, UNKNOWN);
	verdict = judge(&packet, &flow, now, set->lifetime);
	if (verdict != HIT)
		return leave(skb, &packet, from_wire, verdict);
	return forward(skb, &packet, &flow);
}

SEC("classifier")
int from_pod(struct __sk_buff *skb)
{
	return enter(skb, 0);
}

SEC("classifier")
int from_wire(struct __sk_buff *skb)
{
	return enter(skb, 1);
}

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

static __always_inline int store(const struct packet *packet, const struct note *note, struct flow *flow, int to_wire)
{
	struct key key = note->key;
	struct flow before;
	int known;

	flow->validated = bpf_ktime_get_coarse_ns();
	copy4(flow->source, packet->key.source);
	copy4(flow->destination, packet->key.destination);
	flow->source_port = packet->key.source_port;
	flow->destination_port = packet->key.destination_port;
	flow->ifindex = packet->key.ifindex;
	flow->hops = note->ttl - packet->ttl;
	flow->is_local = !to_wire;
	flow->is_translated = !is_same4(key.source, flow->source) || !is_same4(key.destination, flow->destination) ||
			      key.source_port != flow->source_port || key.destination_port != flow->destination_port;
	flow->before = note->ethernet;
	flow->after = packet->ethernet;
	flow->biggest = packet->size;
	known = find(&key, &before);
	if (known && before.all == flow->all && before.near == flow->near && before.far == flow->far &&
	    before.ifindex == flow->ifindex && before.biggest > flow->biggest) {
		__u32 zero = 0;
		struct settings *set = bpf_map_lookup_elem(&settings, &zero);

		/* What was let through within the lifetime still counts. */
		if (set && flow->validated - before.validated <= set->lifetime)
			flow->biggest = before.biggest;
	}
	flow->check = check_of(&key, flow);
	if (bpf_map_update_elem(&flows, &key, flow, ANY))
		return pass(FULL);
	return pass(known ? REFRESHED : LEARNED);
}

static __always_inline int depart(struct __sk_buff *skb, int to_wire)
{
	struct packet packet = {};
	struct flow flow = {};
	struct note *note;
	enum counter verdict;
	__u32 zero = 0;

	if (skb->cb[0] == MARK0 && skb->cb[1] == MARK1 && skb->cb[2] == MARK2 && skb->cb[3] == MARK3)
		return TCX_NEXT;
	note = bpf_map_lookup_elem(&notes, &zero);
	if (!note || !note->is_valid || (to_wire && note->from_wire))
		return TCX_NEXT;
	if (!read(skb, &packet) || packet.control)
		return TCX_NEXT;
	/* Of both ends one is never translated, or the flow is not for us. */
	if (note->key.protocol != packet.key.protocol || note->key.family != packet.key.family)
		return TCX_NEXT;
	if (!is_same4(note->key.source, packet.key.source) && !is_same4(note->key.destination, packet.key.destination))
		return TCX_NEXT;
	flow.near_slot = slot_of(note->key.family, note->key.source, note->from_wire, note->key.ifindex);
	flow.far_slot = slot_of(packet.key.family, packet.key.destination, to_wire, packet.key.ifindex);
	if (flow.near_slot < FIRST_SLOT || flow.far_slot < FIRST_SLOT)
		return pass(OUTSIDE);
	flow.all = generation(SLOT_ALL);
	flow.near = generation(flow.near_slot);
	flow.far = generation(flow.far_slot);
	/* Who changes something counts the sequence last; the packet was noted before all of it was decided. */
	barrier();
	if (note->sequence != generation(SLOT_SEQUENCE))
		return pass(OVERTAKEN);
	verdict = tracked(skb, &note->key, &packet.key);
	if (verdict != HIT)
		return pass(verdict);
	note->is_valid = 0;
	if (note->start != packet.start || (__u8)(note->ttl - packet.ttl) > 1)
		return pass(DIFFERENT);
	return store(&packet, note, &flow, to_wire);
}

SEC("classifier")
int to_pod(struct __sk_buff *skb)
{
	return depart(skb, 0);
}

SEC("classifier")
int to_wire(struct __sk_buff *skb)
{
	return depart(skb, 1);
}

char LICENSE[] SEC("license") = "GPL";
