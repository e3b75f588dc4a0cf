//! Routes that BGP peers tell: they take the place of those of the Node objects and give it back without a gap, and what
//! an earlier run was told stays until this one knows better.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::cluster::{self, Stack};
use common::pods::{NODE, STRANGER, node_and_world, socket};
use common::sites::Bpffs;
use common::{TestNs, reconcile};
use kernel::{Kernel, Report, Unplanned};
use model::{Encapsulation, LinkName, RouteSource, Sending, When};
use plan::{Change, Entries, Entry, Hop, Input, LearnedPath, Origin, Planned, Planner, Route};

/// Node 0 of four nodes, whose last is in another subnet; routes come from BGP.
fn planner(sending: Sending) -> Planner {
    let mut planner = Planner::new(cluster::name(0));
    planner.update(Input::Underlay(cluster::underlay()));
    let mut cluster = cluster::cluster(4, Stack::Dual);
    cluster.network.encapsulation = Encapsulation { sending, ..Encapsulation::default() };
    cluster.network.route_source = RouteSource::Bgp;
    let far = cluster.nodes.get_mut(&cluster::name(3)).unwrap();
    far.addresses.v4 = Some("198.51.100.3".parse().unwrap());
    far.addresses.v6 = Some("2001:db8:3::3".parse().unwrap());
    planner.update(Input::Network(cluster.network));
    for node in cluster.nodes.into_values() {
        planner.update(Input::Node(node));
    }
    planner
}

fn told(prefix: &str, next_hop: &str) -> Input {
    let path = LearnedPath { next_hop: next_hop.parse().unwrap(), peer: "peer".into(), stale: false };
    Input::Learned(prefix.parse().unwrap(), vec![path])
}

/// What peers tell: the range of a node that is near, and of one that is far, and what is behind them and a router.
const TOLD: [(&str, &str); 6] = [
    ("10.128.1.0/24", "172.16.0.2"),
    ("fd00:10:0:3::/64", "2001:db8:3::3"),
    ("10.9.0.0/16", "172.16.0.2"),
    ("fd00:9::/48", "2001:db8:3::3"),
    ("10.8.0.0/16", "172.16.0.99"),
    ("fd00:8::/48", "2001:db8::99"),
];

#[track_caller]
fn clean(report: Report) -> Report {
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty() && report.blocked == 0 && report.tunnel.is_none(), "{report}: {failures:#?}");
    report
}

#[test]
fn what_an_earlier_run_was_told_stays_until_this_one_was_told_all() {
    for sending in [Sending::Vxlan(When::Always), Sending::Ipip(When::Always), Sending::Plain] {
        let test = TestNs::underlay("retain");
        let _guard = test.enter();
        let bpffs = Bpffs::mount();
        let routes = |protocol: u8| {
            ["-4", "-6"].map(|family| test.run(&format!("ip {family} route show proto {protocol}"))).concat()
        };
        let mut earlier = planner(sending);
        earlier.update(Input::Converged);
        TOLD.iter().for_each(|(prefix, next_hop)| drop(earlier.update(told(prefix, next_hop))));
        let mut kernel = Kernel::open().unwrap();
        kernel.pin_in(&bpffs.path);
        clean(kernel.reconcile(earlier.entries()).unwrap());
        let before = routes(204);
        let count = if sending == Sending::Plain { 4 } else { TOLD.len() };
        assert_eq!((before.lines().count(), routes(203).as_str()), (count, ""), "{sending:?}: {before}");
        drop(kernel);

        // The next one knows the nodes, and has heard of one route.
        let mut next = planner(sending);
        next.update(told(TOLD[4].0, TOLD[4].1));
        assert!(next.retains_learned(false));
        let mut kernel = Kernel::open().unwrap();
        kernel.pin_in(&bpffs.path);
        let report = clean(kernel.reconcile_but(Unplanned::Learned, next.entries()).unwrap());
        assert_eq!(report.removed, 0, "{sending:?}: {:?}", report.steps);
        for line in before.lines().filter(|line| !line.starts_with("10.128.1") && !line.contains("10:0:3:")) {
            assert!(routes(204).contains(line), "{sending:?}: {line}: {}", routes(204));
        }
        // The Node objects stand in for what no one has told yet.
        assert!(routes(203).contains("10.128.1.0/24 "), "{sending:?}: {}", routes(203));
        assert!(!routes(204).contains("10.128.1.0/24 "), "{sending:?}: {}", routes(204));
        let report = kernel.reconcile_but(Unplanned::Learned, next.entries()).unwrap();
        assert!(report.is_quiet(), "{sending:?}: {:?}", report.steps);

        let mut last = next.update(told(TOLD[0].0, TOLD[0].1));
        last.extend(next.update(Input::Converged));
        clean(kernel.apply(&last).unwrap());
        clean(kernel.reconcile(next.entries()).unwrap());
        assert_eq!(
            (routes(204).lines().count(), routes(203).as_str()),
            (2, ""),
            "{sending:?}: {}",
            routes(204)
        );
        assert!(kernel.reconcile(next.entries()).unwrap().is_quiet());
        let tunnelled = next.entries().keys().filter(|key| matches!(key, plan::Key::TunnelRoute(_))).count();
        assert_eq!(tunnelled, usize::from(sending == Sending::Ipip(When::Always)));
        clean(kernel.cleanup().unwrap());
        assert_eq!(routes(204) + &routes(203), "");
    }
}

