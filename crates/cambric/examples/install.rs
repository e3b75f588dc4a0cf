//! How long 100,000 routes of both families take from the peer to the kernel, the way that they go in the agent:
//! received, decided on, planned, installed. Beside it BIRD, which installs them too, and GoBGP, which only has them.
//! It is here because the speaker and the kernel know nothing of each other. Root is needed for the namespaces.
//!
//!     cargo run --release -p cambric --example install [ROUTES] [ROUNDS]

#![allow(clippy::unwrap_used)]

#[path = "../../bgp/examples/beside/mod.rs"]
mod beside;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver as Inbox};

use bgp::transport::Event;
use bgp::{Families, RibChange};
use kernel::Kernel;
use model::{Encapsulation, LinkName, NetworkConfig, Node, NodeName, PerFamily, RouteSource, Sending};
use plan::{Input, LearnedPath, Planner, Underlay};

use beside::common::Wire;
use beside::{Load, Receiver, SHARED_BY, mib, millis};

/// What BIRD does with what it has received.
const KERNEL: &str = "protocol kernel { ipv4 { export where source = RTS_BGP; import none; }; }\n\
                      protocol kernel { ipv6 { export where source = RTS_BGP; import none; }; }\n";

fn main() {
    let (is_receiver, load) = beside::load(Families::BOTH);
    if is_receiver {
        return receiver(load);
    }
    println!(
        "{} routes, half of them of IPv6, {} sets of attributes",
        load.routes,
        load.routes.div_ceil(SHARED_BY)
    );
    let [ours, bird, gobgp] = beside::measure(load, cambric, bird, beside::gobgp);
    println!(
        "goal: installed in at most 1.5 times BIRD's time: {:.1} ms to {:.1} ms",
        millis(ours.took),
        millis(bird.took)
    );
    println!(
        "memory: {:.1} MiB, BIRD {:.1} MiB, GoBGP {:.1} MiB",
        mib(ours.memory),
        mib(bird.memory),
        mib(gobgp.memory)
    );
    if ours.took > bird.took * 3 / 2 {
        std::process::exit(1);
    }
}

fn cambric(wire: &Wire, load: Load) -> Receiver {
    let (running, process, _) = beside::cambric(wire, load);
    Receiver { running, process, count: installed(process) }
}

fn bird(wire: &Wire, load: Load) -> Receiver {
    let bird = beside::start_bird(wire, load, KERNEL);
    let process = bird.id();
    Receiver { running: Box::new(bird), process, count: installed(process) }
}

/// How many more routes the kernel has in a process's namespace than now.
fn installed(process: u32) -> Box<dyn FnMut() -> u32 + Send> {
    let read = move |file: &str| std::fs::read_to_string(format!("/proc/{process}/net/{file}")).unwrap();
    let all = move || {
        let v4 = read("fib_triestat");
        // The main table comes first; where no rule tells them apart, the local one is the same again.
        let prefixes = v4.lines().find_map(|line| line.trim().strip_prefix("Prefixes:")).unwrap();
        // `fib_rt_entries` of `struct rt6_statistics`.
        let v6 = u32::from_str_radix(read("rt6_stats").split(' ').nth(3).unwrap(), 16).unwrap();
        prefixes.trim().parse::<u32>().unwrap() + v6
    };
    let before = all();
    Box::new(move || all().saturating_sub(before))
}

/// The receiver's process, with a thread for the speaker and one for the kernel, as the agent has them.
fn receiver(load: Load) {
    let (news, inbox) = mpsc::channel();
    let installing = std::thread::spawn(move || install(&inbox));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut events = beside::receiver(load.families).await;
        while let Some(batch) = events.recv().await {
            let routes = batch.into_iter().filter_map(|event| match event {
                Event::Rib(change) => Some(change),
                _ => None,
            });
            news.send(routes.collect::<Vec<_>>()).unwrap();
        }
    });
    installing.join().unwrap();
}

fn install(inbox: &Inbox<Vec<RibChange>>) {
    let mut kernel = Kernel::open().unwrap();
    let mut planner = Planner::new(name());
    for input in [underlay(), network(), Input::Node(node())] {
        planner.update(input);
    }
    let report = kernel.reconcile(planner.entries()).unwrap();
    assert!(report.failures.is_empty(), "{}", report.failures[0]);
    while let Ok(first) = inbox.recv() {
        let mut change = plan::Change::default();
        for route in std::iter::once(first).chain(inbox.try_iter()).flatten() {
            change.extend(planner.update(learned(route)));
        }
        let report = kernel.apply(&change).unwrap();
        assert!(report.failures.is_empty() && !report.reconcile_needed, "{report}");
    }
}

fn learned(change: RibChange) -> Input {
    let path = |path: bgp::BestPath| LearnedPath {
        next_hop: path.attributes.next_hop,
        peer: path.peer.map_or_else(Arc::default, |peer| peer.as_str().into()),
        stale: path.stale,
    };
    Input::Learned(change.prefix, change.paths.into_iter().map(path).collect())
}

fn name() -> NodeName {
    NodeName::new("receiver").unwrap()
}

fn node() -> Node {
    Node::parse(name(), ["10.0.0.2", "fd00::2"], ["10.244.1.0/24", "fd00:10:f4:1::/64"]).unwrap()
}

fn network() -> Input {
    let ranges = ["10.244.0.0/16".to_owned(), "fd00:10:f4::/48".to_owned()];
    let encapsulation = Encapsulation { sending: Sending::Plain, ..Encapsulation::default() };
    let network = NetworkConfig::parse(&ranges, &[], encapsulation, "auto").unwrap();
    Input::Network(NetworkConfig { route_source: RouteSource::Bgp, ..network })
}

fn underlay() -> Input {
    let on_eth0 = |net: &str| {
        Some(Underlay { link: LinkName::new("eth0").unwrap(), net: net.parse().unwrap(), mtu: 1500 })
    };
    Input::Underlay(PerFamily { v4: on_eth0("10.0.0.2/24"), v6: on_eth0("fd00::2/64") })
}
