//! Labs whose routers speak BGP.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::{self, NetNs};
use lab_common::bird::Bird;
use lab_common::traffic::{Datagrams, Stream};
use lab_common::{Lab, PODS, until};
use serde_json::Value;

/// The next hops of a machine's route to a destination that was put there by a protocol; none if there is no route.
fn next_hops(lab: &Lab, machine: &str, protocol: &str, destination: &str) -> BTreeSet<String> {
    let family = if destination.contains(':') { "-6" } else { "-4" };
    let text = lab.inside(machine, &format!("ip {family} -j route show {destination} proto {protocol}"));
    let routes: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let hops = routes.iter().flat_map(|route| match route["nexthops"].as_array() {
        Some(hops) => hops.clone(),
        None => vec![route.clone()],
    });
    hops.filter_map(|hop| Some(hop["gateway"].as_str()?.to_owned())).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A node's BIRD, which tells the router of prefixes.
fn bird(lab: &Lab, node: &str, number: u8, more: &str) -> Bird {
    let config = format!(
        "router id 192.0.2.{number};\n\
         protocol static {{ ipv4; route 203.0.113.0/24 blackhole; {more} }}\n\
         protocol static {{ ipv6; route 2001:db8:77::/48 blackhole; }}\n\
         protocol bgp r4 {{ local 192.0.2.{number} as 64512; neighbor 192.0.2.1 as 64513; connect delay time 1; \
           connect retry time 1; error wait time 1, 2; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n\
         protocol bgp r6 {{ local 2001:db8:1::{number} as 64512; neighbor 2001:db8:1::1 as 64513; \
           connect delay time 1; connect retry time 1; error wait time 1, 2; \
           ipv6 {{ import all; export where source = RTS_STATIC; }}; }}\n"
    );
    Bird::start(lab, node, &config)
}

const SPEAKING: (&str, &str) = (
    "subnets: [nodes, world]",
    "subnets: [nodes, world]\n    bgp: {asn: 64513, announce: [198.51.100.0/24, \"2001:db8:2::/64\"]}",
);

/// Nodes and router are of different make here, so that each is the other's witness.
#[test]
fn a_router_takes_routes_from_nodes_and_tells_them_its_own() {
    let lab = Lab::up_changed(
        "direct-kubernetes.yaml",
        &[SPEAKING, ("nodes:\n  - name: node-1", "bgpPeers: []\nnodes:\n  - name: node-1")],
    );
    let shared = ["203.0.113.0/24", "2001:db8:77::/48"];
    let hops = |destination| next_hops(&lab, "router", "bgp", destination);
    let one = bird(&lab, "node-1", 11, "route 203.0.114.0/24 blackhole;");
    let (first, both) = (
        [set(&["192.0.2.11"]), set(&["2001:db8:1::11"])],
        [set(&["192.0.2.11", "192.0.2.12"]), set(&["2001:db8:1::11", "2001:db8:1::12"])],
    );
    until("routes of one node", || shared.map(hops), |seen| *seen == first);
    assert_eq!(hops("203.0.114.0/24"), set(&["192.0.2.11"]));
    let learned = one.ask("show route protocol r4") + &one.ask("show route protocol r6");
    for announced in ["198.51.100.0/24", "2001:db8:2::/64"] {
        assert!(learned.contains(announced), "{learned}");
    }
    let two = bird(&lab, "node-2", 12, "");
    until("routes of both nodes", || shared.map(hops), |seen| *seen == both);

    // Killed, it leaves its routes to the next one, which learns them again and loses nothing.
    lab.run("kill", &["bgp/router"]);
    assert_eq!(shared.map(hops), both);
    lab.run("restart", &["bgp/router"]);
    let up = |bird: &Bird| ["r4", "r6"].map(|name| bird.ask(&format!("show protocols {name}"))).concat();
    let back = || up(&one) + &up(&two);
    until("sessions are back", back, |seen| seen.matches("Established").count() == 4);
    until("routes of both nodes again", || shared.map(hops), |seen| *seen == both);

    // What a node tells no more goes, and the rest stays.
    two.ask("disable static1");
    until("one has gone", || shared.map(hops), |seen| *seen == [first[0].clone(), both[1].clone()]);
    drop(one);
    until("nobody tells of it", || hops(shared[0]), BTreeSet::is_empty);
    assert_eq!(hops("203.0.114.0/24"), set(&[]));

    // Ended in good order, it leaves nothing.
    assert_eq!(hops(shared[1]), set(&["2001:db8:1::12"]));
    let list = || {
        lab.inside("router", "ip route show proto bgp") + &lab.inside("router", "ip -6 route show proto bgp")
    };
    assert_ne!(list(), "");
    lab.run("restart", &["bgp/router"]);
    let log = std::fs::read_to_string(format!("/run/cambric-lab/{}/log/bgp-router.log", lab.name)).unwrap();
    assert!(log.contains("no route any more") && !log.contains("WARN lab"), "{log}");
}

const CLIENT: [&str; 2] = ["198.51.100.101", "2001:db8:2::101"];

/// How many of a node's sessions are up, by its agent's own account.
fn established(lab: &Lab, node: &str) -> usize {
    lab.status_bgp(node).matches("Established").count()
}

/// Waits until all nodes have their sessions: with the router in two families, and with each other.
fn wait_established(lab: &Lab) {
    for node in ["node-1", "node-2", "node-3"] {
        until("sessions", || established(lab, node), |count| *count == 4);
    }
}

/// Waits until the router knows the way to the pods of every node; returns how long that took at most.
fn wait_routed(lab: &Lab) -> Duration {
    let all = || {
        [
            ("10.244.0.0/24", "fd00:10:244::/64"),
            ("10.244.1.0/24", "fd00:10:244:1::/64"),
            ("10.244.2.0/24", "fd00:10:244:2::/64"),
        ]
        .map(|(v4, v6)| {
            (next_hops(lab, "router", "bgp", v4).len(), next_hops(lab, "router", "bgp", v6).len())
        })
    };
    until("routes at the router", all, |seen| *seen == [(1, 1); 3])
}

/// Graceful restart (RFC 4724): who has gone without a word will be back, so what it told stays in force.
#[test]
fn speakers_that_are_killed_cost_no_packet() {
    let lab = Lab::up("direct.yaml");
    lab.apply(PODS);
    wait_established(&lab);
    wait_routed(&lab);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let client = lab.enter("client");
    let [v4, v6] = CLIENT.map(|address| address.parse().unwrap());
    let datagrams = [
        Datagrams::start("client to a, IPv4", &client, &a.enter(), a.v4()),
        Datagrams::start("client to a, IPv6", &client, &a.enter(), a.v6()),
        Datagrams::start("client to b, IPv4", &client, &b.enter(), b.v4()),
        Datagrams::start("a to b, IPv4", &a.enter(), &b.enter(), b.v4()),
        Datagrams::start("b to a, IPv6", &b.enter(), &a.enter(), a.v6()),
        Datagrams::start("a to client, IPv4", &a.enter(), &client, v4),
        Datagrams::start("a to client, IPv6", &a.enter(), &client, v6),
    ];
    let streams = [
        Stream::start("client to a", &client, &a.enter(), a.v4()),
        Stream::start("client to b", &client, &b.enter(), b.v6()),
        Stream::start("a to b", &a.enter(), &b.enter(), b.v6()),
    ];
    for target in ["agent/node-1", "agent/node-2", "bgp/router", "agent/node-3"] {
        lab.run("restart", &["--kill", target]);
        if let Some(node) = target.strip_prefix("agent/") {
            lab.agent_ready(node);
        }
        wait_established(&lab);
        wait_routed(&lab);
    }
    for one in datagrams {
        assert!(one.finish() > 100);
    }
    for one in streams {
        assert!(one.finish() > 100);
    }
}

const ANNOUNCED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

/// A service with an address that every node announces.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: everywhere}
spec:
  ports: [{port: 80, targetPort: 8080, protocol: UDP}]
  externalIPs: [203.0.113.7]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: everywhere-1
  labels: {kubernetes.io/service-name: everywhere}
addressType: IPv4
ports: [{port: 8080, protocol: UDP}]
endpoints: [{addresses: [ADDRESS], conditions: {ready: true}, nodeName: node-1}]
";

/// Asks a service or a pod from a port of its own.
fn ask(client: &NetNs, asked: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: SocketAddr = if asked.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let ask = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind(any)?;
        socket.connect(asked)?;
        socket.send(b"JSON")?;
        Ok(socket)
    };
    netns::run_in(client, ask).unwrap()
}

