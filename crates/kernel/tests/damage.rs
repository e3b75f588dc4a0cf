//! From random damage the way leads back to the plan.

#![allow(clippy::unwrap_used)]

mod common;

use common::TestNs;
use common::cluster::{self, Stack};
use common::state::{assert_same, state};
use kernel::Kernel;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Something done to one of many things.
fn damage() -> impl Strategy<Value = String> {
    let node = 1..8u32;
    let link = prop::sample::select(vec!["cbr0", "vxlan.cambric", "vxlan6.cambric"]);
    let family = prop::sample::select(vec!["ip", "ip6", "bridge"]);
    let address =
        prop::sample::select(vec!["10.128.0.1/24", "fd00:10::1/64", "10.128.0.9/24", "10.44.0.1/16"]);
    let routed = prop::sample::select(vec!["ip", "ip6"]);
    let set = prop::sample::select(vec!["nodes", "local-pods", "cluster-pods"]);
    prop_oneof![
        link.clone().prop_map(|link| format!("ip link del {link}")),
        link.clone().prop_map(|link| format!("ip link set {link} down")),
        (link.clone(), 1280..1500u32).prop_map(|(link, mtu)| format!("ip link set {link} mtu {mtu}")),
        (link.clone(), 0..256u32)
            .prop_map(|(link, mac)| format!("ip link set {link} address 02:00:00:00:00:{mac:02x}")),
        (link.clone(), address.clone()).prop_map(|(link, net)| format!("ip addr add {net} dev {link}")),
        address.prop_map(|net| format!("ip addr del {net} dev cbr0")),
        link.clone().prop_map(|link| format!("ip addr flush dev {link}")),
        node.clone().prop_map(|node| format!("ip route del 10.128.{node}.0/24")),
        node.clone().prop_map(|node| format!("ip -6 route del fd00:10:0:{node:x}::/64")),
        (node.clone(), 100..110u32).prop_map(|(node, via)| format!(
            "ip route replace 10.128.{node}.0/24 via 172.16.0.{via} proto 203"
        )),
        (node.clone(), 1..9u32).prop_map(|(node, metric)| format!(
            "ip route add 10.128.{node}.0/24 via 172.16.0.9 metric {metric} proto 203"
        )),
        node.clone().prop_map(|node| format!("ip route add blackhole 10.77.{node}.0/24 proto 203")),
        link.clone().prop_map(|link| format!("ip neigh flush dev {link} nud permanent")),
        (node.clone(), 0..256u32).prop_map(|(node, mac)| format!(
            "ip neigh replace 10.128.{node}.1 lladdr 02:00:00:00:00:{mac:02x} dev vxlan.cambric nud permanent"
        )),
        node.clone()
            .prop_map(|node| format!("bridge fdb del 06:58:ac:10:00:{:02x} dev vxlan.cambric", node + 1)),
        (node.clone(), 1..9u32).prop_map(|(node, other)| format!(
            "bridge fdb replace 06:58:ac:10:00:{:02x} dev vxlan.cambric dst 172.16.0.{other} self permanent",
            node + 1
        )),
        family.clone().prop_map(|family| format!("nft delete table {family} cambric")),
        family.clone().prop_map(|family| format!("nft flush table {family} cambric")),
        family.prop_map(|family| format!("nft add chain {family} cambric extra")),
        (routed.clone(), set).prop_map(|(family, set)| format!("nft flush set {family} cambric {set}")),
        (routed.clone(), prop::sample::select(vec!["input", "postrouting"]))
            .prop_map(|(family, chain)| format!("nft add rule {family} cambric {chain} counter")),
        routed.prop_map(|family| format!("nft flush chain {family} cambric postrouting")),
        (0..2u32).prop_map(|value| format!("sysctl -qw net.ipv4.ip_forward={value}")),
        (0..2u32).prop_map(|value| format!("sysctl -qw net.ipv6.conf.all.forwarding={value}")),
    ]
}

/// An address that somebody has put back by hand looks like ours, and waits for duplicate address detection.
#[test]
fn an_address_put_back_by_hand_becomes_ours() {
    let test = TestNs::underlay("byhand");
    let _guard = test.enter();
    let plan = cluster::plan(&cluster::cluster(2, Stack::Dual), vec![]);
    let mut kernel = Kernel::open().unwrap();
    kernel.reconcile(&plan).unwrap();
    let good = state(&test);
    test.run("ip addr del fd00:10::1/64 dev cbr0");
    test.run("ip addr add fd00:10::1/64 dev cbr0");
    let report = kernel.reconcile(&plan).unwrap();
    assert!(report.failures.is_empty(), "{}", report.failures[0]);
    assert_same(&state(&test), &good, "the address was put back by hand");
    assert!(kernel.reconcile(&plan).unwrap().is_quiet());
}

#[test]
fn from_any_damage_back_to_the_plan() {
    let test = TestNs::underlay("random");
    let _guard = test.enter();
    let plan = cluster::plan(&cluster::cluster(8, Stack::Dual), vec![cluster::attachment(2, Stack::Dual)]);
    let mut kernel = Kernel::open().unwrap();
    kernel.reconcile(&plan).unwrap();
    let good = state(&test);
    let kernel = std::cell::RefCell::new(kernel);
    // Nothing is written beside the sources: a case that fails is printed whole.
    let config = Config { cases: 48, max_shrink_iters: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(damage(), 1..8), |damages| {
            for damage in &damages {
                // What an earlier damage took away cannot be damaged again.
                test.try_run(&damage.split_whitespace().collect::<Vec<_>>());
            }
            let mut kernel = kernel.borrow_mut();
            let report = kernel.reconcile(&plan).unwrap();
            prop_assert!(report.failures.is_empty(), "{}", report.failures[0]);
            assert_same(&state(&test), &good, &damages.join("; "));
            prop_assert!(kernel.reconcile(&plan).unwrap().is_quiet());
            Ok(())
        })
        .unwrap();
}
