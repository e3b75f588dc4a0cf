//! Routes with several next hops, with an MTU, and from either source, as `ip` shows them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{TestNs, reconcile};
use kernel::{Kernel, Monitor};
use model::{LinkName, RouteSource};
use plan::{Change, Entries, Entry, Hop, Origin, Planned, Route};
use proptest::prelude::*;
use serde_json::Value;
use std::time::Duration;

use RouteSource::{Bgp, Kubernetes};

fn route(destination: &str, hops: &[&str], mtu: Option<u32>, learned: RouteSource) -> Planned {
    let hop = |text: &&str| {
        let (via, link) = text.split_once('@').unwrap_or((text, "eth0"));
        Hop { via: via.parse().unwrap(), link: LinkName::new(link).unwrap() }
    };
    let mut hops: Vec<Hop> = hops.iter().map(hop).collect();
    hops.sort();
    let route = Route { destination: destination.parse().unwrap(), hops, source: None, mtu, learned };
    Planned { entry: Entry::Route(route), origin: Origin::ClusterNetwork }
}

fn entries(routes: impl IntoIterator<Item = Planned>) -> Entries {
    routes.into_iter().map(|planned| (planned.entry.key(), planned)).collect()
}

/// A route as `ip` shows it: destination, next hops, MTU and protocol.
fn shown(test: &TestNs) -> Vec<String> {
    let mut lines = Vec::new();
    for (family, protocol) in [("-4", 203), ("-4", 204), ("-6", 203), ("-6", 204)] {
        let text = test.run(&format!("ip {family} -j route show table main proto {protocol}"));
        let routes: Vec<Value> =
            if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() };
        for route in routes {
            let one = vec![route.clone()];
            let mut hops: Vec<String> =
                route["nexthops"].as_array().unwrap_or(&one).iter().map(hop).collect();
            hops.sort();
            // A host has no length.
            let host = |dst: &str| if dst.contains('/') { "" } else { "/128" };
            let dst = route["dst"].as_str().map(|dst| format!("{dst}{}", host(dst))).unwrap();
            let mtu = route["metrics"][0]["mtu"].as_u64().map(|mtu| format!(" mtu {mtu}"));
            lines.push(format!("{dst} {} proto {protocol}{}", hops.join(" "), mtu.unwrap_or_default()));
        }
    }
    lines.sort();
    lines
}

fn hop(hop: &Value) -> String {
    assert!(hop["flags"].as_array().unwrap().contains(&"onlink".into()), "{hop}");
    assert!(hop["weight"].as_u64().is_none_or(|weight| weight == 1), "{hop}");
    let via = hop["gateway"].as_str().or(hop["via"]["host"].as_str()).unwrap();
    format!("{via}@{}", hop["dev"].as_str().unwrap())
}

fn described(plan: &Entries) -> Vec<String> {
    let line = |planned: &Planned| match &planned.entry {
        Entry::Route(route) => {
            let mut hops: Vec<String> =
                route.hops.iter().map(|hop| format!("{}@{}", hop.via, hop.link)).collect();
            hops.sort();
            let mtu = route.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
            let protocol = plan::route_protocol(route.learned);
            format!("{} {} proto {protocol}{mtu}", route.destination, hops.join(" "))
        }
        other => panic!("{other:?}"),
    };
    let mut lines: Vec<String> = plan.values().map(line).collect();
    lines.sort();
    lines
}

/// A node with two links to the underlay.
fn node(kind: &str) -> TestNs {
    let test = TestNs::underlay(kind);
    for command in [
        "ip link add eth1 type veth peer name wire1",
        "ip addr add 172.17.0.1/16 dev eth1",
        "ip addr add 2001:db8:1::1/64 dev eth1 nodad",
        "ip link set eth1 up",
        "ip link set wire1 up",
    ] {
        test.run(command);
    }
    test
}

const V4: &str = "10.9.0.0/16";
const V6: &str = "fd00:9::/48";

