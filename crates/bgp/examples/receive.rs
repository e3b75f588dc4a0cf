//! How long 100,000 routes take to be received and decided on, and the memory they take: this speaker, BIRD and
//! GoBGP in turns, from the same sender over the same wire. Root is needed for the namespaces.
//!
//!     cargo run --release -p bgp --example receive [ROUTES] [ROUNDS]

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use bgp::transport::{Event, Options, PeerTransport, start};
use bgp::{Community, Families, LocalRoute, PeerConfig, SpeakerConfig};
use common::bird::Bird;
use common::gobgp::GoBgp;
use common::{Wire, address, output, text};
use ipnet::{IpNet, Ipv4Net};
use model::Family;

/// So many prefixes have their attributes in common.
const SHARED_BY: u32 = 5;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "receiver") {
        return receiver(words[1].parse().expect("a number of routes"));
    }
    let number = |position: usize, default: u32| {
        words.get(position).map_or(default, |word| word.parse().expect("a number"))
    };
    let (routes, rounds) = (number(0, 100_000), number(1, 5).max(1));
    println!("{routes} routes, {} sets of attributes", routes.div_ceil(SHARED_BY));
    println!(
        "{:<10} {:>14} {:>14} {:>14} {:>14}",
        "", "complete in", "processor", "memory before", "memory after"
    );
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        all[0].push(measure("cambric", routes, cambric));
        all[1].push(measure("BIRD", routes, bird));
        all[2].push(measure("GoBGP", routes, gobgp));
    }
    let medians = all.map(|mut measured| {
        let middle = measured.len() / 2;
        measured.sort_by_key(|measured| measured.0);
        let took = measured[middle].0;
        measured.sort_by_key(|measured| measured.1);
        (took, measured[middle].1)
    });
    let [(ours, our_memory), (birds, _), (_, gobgps_memory)] = medians;
    println!("medians: complete in {ours} ms, BIRD in {birds} ms");
    println!("goal: less than half of GoBGP's memory: {our_memory} KiB to {gobgps_memory} KiB");
    if our_memory * 2 > gobgps_memory {
        std::process::exit(1);
    }
}

/// A receiver: what keeps it running, its process, and what tells how many routes it has.
type Receiver = (Box<dyn std::any::Any>, u32, Box<dyn Fn() -> u32 + Send>);

/// One receiver in one round: the milliseconds until it is complete, and then its memory in KiB.
fn measure(name: &str, routes: u32, receiver: fn(&Wire, u32) -> Receiver) -> (u128, u64) {
    let wire = Wire::new();
    let (running, pid, count) = receiver(&wire, routes);
    let before = resident(pid);
    let took = wire.run(async move {
        let mut sender = SpeakerConfig::new(65001, [10, 0, 0, 1].into());
        sender.convergence = Duration::from_secs(3600);
        let (handle, mut events) = start(sender, 1, Options::default()).unwrap();
        for number in 0..routes {
            let prefix = Ipv4Net::new((0x1400_0000 + (number << 8)).into(), 24).unwrap();
            let route =
                LocalRoute { communities: vec![Community(number / SHARED_BY)], ..LocalRoute::default() };
            handle.announce(IpNet::V4(prefix), route).await;
        }
        handle.set_peer(peer(address(false, 2), 65002), PeerTransport::default()).await.unwrap();
        let is_up = |events: &[Event]| {
            events.iter().any(|event| matches!(event, Event::Session(session) if session.down.is_none()))
        };
        while !is_up(&events.recv().await.unwrap()) {}
        let begin = Instant::now();
        let counting = tokio::task::spawn_blocking(move || {
            while count() < routes {
                std::thread::sleep(Duration::from_millis(5));
            }
            begin.elapsed()
        });
        counting.await.unwrap()
    });
    let after = resident(pid);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let (took, used) = (took.as_millis(), processor(pid).as_millis());
    println!("{name:<10} {took:>11} ms {used:>11} ms {:>14} {:>14}", mib(before), mib(after));
    drop(running);
    (took, after)
}

fn peer(address: IpAddr, asn: u32) -> PeerConfig {
    let mut peer = PeerConfig::new("other", address, asn);
    peer.families = Families::only(Family::V4);
    peer
}

fn cambric(wire: &Wire, routes: u32) -> Receiver {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let exe = std::env::current_exe().unwrap();
    let process = wire.start(exe.to_str().unwrap(), &["receiver", &routes.to_string()], &log);
    common::until_blocking(
        "the receiver listens",
        || std::fs::read_to_string(&log).unwrap(),
        |said| said.contains("listening"),
    );
    let pid = process.id();
    let count = move || {
        let said = std::fs::read_to_string(&log).unwrap();
        if said.contains("complete") { routes } else { 0 }
    };
    (Box::new((process, dir)), pid, Box::new(count))
}

/// The receiver's process: a speaker whose user keeps a count, as one who installs routes would.
fn receiver(routes: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = Options { listen: vec![SocketAddr::new(address(false, 2), 179)], record: None };
        let (handle, mut events) =
            start(SpeakerConfig::new(65002, [10, 0, 0, 2].into()), 2, options).unwrap();
        let mut sender = peer(address(false, 1), 65001);
        sender.passive = true;
        handle.set_peer(sender, PeerTransport::default()).await.unwrap();
        println!("listening");
        let mut count = 0;
        while let Some(batch) = events.recv().await {
            count += batch.iter().filter(|event| matches!(event, Event::Rib(_))).count() as u32;
            if count == routes {
                println!("complete");
            }
        }
    });
}

fn bird(wire: &Wire, _routes: u32) -> Receiver {
    let bird = Bird::start(
        wire,
        "10.0.0.2",
        "protocol bgp cambric { local 10.0.0.2 as 65002; neighbor 10.0.0.1 as 65001; passive yes;\n\
         ipv4 { import all; export none; }; }",
    );
    let (asker, pid) = (bird.asker(), bird.id());
    let count = move || {
        let said = asker.ask("show route count protocol cambric");
        said.lines().find_map(|line| line.split(" of ").next()?.parse().ok()).unwrap_or(0)
    };
    (Box::new(bird), pid, Box::new(count))
}

fn gobgp(wire: &Wire, _routes: u32) -> Receiver {
    let gobgp = GoBgp::start(wire, false, 65002, 65001, "passive-mode = true");
    let (namespace, pid) = (wire.them.clone(), gobgp.id());
    let count = move || {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace, "gobgp", "global", "rib", "summary"]);
        let said = text(&output(&mut command));
        let after = said.split("Destination: ").nth(1);
        after.and_then(|after| after.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    (Box::new(gobgp), pid, Box::new(count))
}

/// The resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The time that the processors have spent on a process, in steps of 10 ms.
fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ');
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
