//! Measures what routes cost that BGP peers tell: planning and installing all of them from nothing, finding them right,
//! and one route's change. Runs in a namespace of its own. Times are of the clock.
//!
//! `cargo run --release -p kernel --example learned [PREFIXES]`

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/cluster.rs"]
mod cluster;
mod usage;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Stack;
use ipnet::IpNet;
use kernel::{Kernel, netns};
use model::RouteSource;
use plan::{Change, Input, LearnedPath, Planner};
use usage::{memory, processor_time};

const CHANGES: u32 = 200;
/// The nodes that prefixes lead to.
const NODES: u32 = 100;

fn main() {
    let prefixes: u32 = std::env::args().nth(1).map_or(100_000, |text| text.parse().unwrap());
    let path = format!("{}/learned-{}", netns::NAMED, std::process::id());
    let namespace = netns::create_named(&path).unwrap();
    let result = std::panic::catch_unwind(|| {
        netns::run_in(&namespace, || {
            underlay();
            measure(prefixes);
        })
        .unwrap();
    });
    netns::remove_named(&path).unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A link with the addresses of node 0.
fn underlay() {
    for words in [
        "link add eth0 type veth peer name wire",
        "addr add 172.16.0.1/16 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
        "link set eth0 up",
        "link set wire up",
    ] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
    }
}

/// Half of the prefixes are of either family. Every fourth has two next hops.
fn told(number: u32, moved: bool) -> Input {
    let n = number / 2;
    let prefix: IpNet = match number % 2 {
        0 => IpNet::new_assert([20 + (n >> 16) as u8, (n >> 8) as u8, n as u8, 0].into(), 24),
        _ => IpNet::new_assert([0xfd01, (n >> 16) as u16, n as u16, 0, 0, 0, 0, 0].into(), 48),
    };
    let path = |node: u32| {
        let peer = 1 + (node + u32::from(moved)) % (NODES - 1);
        LearnedPath {
            next_hop: cluster::node(peer, Stack::Dual).addresses.v4.unwrap(),
            peer: Arc::from(format!("node-{peer}")),
            stale: false,
        }
    };
    let count = if number % 8 < 2 { 2 } else { 1 };
    Input::Learned(prefix, (0..count).map(|more| path(number / 8 + more)).collect())
}

fn measure(prefixes: u32) {
    println!("{prefixes} prefixes of both families, by {NODES} nodes");
    let mut planner = Planner::new(cluster::name(0));
    let mut cluster = cluster::cluster(NODES, Stack::Dual);
    cluster.network.route_source = RouteSource::Bgp;
    planner.update(Input::Underlay(cluster::underlay()));
    planner.update(Input::Network(cluster.network));
    cluster.nodes.into_values().for_each(|node| drop(planner.update(Input::Node(node))));
    planner.update(Input::Converged);
    let mut kernel = Kernel::open().unwrap();
    assert!(kernel.reconcile(planner.entries()).unwrap().failures.is_empty());
    let before = memory();

    let start = Instant::now();
    for number in 0..prefixes {
        planner.update(told(number, false));
    }
    let planned = start.elapsed();
    let bytes = (memory() - before) * 1024 / u64::from(prefixes.max(1));
    report("plan", planned, &format!("{bytes} bytes for each"));

    let start = Instant::now();
    let outcome = kernel.reconcile(planner.entries()).unwrap();
    let applied = start.elapsed();
    assert!(outcome.failures.is_empty(), "{}", outcome.failures[0]);
    report("apply from nothing", applied, &outcome.to_string());
    report("plan and apply", planned + applied, &format!("{:?} of processor time", processor_time()));

    let start = Instant::now();
    let outcome = kernel.reconcile(planner.entries()).unwrap();
    assert!(outcome.is_quiet(), "{outcome}");
    report("find it right", start.elapsed(), &outcome.to_string());
    println!("{:<20} {:>9} KiB (before: {before} KiB)", "memory, most", memory());

    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|number| {
            let input = told(number * (prefixes / CHANGES), true);
            let start = Instant::now();
            let change: Change = planner.update(input);
            let outcome = kernel.apply(&change).unwrap();
            let time = start.elapsed();
            assert_eq!(change.keys.len(), 1);
            assert!(outcome.failures.is_empty() && !outcome.reconcile_needed, "{outcome}");
            time
        })
        .collect();
    times.sort();
    let worst = format!("worst of {CHANGES}: {:?}", times[times.len() - 1]);
    report("one route changes", times[times.len() / 2], &worst);

    let start = Instant::now();
    let mut moved = cluster::node(7, Stack::Dual);
    moved.pod_ranges = cluster::node(NODES + 7, Stack::Dual).pod_ranges;
    let change = planner.update(Input::Node(moved));
    let outcome = kernel.apply(&change).unwrap();
    assert!(outcome.failures.is_empty(), "{}", outcome.failures[0]);
    report("one node moves", start.elapsed(), &format!("{} entries of it", change.keys.len()));
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());

    let start = Instant::now();
    let outcome = kernel.cleanup().unwrap();
    assert!(outcome.failures.is_empty(), "{}", outcome.failures[0]);
    report("clean up", start.elapsed(), &outcome.to_string());
    println!("processor time for all of this: {:?}", processor_time());
}

fn report(what: &str, time: Duration, note: &str) {
    println!("{what:<20} {:>9.3} ms  {note}", time.as_secs_f64() * 1e3);
}
