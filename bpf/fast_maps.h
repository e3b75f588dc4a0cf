/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the fast path knows. crates/kernel/src/fast/layout.rs has the same layouts. */
#pragma once

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

/* An Ethernet header. It begins two bytes in, so that what follows is where the processor likes it. */
struct ethernet {
	__u8 unused[2];
	__u8 destination[6];
	__u8 source[6];
	__be16 kind;
};

/* RFC 7348, section 5: flags and reserved bits, and the network identifier with eight more. */
struct vxlan {
	__be32 flags;
	__be32 vni;
};

/* What VXLAN puts before a frame. */
union outer {
	struct {
		struct ethernet ethernet;
		struct ipv4 ip;
		struct udp udp;
		struct vxlan vxlan;
	} v4;
	struct {
		struct ethernet ethernet;
		struct ipv6 ip;
		struct udp udp;
		struct vxlan vxlan;
	} v6;
};

/* What becomes of a flow's packets. All of it is read for each of them, so it is small. */
struct flow {
	/* Of the key and all that follows; see find. */
	__u64 check;
	/* When the kernel's path has last had a packet (CLOCK_MONOTONIC, coarse, ns). */
	__u64 validated;
	/* How many changes there had been when that packet came, and the generations by then; see judge. */
	__u64 sequence;
	__u64 generations;
	/* Where the generations stand of both ends and of the service. */
	__u32 near_slot;
	__u32 far_slot;
	__u32 service_slot;
	/* Where it leaves, or goes into a tunnel. */
	__u32 ifindex;
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	/* The biggest packet that the kernel's path has let through, in bytes from the IP header on. */
	__u32 biggest;
	/* By how much routing has lowered the time to live. */
	__u8 hops;
	/* Whether it leaves into a pod. */
	__u8 is_local;
	/* How much of its packets is another when they leave: an enum change. */
	__u8 change;
	/* The family of the outer header that it is known to get, 4 or 6; 0: none. */
	__u8 tunnel;
	/* Where it leaves with the outer header. */
	__u32 uplink;
	/* The Ethernet header before and after. */
	struct ethernet before;
	struct ethernet after;
	/* What queueing disciplines and filters on the wire may go by; 0 where it leaves into a pod. */
	__u32 priority;
	__u32 mark;
};

enum change {
	NOTHING,
	/* The Ethernet header or the time to live. */
	HEADER,
	/* Addresses or ports too. */
	ENDS,
};

/* What a flow gets before its packets. */
struct wrapping {
	/* Of the flow's check and the header. */
	__u64 check;
	union outer outer;
};

struct entry {
	struct key key;
	struct flow flow;
	struct wrapping wrapping;
};

_Static_assert(sizeof(struct key) == 48 && sizeof(struct flow) == 136 && sizeof(struct entry) == 264,
	       "the tests in crates/kernel/src/fast/run_tests have the same");

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
	/* Its flow is known by now, and it is on its way to get an outer header. */
	__u8 is_wrapped;
	__u8 unused[4];
};

/* A pod on this node. */
struct endpoint {
	__u32 ifindex;
	__u32 slot;
};

/* A VXLAN device. */
struct tunnel {
	/* 0 if there is none. */
	__u32 ifindex;
	/* As it stands in the header. */
	__be32 vni;
	__be16 port;
	__u16 unused;
	/* The underlay address of this node. */
	__be32 local[4];
};

struct settings {
	/* No packet is sent by the fast path after this time, unless the agent has put it off (ns). */
	__u64 until;
	/* How long a flow is used without a packet on the kernel's path (ns). */
	__u64 lifetime;
	/* For how long connection tracking keeps an idle TCP connection (ms). */
	__u64 established;
	/* How many packets of TCP flows that are not known are not learned from for each that is: a power of two less one. */
	__u64 passed_by;
};

enum { WAYS = 4, BUCKET_BITS = 15 };

/* Flows whose keys hash to the same place. */
struct bucket {
	/* What the keys hash to; 0: no flow. */
	__u64 hashes[WAYS];
	struct entry entries[WAYS];
};

enum { KEY_WORDS = sizeof(struct key) / 8 };

/* By what the words of keys are multiplied to get their hash. They stay what they are. */
struct weights {
	__u64 of[KEY_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weights);
} hash_weights SEC(".maps");

/*
 * A hash table in an array: the kernel's own is some hundred nanoseconds from here, most of them for code and data that the
 * processor has to get, and an array's elements are found in place. There is no lock; see find.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << BUCKET_BITS);
	__type(key, __u32);
	__type(value, struct bucket);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct note);
} notes SEC(".maps");

/* Entries are made and looked at here: they are too large for the stack. */
enum scratch { FOUND, LEARNED_NOW, SCRATCH };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH);
	__type(key, __u32);
	__type(value, struct entry);
} scratch SEC(".maps");

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

/* The underlay addresses of other nodes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct address);
	__type(value, __u32);
} hosts SEC(".maps");

/* The devices by the family of the underlay, IPv4 first. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct tunnel);
} tunnels SEC(".maps");

/*
 * A flow is good as long as the numbers in its slots are what they were. Frontends of services share slots: which one is
 * theirs is computed, and a flow that ends for another's sake is learned anew.
 */
enum { SLOT_ALL, SLOT_SEQUENCE, FIRST_SLOT, FIRST_SERVICE_SLOT = 65536, SERVICE_SLOTS = 16384 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FIRST_SERVICE_SLOT + SERVICE_SLOTS);
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
	EVICTED,     /* by one that took its place */
	/* Why a flow was not learned. */
	UNSETTLED,   /* connection tracking has not got it established */
	SPECIAL,     /* masqueraded, or connection tracking looks into it */
	OUTSIDE,     /* not between pods of the cluster */
	DIFFERENT,   /* the kernel's path has changed something else of the packet */
	OVERTAKEN,   /* something changed while the packet was on its way */
	FAILED,      /* dropped: the kernel would not change the packet */
	COUNTERS,
};

#include "counters.h"
