//! Measures the fast path beside the kernel's own path, the bare links, and a bridge with VXLAN as others set it up.
//!
//! `cargo run --release -p kernel --example fast_path [BLOCKS [ROW]]`. All sides of a row are measured in turns, block by
//! block, on fixed cores. A figure is the median of its blocks; a ratio is the median of the ratios of blocks that were next to
//! each other, as a machine is not equally fast all the time. Beside it is told between what it is, in 19 of 20 cases, and
//! as long as a goal is in there, a row is measured on, up to eight times as long. Only rows whose name has ROW in it are
//! measured. Exits with a failure if a goal is missed.

#![allow(clippy::unwrap_used)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod measure;
mod table;
mod ways;

use std::process::ExitCode;

use common::fast::Nodes;
use measure::Measure;
use model::{Family, Sending, When};
use table::{Goal, Row};
use ways::{Bare, ByHand, Way};

const MODES: [(&str, Sending); 3] = [
    ("VXLAN", Sending::Vxlan(When::Always)),
    ("IP in IP", Sending::Ipip(When::Always)),
    ("plain", Sending::Plain),
];

/// An overlay's round trip, beside that from node to node; a throughput; and on one node, beside a veth pair.
const OVERLAY: f64 = 1.15;
const THROUGHPUT: f64 = 0.95;
const ONE_NODE: f64 = 1.10;
/// A service beside the pod that it leads to.
const SERVICE: f64 = 1.02;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let blocks: usize = arguments.next().map_or(25, |text| text.parse().unwrap());
    let only = arguments.next().unwrap_or_default();
    let (bare, by_hand) = (Bare::new(), ByHand::new());
    // The same cluster twice: one has the fast path.
    let mut clusters = [false, true].map(|fast_path| Nodes::new(MODES[0].1, fast_path));
    clusters.iter_mut().for_each(ways::serve);
    let mut bench = Bench { blocks, only, is_sound: true };
    println!("medians of {blocks} blocks in turns; us, Gbit/s; processor time by /proc/stat, all of it");
    for family in Family::BOTH {
        for (name, mode) in MODES {
            for (nodes, fast_path) in clusters.iter_mut().zip([false, true]) {
                nodes.change(mode, fast_path);
            }
            let [kernel, fast] = &clusters;
            let between = |nodes| Way::pods(nodes, (1, 0), family);
            // The limit is a node whose links no program of the fast path looks at; beside it, what that costs the node.
            let mut ways =
                vec![("node to node", Way::nodes(kernel, family)), ("nodes, fast", Way::nodes(fast, family))];
            if name == "VXLAN" {
                ways.push(("by hand", by_hand.way(family)));
            }
            ways.extend([("kernel", between(kernel)), ("fast", between(fast))]);
            bench.compare(&mut clusters, name, family, ways, |measure| {
                let limit = if measure.is_time() { OVERLAY } else { THROUGHPUT };
                vec![Goal::beside("node to node", limit), Goal::beside("kernel", 1.0)]
            });
        }
        let [kernel, fast] = &clusters;
        let through = |nodes, is_service| match is_service {
            true => Way::service(nodes, family),
            false => Way::pods(nodes, (1, 0), family),
        };
        let ways = vec![
            ("kernel's pod", through(kernel, false)),
            ("kernel", through(kernel, true)),
            ("pod", through(fast, false)),
            ("fast", through(fast, true)),
        ];
        bench.compare(&mut clusters, "service", family, ways, |measure| {
            let limit = if measure.is_time() { SERVICE } else { 1.0 / SERVICE };
            vec![Goal::beside("pod", limit), Goal::beside("kernel", 1.0)]
        });
        let [kernel, fast] = &clusters;
        let beside = |nodes| Way::pods(nodes, (0, 1), family);
        let ways = vec![("veth pair", bare.way(family)), ("kernel", beside(kernel)), ("fast", beside(fast))];
        bench.compare(&mut clusters, "one node", family, ways, |measure| {
            let limit = if measure.is_time() { ONE_NODE } else { 1.0 / ONE_NODE };
            vec![Goal::beside("veth pair", limit), Goal::beside("kernel", 1.0)]
        });
        let [kernel, fast] = &clusters;
        let ways = [kernel, fast].map(|nodes| Way::pods(nodes, (1, 0), family));
        let ways = ["kernel", "fast"].into_iter().zip(ways).collect();
        bench.run(
            &mut clusters,
            "10,000 flows",
            family,
            ways,
            Measure::ManyFlows,
            &[Goal::beside("kernel", 1.0)],
        );
    }
    if bench.is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Bench {
    blocks: usize,
    only: String,
    is_sound: bool,
}

impl Bench {
    /// Measures all there is to measure of some ways. What is new in each connection has no goal but to be told.
    fn compare(
        &mut self,
        clusters: &mut [Nodes; 2],
        name: &str,
        family: Family,
        ways: Vec<(&'static str, Way)>,
        goals: impl Fn(Measure) -> Vec<Goal>,
    ) {
        for measure in Measure::OF_WAYS {
            let goals = if measure == Measure::Connect { Vec::new() } else { goals(measure) };
            self.run(clusters, name, family, ways.clone(), measure, &goals);
        }
    }

    fn run(
        &mut self,
        clusters: &mut [Nodes; 2],
        name: &str,
        family: Family,
        ways: Vec<(&'static str, Way)>,
        measure: Measure,
        goals: &[Goal],
    ) {
        let name = format!("{family}, {name}, {measure}");
        if !name.contains(&self.only) {
            return;
        }
        let row = Row::measure(name, measure, ways, self.blocks, goals, || attend(clusters));
        row.print();
        for goal in goals {
            self.is_sound &= row.meets(goal);
        }
    }
}

/// The fast path goes on as long as somebody says so.
fn attend(clusters: &mut [Nodes; 2]) {
    for node in clusters.iter_mut().flat_map(|nodes| &mut nodes.nodes) {
        let _guard = node.test.enter();
        node.kernel.attend().unwrap();
    }
}
