//! Routes by other nodes' own addresses over a link that is not ours, and the change from and to the tunnel.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use common::cluster::{self, Stack};
use common::state::{assert_same, state};
use common::{TestNs, reconcile};
use kernel::{Error, Kernel};
use model::{Cluster, Encapsulation, Sending, When};
use plan::{Change, Entries, Entry, Input, Key, Planner};
use serde_json::{Value, json};

const MODES: [Sending; 3] = [Sending::Vxlan(When::Always), Sending::Vxlan(When::CrossSubnet), Sending::Plain];

fn cluster(size: u32, stack: Stack, sending: Sending) -> Cluster {
    let mut cluster = cluster::cluster(size, stack);
    cluster.network.encapsulation = Encapsulation { sending, ..Encapsulation::default() };
    cluster
}

/// The plan of node 0, whose underlay is 172.16.0.0/16 and 2001:db8::/64. The last node is in another subnet.
fn plan(sending: Sending) -> Entries {
    let mut cluster = cluster(4, Stack::Dual, sending);
    let far = cluster.nodes.get_mut(&cluster::name(3)).unwrap();
    far.addresses.v4 = Some("198.51.100.3".parse().unwrap());
    far.addresses.v6 = Some("2001:db8:3::3".parse().unwrap());
    let facts = plan::Facts { underlay: cluster::underlay(), ..Default::default() };
    plan::plan(&cluster, &cluster::name(0), &facts).entries
}

/// The planner of node 0 in the first mode.
fn planner() -> Planner {
    let mut planner = Planner::new(cluster::name(0));
    planner.update(Input::Underlay(cluster::underlay()));
    let cluster = cluster(4, Stack::Dual, MODES[0]);
    planner.update(Input::Network(cluster.network));
    for node in cluster.nodes.into_values() {
        planner.update(Input::Node(node));
    }
    planner
}

/// Our routes as `ip` shows them, without the cache's numbers.
fn shown(test: &TestNs) -> Vec<Value> {
    let mut all = Vec::new();
    for family in ["-4", "-6"] {
        let text = test.run(&format!("ip {family} -j route show table main proto 203"));
        let text = if text.trim().is_empty() { "[]" } else { &text };
        all.extend(serde_json::from_str::<Vec<Value>>(text).unwrap());
    }
    for route in &mut all {
        route.as_object_mut().unwrap().retain(|key, _| key != "pref" && key != "protocol");
    }
    all
}

fn direct(range: &str, node: &str) -> Value {
    let mut route = json!({"dst": range, "gateway": node, "dev": "eth0", "flags": ["onlink"]});
    if range.contains(':') {
        route["metric"] = json!(1024);
    }
    route
}

fn tunnelled(range: &str, gateway: &str, own: &str) -> Value {
    let mut route = direct(range, gateway);
    route["dev"] = json!("vxlan.cambric");
    route["prefsrc"] = json!(own);
    route
}

#[test]
fn routes_lead_to_the_nodes_of_the_subnet_themselves() {
    let test = TestNs::underlay("direct");
    let _guard = test.enter();
    let own = ["10.128.0.1", "fd00:10::1"];
    let near = [
        direct("10.128.1.0/24", "172.16.0.2"),
        direct("10.128.2.0/24", "172.16.0.3"),
        direct("fd00:10:0:1::/64", "2001:db8::2"),
        direct("fd00:10:0:2::/64", "2001:db8::3"),
    ];
    let far = [
        tunnelled("10.128.3.0/24", "10.128.3.1", own[0]),
        tunnelled("fd00:10:0:3::/64", "fd00:10:0:3::1", own[1]),
    ];
    let plan = plan(Sending::Vxlan(When::CrossSubnet));
    reconcile(&plan);
    assert_eq!(shown(&test), [&near[..2], &far[..1], &near[2..], &far[1..]].concat());
    assert!(reconcile(&plan).is_quiet());

    let none = self::plan(Sending::Plain);
    reconcile(&none);
    assert_eq!(shown(&test), near);
    assert!(reconcile(&none).is_quiet());
    // The way through the tunnel is still there.
    assert_eq!(test.run("bridge fdb show dev vxlan.cambric").lines().count(), 3);
    let mut kernel = Kernel::open().unwrap();
    kernel.cleanup().unwrap();
    assert_eq!(shown(&test), Vec::<Value>::new());
    assert!(test.run("ip route").contains("172.16.0.0/16 dev eth0"));
}

