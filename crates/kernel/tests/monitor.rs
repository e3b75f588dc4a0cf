//! The monitor tells what others change, and what it costs the plan.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::cluster::{self, Stack};
use common::services;
use common::{TestNs, reconcile};
use kernel::{Event, Found, Kernel, Monitor};
use model::Protocol;
use plan::{Entries, Entry, Input, Key, Planner};

const SOON: Option<Duration> = Some(Duration::from_millis(200));

/// All events until none comes for a while.
fn all(monitor: &mut Monitor) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let more = monitor.wait(SOON).unwrap();
        if more.is_empty() {
            return events;
        }
        events.extend(more);
    }
}

/// Makes the kernel hold a plan; the monitor has heard all of it. The kernel makes IPv6 addresses usable on its own
/// time, and tells so later.
fn settled(plan: &Entries) -> Monitor {
    let mut monitor = Monitor::open().unwrap();
    reconcile(plan);
    let is_address = |key: &&Key| matches!(key, Key::Address(_, net) if net.addr().is_ipv6());
    let mut waited_for: BTreeSet<&Key> = plan.keys().filter(is_address).collect();
    while !waited_for.is_empty() {
        let events = monitor.wait(Some(Duration::from_secs(5))).unwrap();
        assert!(!events.is_empty(), "not told of {waited_for:?}");
        for event in events {
            if let Event::Entry { key, found: Some(Found::Entry(_)) } = event {
                waited_for.remove(&key);
            }
        }
    }
    all(&mut monitor);
    monitor
}

fn contradict(events: &[Event], plan: &Entries) -> bool {
    let planned = |key: &Key| plan.get(key).map(|planned| planned.entry.clone());
    events.iter().any(|event| event.contradicts(planned))
}

fn small() -> Entries {
    cluster::plan(&cluster::cluster(4, Stack::Dual), vec![cluster::attachment(2, Stack::Dual)])
}

#[test]
fn what_others_do_to_us_is_told_at_once() {
    let test = TestNs::underlay("others");
    let _guard = test.enter();
    let plan = small();
    let mut monitor = settled(&plan);
    for damage in [
        "ip link set cbr0 mtu 1280",
        "ip link set vxlan.cambric down",
        "ip link del vxlan6.cambric",
        "ip link set vxlan.cambric type vxlan learning",
        "ip addr del 10.128.0.1/24 dev cbr0",
        "ip addr del fd00:10::1/64 dev cbr0",
        "ip route del 10.128.1.0/24",
        "ip route replace 10.128.1.0/24 via 172.16.0.9 proto bird",
        "ip route add 10.1.0.0/24 via 172.16.0.9 proto 203",
        "ip -6 route del fd00:10:0:1::/64",
        "ip neigh del 10.128.2.1 dev vxlan.cambric",
        "ip -6 neigh replace fd00:10:0:2::1 lladdr 02:00:00:00:00:02 dev vxlan.cambric nud permanent",
        "bridge fdb del 06:58:ac:10:00:03 dev vxlan.cambric",
        "bridge fdb replace 06:58:ac:10:00:02 dev vxlan.cambric dst 172.16.0.99 self permanent",
        "nft delete table ip cambric",
        "nft delete element ip6 cambric nodes { 2001:db8::2 }",
        "nft add rule ip cambric postrouting counter",
    ] {
        test.run(damage);
        let events = monitor.wait(Some(Duration::from_secs(5))).unwrap();
        let events = [events, all(&mut monitor)].concat();
        assert!(contradict(&events, &plan), "{damage}: {events:?}");
        test.try_run(&["ip", "route", "del", "10.128.1.0/24", "proto", "bird"]);
        reconcile(&plan);
        all(&mut monitor);
    }
}

#[test]
fn what_we_do_ourselves_agrees_with_the_plan() {
    let test = TestNs::underlay("own");
    let _guard = test.enter();
    let mut planner = Planner::new(cluster::name(0));
    let cluster = cluster::cluster(3, Stack::Dual);
    planner.update(Input::Network(cluster.network));
    cluster.nodes.into_values().for_each(|node| drop(planner.update(Input::Node(node))));
    let mut kernel = Kernel::open().unwrap();
    assert!(kernel.reconcile(planner.entries()).unwrap().failures.is_empty());
    let mut monitor = Monitor::open().unwrap();
    monitor.ignore_port(kernel.tables_port()).unwrap();
    for input in [Input::Node(cluster::node(3, Stack::Dual)), Input::NodeGone(cluster::name(3))] {
        kernel.apply(&planner.update(input)).unwrap();
        let events = all(&mut monitor);
        assert!(
            events.iter().any(|event| matches!(event, Event::Entry { key: Key::Route(_), .. })),
            "{events:?}"
        );
        assert!(!events.contains(&Event::Table), "{events:?}");
        let planned = |key: &Key| planner.planned(key).map(|planned| planned.entry.clone());
        for event in &events {
            assert!(!event.contradicts(planned), "{event:?}");
        }
    }
}

