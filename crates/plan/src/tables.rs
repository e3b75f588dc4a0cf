//! The nftables tables: who may send into a tunnel, who is masqueraded, and what a pod may send.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, LinkName, VxlanSettings};

use crate::rules::{
    Action, Chain, ChainName, Field, Hook, Match, Rule, Set, SetName, Table, TableFamily, Value,
};

/// Underlay addresses of the cluster's other nodes.
pub(crate) const NODES: SetName = SetName("nodes");
/// Pod ranges of this node.
pub(crate) const LOCAL_PODS: SetName = SetName("local-pods");
/// Pod ranges of the cluster.
pub(crate) const CLUSTER_PODS: SetName = SetName("cluster-pods");
/// Pod ranges to which packets go in IP in IP.
pub(crate) const TUNNELLED: SetName = SetName("tunnelled");
/// Ethernet addresses that pods send from.
pub(crate) const POD_MACS: SetName = SetName("pod-macs");
/// IPv4 addresses that pods send from.
pub(crate) const POD_ADDRESSES: SetName = SetName("pod-addresses");
/// IPv6 addresses that pods send from.
pub(crate) const POD_ADDRESSES6: SetName = SetName("pod-addresses6");

const FROM_POD: ChainName = ChainName::fixed("from-pod");

// linux/if_ether.h
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
// IANA protocol numbers
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
// RFC 4861, section 4
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// The table of one IP family: tunnels accept only nodes, and what leaves the cluster is masqueraded. The gateway is
/// the node's address to its pods, if it has any of the family.
pub(crate) fn routed(family: Family, vxlan: &VxlanSettings, gateway: Option<IpAddr>) -> Table {
    let (source, destination, multicast) = match family {
        Family::V4 => (Field::Ip4Source, Field::Ip4Destination, [224, 0, 0, 0].into()),
        Family::V6 => (Field::Ip6Source, Field::Ip6Destination, [0xff00, 0, 0, 0, 0, 0, 0, 0].into()),
    };
    let multicast = IpNet::new_assert(multicast, if family == Family::V4 { 4 } else { 8 });
    let set = |name, prefixes| Set { prefixes, ..Set::plain(name, vec![source]) };
    Table {
        name: Table::NODE,
        family: family.into(),
        sets: vec![
            set(NODES, false),
            set(LOCAL_PODS, true),
            set(CLUSTER_PODS, true),
            Set { fields: vec![destination], ..set(TUNNELLED, true) },
        ],
        chains: vec![
            Chain {
                name: ChainName::fixed("input"),
                hook: Some(Hook::Input),
                rules: vec![Rule {
                    comment: "VXLAN is accepted from nodes of the cluster only",
                    matches: vec![
                        Match::Is(Field::Protocol, Value::Protocol(UDP)),
                        Match::Is(Field::UdpDestination, Value::Port(vxlan.port.value())),
                        Match::NotIn(vec![source], NODES),
                    ],
                    action: Action::Drop,
                }],
            },
            Chain {
                name: ChainName::fixed("into-tunnel"),
                hook: Some(Hook::TunnelSourceNat),
                rules: gateway.map(|gateway| into_tunnel(source, destination, gateway)).into_iter().collect(),
            },
            Chain {
                name: ChainName::fixed("postrouting"),
                hook: Some(Hook::SourceNat),
                rules: vec![
                    Rule {
                        comment: "what does not come from a pod of this node is left alone",
                        matches: vec![Match::NotIn(vec![source], LOCAL_PODS)],
                        action: Action::Return,
                    },
                    Rule {
                        comment: "pod to pod is never masqueraded",
                        matches: vec![Match::In(vec![destination], CLUSTER_PODS)],
                        action: Action::Return,
                    },
                    Rule {
                        comment: "multicast is never masqueraded",
                        matches: vec![Match::Is(destination, Value::Prefix(multicast))],
                        action: Action::Return,
                    },
                    Rule {
                        comment: "pod to outside takes the node's address",
                        matches: vec![Match::IsNot(Field::OutputLink, Value::Link(LinkName::bridge()))],
                        action: Action::Masquerade,
                    },
                ],
            },
        ],
    }
}

