//! Measures what a big cluster costs one node: planning and applying all of it from nothing, finding it right, and one
//! node's join. Runs in a namespace of its own. Times are of the clock; the last line has the processor's, the kernel's
//! part included, which a busy machine does not blur.
//!
//! `cargo run --release -p kernel --example scale [NODES]`

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/cluster.rs"]
mod cluster;
mod usage;

use std::time::{Duration, Instant};

use cluster::Stack;
use kernel::{Kernel, netns};
use plan::{Facts, Input, Planner};
use usage::{memory, processor_time};

const JOINS: u32 = 200;

fn main() {
    let nodes: u32 = std::env::args().nth(1).map_or(5000, |text| text.parse().unwrap());
    let path = format!("{}/scale-{}", netns::NAMED, std::process::id());
    let namespace = netns::create_named(&path).unwrap();
    let result = std::panic::catch_unwind(|| netns::run_in(&namespace, || measure(nodes)).unwrap());
    netns::remove_named(&path).unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn measure(nodes: u32) {
    println!("{nodes} nodes, IPv4 and IPv6");
    let cluster = cluster::cluster(nodes, Stack::Dual);
    let facts = Facts::default();
    let before = memory();

    let start = Instant::now();
    let plan = plan::plan(&cluster, &cluster::name(0), &facts);
    let planned = start.elapsed();
    report("plan", planned, &format!("{} entries", plan.entries.len()));

    let mut kernel = Kernel::open().unwrap();
    let start = Instant::now();
    let outcome = kernel.reconcile(&plan.entries).unwrap();
    let applied = start.elapsed();
    assert!(outcome.failures.is_empty(), "{}", outcome.failures[0]);
    report("apply from nothing", applied, &outcome.to_string());
    report("plan and apply", planned + applied, &format!("{:?} of processor time", processor_time()));

    let start = Instant::now();
    let outcome = kernel.reconcile(&plan.entries).unwrap();
    assert!(outcome.is_quiet(), "{outcome}");
    report("find it right", start.elapsed(), &outcome.to_string());
    println!("{:<20} {:>9} KiB (before: {before} KiB)", "memory, most", memory());

    let mut planner = Planner::new(cluster::name(0));
    cluster.nodes.into_values().for_each(|node| drop(planner.update(Input::Node(node))));
    planner.update(Input::Network(cluster.network));
    let mut times: Vec<Duration> = (nodes..nodes + JOINS)
        .map(|number| {
            let node = cluster::node(number, Stack::Dual);
            let start = Instant::now();
            let change = planner.update(Input::Node(node));
            let outcome = kernel.apply(&change).unwrap();
            let time = start.elapsed();
            assert!(outcome.failures.is_empty() && !outcome.reconcile_needed, "{outcome}");
            assert_eq!(outcome.made, change.keys.len());
            time
        })
        .collect();
    times.sort();
    report(
        "one node joins",
        times[times.len() / 2],
        &format!("worst of {JOINS}: {:?}", times[times.len() - 1]),
    );

    let start = Instant::now();
    let outcome = kernel.cleanup().unwrap();
    assert!(outcome.failures.is_empty(), "{}", outcome.failures[0]);
    report("clean up", start.elapsed(), &outcome.to_string());
    println!("processor time for all of this: {:?}", processor_time());
}

fn report(what: &str, time: Duration, note: &str) {
    println!("{what:<20} {:>9.3} ms  {note}", time.as_secs_f64() * 1e3);
}
