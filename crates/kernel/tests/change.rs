//! A change of a plan costs that change, and leads where the whole plan would.

#![allow(clippy::unwrap_used)]

mod common;

use common::cluster::{self, Stack};
use common::state::{assert_same, state};
use common::{TestNs, reconcile};
use kernel::{Error, Kernel, Report};
use plan::{Change, Input, Planner};

fn planner(size: u32) -> Planner {
    let cluster = cluster::cluster(size, Stack::Dual);
    let mut planner = Planner::new(cluster::name(0));
    planner.update(Input::Network(cluster.network));
    for node in cluster.nodes.into_values() {
        planner.update(Input::Node(node));
    }
    planner
}

fn apply(kernel: &mut Kernel, change: &Change) -> Report {
    let report = kernel.apply(change).unwrap();
    assert!(report.failures.is_empty(), "{}", report.failures[0]);
    assert!(!report.reconcile_needed);
    report
}

#[test]
fn nodes_join_move_and_leave() {
    let test = TestNs::underlay("join");
    let _guard = test.enter();
    let mut planner = planner(3);
    reconcile(planner.entries());
    let before = state(&test);
    let mut kernel = Kernel::open().unwrap();

    let report = apply(&mut kernel, &planner.update(Input::Node(cluster::node(3, Stack::Dual))));
    assert_eq!((report.made, report.changed, report.removed), (7, 0, 0), "{report}");
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());

    // The same ranges behind other addresses: routes and neighbours change in place.
    let mut moved = cluster::node(3, Stack::Dual);
    moved.addresses = cluster::node(9, Stack::Dual).addresses;
    apply(&mut kernel, &planner.update(Input::Node(moved.clone())));
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());
    assert!(test.run("bridge fdb show dev vxlan.cambric").contains("dst 172.16.0.10 "));

    // Other routes to the same ranges.
    moved.addresses.v4 = None;
    apply(&mut kernel, &planner.update(Input::Node(moved)));
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());
    assert!(test.run("ip route").contains("10.128.3.0/24 via 10.128.3.1 dev vxlan6.cambric proto 203"));

    apply(&mut kernel, &planner.update(Input::NodeGone(cluster::name(3))));
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());
    assert_same(&state(&test), &before, "a node came and went");

    let pods = planner.update(Input::Attachments(vec![cluster::attachment(2, Stack::Dual)]));
    apply(&mut kernel, &pods);
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());
    apply(&mut kernel, &planner.update(Input::Attachments(Vec::new())));
    assert_same(&state(&test), &before, "a pod came and went");
}

#[test]
fn what_is_gone_already_can_leave_and_what_is_there_can_join() {
    let test = TestNs::underlay("twice");
    let _guard = test.enter();
    let mut planner = planner(3);
    reconcile(planner.entries());
    let mut kernel = Kernel::open().unwrap();
    let join = planner.update(Input::Node(cluster::node(3, Stack::Dual)));
    apply(&mut kernel, &join);
    apply(&mut kernel, &join);
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());
    let leave = planner.update(Input::NodeGone(cluster::name(3)));
    apply(&mut kernel, &leave);
    apply(&mut kernel, &leave);
    assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());
}

#[test]
fn a_change_that_needs_more_asks_for_it() {
    let test = TestNs::underlay("more");
    let _guard = test.enter();
    let mut planner = planner(3);
    reconcile(planner.entries());
    let mut kernel = Kernel::open().unwrap();
    for damage in ["ip link del vxlan.cambric", "nft delete table ip cambric"] {
        test.run(damage);
        let join = planner.update(Input::Node(cluster::node(3, Stack::Dual)));
        let report = kernel.apply(&join).unwrap();
        assert!(report.reconcile_needed, "{damage}: {report}");
        assert!(!report.failures.is_empty(), "{damage}");
        reconcile(planner.entries());
        planner.update(Input::NodeGone(cluster::name(3)));
        reconcile(planner.entries());
    }
    let network = cluster::network(
        Stack::Dual,
        model::VxlanSettings { vni: model::Vni::new(7).unwrap(), ..Default::default() },
    );
    let report = kernel.apply(&planner.update(Input::Network(network))).unwrap();
    assert!(report.reconcile_needed && report.writes() == 0);
    reconcile(planner.entries());
}

#[test]
fn another_route_in_the_way_does_not_stop_the_rest() {
    let test = TestNs::underlay("inway");
    let _guard = test.enter();
    let mut planner = planner(3);
    reconcile(planner.entries());
    test.run("ip route add 10.128.3.0/24 via 172.16.0.9");
    let mut kernel = Kernel::open().unwrap();
    let report = kernel.apply(&planner.update(Input::Node(cluster::node(3, Stack::Dual)))).unwrap();
    assert_eq!((report.made, report.failures.len()), (6, 1), "{report}");
    assert!(matches!(report.failures[0].error, Error::Foreign { .. }), "{}", report.failures[0]);
    // Nor does its leaving take the other's route along.
    apply(&mut kernel, &planner.update(Input::NodeGone(cluster::name(3))));
    assert!(test.run("ip route").contains("10.128.3.0/24 via 172.16.0.9 dev eth0"));
}