/// IP in IP has no device whose address a service's client could get, and with that of the uplink the answer would come
/// back beside the tunnel.
fn into_tunnel(source: Field, destination: Field, gateway: IpAddr) -> Rule {
    Rule {
        comment: "to an endpoint in a tunnel, not from a pod",
        matches: vec![
            Match::Translated,
            Match::NotIn(vec![source], CLUSTER_PODS),
            Match::In(vec![destination], TUNNELLED),
        ],
        action: Action::SourceTo(gateway),
    }
}

/// The table of the bridge: a pod sends from its own addresses only, and does not play the router.
pub(crate) fn bridged() -> Table {
    let from = |field| vec![Field::InputLink, field];
    let ether_type = |value| Match::Is(Field::EtherType, Value::EtherType(value));
    let icmp6 = |kind| {
        vec![
            ether_type(IPV6),
            Match::Is(Field::Protocol, Value::Protocol(ICMPV6)),
            Match::Is(Field::Icmp6Type, Value::Icmp6Type(kind)),
        ]
    };
    let drop = |comment, matches| Rule { comment, matches, action: Action::Drop };
    let accept = |comment, matches| Rule { comment, matches, action: Action::Accept };
    let unspecified4 = Value::Address([0, 0, 0, 0].into());
    let unspecified6 = Value::Address([0u16; 8].into());
    let mut advertised = icmp6(NEIGHBOUR_ADVERTISEMENT);
    advertised.push(Match::NotIn(from(Field::AdvertisedTarget), POD_ADDRESSES6));
    Table {
        name: Table::NODE,
        family: TableFamily::Bridge,
        sets: vec![
            Set::plain(POD_MACS, from(Field::EtherSource)),
            Set::plain(POD_ADDRESSES, from(Field::Ip4Source)),
            Set::plain(POD_ADDRESSES6, from(Field::Ip6Source)),
        ],
        chains: vec![
            Chain {
                name: FROM_POD,
                hook: None,
                rules: vec![
                    drop(
                        "another Ethernet address than the pod's",
                        vec![Match::NotIn(from(Field::EtherSource), POD_MACS)],
                    ),
                    accept(
                        "ARP probe, which has no sender yet (RFC 5227)",
                        vec![ether_type(ARP), Match::Is(Field::ArpSender, unspecified4)],
                    ),
                    accept(
                        "ARP for the pod's own address",
                        vec![ether_type(ARP), Match::In(from(Field::ArpSender), POD_ADDRESSES)],
                    ),
                    accept(
                        "IPv4 from the pod's own address",
                        vec![ether_type(IPV4), Match::In(from(Field::Ip4Source), POD_ADDRESSES)],
                    ),
                    drop("a pod is no router", icmp6(ROUTER_ADVERTISEMENT)),
                    drop("a pod redirects nobody", icmp6(REDIRECT)),
                    drop("a pod advertises its own address only", advertised),
                    accept(
                        "IPv6 from the pod's own address",
                        vec![ether_type(IPV6), Match::In(from(Field::Ip6Source), POD_ADDRESSES6)],
                    ),
                    accept(
                        "neighbour discovery before the pod has an address (RFC 4862)",
                        vec![
                            ether_type(IPV6),
                            Match::Is(Field::Protocol, Value::Protocol(ICMPV6)),
                            Match::Is(Field::Ip6Source, unspecified6),
                        ],
                    ),
                    drop("anything else", vec![]),
                ],
            },
            Chain {
                name: ChainName::fixed("prerouting"),
                hook: Some(Hook::BridgePrerouting),
                rules: vec![Rule {
                    comment: "what comes from a pod is checked",
                    matches: vec![Match::Is(Field::InputLink, Value::LinkPrefix(LinkName::POD_PREFIX))],
                    action: Action::Jump(FROM_POD),
                }],
            },
        ],
    }
}
