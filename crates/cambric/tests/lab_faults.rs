//! Faults under running traffic: processes that are killed, and kernel state that somebody deletes.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns;
use lab_common::kernel_state::{inside, ours};
use lab_common::traffic::{Datagrams, Stream};
use lab_common::{Lab, PODS};

/// In how much time what was deleted must be there again.
const REPAIR: Duration = Duration::from_secs(1);

/// Waits until a node holds a state again; returns how long that took at most.
fn repaired(lab: &Lab, node: &str, wanted: &[String], what: &str) -> Duration {
    let begin = Instant::now();
    loop {
        // Looking takes the time of some ten processes, which is not the agent's.
        let before = begin.elapsed();
        let found = ours(lab, node);
        if found == wanted {
            return begin.elapsed();
        }
        if before > REPAIR {
            let missing: Vec<_> = wanted.iter().filter(|one| !found.contains(one)).collect();
            let new: Vec<_> = found.iter().filter(|one| !wanted.contains(one)).collect();
            panic!("{what}: not repaired within {REPAIR:?}; missing {missing:#?}, new {new:#?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn echo_works(from: &lab_common::Pod, to: std::net::IpAddr) {
    let ping = || Command::new("ping").args(["-c1", "-W2", &to.to_string()]).output();
    let output = netns::run_in(&from.enter(), ping).unwrap().unwrap();
    assert!(output.status.success(), "no answer from {to}");
}

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// A lab with three pods, with or without the fast path.
fn lab(fast_path: bool) -> Lab {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(PODS);
    if fast_path {
        lab.set_fast_path(&NODES, true);
    }
    lab
}

#[test]
fn killed_processes_cost_no_packet() {
    assert_killed_processes_cost_no_packet(false);
}

#[test]
fn killed_processes_cost_no_packet_of_the_fast_path() {
    assert_killed_processes_cost_no_packet(true);
}

fn assert_killed_processes_cost_no_packet(fast_path: bool) {
    let lab = lab(fast_path);
    let (a, b, beside) = (lab.pod("a"), lab.pod("b"), lab.pod("beside"));
    let outside = lab.enter("client");
    let outside_address = "198.51.100.101".parse().unwrap();
    let before: Vec<Vec<String>> = NODES.iter().map(|node| ours(&lab, node)).collect();
    assert!(before.iter().all(|state| state.len() > 10), "{before:#?}");

    let datagrams = [
        Datagrams::start("a to b, IPv4", &a.enter(), &b.enter(), b.v4()),
        Datagrams::start("b to a, IPv4", &b.enter(), &a.enter(), a.v4()),
        Datagrams::start("a to b, IPv6", &a.enter(), &b.enter(), b.v6()),
        Datagrams::start("a to the pod beside", &a.enter(), &beside.enter(), beside.v4()),
        Datagrams::start("a to outside", &a.enter(), &outside, outside_address),
    ];
    let streams = [
        Stream::start("a to b, IPv4", &a.enter(), &b.enter(), b.v4()),
        Stream::start("b to a, IPv6", &b.enter(), &a.enter(), a.v6()),
        Stream::start("a to outside", &a.enter(), &outside, outside_address),
    ];
    let busy = || {
        if fast_path {
            lab.await_hits(&NODES[..2]);
        }
    };
    busy();
    for target in ["agent/node-1", "agent/node-2", "agent/node-3", "kubelet/node-1", "api"] {
        lab.run("restart", &["--kill", target]);
        if let Some(node) = target.strip_prefix("agent/") {
            lab.agent_ready(node);
        }
        for (node, before) in NODES.iter().zip(&before) {
            assert_eq!(&ours(&lab, node), before, "{node} after {target} was killed and restarted");
        }
    }
    busy();
    for one in datagrams {
        assert!(one.finish() > 100);
    }
    for one in streams {
        assert!(one.finish() > 100);
    }
}

/// An agent that is dead for a while, and an API that is: the data path does not need them.
#[test]
fn without_agents_and_api_traffic_goes_on() {
    assert_traffic_goes_on(false);
}

/// With the agent goes the fast path, and it comes again with the next.
#[test]
fn without_agents_and_api_traffic_leaves_the_fast_path_and_goes_on() {
    assert_traffic_goes_on(true);
}

fn assert_traffic_goes_on(fast_path: bool) {
    let lab = lab(fast_path);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let before = ours(&lab, "node-1");
    let datagrams = Datagrams::start("a to b", &a.enter(), &b.enter(), b.v4());
    let stream = Stream::start("a to b", &a.enter(), &b.enter(), b.v6());
    let busy = || {
        if fast_path {
            lab.await_hits(&NODES[..2]);
        }
    };
    busy();
    for target in ["api", "agent/node-1", "agent/node-2"] {
        lab.run("kill", &[target]);
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!(ours(&lab, "node-1"), before);
    // An agent that starts while there is no API leaves alone what is there.
    for target in ["agent/node-1", "agent/node-2"] {
        lab.run("restart", &[target]);
    }
    thread::sleep(Duration::from_secs(1));
    assert_eq!(ours(&lab, "node-1"), before);
    lab.run("restart", &["api"]);
    for node in ["node-1", "node-2"] {
        lab.agent_ready(node);
    }
    assert_eq!(ours(&lab, "node-1"), before);
    busy();
    assert!(datagrams.finish() > 1000);
    assert!(stream.finish() > 1000);
}

#[test]
fn what_is_deleted_is_repaired_and_what_is_not_ours_left_alone() {
    assert_repaired(false);
}

#[test]
fn with_the_fast_path_what_is_deleted_is_repaired_and_what_is_not_ours_left_alone() {
    assert_repaired(true);
}

fn assert_repaired(fast_path: bool) {
    let lab = lab(fast_path);
    let (a, b, beside) = (lab.pod("a"), lab.pod("b"), lab.pod("beside"));
    let node = "node-1";
    for foreign in [
        "nft add table inet foreign",
        "nft add chain inet foreign c",
        "ip link add br-foreign type bridge",
        "ip link set br-foreign up",
        "ip address add 203.0.113.1/24 dev br-foreign",
        "ip route add 203.0.114.0/24 via 203.0.113.2 dev br-foreign",
        "ip route add 203.0.115.0/24 via 192.0.2.12",
        "ip -6 route add 2001:db8:ffff::/48 via 2001:db8:1::12",
    ] {
        lab.inside(node, foreign);
    }
    let foreign = || {
        let routes = lab.inside(node, "ip route show") + &lab.inside(node, "ip -6 route show");
        let table = lab.inside(node, "nft list table inet foreign");
        let ours = |line: &&str| line.contains("203.0.11") || line.contains("2001:db8:ffff");
        routes.lines().filter(ours).map(str::to_owned).chain([table]).collect::<Vec<_>>()
    };
    let (before, foreign_before) = (ours(&lab, node), foreign());
    assert_eq!(foreign_before.len(), 5, "{foreign_before:?}");

    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut deletions: Vec<Vec<String>> = Vec::new();
    for (family, route) in ["-4", "-6"].iter().flat_map(|family| {
        let routes = lab.inside(node, &format!("ip {family} route show proto 203"));
        routes.lines().map(|line| (*family, line.to_owned())).collect::<Vec<_>>()
    }) {
        let destination = route.split(' ').next().unwrap().to_owned();
        deletions.push(words(&format!("ip {family} route del {destination} proto 203")));
    }
    assert_eq!(deletions.len(), 4, "{deletions:?}");
    for line in lab.inside(node, "bridge fdb show dev vxlan.cambric").lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        if let Some(at) = parts.iter().position(|part| *part == "dst") {
            deletions.push(words(&format!(
                "bridge fdb del {} dev vxlan.cambric dst {}",
                parts[0],
                parts[at + 1]
            )));
        }
    }
    for line in lab.inside(node, "ip neigh show dev vxlan.cambric nud permanent").lines() {
        let address = line.split(' ').next().unwrap();
        deletions.push(words(&format!("ip neigh del {address} dev vxlan.cambric")));
    }
    assert!(deletions.len() >= 10, "{deletions:?}");
    for more in [
        "nft delete table ip cambric",
        "nft delete table ip6 cambric",
        "nft delete table bridge cambric",
        "nft flush set bridge cambric pod-macs",
        "ip address del 10.244.0.1/24 dev cbr0",
        "ip link set cbr0 down",
        "ip link set vxlan.cambric down",
        "ip link del vxlan.cambric",
        "ip link del cbr0",
    ] {
        deletions.push(words(&gateway_of(&lab, node, more)));
    }
    for deletion in &deletions {
        let command: Vec<&str> = deletion.iter().map(String::as_str).collect();
        inside(&lab, node, &command);
        let took = repaired(&lab, node, &before, &deletion.join(" "));
        eprintln!("{}: repaired within {took:?}", deletion.join(" "));
        assert_eq!(foreign(), foreign_before, "after {}", deletion.join(" "));
    }
    // The same without an agent: every deletion is one, and is seen to be. The next agent makes up for all of them.
    lab.run("kill", &["agent/node-1"]);
    let mut held = before.clone();
    for deletion in &deletions {
        let command: Vec<&str> = deletion.iter().map(String::as_str).collect();
        let line = deletion.join(" ");
        // What a link takes along cannot be deleted after it, nor a set after its table.
        if line.starts_with("nft flush") {
            continue;
        }
        inside(&lab, node, &command);
        let found = ours(&lab, node);
        assert_ne!(found, held, "{line} went unnoticed");
        held = found;
    }
    assert_eq!(foreign(), foreign_before);
    lab.run("restart", &["agent/node-1"]);
    lab.agent_ready(node);
    repaired(&lab, node, &before, "everything, by the next agent");
    for to in [b.v4(), b.v6(), beside.v4(), beside.v6()] {
        echo_works(&a, to);
    }
    echo_works(&b, a.v4());
    if fast_path {
        // What came and went has left its programs where they belong.
        let streams = [(&a, b.v4()), (&a, b.v6()), (&a, beside.v6())].map(|(from, to)| {
            let at = if to == beside.v6() { &beside } else { &b };
            Stream::start("after all", &from.enter(), &at.enter(), to)
        });
        lab.await_hits(&NODES[..2]);
        for stream in streams {
            assert!(stream.finish() > 0);
        }
    }
}

/// Puts the bridge's own address into a command.
fn gateway_of(lab: &Lab, node: &str, command: &str) -> String {
    let shown = lab.inside(node, "ip -4 -o address show dev cbr0 scope global");
    let address = shown.split_ascii_whitespace().nth(3).unwrap();
    command.replace("10.244.0.1/24", address)
}