#[test]
fn every_mode_follows_every_other_in_one_step_each() {
    let test = TestNs::underlay("modes");
    let _guard = test.enter();
    test.run("ip route add default via 172.16.0.99");
    test.run("ip -6 route add default via 2001:db8::99");
    let states: Vec<String> = MODES
        .iter()
        .map(|mode| {
            reconcile(&plan(*mode));
            state(&test)
        })
        .collect();
    for from in 0..MODES.len() {
        for to in 0..MODES.len() {
            reconcile(&plan(MODES[from]));
            assert_same(&state(&test), &states[from], "the way there");
            let wanted = plan(MODES[to]);
            let report = Kernel::open().unwrap().reconcile(&wanted).unwrap();
            assert!(
                report.failures.is_empty(),
                "{:?} to {:?}: {}",
                MODES[from],
                MODES[to],
                report.failures[0]
            );
            assert_same(&state(&test), &states[to], "a change of mode");
            assert!(reconcile(&wanted).is_quiet(), "{:?} to {:?}", MODES[from], MODES[to]);
        }
    }
}

/// Packets that are sent all the while find a route at any time: with none, and no default route, sending fails.
#[test]
fn no_change_of_mode_leaves_a_gap() {
    let test = TestNs::underlay("gap");
    let _guard = test.enter();
    let to: [SocketAddr; 2] = ["10.128.1.2:9".parse().unwrap(), "[fd00:10:0:1::2]:9".parse().unwrap()];
    reconcile(&plan(MODES[0]));
    for neighbour in ["172.16.0.2", "2001:db8::2"] {
        test.run(&format!("ip neigh add {neighbour} lladdr 02:00:00:00:00:02 dev eth0"));
    }
    let stop = AtomicBool::new(false);
    let sockets = to.map(|to| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap());
    let mut reports = Vec::new();
    let sent = thread::scope(|scope| {
        let senders = [0, 1].map(|index| {
            let (socket, to, stop) = (&sockets[index], to[index], &stop);
            scope.spawn(move || {
                let mut sent = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = socket.send_to(b"x", to) {
                        return Err(format!("to {to} after {sent}: {error}"));
                    }
                    sent += 1;
                }
                Ok(sent)
            })
        });
        let mut kernel = Kernel::open().unwrap();
        for mode in MODES.iter().cycle().take(300) {
            reports.push(kernel.reconcile(&plan(*mode)));
        }
        // The same as the agent does it when it knows what changed, and back.
        let mut planner = planner();
        for mode in MODES.iter().cycle().take(300) {
            let change = planner.update(Input::Network(cluster(4, Stack::Dual, *mode).network));
            let routes = change.keys.into_iter().filter(|(key, _)| matches!(key, Key::Route(_)));
            let change = Change { keys: routes.collect(), ..Change::default() };
            reports.push(kernel.apply(&change));
        }
        stop.store(true, Ordering::Relaxed);
        senders.map(|sender| sender.join().unwrap())
    });
    for report in reports {
        let report = report.unwrap();
        assert!(report.failures.is_empty(), "{}", report.failures[0]);
    }
    assert!(sent.iter().all(|sent| sent.as_ref().is_ok_and(|sent| *sent > 1000)), "{sent:?}");
}

#[test]
fn ipv4_by_an_ipv6_next_hop() {
    let test = TestNs::underlay("rfc8950");
    let _guard = test.enter();
    let mut cluster = cluster(3, Stack::Dual, Sending::Plain);
    for node in cluster.nodes.values_mut() {
        node.addresses.v4 = None;
    }
    let plan = cluster::plan(&cluster, Vec::new());
    reconcile(&plan);
    assert!(reconcile(&plan).is_quiet());
    let via = |address: &str| json!({"family": "inet6", "host": address});
    let routes: Vec<Value> = shown(&test).into_iter().filter(|route| route.get("via").is_some()).collect();
    assert_eq!(
        routes,
        [
            json!({"dst": "10.128.1.0/24", "via": via("2001:db8::2"), "dev": "eth0", "flags": ["onlink"]}),
            json!({"dst": "10.128.2.0/24", "via": via("2001:db8::3"), "dev": "eth0", "flags": ["onlink"]}),
        ]
    );
    // And from there into the tunnel and back.
    let before = state(&test);
    cluster.network.encapsulation = Encapsulation::default();
    let always = cluster::plan(&cluster, Vec::new());
    reconcile(&always);
    assert!(reconcile(&always).is_quiet());
    assert!(test.run("ip route show proto 203").contains("10.128.1.0/24 via 10.128.1.1 dev vxlan6.cambric"));
    reconcile(&plan);
    assert_same(&state(&test), &before, "there and back");
}

