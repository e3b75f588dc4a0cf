//! The mode of encapsulation, or the source of routes, changes while pods talk: nothing is lost, whichever node hears of
//! it first.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use lab_common::traffic::{Datagrams, Pings, Stream};
use lab_common::{Lab, PODS, Pod, succeed, until};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Always,
    CrossSubnet,
    Ipip,
    IpipCrossSubnet,
    None,
}

fn set(lab: &Lab, mode: Mode) {
    let encapsulation = match mode {
        Mode::Always => r#"{"protocol": "vxlan", "when": "always"}"#,
        Mode::CrossSubnet => r#"{"protocol": "vxlan", "when": "crossSubnet"}"#,
        Mode::Ipip => r#"{"protocol": "ipip", "when": "always"}"#,
        Mode::IpipCrossSubnet => r#"{"protocol": "ipip", "when": "crossSubnet"}"#,
        Mode::None => r#"{"protocol": "none", "when": "always"}"#,
    };
    let patch = format!(r#"{{"spec": {{"encapsulation": {encapsulation}}}}}"#);
    lab.run("kubectl", &["--", "patch", "clusternetwork", "default", "--type=merge", "-p", &patch]);
}

/// Where routes to other nodes come from, as the kernel has it: their protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Kubernetes = 203,
    Bgp = 204,
}

