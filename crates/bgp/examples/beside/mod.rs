//! Receivers of the same routes beside each other, in turns: from the same sender, over the same wire.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

#[path = "../../tests/common/mod.rs"]
pub(crate) mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use bgp::transport::{Event, Handle, Options, PeerTransport, start};
use bgp::{Community, Families, LocalRoute, PeerConfig, SpeakerConfig};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedReceiver;

use common::bird::Bird;
use common::gobgp::GoBgp;
use common::{Wire, address, output, text, us};

/// So many prefixes have their attributes in common.
pub(crate) const SHARED_BY: u32 = 5;

/// The sender, and who asks whether the receiver is complete, are here.
const SENDERS_CORE: usize = 0;

/// A receiver is here, so that it and the sender do not take turns.
const RECEIVERS_CORE: usize = 1;

/// GoBGP takes its time, and its memory, which is what counts, is the same every time.
const GOBGP_ROUNDS: usize = 3;

/// How often the receivers are asked.
const POLL: Duration = Duration::from_millis(1);

/// The AS of the sender, which is at .1, and of the receivers, at .2.
const AS: [u32; 2] = [65001, 65002];

/// What is sent, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Half of each family if there are two.
    pub(crate) routes: u32,
    pub(crate) families: Families,
    pub(crate) rounds: u32,
}

/// What keeps a receiver running, its process, and what tells how many routes it has.
pub(crate) struct Receiver {
    pub(crate) running: Box<dyn std::any::Any>,
    pub(crate) process: u32,
    pub(crate) count: Box<dyn FnMut() -> u32 + Send>,
}

/// Starts a receiver that is told so much.
pub(crate) type Begin = fn(&Wire, Load) -> Receiver;

/// The medians of one receiver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Medians {
    pub(crate) took: Duration,
    /// The most memory, in KiB.
    pub(crate) memory: u64,
}

/// Measures this speaker, BIRD and GoBGP.
pub(crate) fn measure(load: Load, ours: Begin, bird: Begin, gobgp: Begin) -> [Medians; 3] {
    println!(
        "{:<10} {:>14} {:>14} {:>14} {:>14}",
        "", "complete after", "processor", "memory then", "at most"
    );
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..load.rounds.max(1) {
        all[0].push(one("cambric", load, &[RECEIVERS_CORE], ours));
        all[1].push(one("BIRD", load, &[RECEIVERS_CORE], bird));
        if all[2].len() < GOBGP_ROUNDS {
            all[2].push(one("GoBGP", load, &[SENDERS_CORE, RECEIVERS_CORE], gobgp));
        }
    }
    all.map(|mut measured| {
        let middle = measured.len() / 2;
        measured.sort_by_key(|measured| measured.took);
        let took = measured[middle].took;
        measured.sort_by_key(|measured| measured.memory);
        Medians { took, memory: measured[middle].memory }
    })
}