/// A route of each family to an address of the world, by one or both of its nodes.
fn to_world(hops: usize, learned: RouteSource) -> Entries {
    let link = LinkName::new("eth0").unwrap();
    let route = |destination: &str, family: usize| {
        let all = [NODE[family], STRANGER[family]];
        let hops = all[..hops].iter().map(|via| Hop { via: via.parse().unwrap(), link: link.clone() });
        let mut hops: Vec<Hop> = hops.collect();
        hops.sort();
        let destination = destination.parse().unwrap();
        let route = Route { destination, hops, source: None, mtu: None, learned };
        Planned { entry: Entry::Route(route), origin: Origin::ClusterNetwork }
    };
    let both = [route("10.9.0.0/16", 0), route("fd00:9::/48", 1)];
    both.into_iter().map(|planned| (planned.entry.key(), planned)).collect()
}

/// One question after the other, each of which must be answered, while the route changes as fast as it can.
#[test]
fn no_packet_is_lost_when_a_route_changes_its_source_or_hops() {
    let (node, world) = node_and_world();
    for address in ["10.9.0.5/32", "fd00:9::5/128"] {
        world.run(&format!("ip addr add {address} dev lo"));
    }
    let states: Vec<Entries> = [
        (1, RouteSource::Kubernetes),
        (1, RouteSource::Bgp),
        (2, RouteSource::Kubernetes),
        (2, RouteSource::Bgp),
        (1, RouteSource::Kubernetes),
        (2, RouteSource::Bgp),
    ]
    .map(|(hops, source)| to_world(hops, source))
    .into();
    let _guard = node.enter();
    reconcile(&states[0]);
    let asked: Vec<SocketAddr> = ["10.9.0.5:9", "[fd00:9::5]:9"].map(|to| to.parse().unwrap()).into();
    let stop = AtomicBool::new(false);
    let counts: Vec<u64> = thread::scope(|scope| {
        let askers: Vec<_> = asked
            .iter()
            .map(|to| {
                let there = socket(&world, to.ip(), to.port());
                let here = socket(&node, if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap(), 0);
                let stop = &stop;
                scope.spawn(move || {
                    let mut count = 0u64;
                    let mut buffer = [0; 8];
                    while !stop.load(Ordering::Relaxed) {
                        here.send_to(&count.to_be_bytes(), to).unwrap();
                        let (length, from) = there.recv_from(&mut buffer).unwrap();
                        assert_eq!((length, buffer), (8, count.to_be_bytes()), "one was lost");
                        there.send_to(&buffer, from).unwrap();
                        assert_eq!(here.recv(&mut buffer).unwrap(), 8);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let mut kernel = Kernel::open().unwrap();
        for plan in states.iter().cycle().take(600) {
            clean(kernel.reconcile(plan).unwrap());
            let keys = plan.iter().map(|(key, planned)| (key.clone(), Some(planned.clone()))).collect();
            clean(kernel.apply(&Change { keys, ..Change::default() }).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    println!("{counts:?} questions and answers");
    assert!(counts.iter().all(|count| *count > 1000), "{counts:?}");
}
