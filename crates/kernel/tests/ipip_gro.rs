//! Packets that a network card's driver has put together, as they come between machines.

#![allow(clippy::unwrap_used)]

mod common;

use common::sites::{Reconcile, Sites, node, pod, range};
use common::transfer::{put_together, transfer};
use kernel::ipip::Ipip;
use model::Family;

const BYTES: usize = 20_000_000;
/// How many packets it takes on the wire, at least.
const SEGMENTS: u64 = BYTES as u64 / 1460;

/// Sites whose nodes send segments of the wire's size, and put together what they receive.
fn sites(count: usize) -> Sites {
    let sites = Sites::new(count);
    for site in &sites.sites {
        site.node.run("ip link set eth0 gso_max_size 2000");
        put_together(&site.node, "eth0", (&sites.router, &format!("r{}", site.number)));
    }
    sites
}

fn decapsulated(ipip: &Ipip) -> u64 {
    ipip.counters().unwrap().decapsulated
}

#[test]
fn what_was_put_together_is_unwrapped_as_one() {
    let sites = sites(2);
    for outer in Family::BOTH {
        let programs = sites.connect(outer);
        for family in Family::BOTH {
            let before = decapsulated(&programs[1]);
            let speed = transfer(&sites.site(1).pod, &sites.site(2).pod, pod(2, family), BYTES);
            let packets = decapsulated(&programs[1]) - before;
            println!("{family:?} over {outer:?}: {packets} of {SEGMENTS} segments, {speed:.1} Gbit/s");
            assert!(packets < SEGMENTS / 2, "{family:?} over {outer:?}: {packets} of {SEGMENTS}");
        }
        let counters = programs[1].counters().unwrap();
        assert_eq!((counters.malformed, counters.failed), (0, 0));
    }
}

#[test]
fn what_was_put_together_is_passed_on() {
    let sites = sites(3);
    for outer in Family::BOTH {
        let mut programs = sites.connect(outer);
        // Nodes 1 and 3 reach each other by node 2 only.
        for (number, other) in [(1, 3), (3, 1)] {
            let mut table = sites.table(number, outer);
            for family in Family::BOTH {
                let to_middle = table.routes[&range(2, family)];
                table.routes.insert(range(other, family), to_middle);
            }
            table.nodes.retain(|address| *address != node(other, outer));
            let _guard = sites.site(number).node.enter();
            programs[number - 1].reconcile(&table).unwrap();
        }
        for family in Family::BOTH {
            let before = [1, 2].map(|number: usize| decapsulated(&programs[number]));
            let speed = transfer(&sites.site(1).pod, &sites.site(3).pod, pod(3, family), BYTES);
            let after = [1, 2].map(|number: usize| decapsulated(&programs[number]));
            let packets: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
            println!(
                "{family:?} over {outer:?}, twice: {packets:?} of {SEGMENTS} segments, {speed:.1} Gbit/s"
            );
            assert!(packets[1] < SEGMENTS / 2, "{packets:?} of {SEGMENTS}");
        }
        assert_eq!(programs[1].counters().unwrap().failed, 0);
    }
}
