//! Labs whose routers speak BGP.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::collections::BTreeSet;

use lab_common::bird::Bird;
use lab_common::{Lab, until};
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
    let lab = Lab::up_changed("direct.yaml", &[SPEAKING]);
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
    let back = || one.ask("show protocols r4") + &two.ask("show protocols r6");
    until("sessions are back", back, |seen| seen.matches("Established").count() == 2);
    assert_eq!(shared.map(hops), both);

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
