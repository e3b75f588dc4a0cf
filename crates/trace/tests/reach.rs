//! For any cluster: every pod reaches every other by the walk through the plans, and nothing else gets in its way.

#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::{Family, PerFamily, PodRange, Sending, When};
use plan::{Input, NodePlan, Origin, Planner, Problem, plan};
use proptest::prelude::*;
use proptest::sample::Index;
use trace::{End, Loss, Start, Step, walk};

use common::{Shape, Way, build, packet, pods, shape, world};

proptest! {
    #[test]
    fn every_pod_reaches_every_other_unchanged_the_way_that_the_mode_says(shape in shape()) {
        let built = build(&shape);
        let world = world(&built);
        let pods = pods(&built);
        for (from_node, from) in &pods {
            for (to_node, to) in &pods {
                for (source, destination) in from.addresses.iter().zip(&to.addresses) {
                    if source == destination {
                        continue;
                    }
                    let start = Start::Pod(from_node.clone(), from.id.host_link());
                    let walk = walk(&world, &start, packet(*source, *destination));
                    let way = shape.way(from_node, to_node, Family::of(destination));
                    prop_assert_eq!(walk.packet.source, *source);
                    if way == Way::None && from_node != to_node {
                        // The node's own way out: its routers may know better.
                        prop_assert_eq!(&walk.end, &End::Outside, "{:?}", walk.hops);
                        continue;
                    }
                    prop_assert_eq!(&walk.end, &End::Pod(to_node.clone(), to.id.host_link()), "{:?}", walk.hops);
                    let tunnelled = walk.hops.iter().any(|hop| matches!(hop.step, Step::Encapsulated { .. }));
                    prop_assert_eq!(tunnelled, from_node != to_node && way == Way::Tunnel);
                    let wrapped = walk.hops.iter().any(|hop| matches!(hop.step, Step::Wrapped { .. }));
                    prop_assert_eq!(wrapped, from_node != to_node && way == Way::Wrapped);
                    let to_uplink = |step: &Step| matches!(step, Step::Routed { link: Some(link), .. } if link.as_str() == "eth0");
                    let plain = walk.hops.iter().any(|hop| to_uplink(&hop.step));
                    prop_assert_eq!(plain, from_node != to_node && matches!(way, Way::Plain | Way::Wrapped));
                }
            }
        }
    }

    #[test]
    fn nodes_reach_every_pod_from_an_address_that_pods_can_answer(shape in shape()) {
        let built = build(&shape);
        let world = world(&built);
        for (name, node) in &built.cluster.nodes {
            for (to_node, to) in pods(&built) {
                for address in &to.addresses {
                    let family = Family::of(address);
                    let Some(gateway) = node.pod_ranges.of(family).map(PodRange::gateway) else { continue };
                    if *name != to_node && shape.way(name, &to_node, family) == Way::None {
                        continue;
                    }
                    let there = walk(&world, &Start::Node(name.clone()), packet(gateway, *address));
                    prop_assert_eq!(&there.end, &End::Pod(to_node.clone(), to.id.host_link()));
                    let start = Start::Pod(to_node.clone(), to.id.host_link());
                    let back = walk(&world, &start, packet(*address, gateway));
                    prop_assert_eq!(&back.end, &End::Node(name.clone()));
                }
            }
        }
    }

    #[test]
    fn outside_sees_the_node(shape in shape()) {
        let built = build(&shape);
        let world = world(&built);
        for (name, pod) in pods(&built) {
            for address in &pod.addresses {
                let family = Family::of(address);
                let Some(node) = built.cluster.nodes[&name].addresses.of(family) else { continue };
                let outside = match family {
                    Family::V4 => IpAddr::from([198, 51, 100, 1]),
                    Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]),
                };
                let walk = walk(&world, &Start::Pod(name.clone(), pod.id.host_link()), packet(*address, outside));
                prop_assert_eq!(&walk.end, &End::Outside);
                prop_assert_eq!(&walk.packet.source, node);
            }
        }
    }

    #[test]
    fn a_pod_cannot_send_from_another_address(shape in shape()) {
        let built = build(&shape);
        let world = world(&built);
        let pods = pods(&built);
        for (node, pod) in &pods {
            for (_, victim) in pods.iter().filter(|(_, other)| other.id != pod.id) {
                let walk = walk(
                    &world,
                    &Start::Pod(node.clone(), pod.id.host_link()),
                    packet(victim.addresses[0], victim.addresses[0]),
                );
                prop_assert!(matches!(walk.end, End::Lost(Loss::Dropped { .. })), "{:?}", walk.end);
            }
        }
    }

    #[test]
    fn no_two_objects_have_an_address_in_common(shape in shape()) {
        let built = build(&shape);
        let mut seen = BTreeSet::new();
        for (_, pod) in pods(&built) {
            for address in pod.addresses {
                prop_assert!(seen.insert(address));
            }
        }
        for (node, plan) in world(&built).nodes.values() {
            let others = built.cluster.nodes.values().filter(|other| other.name != node.name);
            let ways = others.flat_map(|other| {
                other.pod_ranges.iter().map(|range| shape.way(&node.name, &other.name, range.family()))
            });
            prop_assert_eq!(plan.problems.len(), ways.filter(|way| *way == Way::None).count());
            for problem in &plan.problems {
                prop_assert!(matches!(problem, Problem::NoPlainRoute { .. }), "{}", problem);
            }
            for range in node.pod_ranges.iter() {
                prop_assert!(seen.insert(range.gateway()));
            }
        }
    }

    /// The order in which things become known makes no difference, and a change of one object touches that object.
    #[test]
    fn planning_step_by_step_is_planning_at_once(shape in shape(), order in prop::collection::vec(any::<Index>(), 16)) {
        let built = build(&shape);
        let Some(local) = built.cluster.nodes.keys().next().cloned() else { return Ok(()) };
        let facts = &built.facts[&local];
        let mut inputs: Vec<Input> = built.cluster.nodes.values().cloned().map(Input::Node).collect();
        inputs.push(Input::Network(built.cluster.network.clone()));
        inputs.push(Input::Attachments(facts.attachments.clone()));
        inputs.push(Input::Underlay(facts.underlay.clone()));
        let mut planner = Planner::new(local.clone());
        let mut kept = NodePlan::default();
        for (index, _) in order.iter().zip(0..16).chain(std::iter::repeat_n((&order[0], 0), 16)) {
            if inputs.is_empty() {
                break;
            }
            let input = inputs.remove(index.index(inputs.len()));
            let change = planner.update(input.clone());
            if let Input::Node(node) = &input && node.name != local {
                for planned in change.keys.values().flatten() {
                    prop_assert_eq!(&planned.origin, &Origin::Node(node.name.clone()));
                }
            }
            for (key, planned) in change.keys {
                match planned {
                    Some(planned) => kept.entries.insert(key, planned),
                    None => kept.entries.remove(&key),
                };
            }
            prop_assert_eq!(&kept.entries, &planner.plan().entries);
            prop_assert!(planner.update(input).is_empty(), "the same again changes nothing");
        }
        prop_assert_eq!(planner.plan(), plan(&built.cluster, &local, facts));
    }

    #[test]
    fn a_node_that_leaves_takes_its_entries_and_no_others(shape in shape(), which in any::<Index>()) {
        let built = build(&shape);
        let Some(local) = built.cluster.nodes.keys().next().cloned() else { return Ok(()) };
        let others: Vec<_> = built.cluster.nodes.keys().filter(|name| **name != local).cloned().collect();
        prop_assume!(!others.is_empty());
        let gone = which.get(&others);
        let mut planner = Planner::new(local.clone());
        for node in built.cluster.nodes.values() {
            planner.update(Input::Node(node.clone()));
        }
        planner.update(Input::Network(built.cluster.network.clone()));
        let before = planner.plan();
        let change = planner.update(Input::NodeGone(gone.clone()));
        for (key, now) in &change.keys {
            prop_assert!(now.is_none());
            prop_assert_eq!(&before.entries[key].origin, &Origin::Node(gone.clone()));
        }
        let mut left = before.entries.clone();
        left.retain(|_, planned| planned.origin != Origin::Node(gone.clone()));
        prop_assert_eq!(planner.plan().entries, left);
    }
}

