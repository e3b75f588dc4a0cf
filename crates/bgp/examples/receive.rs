//! How long 100,000 routes take to be received and decided on, and the memory they take: this speaker, BIRD and
//! GoBGP in turns, from the same sender over the same wire. Root is needed for the namespaces.
//!
//!     cargo run --release -p bgp --example receive [ROUTES] [ROUNDS]

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use bgp::transport::{Event, Options, PeerTransport, start};
use bgp::{Community, Families, LocalRoute, PeerConfig, SpeakerConfig};
use common::bird::Bird;
use common::gobgp::GoBgp;
use common::{Wire, address, output, text};
use ipnet::{IpNet, Ipv4Net};
use model::Family;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// So many prefixes have their attributes in common.
const SHARED_BY: u32 = 5;

/// The sender, and who asks whether the receiver is complete, are here.
const SENDERS_CORE: usize = 0;

/// A receiver with one thread is here, so that the two do not take turns.
const RECEIVERS_CORE: usize = 1;

/// GoBGP takes its time, and its memory, which is what counts, is the same every time.
const GOBGP_ROUNDS: usize = 3;

/// How often the receivers are asked.
const POLL: Duration = Duration::from_millis(1);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "receiver") {
        return receiver(words[1].parse().expect("a number of routes"));
    }
    let number = |position: usize, default: u32| {
        words.get(position).map_or(default, |word| word.parse().expect("a number"))
    };
    let (routes, rounds) = (number(0, 100_000), number(1, 15).max(1));
    println!("{routes} routes, {} sets of attributes", routes.div_ceil(SHARED_BY));
    println!("{:<10} {:>14} {:>14} {:>14} {:>14}", "", "complete in", "processor", "memory then", "at most");
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        all[0].push(measure("cambric", routes, &[RECEIVERS_CORE], cambric));
        all[1].push(measure("BIRD", routes, &[RECEIVERS_CORE], bird));
        if all[2].len() < GOBGP_ROUNDS {
            all[2].push(measure("GoBGP", routes, &[SENDERS_CORE, RECEIVERS_CORE], gobgp));
        }
    }
    let medians = all.map(|mut measured| {
        let middle = measured.len() / 2;
        measured.sort_by_key(|measured| measured.0);
        let took = measured[middle].0;
        measured.sort_by_key(|measured| measured.1);
        (took, measured[middle].1)
    });
    let [(ours, our_memory), (birds, _), (_, gobgps_memory)] = medians;
    println!("goal: complete no later than BIRD: {:.1} ms to {:.1} ms", millis(ours), millis(birds));
    println!(
        "goal: less than half of GoBGP's memory: {:.1} MiB to {:.1} MiB",
        mib(our_memory),
        mib(gobgps_memory)
    );
    if ours > birds || our_memory * 2 > gobgps_memory {
        std::process::exit(1);
    }
}

/// A receiver: what keeps it running, its process, and what tells how many routes it has.
type Receiver = (Box<dyn std::any::Any>, u32, Box<dyn FnMut() -> u32 + Send>);

/// One receiver in one round: how long it takes to be complete, and the most memory that it took in KiB.
fn measure(
    name: &str,
    routes: u32,
    cores: &[usize],
    receiver: fn(&Wire, u32) -> Receiver,
) -> (Duration, u64) {
    let wire = Wire::new();
    run_on(cores);
    let (running, pid, mut count) = receiver(&wire, routes);
    run_on(&[SENDERS_CORE]);
    let used_before = processor(pid);
    let (took, used, then, most) = wire.run(async move {
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
                std::thread::sleep(POLL);
            }
            let took = begin.elapsed();
            // Before the session ends, which costs the receiver something too.
            (took, processor(pid) - used_before, memory(pid, "VmRSS:"), memory(pid, "VmHWM:"))
        });
        counting.await.unwrap()
    });
    println!(
        "{name:<10} {:>11.1} ms {:>11.1} ms {:>10.1} MiB {:>10.1} MiB",
        millis(took),
        millis(used),
        mib(then),
        mib(most)
    );
    drop(running);
    (took, most)
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
    let (pid, socket) = (bird.id(), UnixStream::connect(bird.socket()).unwrap());
    let mut answers = BufReader::new(socket.try_clone().unwrap()).lines().map(Result::unwrap);
    let mut socket = socket;
    // Over its own socket, for what it counts anyway: anything else would keep it from its work.
    let count = move || {
        socket.write_all(b"show protocols all cambric\n").unwrap();
        let answer = answers.by_ref().take_while(|line| !line.starts_with("0000"));
        let words = answer
            .filter_map(|line| line.trim().strip_prefix("Routes:")?.split_whitespace().next()?.parse().ok());
        words.last().unwrap_or(0)
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

/// A process's resident memory now (`VmRSS:`), or the most that it had (`VmHWM:`), in KiB.
fn memory(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The time that the processors have spent on a process's threads.
fn processor(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanos = threads.map(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}

/// Has this thread, and what it starts, run on these cores.
fn run_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).unwrap();
    }
    // With a single core all stay where they are.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
