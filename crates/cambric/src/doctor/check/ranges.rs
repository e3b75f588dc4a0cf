//! Ranges that share addresses.

use ipnet::IpNet;
use model::{LinkName, Node, PodRange};

use crate::doctor::finding::{Check, Finding, Verdict};
use crate::doctor::observation::Observation;

const CURE: &str = "give the cluster ranges that nothing else uses: podRanges and serviceRanges of the ClusterNetwork, and \
                    --cluster-cidr and --service-cluster-ip-range of the control plane; or number the other network anew";

pub(super) fn ranges(seen: &Observation, verdict: &mut Verdict) {
    let claimed = claimed(seen);
    for node in seen.nodes.values() {
        for address in node.addresses.iter() {
            if let Some((kind, range)) = claimed.iter().find(|(_, range)| range.contains(address)) {
                verdict.find(Finding {
                    check: Check::Ranges,
                    place: format!("Node {}", node.name),
                    what: format!("its InternalIP {address} is in the {kind} range {range}"),
                    hurts:
                        "What is sent to the node is taken for a pod's or a service's, and does not arrive."
                            .to_owned(),
                    cure: CURE.to_owned(),
                });
            }
        }
    }
    foreign_networks(seen, &claimed, verdict);
    shared_by_nodes(seen, verdict);
}

fn claimed(seen: &Observation) -> Vec<(&'static str, IpNet)> {
    let pods = seen.network.pod_ranges.iter().map(|range| ("pod", range.net()));
    pods.chain(seen.network.service_ranges.iter().map(|range| ("service", *range))).collect()
}

/// Networks of this node's links that are not ours.
fn foreign_networks(seen: &Observation, claimed: &[(&str, IpNet)], verdict: &mut Verdict) {
    let ours = |name: &LinkName| seen.links.iter().any(|link| link.name == *name && (link.ours || link.pods));
    for (link, net) in seen.addresses.iter().filter(|(link, _)| !ours(link)) {
        let clash = claimed.iter().find(|(_, range)| overlap(range, net));
        // An address of the node itself in such a range was told of as the node's.
        let told =
            |range: &IpNet| seen.local.addresses.iter().any(|own| *own == net.addr() && range.contains(own));
        let Some((kind, range)) = clash.filter(|(_, range)| !told(range)) else { continue };
        verdict.find(Finding {
            check: Check::Ranges,
            place: format!("link {link}"),
            what: format!("its network {} overlaps with the {kind} range {range}", net.trunc()),
            hurts: format!(
                "What pods and this node send to addresses in both goes to {link}, or never gets there: one of the two \
                 networks cannot be reached from here."
            ),
            cure: CURE.to_owned(),
        });
    }
}

/// Pod ranges that two nodes have.
fn shared_by_nodes(seen: &Observation, verdict: &mut Verdict) {
    let of_node = |node: &Node| -> Vec<(PodRange, String)> {
        node.pod_ranges.iter().map(|range| (*range, node.name.to_string())).collect()
    };
    let mut all: Vec<(PodRange, String)> = seen.nodes.values().flat_map(of_node).collect();
    // Of two prefixes that overlap one contains the other, and in this order it comes first.
    all.sort_by_key(|(range, _)| (range.net().network(), range.net().prefix_len()));
    let mut widest: Option<&(PodRange, String)> = None;
    for one in &all {
        match widest {
            Some((range, holder)) if range.net().contains(&one.0.net()) => verdict.find(Finding {
                check: Check::Ranges,
                place: format!("Node {}", one.1),
                what: format!("its pod range {} overlaps with {range} of Node {holder}", one.0),
                hurts: "Two pods can have one address, and packets for one of the nodes go to the other."
                    .to_owned(),
                cure: format!(
                    "delete Node {} and let it register anew, so that it gets a range of its own",
                    one.1
                ),
            }),
            _ => widest = Some(one),
        }
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}
