//! The fast path comes and goes, modes change and agents are killed while pods talk through it: nothing is lost.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::process::Command;

use lab_common::traffic::{Datagrams, Stream};
use lab_common::{CAMBRIC, Lab, PODS, succeed};
use serde_json::Value;

const NODES: [&str; 2] = ["node-1", "node-2"];

/// Connection tracking sees few packets of the flows that are on the fast path now, and captures on bridges none.
fn assert_told_truly(lab: &Lab) {
    let cambric = |words: &[&str]| succeed(Command::new(CAMBRIC).args(words));
    let listed = cambric(&["flows", "--lab", &lab.name, "--protocol", "udp,tcp", "--json"]);
    let flows: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_between_pods =
        |flow: &&Value| flow["client"]["kind"] == "pod" && flow["destination"]["kind"] == "pod";
    let between_pods: Vec<&Value> = flows.iter().filter(is_between_pods).collect();
    // Streams are answered; datagrams are not, and so never settled.
    let streams: Vec<&&Value> = between_pods.iter().filter(|flow| flow["protocol"] == "TCP").collect();
    assert_eq!(streams.len(), 6, "{listed}");
    assert!(streams.iter().all(|flow| flow["fastPath"] == true), "{listed}");
    assert!(
        between_pods.iter().filter(|flow| flow["protocol"] == "UDP").all(|flow| flow["fastPath"] == false)
    );
    let text = cambric(&["flows", "--lab", &lab.name, "--protocol", "tcp"]);
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>().join(" ").matches(", at least ").count(),
        6,
        "{text}"
    );
    for family in ["4", "6"] {
        let traced = cambric(&["trace", "--lab", &lab.name, "a", "b:8080", "--live", "--family", family]);
        assert!(traced.contains("the way of the first packets"), "{traced}");
        assert!(traced.contains("prediction and observation agree"), "{traced}");
        let echo = cambric(&["trace", "--lab", &lab.name, "a", "b", "--family", family]);
        assert!(!echo.contains("first packets"), "{echo}");
    }
}

#[test]
fn nothing_is_lost_when_it_comes_and_goes_or_anything_else_does() {
    let lab = Lab::up_changed("vxlan.yaml", &[("network:\n", "network:\n  fastPath: true\n")]);
    lab.apply(PODS);
    let [a, beside, b] = ["a", "beside", "b"].map(|name| lab.pod(name));
    let mut datagrams = Vec::new();
    let mut streams = Vec::new();
    for (from, to) in [(&a, &b), (&b, &beside), (&a, &beside)] {
        for address in [to.v4(), to.v6()] {
            let what = format!("{} to {address}", from.name);
            datagrams.push(Datagrams::start(&what, &from.enter(), &to.enter(), address));
            streams.push(Stream::start(&what, &from.enter(), &to.enter(), address));
        }
    }
    lab.await_hits(&NODES);
    assert_told_truly(&lab);
    for spec in [
        r#"{"encapsulation": {"protocol": "none", "when": "always"}}"#,
        r#"{"encapsulation": {"protocol": "ipip", "when": "always"}}"#,
        r#"{"fastPath": false}"#,
        r#"{"encapsulation": {"protocol": "vxlan", "when": "always"}}"#,
        r#"{"fastPath": true}"#,
    ] {
        match spec {
            r#"{"fastPath": true}"# => lab.set_fast_path(&NODES, true),
            r#"{"fastPath": false}"# => lab.set_fast_path(&NODES, false),
            spec => lab.patch_network(spec),
        }
    }
    lab.run("kill", &["agent/node-1"]);
    assert_eq!(lab.fast_path("node-1")["agentRuns"], false);
    lab.run("restart", &["agent/node-1"]);
    lab.agent_ready("node-1");
    lab.set_fast_path(&NODES, true);
    for one in datagrams {
        assert!(one.finish() > 1_000);
    }
    for one in streams {
        assert!(one.finish() > 1_000);
    }
    lab.run("check", &[]);
}
