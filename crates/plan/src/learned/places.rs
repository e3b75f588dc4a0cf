//! Which nodes have an address or a pod range.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Node, NodeName, PodRange};

/// The nodes by what they have. More than one node can claim a thing for a while; they are in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Places {
    addresses: BTreeMap<IpAddr, Vec<NodeName>>,
    ranges: BTreeMap<IpNet, Vec<NodeName>>,
    /// How many ranges there are of each length, which are few lengths.
    lengths: BTreeMap<u8, usize>,
}

impl Places {
    pub(crate) fn insert(&mut self, node: &Node) {
        for address in node.addresses.iter() {
            insert(&mut self.addresses, *address, &node.name);
        }
        for range in node.pod_ranges.iter().map(PodRange::net) {
            insert(&mut self.ranges, range, &node.name);
            *self.lengths.entry(range.prefix_len()).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, node: &Node) {
        for address in node.addresses.iter() {
            remove(&mut self.addresses, *address, &node.name);
        }
        for range in node.pod_ranges.iter().map(PodRange::net) {
            remove(&mut self.ranges, range, &node.name);
            if let Some(count) = self.lengths.get_mut(&range.prefix_len()) {
                *count -= 1;
            }
        }
        self.lengths.retain(|_, count| *count > 0);
    }

    /// The nodes with an underlay address, by name.
    pub(crate) fn nodes_at(&self, address: &IpAddr) -> &[NodeName] {
        self.addresses.get(address).map(Vec::as_slice).unwrap_or_default()
    }

    /// The nodes with exactly this pod range.
    pub(crate) fn nodes_with(&self, range: &IpNet) -> &[NodeName] {
        self.ranges.get(range).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a prefix is a node's pod range or lies in one.
    pub(crate) fn is_in_range(&self, prefix: &IpNet) -> bool {
        let shorter = self.lengths.range(..=prefix.prefix_len());
        shorter
            .filter_map(|(length, _)| IpNet::new(prefix.network(), *length).ok())
            .any(|range| self.ranges.contains_key(&range.trunc()))
    }
}

fn insert<K: Ord>(map: &mut BTreeMap<K, Vec<NodeName>>, key: K, name: &NodeName) {
    let names = map.entry(key).or_default();
    if let Err(place) = names.binary_search(name) {
        names.insert(place, name.clone());
    }
}

fn remove<K: Ord>(map: &mut BTreeMap<K, Vec<NodeName>>, key: K, name: &NodeName) {
    if let Some(names) = map.get_mut(&key) {
        names.retain(|each| each != name);
        if names.is_empty() {
            map.remove(&key);
        }
    }
}
