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
 * The functions of connection tracking are for programs only that may be used under the GPL, and so this one may be.
 */
#include "fast_enter.h"
#include "fast_leave.h"
#include "kernel.h"

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