/// A walker that believed anything would pass the tests above.
#[test]
fn a_broken_plan_is_noticed() {
    assert_noticed(
        Sending::default(),
        &[
            (0, "Neighbour", "no neighbour entry"),
            (0, "Forwarding", "no forwarding entry"),
            (0, "pod-addresses\"", "anything else"),
            (1, "\"nodes\"", "cluster only"),
            (1, "Link(LinkName(\"vxlan", "not its counterpart"),
            (1, "pod-addresses\"", "no pod has"),
        ],
    );
    assert_noticed(
        Sending::Ipip(When::Always),
        &[
            (0, "Neighbour(LinkName(\"eth0", "no neighbour entry"),
            (0, "TunnelUplink", "not its counterpart"),
            (1, "TunnelNode", "is not taken at the other end"),
            (1, "TunnelLocal", "which no node has"),
            (1, "pod-addresses\"", "no pod has"),
        ],
    );
}

/// Packets from one node to another are lost if keys with these words are gone from the plan of the first or second.
fn assert_noticed(sending: Sending, broken: &[(usize, &str, &str)]) {
    let shape = Shape {
        underlay: PerFamily { v4: Some(()), v6: None },
        pods: PerFamily { v4: Some(()), v6: None },
        nodes: vec![1, 1],
        stray: false,
        sending,
        far: vec![false, true],
    };
    let built = build(&shape);
    let pods = pods(&built);
    let (from_node, from) = &pods[0];
    let (to_node, to) = &pods[1];
    let start = Start::Pod(from_node.clone(), from.id.host_link());
    let sent = packet(from.addresses[0], to.addresses[0]);
    let whole = world(&built);
    assert!(matches!(walk(&whole, &start, sent).end, End::Pod(..)));
    for (node, part, expected) in broken {
        let mut broken = whole.clone();
        let plan = &mut broken.nodes.get_mut([from_node, to_node][*node]).unwrap().1;
        let before = plan.entries.len();
        plan.entries.retain(|key, _| !format!("{key:?}").contains(part));
        assert_ne!(plan.entries.len(), before, "{part} is in no key");
        match walk(&broken, &start, sent).end {
            End::Lost(loss) => assert!(
                loss.to_string().contains(expected) || format!("{loss:?}").contains(expected),
                "{part}: {loss}"
            ),
            end => panic!("without {part} the packet still got to {end:?}"),
        }
    }
}
