//! What the fast path of a node goes by. It decides nothing, so all of it is in the plan for other reasons.

use std::net::IpAddr;

use ipnet::IpNet;
use model::LinkName;

use crate::rules::Value;
use crate::tables::{CLUSTER_PODS, NODES, POD_ADDRESSES, POD_ADDRESSES6, POD_MACS, TUNNELLED};
use crate::{Key, Member};

/// Where packets of flows come from or go to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A link by which other nodes are reached: an uplink, or a VXLAN device.
    Wire(LinkName),
    /// A pod of this node.
    Pod(IpAddr, LinkName),
    /// Another node, by an underlay address.
    Node(IpAddr),
    /// Pods elsewhere.
    Elsewhere(IpNet),
}

/// Which flows something changes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// For none: it is looked up for every packet.
    Nothing,
    /// For those of these pods.
    At(IpNet),
    /// For all.
    Everything,
}

/// What an entry says of places. It is all in its key.
pub fn place(key: &Key) -> Option<Place> {
    match key {
        Key::TunnelUplink(link) => Some(Place::Wire(link.clone())),
        Key::Link(link) if [LinkName::vxlan_v4(), LinkName::vxlan_v6()].contains(link) => {
            Some(Place::Wire(link.clone()))
        }
        Key::Route(destination) => Some(Place::Elsewhere(*destination)),
        Key::Member(Member { set, key, .. }) if *set == NODES => match &key[..] {
            [Value::Address(address)] => Some(Place::Node(*address)),
            _ => None,
        },
        Key::Member(Member { set, key, .. }) if [POD_ADDRESSES, POD_ADDRESSES6].contains(set) => {
            match &key[..] {
                [Value::Link(link), Value::Address(address)] if !is_link_local(address) => {
                    Some(Place::Pod(*address, link.clone()))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The flows for which a change of an entry can matter.
pub fn reach(key: &Key) -> Reach {
    match key {
        // The programs on the uplinks go by them for each packet. A VXLAN device's forwarding entry has never another
        // node for an Ethernet address, and goes with the routes that lead there.
        Key::Forwarding(..) | Key::TunnelLocal(_) | Key::TunnelNode(_) => Reach::Nothing,
        Key::Route(destination) | Key::TunnelRoute(destination) => Reach::At(*destination),
        Key::Neighbour(_, address) => Reach::At((*address).into()),
        Key::Member(Member { set, key, .. }) => match &key[..] {
            _ if *set == NODES => Reach::Nothing,
            [Value::Prefix(net)] if [CLUSTER_PODS, TUNNELLED].contains(set) => Reach::At(*net),
            [Value::Link(_), Value::Address(address)] => Reach::At((*address).into()),
            // It comes and goes with the pod's addresses.
            [Value::Link(_), Value::Mac(_)] if *set == POD_MACS => Reach::Nothing,
            _ => Reach::Everything,
        },
        Key::Port(_) => Reach::Nothing,
        Key::Table(_)
        | Key::Link(_)
        | Key::Sysctl(_)
        | Key::Address(..)
        | Key::TunnelUplink(_)
        | Key::FastPath => Reach::Everything,
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use model::{Attachment, AttachmentId};

    use super::*;
    use crate::{Entry, source_guard};

    #[test]
    fn a_pod_is_where_it_may_send_from() {
        let id = AttachmentId { container_id: "sandbox".to_owned(), ifname: "eth0".to_owned() };
        let addresses: Vec<IpAddr> = ["10.1.0.2", "fd00::2"].map(|text| text.parse().unwrap()).into();
        let pod = Attachment { id: id.clone(), addresses: addresses.clone() };
        let keys: Vec<Key> = source_guard(&pod).iter().map(Entry::key).collect();
        let places: Vec<Place> = keys.iter().filter_map(place).collect();
        let expected = addresses.iter().map(|address| Place::Pod(*address, id.host_link()));
        assert_eq!(places, expected.collect::<Vec<_>>());
        let reach: Vec<Reach> = keys.iter().map(reach).collect();
        assert!(!reach.contains(&Reach::Everything), "{reach:?}");
        assert!(addresses.iter().all(|address| reach.contains(&Reach::At((*address).into()))));
    }

    #[test]
    fn what_is_not_known_to_be_small_reaches_everything() {
        let net: IpNet = "10.2.0.0/24".parse().unwrap();
        assert_eq!(place(&Key::Route(net)), Some(Place::Elsewhere(net)));
        assert_eq!(reach(&Key::TunnelRoute(net)), Reach::At(net));
        for key in
            [Key::Sysctl("net/ipv4/ip_forward".to_owned()), Key::FastPath, Key::Link(LinkName::bridge())]
        {
            assert_eq!((place(&key), reach(&key)), (None, Reach::Everything));
        }
        let vxlan = Key::Link(LinkName::vxlan_v4());
        assert_eq!(place(&vxlan), Some(Place::Wire(LinkName::vxlan_v4())));
    }
}
