/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What connection tracking has of a flow (net/netfilter/nf_conntrack.h). The functions are the kernel's own ("kfuncs",
 * net/netfilter/nf_conntrack_bpf.c): the numbers here stand for their BTF types, which the loader puts in their place.
 * crates/kernel/src/fast/object.rs has the same numbers.
 */
#pragma once

#include "kernel.h"

union nf_inet_addr {
	__be32 all[4];
} __by_name;

union nf_conntrack_man_proto {
	__be16 all;
} __by_name;

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
} __by_name;

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
	} dst;
} __by_name;

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} __by_name;

struct ip_ct_tcp {
	__u8 state;
} __by_name;

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
} __by_name;

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	struct nf_conn *master;
	union nf_conntrack_proto proto;
} __by_name;

/* enum ip_conntrack_status, enum tcp_conntrack (linux/netfilter/nf_conntrack_{common,tcp}.h) */
enum {
	IPS_EXPECTED = 1 << 0,
	IPS_SEEN_REPLY = 1 << 1,
	IPS_ASSURED = 1 << 2,
	IPS_CONFIRMED = 1 << 3,
	IPS_SRC_NAT = 1 << 4,
	IPS_SEQ_ADJUST = 1 << 6,
	IPS_DYING = 1 << 9,
	IPS_HELPER = 1 << 13,
	IPS_OFFLOAD = 1 << 14,
};
enum { TCP_CONNTRACK_ESTABLISHED = 3 };

struct bpf_sock_tuple4 {
	__be32 source, destination;
	__be16 source_port, destination_port;
};

struct bpf_sock_tuple6 {
	__be32 source[4], destination[4];
	__be16 source_port, destination_port;
};

struct bpf_ct_opts {
	int netns_id;
	int error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

enum { BPF_F_CURRENT_NETNS = -1 };

static struct nf_conn *(*bpf_skb_ct_lookup)(struct __sk_buff *, void *tuple, __u32 tuple_size, struct bpf_ct_opts *,
					    __u32 options_size) = (void *)0x7fff0001;
static int (*bpf_ct_change_timeout)(struct nf_conn *, __u32 milliseconds) = (void *)0x7fff0002;
static void (*bpf_ct_release)(struct nf_conn *) = (void *)0x7fff0003;
