//! A pod range for every node, cut from the network's.

use std::collections::BTreeSet;

use ipnet::IpNet;
use model::{Family, NetworkConfig, PodRange};
use serde_json::{Value, json};

use super::object::{list, name};
use super::{Action, Objects};

/// The lengths of nodes' prefixes, as the Kubernetes controller manager cuts them by default.
const LENGTH_V4: u8 = 24;
const LENGTH_V6: u8 = 64;
/// A network that is not longer than a node's prefix is cut into this many times as many parts.
const PARTS: u8 = 4;

pub(super) fn ranges(objects: &Objects, network: &NetworkConfig) -> Vec<Action> {
    let mut taken: BTreeSet<IpNet> = objects.nodes.iter().flat_map(ranges_of).collect();
    let mut actions = Vec::new();
    for node in objects.nodes.iter().filter(|node| ranges_of(node).is_empty()) {
        let given: Vec<IpNet> = Family::BOTH.into_iter().filter_map(|family| free(network, family, &taken)).collect();
        let Some(first) = given.first() else { continue };
        let patch = json!({"spec": {"podCIDR": first, "podCIDRs": given}});
        taken.extend(&given);
        actions.push(Action::Patch { resource: "nodes", namespace: String::new(), name: name(node).to_owned(), patch });
    }
    actions
}

fn ranges_of(node: &Value) -> Vec<IpNet> {
    list(node, "/spec/podCIDRs").iter().filter_map(|range| range.as_str()?.parse().ok()).collect()
}

/// The first part of the network that no node has.
fn free(network: &NetworkConfig, family: Family, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let ranges = network.pod_ranges.iter().map(PodRange::net).filter(|range| Family::of_net(range) == family);
    ranges.flat_map(parts).find(|part| !taken.iter().any(|other| other.contains(part) || part.contains(other)))
}

fn parts(range: IpNet) -> Box<dyn Iterator<Item = IpNet>> {
    let wished = if Family::of_net(&range) == Family::V4 { LENGTH_V4 } else { LENGTH_V6 };
    // No smaller than a gateway and a pod need.
    let most = range.max_prefix_len() - 2;
    let length = if range.prefix_len() < wished { wished } else { (range.prefix_len() + PARTS).min(most) };
    match range.subnets(length) {
        Ok(parts) => Box::new(parts),
        Err(_) => Box::new(std::iter::once(range)),
    }
}

#[cfg(test)]
mod tests {
    use model::{Encapsulation, VxlanSettings};

    use super::*;

    fn network(ranges: &[&str]) -> NetworkConfig {
        let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
        NetworkConfig::parse(&ranges, &[], Encapsulation::Vxlan(VxlanSettings::default()), "auto").unwrap()
    }

    fn given(ranges: &[&str], nodes: Vec<Value>) -> Vec<Value> {
        let objects = Objects { nodes, ..Objects::default() };
        let patch = |action| match action {
            Action::Patch { patch, .. } => patch["spec"]["podCIDRs"].clone(),
            other => panic!("{other:?}"),
        };
        super::ranges(&objects, &network(ranges)).into_iter().map(patch).collect()
    }

    #[test]
    fn each_node_has_ranges_of_its_own() {
        let node = |name: &str, ranges: Value| json!({"metadata": {"name": name}, "spec": {"podCIDRs": ranges}});
        let nodes = vec![node("a", json!([])), node("b", json!(["10.244.0.0/24", "fd00:10:244::/64"])), node("c", json!(null))];
        assert_eq!(
            given(&["10.244.0.0/16", "fd00:10:244::/56"], nodes),
            [json!(["10.244.1.0/24", "fd00:10:244:1::/64"]), json!(["10.244.2.0/24", "fd00:10:244:2::/64"])]
        );
    }

    #[test]
    fn small_networks_are_cut_smaller() {
        let nodes = || vec![json!({"metadata": {"name": "a"}}), json!({"metadata": {"name": "b"}})];
        assert_eq!(given(&["10.1.2.0/24"], nodes()), [json!(["10.1.2.0/28"]), json!(["10.1.2.16/28"])]);
        assert_eq!(given(&["fd00::/120"], nodes()), [json!(["fd00::/124"]), json!(["fd00::10/124"])]);
        assert_eq!(given(&["10.1.2.0/30"], nodes()), [json!(["10.1.2.0/30"])]);
    }
}
