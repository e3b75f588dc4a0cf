//! The fast path comes and goes, modes change and agents are killed while pods talk through it: nothing is lost.

#![allow(clippy::unwrap_used)]

mod lab_common;

use lab_common::traffic::{Datagrams, Stream};
use lab_common::{CAMBRIC, Lab, PODS, until};
use serde_json::Value;

const NODES: [&str; 2] = ["node-1", "node-2"];

fn patch(lab: &Lab, spec: &str) {
    let patch = format!(r#"{{"spec": {spec}}}"#);
    lab.run("kubectl", &["--", "patch", "clusternetwork", "default", "--type=merge", "-p", &patch]);
}

/// What `cambric status fastpath` shows on a node.
fn status(lab: &Lab, node: &str) -> Value {
    let output =
        lab.command("exec", &[node, "--", CAMBRIC, "status", "fastpath", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Packets that it has sent on both nodes; none if it is off on one of them.
fn hits(lab: &Lab) -> Option<[u64; 2]> {
    let each = NODES.map(|node| status(lab, node)["fastPath"]["hits"].as_u64());
    Some([each[0]?, each[1]?])
}

/// A link that comes or goes has agents compare, and so count.
fn have_counted(lab: &Lab, change: &str) {
    for node in NODES {
        lab.inside(node, &format!("ip link {change}"));
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
    let busy = |hits: &Option<[u64; 2]>| hits.is_some_and(|hits| hits.iter().all(|hits| *hits > 1_000));
    let mut seen = 0;
    until(
        "packets of the fast path",
        || {
            seen += 1;
            have_counted(&lab, ["del probe", "add probe type veth peer name eborp"][seen % 2]);
            hits(&lab)
        },
        busy,
    );
    for spec in [
        r#"{"encapsulation": {"protocol": "none", "when": "always"}}"#,
        r#"{"encapsulation": {"protocol": "ipip", "when": "always"}}"#,
        r#"{"fastPath": false}"#,
        r#"{"encapsulation": {"protocol": "vxlan", "when": "always"}}"#,
        r#"{"fastPath": true}"#,
    ] {
        patch(&lab, spec);
        if let Some(on) = spec.strip_prefix(r#"{"fastPath": "#) {
            let on = on == "true}";
            until("the fast path", || hits(&lab).is_some(), |is_on| *is_on == on);
        }
    }
    lab.run("kill", &["agent/node-1"]);
    assert_eq!(status(&lab, "node-1")["agentRuns"], false);
    lab.run("restart", &["agent/node-1"]);
    lab.agent_ready("node-1");
    until("the fast path", || hits(&lab).is_some(), |is_on| *is_on);
    for one in datagrams {
        assert!(one.finish() > 1_000);
    }
    for one in streams {
        assert!(one.finish() > 1_000);
    }
    lab.run("check", &[]);
}
