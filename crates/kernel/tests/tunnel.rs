//! The tunnel's entries of a plan: programs on the uplinks, neighbours that nobody is, and what is left when they go.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use aya::programs::{SchedClassifier, TcAttachType};
use common::TestNs;
use common::cluster::{self, Stack};
use common::sites::Bpffs;
use kernel::ipip::Ipip;
use kernel::{Error, Kernel, Monitor, Report, Unplanned, diff};
use model::{Cluster, Encapsulation, LinkName, Sending, When};
use plan::{Entries, Input, Key, Planner};
use serde_json::Value;

/// Four nodes, of which the last is in another subnet.
fn cluster(sending: Sending) -> Cluster {
    let mut cluster = cluster::cluster(4, Stack::Dual);
    cluster.network.encapsulation = Encapsulation { sending, ..Encapsulation::default() };
    let far = cluster.nodes.get_mut(&cluster::name(3)).unwrap();
    far.addresses.v4 = Some("198.51.100.3".parse().unwrap());
    far.addresses.v6 = Some("2001:db8:3::3".parse().unwrap());
    cluster
}

fn plan(sending: Sending) -> Entries {
    let facts = plan::Facts { underlay: cluster::underlay(), ..Default::default() };
    plan::plan(&cluster(sending), &cluster::name(0), &facts).entries
}

const MODES: [Sending; 5] = [
    Sending::Vxlan(When::Always),
    Sending::Ipip(When::Always),
    Sending::Ipip(When::CrossSubnet),
    Sending::Vxlan(When::CrossSubnet),
    Sending::Plain,
];

fn kernel(bpffs: &Bpffs) -> Kernel {
    let mut kernel = Kernel::open().unwrap();
    kernel.pin_in(&bpffs.path);
    kernel
}

#[track_caller]
fn clean(report: Report) -> Report {
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty() && report.blocked == 0 && report.tunnel.is_none(), "{report}: {failures:#?}");
    report
}

/// How many programs are on a link: ingress, egress.
fn programs(link: &str) -> [usize; 2] {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .map(|hook| SchedClassifier::query_tcx(link, hook).unwrap().1.len())
}

/// What the programs go by, as another process sees it.
fn table(bpffs: &Bpffs) -> plan::ipip::Table {
    let inode = kernel::netns::NetNs::current().unwrap().id().unwrap().inode;
    let mut table = Ipip::open(&bpffs.path.join(inode.to_string())).unwrap().observe().unwrap();
    table.uplinks.clear();
    table
}

fn wanted(plan: &Entries) -> plan::ipip::Table {
    let mut table = plan::ipip::Table::default();
    for planned in plan.values() {
        match &planned.entry {
            plan::Entry::TunnelLocal(address) => drop(table.locals.insert(*address)),
            plan::Entry::TunnelNode(address) => drop(table.nodes.insert(*address)),
            plan::Entry::TunnelRoute { destination, route } => {
                table.routes.insert(*destination, *route);
            }
            _ => {}
        }
    }
    table
}

/// The neighbours on a link that `ip` shows with our protocol.
fn marked(test: &TestNs, link: &str) -> BTreeSet<String> {
    let text = test.run(&format!("ip -j neigh show dev {link} nud permanent"));
    let found: Vec<Value> = serde_json::from_str(text.trim()).unwrap_or_default();
    let ours = found.iter().filter(|neighbour| neighbour["protocol"] == "203");
    ours.map(|neighbour| neighbour["dst"].as_str().unwrap().to_owned()).collect()
}