/// Whether an answer has come, or comes until then.
fn is_answered(asked: &std::io::Result<UdpSocket>, until: Instant) -> bool {
    asked.as_ref().is_ok_and(|socket| {
        let patience = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.recv(&mut [0; 4096]).is_ok()
    })
}

/// Which of those asked at once answer within a second.
fn answers<const N: usize>(asked: [(&NetNs, SocketAddr); N]) -> [bool; N] {
    let asked = asked.map(|(client, address)| ask(client, address));
    let enough = Instant::now() + Duration::from_secs(1);
    asked.each_ref().map(|asked| is_answered(asked, enough))
}

/// How long traffic may need to flow again after a cut is mended: BFD's slow packets (a second each, RFC 5880, section
/// 6.8.3), and then BGP at once.
const MENDED: Duration = Duration::from_secs(10);

/// A cut that no link notices: BFD (RFC 5880) does.
#[test]
fn behind_a_cut_cable_nobody_is_sent_packets_for_longer_than_a_second() {
    let lab = Lab::up_changed("direct.yaml", &[("asn: 64512", "asn: 64512\n    announce: [ExternalIP]")]);
    lab.apply(PODS);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    lab.apply(&SERVICE.replace("ADDRESS", &a.v4().to_string()));
    wait_established(&lab);
    wait_routed(&lab);
    let hops = || next_hops(&lab, "router", "bgp", &format!("{ANNOUNCED}/32"));
    let (all, left) = (set(&["192.0.2.11", "192.0.2.12", "192.0.2.13"]), set(&["192.0.2.11", "192.0.2.13"]));
    until("all nodes announce the service", hops, |hops| *hops == all);
    let client = lab.enter("client");
    let service = SocketAddr::new(ANNOUNCED, 80);
    let served = || (0..30).all(|_| answers([(&client, service)]) == [true]);
    until("the service answers", served, |so| *so);
    // From a pod and from outside to a pod of the node that will be cut off, in both families.
    let from_a = a.enter();
    let [v4, v6] = [b.v4(), b.v6()].map(|address| SocketAddr::new(address, 8080));
    let across = || answers([(&from_a, v4), (&from_a, v6), (&client, v4), (&client, v6)]);
    until("pods answer", across, |seen| *seen == [true; 4]);
    for _ in 0..3 {
        lab.inside("fabric", "ip link set node-2.0 nomaster");
        let cut = Instant::now();
        // Each from another port, so that some would go by each node.
        let mut asked = Vec::new();
        while cut.elapsed() < Duration::from_secs(2) {
            asked.push((cut.elapsed(), ask(&client, service)));
            thread::sleep(Duration::from_millis(20));
        }
        // An answer may take its time; what was sent to a node that is cut off has none.
        let enough = Instant::now() + Duration::from_secs(1);
        let lost = asked.iter().filter(|(_, asked)| !is_answered(asked, enough));
        let lost: Vec<Duration> = lost.map(|(at, _)| *at).collect();
        let (failed, last) = (lost.len(), lost.last().copied().unwrap_or_default());
        eprintln!("{failed} were not answered, the last {last:?} after the cut");
        assert!(failed > 0, "none went by the node that was cut off");
        assert!(last < Duration::from_secs(1), "{lost:?}");
        assert_eq!(hops(), left);
        for range in ["10.244.1.0/24", "fd00:10:244:1::/64"] {
            assert_eq!(next_hops(&lab, "router", "bgp", range), set(&[]));
            assert_eq!(next_hops(&lab, "node-1", "204", range), set(&[]));
        }
        assert_eq!(across(), [false; 4]);
        // What is whole again is found again.
        lab.inside("fabric", "ip link set node-2.0 master nodes");
        let took = until("pods answer again", across, |seen| *seen == [true; 4]);
        eprintln!("pods answer again within {took:?}");
        assert!(took < MENDED, "{took:?}");
        let took = until("all nodes announce the service again", hops, |hops| *hops == all);
        wait_established(&lab);
        eprintln!("healed within {took:?}");
        assert!(served());
    }
}