/// What one prefix of each family can have.
fn states() -> Vec<Entries> {
    let hops4: [&[&str]; 6] = [
        &["172.16.0.2"],
        &["172.16.0.2", "172.16.0.3"],
        &["172.16.0.2", "172.17.0.3@eth1", "172.16.0.4"],
        &["172.17.0.3@eth1"],
        &["172.16.0.3", "2001:db8::3"],
        &["2001:db8::3", "2001:db8:1::4@eth1"],
    ];
    let hops6: [&[&str]; 6] = [
        &["2001:db8::2"],
        &["2001:db8::2", "2001:db8::3"],
        &["2001:db8::2", "2001:db8:1::3@eth1", "2001:db8::4"],
        &["2001:db8:1::3@eth1"],
        // In the prefix itself, so that the route that is there leads to it.
        &["fd00:9::5", "fd00:9::6@eth1"],
        &["fd00:9::5@eth1", "fd00:9::6"],
    ];
    let both = hops4.iter().zip(&hops6);
    let sources = [(None, Kubernetes), (Some(1400), Bgp), (None, Bgp), (Some(1300), Kubernetes)];
    both.flat_map(|(v4, v6)| {
        sources.map(|(mtu, learned)| entries([route(V4, v4, mtu, learned), route(V6, v6, mtu, learned)]))
    })
    .collect()
}

#[test]
fn every_route_follows_every_other_and_the_second_look_finds_nothing_to_do() {
    let test = node("follow");
    let _guard = test.enter();
    let states = states();
    for (number, first) in states.iter().enumerate() {
        for second in states.iter().skip(number) {
            for plan in [first, second] {
                reconcile(plan);
                assert_eq!(shown(&test), described(plan));
                assert!(reconcile(plan).is_quiet(), "{:?}", described(plan));
            }
        }
    }
    assert!(Kernel::open().unwrap().cleanup().unwrap().failures.is_empty());
    assert_eq!(shown(&test), Vec::<String>::new());
    assert!(test.run("ip route").contains("172.16.0.0/16 dev eth0"));
}

#[test]
fn a_change_is_applied_without_a_look_and_is_no_news_that_contradicts() {
    let test = node("apply");
    let _guard = test.enter();
    let mut monitor = Monitor::open().unwrap();
    let mut kernel = Kernel::open().unwrap();
    for plan in states() {
        let keys = plan.iter().map(|(key, planned)| (key.clone(), Some(planned.clone()))).collect();
        let report = kernel.apply(&Change { keys, ..Change::default() }).unwrap();
        assert!(report.failures.is_empty(), "{report}: {:?}", report.failures);
        assert_eq!(shown(&test), described(&plan));
        assert!(kernel.reconcile(&plan).unwrap().is_quiet());
        // The last news of a route is what stands there now.
        let mut last = std::collections::BTreeMap::new();
        for event in monitor.wait(Some(Duration::ZERO)).unwrap() {
            if let kernel::Event::Entry { key, found } = &event {
                last.insert(key.clone(), (found.clone(), event));
            }
        }
        for key in plan.keys() {
            let planned = |key: &plan::Key| plan.get(key).map(|planned| planned.entry.clone());
            if let Some((found, event)) = last.get(key) {
                assert!(!event.contradicts(planned), "{found:?} instead of {:?}", planned(key));
            }
        }
        assert_eq!(last.keys().filter(|key| plan.contains_key(key)).count(), 2);
    }
    let gone = states()[0].keys().map(|key| (key.clone(), None)).collect();
    let report = kernel.apply(&Change { keys: gone, ..Change::default() }).unwrap();
    assert_eq!((report.removed, report.failures.len()), (2, 0), "{report}");
    assert_eq!(shown(&test), Vec::<String>::new());
}