fn texts(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn every_mode_follows_every_other_and_then_there_is_silence() {
    let test = TestNs::underlay("tunnel");
    let _guard = test.enter();
    let bpffs = Bpffs::mount();
    for from in MODES {
        for to in MODES {
            clean(kernel(&bpffs).reconcile(&plan(from)).unwrap());
            let wanted_plan = plan(to);
            clean(kernel(&bpffs).reconcile(&wanted_plan).unwrap());
            assert_eq!(table(&bpffs), wanted(&wanted_plan), "{from:?} to {to:?}");
            assert_eq!(programs("eth0"), [1, 1], "{from:?} to {to:?}");
            let mut kernel = kernel(&bpffs);
            clean(kernel.reconcile(&wanted_plan).unwrap());
            let mut monitor = Monitor::open().unwrap();
            let again = kernel.reconcile(&wanted_plan).unwrap();
            assert!(again.is_quiet(), "{from:?} to {to:?}: {again}");
            assert_eq!(monitor.wait(Some(std::time::Duration::from_millis(20))).unwrap(), []);
        }
    }
}

#[test]
fn what_the_tools_show_is_what_the_plan_says() {
    let test = TestNs::underlay("shown");
    let _guard = test.enter();
    let bpffs = Bpffs::mount();
    let mut kernel = kernel(&bpffs);
    clean(kernel.reconcile(&plan(Sending::Ipip(When::CrossSubnet))).unwrap());
    let routes = test.run("ip route");
    for line in [
        "10.128.1.0/24 via 172.16.0.2 dev eth0 proto 203 onlink",
        "10.128.3.0/24 via 10.128.3.1 dev eth0 proto 203 src 10.128.0.1 onlink mtu 1480",
    ] {
        assert!(routes.lines().any(|shown| shown.trim() == line), "no {line} in\n{routes}");
    }
    assert_eq!(marked(&test, "eth0"), texts(&["10.128.3.1", "fd00:10:0:3::1"]));
    let rules = test.run("nft list table ip cambric");
    for line in [
        "type nat hook postrouting priority srcnat - 2; policy accept;",
        "snat to 10.128.0.1 comment \"to an endpoint in a tunnel, not from a pod\"",
        "elements = { 10.128.3.0/24 comment \"Node node-3\" }",
    ] {
        assert!(rules.contains(line), "no {line} in\n{rules}");
    }
    let counters = kernel.tunnel_counters().unwrap().unwrap();
    assert_eq!(counters, kernel::ipip::Counters::default());
}

/// A neighbour of somebody else on the uplink, a permanent one and one of another protocol, is none of ours.
#[test]
fn neighbours_of_others_on_the_uplink_stay() {
    let test = TestNs::underlay("others");
    let _guard = test.enter();
    let bpffs = Bpffs::mount();
    test.run("ip neigh add 172.16.9.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent");
    test.run("ip neigh add 172.16.9.8 lladdr 02:00:00:00:00:08 dev eth0 nud permanent protocol static");
    let before = test.run("ip neigh show dev eth0 nud permanent");
    let mut kernel = kernel(&bpffs);
    clean(kernel.reconcile(&plan(Sending::Ipip(When::Always))).unwrap());
    assert_eq!(marked(&test, "eth0").len(), 2, "one of each family, for the node behind the router");
    clean(kernel.reconcile(&plan(Sending::Plain)).unwrap());
    assert_eq!(test.run("ip neigh show dev eth0 nud permanent"), before);
    clean(kernel.reconcile(&plan(Sending::Ipip(When::Always))).unwrap());
    clean(kernel.cleanup().unwrap());
    assert_eq!(test.run("ip neigh show dev eth0 nud permanent"), before);
    assert_eq!(programs("eth0"), [0, 0]);
    assert!(!bpffs.path.exists(), "the file system was this test's alone");
    assert!(kernel.cleanup().unwrap().is_quiet());
}

#[test]
fn a_change_of_a_node_is_applied_without_a_look_at_the_rest() {
    let test = TestNs::underlay("change");
    let _guard = test.enter();
    let bpffs = Bpffs::mount();
    let mut planner = Planner::new(cluster::name(0));
    planner.update(Input::Underlay(cluster::underlay()));
    let cluster = cluster(Sending::Ipip(When::Always));
    planner.update(Input::Network(cluster.network));
    for node in cluster.nodes.into_values() {
        planner.update(Input::Node(node));
    }
    let mut kernel = kernel(&bpffs);
    clean(kernel.reconcile(planner.entries()).unwrap());
    let mut far = cluster::node(9, Stack::Dual);
    far.addresses.v4 = Some("198.51.100.9".parse().unwrap());
    let mut moved = far.clone();
    moved.addresses.v4 = Some("172.16.0.77".parse().unwrap());
    for input in [Input::Node(far), Input::Node(moved), Input::NodeGone(cluster::name(9))] {
        let change = planner.update(input);
        assert!(change.keys.keys().any(|key| matches!(key, Key::TunnelRoute(_))));
        let report = clean(kernel.apply(&change).unwrap());
        assert!(!report.reconcile_needed);
        assert_eq!(table(&bpffs), wanted(planner.entries()));
        let observed = kernel.observe(planner.entries()).unwrap();
        let left = diff(planner.entries(), &observed, Unplanned::Nothing);
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_somebody_does_to_it_is_put_right() {
    let test = TestNs::underlay("damage");
    let _guard = test.enter();
    let bpffs = Bpffs::mount();
    let plan = plan(Sending::Ipip(When::Always));
    let mut kernel = kernel(&bpffs);
    clean(kernel.reconcile(&plan).unwrap());
    for damage in [
        "ip neigh del 10.128.3.1 dev eth0",
        "ip neigh replace 10.128.3.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
        "ip neigh change 10.128.3.1 lladdr 02:00:00:00:00:01 dev eth0 nud reachable",
        "ip -6 neigh flush dev eth0 nud permanent",
        "ip route replace 10.128.3.0/24 via 10.128.3.1 dev eth0 proto 203 src 10.128.0.1 mtu 1400 onlink",
    ] {
        let mut monitor = Monitor::open().unwrap();
        test.run(damage);
        let events = monitor.wait(Some(std::time::Duration::from_secs(5))).unwrap();
        let planned = |key: &Key| plan.get(key).map(|planned| planned.entry.clone());
        assert!(events.iter().any(|event| event.contradicts(planned)), "{damage}: {events:?}");
        assert_ne!(clean(kernel.reconcile(&plan).unwrap()).writes(), 0, "{damage}");
        assert!(kernel.reconcile(&plan).unwrap().is_quiet(), "{damage}");
    }
    // Another link takes the place of the uplink.
    test.run("ip link del eth0");
    test.add_underlay();
    clean(kernel.reconcile(&plan).unwrap());
    assert_eq!(programs("eth0"), [1, 1]);
    assert!(kernel.reconcile(&plan).unwrap().is_quiet());
}

/// Both families may have an uplink of their own: both carry the programs, over the same maps.
#[test]
fn two_uplinks_carry_the_programs_and_one_that_is_none_any_more_does_not() {
    let test = TestNs::underlay("two");
    let _guard = test.enter();
    let bpffs = Bpffs::mount();
    test.run("ip link add eth1 type veth peer name wire1");
    test.run("ip link set eth1 up");
    let mut underlay = cluster::underlay();
    underlay.v6.as_mut().unwrap().link = LinkName::new("eth1").unwrap();
    let facts = plan::Facts { underlay, ..Default::default() };
    let both = plan::plan(&cluster(Sending::Ipip(When::Always)), &cluster::name(0), &facts).entries;
    let mut kernel = kernel(&bpffs);
    clean(kernel.reconcile(&both).unwrap());
    assert_eq!([programs("eth0"), programs("eth1")], [[1, 1]; 2]);
    assert!(kernel.reconcile(&both).unwrap().is_quiet());
    clean(kernel.reconcile(&plan(Sending::Ipip(When::Always))).unwrap());
    assert_eq!([programs("eth0"), programs("eth1")], [[1, 1], [0, 0]]);
}

/// Where programs cannot be, that is a failure if packets were to go by them, and else only told. No route leads to where
/// there is no tunnel.
#[test]
fn without_programs_what_needs_none_works() {
    let test = TestNs::underlay("without");
    let _guard = test.enter();
    let _bpffs = Bpffs::mount();
    let mut kernel = Kernel::open().unwrap();
    // Nothing can be mounted on a file.
    kernel.pin_in(std::path::Path::new("/proc/version/bpf"));
    for sending in [Sending::Vxlan(When::Always), Sending::Plain] {
        let report = kernel.reconcile(&plan(sending)).unwrap();
        assert!(report.failures.is_empty() && report.blocked == 0, "{report}");
        let words = report.tunnel.unwrap().to_string();
        assert!(words.starts_with("IP in IP cannot be used: ") && words.contains("Linux 6.6"), "{words}");
    }
    let report = kernel.reconcile(&plan(Sending::Ipip(When::CrossSubnet))).unwrap();
    let [failure] = report.failures.try_into().unwrap();
    assert!(matches!(failure.error, Error::Tunnel { .. }), "{failure}");
    assert!(report.blocked > 0);
    let routes = test.run("ip route");
    assert!(routes.contains("10.128.1.0/24 via 172.16.0.2") && !routes.contains("10.128.3.0/24"), "{routes}");
    // An uplink that is no Ethernet link: the maps are there, the programs cannot be.
    let bpffs = Bpffs::mount();
    test.run("ip tuntap add dev tun0 mode tun");
    test.run("ip link set tun0 up");
    let mut underlay = cluster::underlay();
    underlay.v4.as_mut().unwrap().link = LinkName::new("tun0").unwrap();
    let facts = plan::Facts { underlay, ..Default::default() };
    let odd = |sending| plan::plan(&cluster(sending), &cluster::name(0), &facts).entries;
    kernel.pin_in(&bpffs.path);
    let report = kernel.reconcile(&odd(Sending::Vxlan(When::Always))).unwrap();
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.tunnel.unwrap().to_string().contains("Ethernet header"));
    for _ in 0..2 {
        let report = kernel.reconcile(&odd(Sending::Ipip(When::Always))).unwrap();
        let [failure] = report.failures.try_into().unwrap();
        assert_eq!(failure.key, Key::TunnelUplink(LinkName::new("tun0").unwrap()));
        assert!(!test.run("ip route").contains("dev tun0"));
    }
}