#[test]
fn a_link_that_is_down_or_gone_is_an_error_that_names_it_and_no_end() {
    let test = TestNs::underlay("flap");
    let _guard = test.enter();
    let plan = plan(Sending::Vxlan(When::CrossSubnet));
    reconcile(&plan);
    let before = shown(&test);
    let mut kernel = Kernel::open().unwrap();
    for (there, back) in [
        (&["ip link set eth0 down"][..], &["ip link set eth0 up"][..]),
        (
            &["ip link del eth0"],
            &[
                "ip link add eth0 type veth peer name wire",
                "ip link set wire up",
                "ip link set eth0 up",
                "ip addr add 172.16.0.1/16 dev eth0",
            ],
        ),
    ] {
        there.iter().for_each(|command| drop(test.run(command)));
        let report = kernel.reconcile(&plan).unwrap();
        assert_eq!(report.failures.len(), 4, "{report}");
        for failure in &report.failures {
            let text = failure.to_string();
            assert!(text.starts_with("Node node-") && text.contains(" eth0: "), "{text}");
        }
        back.iter().for_each(|command| drop(test.run(command)));
        test.run("ip addr add 2001:db8::1/64 dev eth0 nodad");
        reconcile(&plan);
        assert_eq!(shown(&test), before);
        assert!(reconcile(&plan).is_quiet());
    }
}

#[test]
fn the_routes_of_others_stay_where_they_are() {
    let test = TestNs::underlay("others");
    let _guard = test.enter();
    for command in [
        "ip route add default via 172.16.0.99",
        "ip -6 route add default via 2001:db8::99",
        "ip route add 10.9.0.0/24 via 172.16.0.9",
        "ip -6 route add fd00:9::/64 via 2001:db8::9",
        // In the place of one of ours, of either family.
        "ip route add 10.128.1.0/24 via 172.16.0.9 proto bird",
        "ip -6 route add fd00:10:0:2::/64 via 2001:db8::9 proto bird",
    ] {
        test.run(command);
    }
    let foreign = || {
        let all = test.run("ip route show") + &test.run("ip -6 route show");
        all.lines()
            .filter(|line| !line.contains("proto 203") && !line.contains("cbr0"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = foreign();
    for mode in MODES.iter().chain(MODES.iter().rev()) {
        let report = Kernel::open().unwrap().reconcile(&plan(*mode)).unwrap();
        let wanted = plan(*mode).values().filter(|one| matches!(one.entry, Entry::Route(_))).count();
        assert_eq!(report.failures.len(), 2, "{mode:?}: {report}");
        assert!(
            report.failures.iter().all(|one| matches!(one.error, Error::Foreign { .. })),
            "{mode:?}: {report}"
        );
        assert_eq!(shown(&test).len(), wanted - 2, "{mode:?}");
        assert_eq!(foreign(), before, "{mode:?}");
    }
    Kernel::open().unwrap().cleanup().unwrap();
    assert_eq!(foreign(), before);
}

#[test]
fn five_thousand_nodes_change_the_mode() {
    let test = TestNs::underlay("many");
    let _guard = test.enter();
    let plans = MODES.map(|mode| cluster::plan(&cluster(5000, Stack::Dual, mode), Vec::new()));
    let mut kernel = Kernel::open().unwrap();
    kernel.reconcile(&plans[0]).unwrap();
    for (mode, link) in [(1, "eth0"), (0, "vxlan.cambric"), (2, "eth0"), (0, "vxlan.cambric")] {
        let begin = Instant::now();
        let report = kernel.reconcile(&plans[mode]).unwrap();
        println!("{:?} on 5000 nodes after {:?}: {report}", MODES[mode], begin.elapsed());
        assert!(report.failures.is_empty() && report.changed >= 2 * 4999, "{report}");
        for family in ["-4", "-6"] {
            let routes = test.run(&format!("ip {family} route show proto 203 dev {link}"));
            assert_eq!(routes.lines().count(), 4999, "{family} {link}");
        }
    }
    assert!(kernel.reconcile(&plans[0]).unwrap().is_quiet());
}