#[test]
fn a_route_changes_alone_whatever_is_in_it_and_around_it() {
    let test = node("nested");
    let _guard = test.enter();
    let prefixes = [
        "10.0.0.0/8",
        "10.0.0.0/16",
        "10.0.0.0/24",
        "10.0.1.0/24",
        "10.0.2.0/24",
        "fd00::/16",
        "fd00::/32",
        "fd00::/48",
        "fd00::/64",
        "fd00::/128",
    ];
    let planned = |prefix: &str, last: u8| {
        let via = if prefix.contains(':') { format!("2001:db8::{last}") } else { format!("172.16.0.{last}") };
        route(prefix, &[&via], None, Bgp)
    };
    let mut plan = entries(prefixes.iter().map(|prefix| planned(prefix, 2)));
    reconcile(&plan);
    let mut kernel = Kernel::open().unwrap();
    for (number, prefix) in prefixes.iter().enumerate() {
        let changed = planned(prefix, 3 + number as u8);
        let key = changed.entry.key();
        plan.insert(key.clone(), changed.clone());
        let change = Change { keys: [(key, Some(changed))].into(), ..Change::default() };
        let report = kernel.apply(&change).unwrap();
        assert!(report.failures.is_empty(), "{prefix}: {:?}", report.failures);
        assert_eq!(shown(&test), described(&plan));
    }
    for prefix in prefixes {
        let key = planned(prefix, 0).entry.key();
        plan.remove(&key);
        kernel.apply(&Change { keys: [(key, None)].into(), ..Change::default() }).unwrap();
        assert_eq!(shown(&test), described(&plan));
    }
}

/// None of them is as planned, and the kernel changes the first, in whatever order they are listed.
#[test]
fn of_several_routes_to_a_destination_one_stays_and_is_put_right() {
    let test = node("several");
    let _guard = test.enter();
    let plan = states()[0].clone();
    for [first, second, third] in [[203, 204, 203], [204, 203, 204], [204, 203, 203], [203, 204, 204]] {
        reconcile(&plan);
        test.run(&format!("ip route change 10.9.0.0/16 via 172.16.0.2 mtu lock 1400 proto {first}"));
        test.run(&format!("ip route append 10.9.0.0/16 via 172.16.0.9 proto {second}"));
        test.run(&format!("ip route append 10.9.0.0/16 via 172.16.0.8 proto {third}"));
        reconcile(&plan);
        assert_eq!(shown(&test), described(&plan));
        assert!(reconcile(&plan).is_quiet());
    }
}

const DAMAGE: [&str; 11] = [
    "ip route del 10.9.0.0/16",
    "ip -6 route del fd00:9::/48",
    "ip -6 route del fd00:9::/48 via 2001:db8::2 dev eth0",
    "ip -6 route append fd00:9::/48 via 2001:db8::9 dev eth0 proto 204",
    "ip route change 10.9.0.0/16 nexthop via 172.16.0.2 weight 5 nexthop via 172.16.0.3 proto 204",
    "ip route change 10.9.0.0/16 nexthop via 172.16.0.2 nexthop via 172.16.0.3 proto 204",
    "ip route change 10.9.0.0/16 via 172.16.0.2 mtu lock 1400 proto 204",
    "ip -6 route change fd00:9::/48 via 2001:db8::2 onlink mtu 1300 hoplimit 9 dev eth0 proto 203",
    "ip route append 10.9.0.0/16 via 172.16.0.9 proto 203",
    "ip route add blackhole 10.9.0.0/16 metric 9 proto 204",
    "ip link set eth1 down",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_put_right(damage in prop::collection::vec(0..DAMAGE.len(), 1..4), start in 0usize..24) {
        let test = node("harm");
        let _guard = test.enter();
        let plan = states()[start].clone();
        reconcile(&plan);
        for number in damage {
            // Some of it needs what other damage has taken.
            test.try_run(&DAMAGE[number].split_whitespace().collect::<Vec<_>>());
        }
        test.run("ip link set eth1 up");
        reconcile(&plan);
        prop_assert_eq!(shown(&test), described(&plan));
        prop_assert!(reconcile(&plan).is_quiet());
    }
}