fn set_source(lab: &Lab, source: Source) {
    let source = format!("{source:?}").to_lowercase();
    let patch = format!(r#"{{"spec": {{"routeSource": "{source}"}}}}"#);
    lab.run("kubectl", &["--", "patch", "clusternetwork", "default", "--type=merge", "-p", &patch]);
}

/// How many of a node's routes lead out by which link, in both families.
fn ways(lab: &Lab, node: &str, source: Source) -> BTreeMap<String, usize> {
    let mut ways = BTreeMap::new();
    for family in ["-4", "-6"] {
        let show = format!("ip {family} -j route show table main proto {}", source as u8);
        let text = lab.inside(node, &show);
        for route in serde_json::from_str::<Vec<Value>>(&text).unwrap_or_default() {
            *ways.entry(route["dev"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    ways
}

/// Waits until the routes of all nodes lead where they should; returns how long that took at most.
fn settled(lab: &Lab, nodes: &[&str], wanted: &[(&str, usize)]) -> Duration {
    settled_by(lab, nodes, Source::Kubernetes, wanted)
}

fn settled_by(lab: &Lab, nodes: &[&str], source: Source, wanted: &[(&str, usize)]) -> Duration {
    let wanted: BTreeMap<String, usize> =
        wanted.iter().map(|(link, count)| ((*link).to_owned(), *count)).collect();
    let look = || -> Vec<_> { nodes.iter().map(|node| ways(lab, node, source)).collect() };
    until(&format!("routes by {wanted:?}"), look, |found| found.iter().all(|ways| *ways == wanted))
}

/// Waits until so many of the routes of each node lead into IP in IP, and so with its MTU.
fn wraps(lab: &Lab, nodes: &[&str], count: usize) {
    let wrapped = |node: &&str| {
        let texts = ["-4", "-6"].map(|family| lab.inside(node, &format!("ip {family} route show proto 203")));
        texts.iter().flat_map(|text| text.lines()).filter(|line| line.contains(" mtu ")).count()
    };
    let look = || -> Vec<usize> { nodes.iter().map(wrapped).collect() };
    until("routes into IP in IP", look, |found| found.iter().all(|seen| *seen == count));
}

/// How many packets a link of a node has sent.
fn sent_by(lab: &Lab, node: &str, link: &str) -> u64 {
    let text = lab.inside(node, &format!("ip -j -s link show dev {link}"));
    let links: Vec<Value> = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// Whether a node sends packets in the tunnel.
fn tunnels(lab: &Lab, node: &str) -> bool {
    let before = sent_by(lab, node, "vxlan.cambric");
    thread::sleep(Duration::from_millis(100));
    sent_by(lab, node, "vxlan.cambric") > before
}

/// What `cambric status` says on a node, once it has some words.
fn status_with(lab: &Lab, node: &str, words: &str) -> String {
    until(words, || lab.status(node), |status| status.contains(words));
    lab.status(node)
}

/// Stops a node's agent, so that it hears of nothing, or lets it go on.
fn signal_agent(lab: &Lab, node: &str, signal: &str) {
    let pid = std::fs::read_to_string(format!("{}/agent.lock", lab.run_dir(node))).unwrap();
    succeed(Command::new("kill").args([signal, pid.trim()]));
}

/// Traffic of all kinds between two pods.
struct Traffic {
    datagrams: Vec<Datagrams>,
    streams: Vec<Stream>,
}

impl Traffic {
    fn between(one: &Pod, other: &Pod) -> Traffic {
        let mut traffic = Traffic { datagrams: Vec::new(), streams: Vec::new() };
        for (from, to) in [(one, other), (other, one)] {
            for address in [to.v4(), to.v6()] {
                let what = format!("{} to {}, {address}", from.name, to.name);
                traffic.datagrams.push(Datagrams::start(&what, &from.enter(), &to.enter(), address));
                traffic.streams.push(Stream::start(&what, &from.enter(), &to.enter(), address));
            }
        }
        traffic
    }

    fn finish(self) {
        for one in self.datagrams {
            assert!(one.finish() > 100);
        }
        for one in self.streams {
            assert!(one.finish() > 100);
        }
    }
}

#[test]
fn in_one_subnet_all_modes_follow_each_other_without_a_loss() {
    use Mode::{Always, CrossSubnet, Ipip, IpipCrossSubnet, None};
    let nodes = ["node-1", "node-2", "node-3"];
    let lab = Lab::up("vxlan.yaml");
    lab.apply(PODS);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let traffic = Traffic::between(&a, &b);
    // The node itself talks to the pod as well, and goes on from the address that it began with.
    let node = lab.enter("node-1");
    let from_node = [b.v4(), b.v6()].map(|to| Stream::start("node to pod", &node, &b.enter(), to));
    // Every mode after every other, and round again.
    let modes = [CrossSubnet, None, Always, None, CrossSubnet, Always, CrossSubnet, None, Always];
    let with_ipip =
        [Ipip, Always, Ipip, None, Ipip, IpipCrossSubnet, Ipip, CrossSubnet, IpipCrossSubnet, Always];
    for mode in modes.into_iter().chain(with_ipip) {
        set(&lab, mode);
        let link = if mode == Always { "vxlan.cambric" } else { "eth0" };
        let took = settled(&lab, &nodes, &[(link, 4)]);
        eprintln!("{mode:?} on all nodes within {took:?}");
        wraps(&lab, &nodes, if mode == Ipip { 4 } else { 0 });
        assert_eq!(tunnels(&lab, "node-1"), mode == Always, "{mode:?}");
    }
    traffic.finish();
    for stream in from_node {
        assert!(stream.finish() > 100);
    }
}

/// One node does not hear of the change for a while: it sends by the old mode and takes what comes by the new one.
#[test]
fn a_node_that_does_not_hear_of_the_change_loses_nothing() {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(PODS);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let traffic = Traffic::between(&a, &b);
    for (mode, link, other) in [
        (Mode::None, "eth0", "vxlan.cambric"),
        (Mode::Always, "vxlan.cambric", "eth0"),
        (Mode::Ipip, "eth0", "vxlan.cambric"),
        (Mode::Always, "vxlan.cambric", "eth0"),
    ] {
        lab.run("kill", &["agent/node-2"]);
        set(&lab, mode);
        settled(&lab, &["node-1", "node-3"], &[(link, 4)]);
        settled(&lab, &["node-2"], &[(other, 4)]);
        assert_eq!(tunnels(&lab, "node-2"), other == "vxlan.cambric");
        assert_eq!(tunnels(&lab, "node-1"), link == "vxlan.cambric");
        lab.run("restart", &["agent/node-2"]);
        settled(&lab, &["node-2"], &[(link, 4)]);
    }
    traffic.finish();
}

/// Every mode with routes from each source, and each source after the other. At the end one node hears of the change when
/// the others have long made it.
#[test]
fn routes_from_node_objects_and_from_bgp_follow_each_other_without_a_loss() {
    use Source::{Bgp, Kubernetes};
    let nodes = ["node-1", "node-2", "node-3"];
    let lab = Lab::up("vxlan.yaml");
    lab.apply(PODS);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let traffic = Traffic::between(&a, &b);
    let pings = [b.v4(), b.v6()].map(|to| Pings::start("a to b", a.enter(), to));
    for (mode, link) in [(Mode::Always, "vxlan.cambric"), (Mode::Ipip, "eth0"), (Mode::None, "eth0")] {
        set(&lab, mode);
        settled(&lab, &nodes, &[(link, 4)]);
        for (source, other) in [(Bgp, Kubernetes), (Kubernetes, Bgp)] {
            set_source(&lab, source);
            let took = settled_by(&lab, &nodes, source, &[(link, 4)]);
            eprintln!("{mode:?}: routes from {source:?} on all nodes within {took:?}");
            settled_by(&lab, &nodes, other, &[]);
        }
    }

    let (early, late) = (["node-1", "node-3"], ["node-2"]);
    signal_agent(&lab, late[0], "-STOP");
    set_source(&lab, Bgp);
    // Of the node that is late nobody tells, so its object is gone by.
    settled_by(&lab, &early, Bgp, &[("eth0", 2)]);
    settled_by(&lab, &early, Kubernetes, &[("eth0", 2)]);
    signal_agent(&lab, late[0], "-CONT");
    settled_by(&lab, &nodes, Bgp, &[("eth0", 4)]);
    for node in early {
        until("sessions", || lab.status_bgp(node), |seen| seen.matches("Established").count() == 2);
    }

    signal_agent(&lab, late[0], "-STOP");
    set_source(&lab, Kubernetes);
    settled(&lab, &early, &[("eth0", 4)]);
    for node in early {
        until("silence", || lab.status_bgp(node), |seen| seen.starts_with("no BGP"));
    }
    settled_by(&lab, &late, Bgp, &[("eth0", 4)]);
    signal_agent(&lab, late[0], "-CONT");
    settled(&lab, &nodes, &[("eth0", 4)]);
    traffic.finish();
    for one in pings {
        assert!(one.finish() > 100);
    }
}

const PODS_OF_TWO_SITES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a1}
spec:
  nodeName: a-1
  containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: a2}
spec:
  nodeName: a-2
  containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: b1}
spec:
  nodeName: b-1
  containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]
";

#[test]
fn across_subnets_the_tunnel_stays_and_nothing_is_lost_on_either_way() {
    let nodes = ["a-1", "a-2", "b-1", "b-2"];
    let lab = Lab::up("two-subnets.yaml");
    lab.apply(PODS_OF_TWO_SITES);
    let (a1, a2, b1) = (lab.pod("a1"), lab.pod("a2"), lab.pod("b1"));
    let traffic = [Traffic::between(&a1, &a2), Traffic::between(&a1, &b1)];
    for _ in 0..2 {
        set(&lab, Mode::CrossSubnet);
        settled(&lab, &nodes, &[("eth0", 2), ("vxlan.cambric", 4)]);
        assert!(tunnels(&lab, "a-1") && !tunnels(&lab, "a-2"));
        set(&lab, Mode::Always);
        settled(&lab, &nodes, &[("vxlan.cambric", 6)]);
        assert!(tunnels(&lab, "a-1") && tunnels(&lab, "a-2"));
    }
    // From one tunnel into the other and back, and with it from IP in IP to plain in the subnet.
    for _ in 0..2 {
        set(&lab, Mode::Ipip);
        settled(&lab, &nodes, &[("eth0", 6)]);
        wraps(&lab, &nodes, 6);
        set(&lab, Mode::IpipCrossSubnet);
        wraps(&lab, &nodes, 4);
        set(&lab, Mode::CrossSubnet);
        settled(&lab, &nodes, &[("eth0", 2), ("vxlan.cambric", 4)]);
        set(&lab, Mode::Ipip);
        wraps(&lab, &nodes, 6);
        set(&lab, Mode::Always);
        settled(&lab, &nodes, &[("vxlan.cambric", 6)]);
    }
    traffic.into_iter().for_each(Traffic::finish);
    // Without encapsulation there is no way across, and the nodes say so.
    set(&lab, Mode::None);
    settled(&lab, &nodes, &[("eth0", 2)]);
    let status = status_with(&lab, "a-1", "encapsulation is none");
    assert!(
        status.contains(
            "Node b-1: there is no route to its pod range 10.244.2.0/24, because encapsulation is none and"
        ),
        "{status}"
    );
    assert!(
        status.contains("is not in 192.0.2.0/25, the subnet of this node; use protocol vxlan or ipip"),
        "{status}"
    );
}

/// Routes by a link go with it, in IPv4 without a word, and come back with it.
#[test]
fn a_link_that_flaps_has_its_routes_back_within_a_second() {
    let lab = Lab::up("direct-kubernetes.yaml");
    for _ in 0..3 {
        settled(&lab, &["node-1"], &[("eth0", 4)]);
        lab.inside("node-1", "ip link set eth0 down");
        settled(&lab, &["node-1"], &[]);
        lab.inside("node-1", "ip link set eth0 up");
        // The kernel has taken the IPv6 address, and the route out, with the link.
        lab.inside("node-1", "ip address add 2001:db8:1::11/64 dev eth0 nodad");
        let took = settled(&lab, &["node-1"], &[("eth0", 4)]);
        eprintln!("back within {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        lab.inside("node-1", "ip route replace default via 192.0.2.1 dev eth0 proto static");
        lab.agent_ready("node-1");
    }
}