/// One receiver in one round.
fn one(name: &str, load: Load, cores: &[usize], begin: Begin) -> Medians {
    let wire = Wire::new();
    run_on(cores);
    let Receiver { running, process, mut count } = begin(&wire, load);
    run_on(&[SENDERS_CORE]);
    let used_before = processor(process);
    let (took, used, then, most) = wire.run(async move {
        let (_sender, mut events) = sender(load).await;
        let is_up = |events: &[Event]| {
            events.iter().any(|event| matches!(event, Event::Session(session) if session.down.is_none()))
        };
        while !is_up(&events.recv().await.unwrap()) {}
        let begin = Instant::now();
        let counting = tokio::task::spawn_blocking(move || {
            while count() < load.routes {
                std::thread::sleep(POLL);
            }
            let took = begin.elapsed();
            // Before the session ends, which costs the receiver something too.
            (took, processor(process) - used_before, memory(process, "VmRSS:"), memory(process, "VmHWM:"))
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
    Medians { took, memory: most }
}

/// A speaker with all routes, on the way to the receiver.
async fn sender(load: Load) -> (Handle, UnboundedReceiver<Vec<Event>>) {
    let mut config = SpeakerConfig::new(AS[0], [10, 0, 0, 1].into());
    config.convergence = Duration::from_secs(3600);
    let (handle, events) = start(config, 1, Options::default()).unwrap();
    for number in 0..load.routes {
        let communities = vec![Community(number / SHARED_BY)];
        handle.announce(prefix(load, number), LocalRoute { communities, ..LocalRoute::default() }).await;
    }
    let receiver = PeerConfig { families: load.families, ..us::peer("other", address(false, 2), AS[1]) };
    handle.set_peer(receiver, PeerTransport::default()).await.unwrap();
    (handle, events)
}

fn prefix(load: Load, number: u32) -> IpNet {
    let v4_routes = if load.families.v6 { load.routes / 2 } else { load.routes };
    if number < v4_routes {
        Ipv4Net::new((0x1400_0000 + (number << 8)).into(), 24).unwrap().into()
    } else {
        let network = 0x2001_0db8_u128 << 96 | u128::from(number - v4_routes) << 64;
        Ipv6Net::new(network.into(), 64).unwrap().into()
    }
}

/// A speaker of ours that receives.
pub(crate) async fn receiver(families: Families) -> UnboundedReceiver<Vec<Event>> {
    let options = Options { listen: vec![SocketAddr::new(address(false, 2), 179)], record: None };
    let (handle, events) = start(SpeakerConfig::new(AS[1], [10, 0, 0, 2].into()), 2, options).unwrap();
    let mut sender = PeerConfig::new("other", address(false, 1), AS[0]);
    (sender.families, sender.passive) = (families, true);
    handle.set_peer(sender, PeerTransport::default()).await.unwrap();
    // It runs for as long as the process.
    std::mem::forget(handle);
    println!("listening");
    events
}

/// This program again, as a receiver at the other end of the wire. What it says is in the file.
pub(crate) fn cambric(wire: &Wire, load: Load) -> (Box<dyn std::any::Any>, u32, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let exe = std::env::current_exe().unwrap();
    let process = wire.start(exe.to_str().unwrap(), &["receiver", &load.routes.to_string()], &log);
    common::until_blocking(
        "the receiver listens",
        || std::fs::read_to_string(&log).unwrap(),
        |said| said.contains("listening"),
    );
    let pid = process.id();
    (Box::new((process, dir)), pid, log)
}

/// BIRD, with more in its configuration.
pub(crate) fn start_bird(wire: &Wire, load: Load, more: &str) -> Bird {
    let channel = |family, wanted| {
        if wanted { format!("{family} {{ import all; export none; }};") } else { String::new() }
    };
    let config = format!(
        "protocol bgp cambric {{ local 10.0.0.2 as {}; neighbor 10.0.0.1 as {}; passive yes;\n{} {} }}\n{more}",
        AS[1],
        AS[0],
        channel("ipv4", load.families.v4),
        channel("ipv6", load.families.v6),
    );
    Bird::start(wire, "10.0.0.2", &config)
}

/// BIRD without more, counted by itself.
pub(crate) fn bird(wire: &Wire, load: Load) -> Receiver {
    let bird = start_bird(wire, load, "");
    let (process, mut socket) = (bird.id(), UnixStream::connect(bird.socket()).unwrap());
    let mut answers = BufReader::new(socket.try_clone().unwrap()).lines().map(Result::unwrap);
    // Over its own socket, for what it counts anyway: anything else would keep it from its work.
    let count = move || {
        socket.write_all(b"show protocols all cambric\n").unwrap();
        let answer = answers.by_ref().take_while(|line| !line.starts_with("0000"));
        let words = answer.filter_map(|line| {
            line.trim().strip_prefix("Routes:")?.split_whitespace().next()?.parse::<u32>().ok()
        });
        words.sum()
    };
    Receiver { running: Box::new(bird), process, count: Box::new(count) }
}

/// GoBGP, counted by itself.
pub(crate) fn gobgp(wire: &Wire, _load: Load) -> Receiver {
    let gobgp = GoBgp::start(wire, false, AS[1], AS[0], "passive-mode = true");
    let (namespace, process) = (wire.them.clone(), gobgp.id());
    let of_family = move |family: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace, "gobgp", "global", "rib", "summary", "-a", family]);
        let said = text(&output(&mut command));
        let after = said.split("Destination: ").nth(1);
        after.and_then(|after| after.split(',').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let count = move || of_family("ipv4") + of_family("ipv6");
    Receiver { running: Box::new(gobgp), process, count: Box::new(count) }
}

/// A line of a process's status, which is in KiB: `VmRSS:` is its resident memory now, `VmHWM:` the most it was.
fn memory(process: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The time that the processors have spent on a process's threads.
fn processor(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
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

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The words after the program's name: either of what [`cambric`] starts, or how many routes, and how often.
pub(crate) fn load(families: Families) -> (bool, Load) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_receiver = words.first().is_some_and(|word| word == "receiver");
    let words = &words[usize::from(is_receiver)..];
    let number = |position: usize, default: u32| {
        words.get(position).map_or(default, |word| word.parse().expect("a number"))
    };
    (is_receiver, Load { routes: number(0, 100_000), families, rounds: number(1, 15) })
}
