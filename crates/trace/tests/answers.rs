//! For any cluster: an answer comes back to who asked, from whom was asked.

#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

mod common;

use std::net::IpAddr;

use model::Family;
use proptest::prelude::*;
use trace::{End, Packet, Start, Walk, World, answer, walk};

use common::{build, packet, pods, shape, world};

/// Walks there and back; the answer as it arrives.
fn answered(world: &World, start: &Start, sent: Packet) -> Option<(Walk, Walk)> {
    let there = walk(world, start, sent);
    let back = answer(world, start, sent, &there)?;
    Some((there, back))
}

proptest! {
    #[test]
    fn pods_answer_pods(shape in shape()) {
        let built = build(&shape);
        let world = world(&built);
        for (from_node, from) in &pods(&built) {
            let start = Start::Pod(from_node.clone(), from.id.host_link());
            for (_, to) in &pods(&built) {
                for (source, destination) in from.addresses.iter().zip(&to.addresses) {
                    if source == destination {
                        continue;
                    }
                    let Some((there, back)) = answered(&world, &start, packet(*source, *destination)) else {
                        prop_assert!(false, "it is lost");
                        continue;
                    };
                    // There is no way in this mode, and nobody knows what routers make of it.
                    if there.end == End::Outside {
                        continue;
                    }
                    prop_assert_eq!(&back.end, &End::Pod(from_node.clone(), from.id.host_link()), "{:?}", back.hops);
                    prop_assert_eq!((back.packet.source, back.packet.destination), (*destination, *source));
                }
            }
        }
    }

    #[test]
    fn outside_answers_the_node_and_the_pod_gets_it(shape in shape()) {
        let built = build(&shape);
        let world = world(&built);
        for (node, pod) in pods(&built) {
            for source in &pod.addresses {
                let outside = match Family::of(source) {
                    Family::V4 => IpAddr::from([198, 51, 100, 1]),
                    Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]),
                };
                if built.cluster.nodes[&node].addresses.of(Family::of(source)).is_none() {
                    continue;
                }
                let start = Start::Pod(node.clone(), pod.id.host_link());
                let (there, back) = answered(&world, &start, packet(*source, outside)).unwrap();
                prop_assert_ne!(there.packet.source, *source, "it is masqueraded");
                prop_assert_eq!(&back.end, &End::Pod(node.clone(), pod.id.host_link()), "{:?}", back.hops);
                prop_assert_eq!((back.packet.source, back.packet.destination), (outside, *source));
            }
        }
    }

    /// Nobody but the node that knows the connection rewrites an answer.
    #[test]
    fn what_answers_nothing_is_not_rewritten(shape in shape()) {
        let built = build(&shape);
        let world = world(&built);
        for (name, node) in &built.cluster.nodes {
            for own in node.addresses.iter() {
                let outside = match Family::of(own) {
                    Family::V4 => IpAddr::from([198, 51, 100, 1]),
                    Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]),
                };
                let walk = walk(&world, &Start::Outside { node: name.clone() }, packet(outside, *own));
                prop_assert_eq!(&walk.end, &End::Node(name.clone()));
                prop_assert_eq!(walk.packet.destination, *own);
            }
        }
    }
}
