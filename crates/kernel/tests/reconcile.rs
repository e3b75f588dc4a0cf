//! Whatever a namespace holds, reconciling leads to the plan, and says nothing more once it is there.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::TestNs;
use common::cluster::{self, Stack};
use kernel::{Kernel, Monitor, Report};
use plan::{Key, NodePlan};

/// A namespace with an underlay link that has the addresses of node 0.
fn underlay(kind: &str) -> TestNs {
    let test = TestNs::new(kind);
    for command in [
        "ip link set lo up",
        "ip link add eth0 type veth peer name wire",
        "ip addr add 172.16.0.1/16 dev eth0",
        "ip addr add 2001:db8::1/64 dev eth0 nodad",
        "ip link set eth0 up",
        "ip link set wire up",
    ] {
        test.run(command);
    }
    test
}

fn reconcile(plan: &NodePlan) -> Report {
    let report = Kernel::open().unwrap().reconcile(plan).unwrap();
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    report
}

#[test]
fn from_empty_to_the_plan_and_then_silence() {
    for stack in [Stack::Dual, Stack::V4, Stack::V6] {
        let test = underlay("empty");
        let _guard = test.enter();
        let plan = cluster::plan(&cluster::cluster(4, stack), Vec::new());
        let report = reconcile(&plan);
        // A new namespace may have settings that are right already.
        let settings = plan.entries.keys().filter(|key| matches!(key, Key::Sysctl(_))).count();
        assert!(report.writes() + settings >= plan.entries.len(), "{report}");
        let mut monitor = Monitor::open().unwrap();
        let second = reconcile(&plan);
        assert!(second.is_quiet(), "{second}");
        assert_eq!(monitor.wait(Some(Duration::from_millis(300))).unwrap(), []);
    }
}