#[test]
fn an_event_tells_what_stands_under_the_key_now() {
    let test = TestNs::underlay("content");
    let _guard = test.enter();
    let plan = small();
    let mut monitor = settled(&plan);
    test.run("bridge fdb replace 06:58:ac:10:00:02 dev vxlan.cambric dst 172.16.0.99 self permanent");
    let events = all(&mut monitor);
    let Some(Event::Entry { found: Some(Found::Entry(Entry::Forwarding { node, .. })), .. }) = events.first()
    else {
        panic!("{events:?}");
    };
    assert_eq!(node.to_string(), "172.16.0.99");
    test.run("ip addr add 172.16.0.44/32 dev eth0");
    test.run("ip link set eth0 mtu 1400");
    let events = all(&mut monitor);
    assert!(
        events.iter().any(
            |event| matches!(event, Event::Address { link, there: true, .. } if link.as_str() == "eth0")
        ),
        "{events:?}"
    );
    let mtu = |event: &Event| match event {
        Event::Link { state: Some(state), .. } if state.name.as_str() == "eth0" => Some(state.mtu),
        _ => None,
    };
    assert_eq!(events.iter().find_map(mtu), Some(1400), "{events:?}");
    assert!(!contradict(&events, &plan), "the underlay is no part of the plan");
}

#[test]
fn neighbours_that_the_kernel_resolves_are_no_news() {
    let test = TestNs::underlay("noise");
    let _guard = test.enter();
    let mut monitor = settled(&small());
    for number in 10..60 {
        test.run(&format!(
            "ip neigh replace 172.16.0.{number} lladdr 02:00:00:00:00:{number} dev eth0 nud reachable"
        ));
    }
    test.run("ip neigh replace 10.128.0.77 lladdr 02:00:00:00:00:77 dev cbr0 nud stale");
    test.run("bridge fdb add 02:00:00:00:00:78 dev eth0 self");
    assert_eq!(all(&mut monitor), []);
}

#[test]
fn too_much_news_is_an_overrun() {
    let test = TestNs::underlay("overrun");
    let _guard = test.enter();
    let mut monitor = Monitor::with_buffer(8192).unwrap();
    let plan = cluster::plan(&cluster::cluster(200, Stack::Dual), Vec::new());
    reconcile(&plan);
    let events = all(&mut monitor);
    assert!(events.contains(&Event::Overrun), "{} events", events.len());
    // The monitor knows the links that were made in the meantime.
    test.run("ip neigh del 10.128.2.1 dev vxlan.cambric");
    assert!(contradict(&all(&mut monitor), &plan));
}

/// Many elements at once are committed while nobody listens; afterwards what others do is heard again.
#[test]
fn much_of_our_own_is_not_told() {
    let test = TestNs::underlay("hush");
    let _guard = test.enter();
    let mut planner = Planner::new(cluster::name(0));
    let cluster = cluster::cluster(1, Stack::Dual);
    planner.update(Input::Network(cluster.network));
    cluster.nodes.into_values().for_each(|node| drop(planner.update(Input::Node(node))));
    for number in 1..=200 {
        let service = services::service(number, &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
        let pod = services::endpoint([10, 128, 0, number].into(), &cluster::name(0));
        let slices = services::slices(&service, vec![pod]);
        slices.into_iter().chain([Input::Service(service)]).for_each(|input| drop(planner.update(input)));
    }
    let mut kernel = Kernel::open().unwrap();
    let mut monitor = Monitor::open().unwrap();
    kernel.hush(monitor.hush());
    let report = kernel.reconcile_services(planner.services()).unwrap();
    assert!(report.made > 1_000 && report.services.is_none() && !report.reconcile_needed, "{report}");
    assert_eq!(all(&mut monitor), [], "told although nobody was to listen");
    assert!(kernel.reconcile_services(planner.services()).unwrap().is_quiet());

    test.run("nft delete element ip cambric-services services { 10.96.0.7 . tcp . 80 }");
    assert_eq!(all(&mut monitor), [Event::Services]);
    kernel.doubt_services();
    assert_eq!(kernel.reconcile_services(planner.services()).unwrap().made, 1);
}

#[test]
fn a_waker_ends_the_wait() {
    let test = TestNs::new("waker");
    let _guard = test.enter();
    let mut monitor = Monitor::open().unwrap();
    let waker = monitor.waker();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || waker.wake());
        assert_eq!(monitor.wait(None).unwrap(), [Event::Woken]);
    });
    assert_eq!(monitor.wait(Some(Duration::from_millis(20))).unwrap(), [], "once");
    assert!(start.elapsed() < Duration::from_secs(5));
}
