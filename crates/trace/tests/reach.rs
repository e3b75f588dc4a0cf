//! For any cluster: every pod reaches every other by the walk through the plans, and nothing else gets in its way.

#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Attachment, AttachmentId, Cluster, Encapsulation, Family, NetworkConfig, Node, NodeName, PerFamily,
    PodRange, VxlanSettings,
};
use plan::{Facts, Input, NodePlan, Origin, Planner, plan};
use proptest::prelude::*;
use proptest::sample::Index;
use trace::{End, Loss, Packet, Start, Step, World, walk};

const TCP: u8 = 6;

#[derive(Debug, Clone)]
struct Shape {
    underlay: PerFamily<()>,
    pods: PerFamily<()>,
    /// Pods per node.
    nodes: Vec<u8>,
    /// Whether a node's pod range lies outside the cluster's.
    stray: bool,
}

fn families() -> impl Strategy<Value = PerFamily<()>> {
    prop_oneof![
        Just(PerFamily { v4: Some(()), v6: None }),
        Just(PerFamily { v4: None, v6: Some(()) }),
        Just(PerFamily { v4: Some(()), v6: Some(()) }),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    (families(), families(), prop::collection::vec(0u8..4, 1..7), any::<bool>())
        .prop_map(|(underlay, pods, nodes, stray)| Shape { underlay, pods, nodes, stray })
}

struct Built {
    cluster: Cluster,
    facts: BTreeMap<NodeName, Facts>,
}

fn node_address(family: Family, index: usize) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, index as u8 + 1]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, index as u16 + 1]),
    }
}

fn pod_range(family: Family, index: usize, stray: bool) -> PodRange {
    let third = if stray { 99 } else { 244 };
    match family {
        Family::V4 => PodRange::new(IpNet::new_assert([10, third, index as u8, 0].into(), 24)),
        Family::V6 => PodRange::new(IpNet::new_assert(
            [0xfd00, 0x10, u16::from(third), index as u16, 0, 0, 0, 0].into(),
            64,
        )),
    }
    .unwrap()
}

fn build(shape: &Shape) -> Built {
    let both =
        |has: &PerFamily<()>| Family::BOTH.into_iter().filter(|f| has.of(*f).is_some()).collect::<Vec<_>>();
    let network = NetworkConfig::parse(
        &["10.244.0.0/16".to_owned(), "fd00:10:f4::/48".to_owned()],
        &["10.96.0.0/12".to_owned()],
        Encapsulation::Vxlan(VxlanSettings::default()),
        "auto",
    )
    .unwrap();
    let mut built = Built {
        cluster: Cluster {
            network,
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        },
        facts: BTreeMap::new(),
    };
    for (index, pods) in shape.nodes.iter().enumerate() {
        let name = NodeName::new(format!("node-{index}")).unwrap();
        let mut node = Node {
            name: name.clone(),
            addresses: PerFamily::default(),
            pod_ranges: PerFamily::default(),
            zone: None,
        };
        for family in both(&shape.underlay) {
            node.addresses.insert(family, node_address(family, index));
        }
        for family in both(&shape.pods) {
            node.pod_ranges.insert(family, pod_range(family, index, shape.stray && index == 0));
        }
        let attachments = (0..*pods).map(|pod| pod_on(&node, pod)).collect();
        built.facts.insert(name.clone(), Facts { attachments, ..Facts::default() });
        built.cluster.nodes.insert(name, node);
    }
    built
}

fn pod_on(node: &Node, pod: u8) -> Attachment {
    let nth = |range: &PodRange| match range.first_pod() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(pod)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(pod)).into()),
    };
    Attachment {
        id: AttachmentId { container_id: format!("{}-{pod}", node.name), ifname: "eth0".to_owned() },
        addresses: node.pod_ranges.iter().map(nth).collect(),
    }
}

fn world(built: &Built) -> World {
    let planned = |(name, node): (&NodeName, &Node)| {
        (name.clone(), (node.clone(), plan(&built.cluster, name, &built.facts[name])))
    };
    World { nodes: built.cluster.nodes.iter().map(planned).collect() }
}

fn pods(built: &Built) -> Vec<(NodeName, Attachment)> {
    let of = |(name, facts): (&NodeName, &Facts)| {
        facts.attachments.iter().map(|pod| (name.clone(), pod.clone())).collect::<Vec<_>>()
    };
    built.facts.iter().flat_map(of).collect()
}

fn packet(source: IpAddr, destination: IpAddr) -> Packet {
    Packet { source, destination, protocol: TCP, destination_port: Some(80) }
}

proptest! {
    #[test]
    fn every_pod_reaches_every_other_unchanged(shape in shape()) {
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
                    prop_assert_eq!(&walk.end, &End::Pod(to_node.clone(), to.id.host_link()), "{:?}", walk.hops);
                    prop_assert_eq!(walk.packet.source, *source);
                    let tunnelled = walk.hops.iter().any(|hop| matches!(hop.step, Step::Encapsulated { .. }));
                    prop_assert_eq!(tunnelled, from_node != to_node);
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
                    let Some(gateway) = node.pod_ranges.of(Family::of(address)).map(PodRange::gateway) else { continue };
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
            prop_assert!(plan.problems.is_empty(), "{:?}", plan.problems);
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
    let shape = Shape {
        underlay: PerFamily { v4: Some(()), v6: None },
        pods: PerFamily { v4: Some(()), v6: None },
        nodes: vec![1, 1],
        stray: false,
    };
    let built = build(&shape);
    let pods = pods(&built);
    let (from_node, from) = &pods[0];
    let (to_node, to) = &pods[1];
    let start = Start::Pod(from_node.clone(), from.id.host_link());
    let sent = packet(from.addresses[0], to.addresses[0]);
    let whole = world(&built);
    assert!(matches!(walk(&whole, &start, sent).end, End::Pod(..)));
    for (node, part, expected) in [
        (from_node, "Neighbour", "no neighbour entry"),
        (from_node, "Forwarding", "no forwarding entry"),
        (from_node, "pod-addresses\"", "anything else"),
        (to_node, "\"nodes\"", "cluster only"),
        (to_node, "Link(LinkName(\"vxlan", "not its counterpart"),
        (to_node, "pod-addresses\"", "no pod has"),
    ] {
        let mut broken = whole.clone();
        let plan = &mut broken.nodes.get_mut(node).unwrap().1;
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
