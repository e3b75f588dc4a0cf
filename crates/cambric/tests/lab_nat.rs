//! Nodes behind NAT gateways (row 10), and what happens to gateways and nodes in the course of time.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab_common::traffic::Datagrams;
use lab_common::{CAMBRIC, Lab, Pod, until};
use serde_json::Value;

const NODES: [&str; 5] = ["hub-1", "hub-2", "north-1", "north-2", "south-1"];

/// A lab whose gateways forget flows soon. What the outside has sent first is in the way of a tunnel until then.
fn forgetful() -> Lab {
    let soon = ("genericTimeout: 30", "genericTimeout: 5");
    Lab::up_changed("nat-gateway.yaml", &[soon, soon])
}

/// A pod on each node, named after it.
fn pods(lab: &Lab) -> Vec<Pod> {
    let pod = |node: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {node}}}\nspec:\n  nodeName: {node}\n  containers: \
             [{{name: c, image: echo, ports: [{{containerPort: 8080}}]}}]\n"
        )
    };
    lab.apply(&NODES.map(pod).concat());
    NODES.map(|node| lab.pod(node)).into()
}

/// Whether a pod hears another, in both families.
fn hears(lab: &Lab, from: &Pod, to: &Pod) -> bool {
    [to.v4(), to.v6()].into_iter().all(|address| {
        let address = address.to_string();
        let ping = ["--", "ping", "-n", "-q", "-c", "1", "-W", "1", &address];
        let arguments: Vec<&str> = [from.name.as_str()].into_iter().chain(ping).collect();
        lab.command("exec", &arguments).output().unwrap().status.success()
    })
}

/// The pairs of pods of which the first does not hear the second.
fn deaf(lab: &Lab, pods: &[Pod]) -> Vec<String> {
    let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to)));
    let deaf = pairs.filter(|(from, to)| from.name != to.name && !hears(lab, from, to));
    deaf.map(|(from, to)| format!("{} to {}", from.name, to.name)).collect()
}

fn all_hear(lab: &Lab, pods: &[Pod]) -> Duration {
    until("pods that do not hear others", || deaf(lab, pods), Vec::is_empty)
}

/// Does to a gateway what its owner or provider does.
fn gateway(lab: &Lab, what: &[&str]) {
    let done = Command::new(CAMBRIC).args(["lab", "gateway"]).args(what).args(["--name", &lab.name]).status();
    assert!(done.unwrap().success());
}

fn run_dir(lab: &Lab, node: &str) -> String {
    format!("/run/cambric-lab/{}/nodes/{node}/run", lab.name)
}

/// The outer addresses that a node hears, as its status says.
fn heard(lab: &Lab, node: &str) -> Vec<String> {
    let status = fs::read(format!("{}/status.json", run_dir(lab, node))).unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    let heard = status["heard"].as_array().cloned().unwrap_or_default();
    let mut heard: Vec<String> =
        heard.iter().map(|from| from["address"].as_str().unwrap().to_owned()).collect();
    heard.dedup();
    heard
}

#[test]
fn the_check_proves_row_10() {
    let lab = Lab::up("nat-gateway.yaml");
    // The order in which agents start is anybody's, and so is who sends first.
    let pods = pods(&lab);
    let took = all_hear(&lab, &pods);
    eprintln!("all pods hear each other after {took:?}");
    let report = lab.run("check", &[]);
    let row = report.lines().find(|line| line.starts_with("10  nodes behind NAT")).unwrap();
    assert!(row.contains("IP in IP") && row.ends_with("proved"), "{report}");
}

#[test]
fn gateways_may_forget_and_get_another_address() {
    let lab = forgetful();
    let pods = pods(&lab);
    all_hear(&lab, &pods);
    gateway(&lab, &["flush", "gw-north"]);
    let took = all_hear(&lab, &pods);
    eprintln!("after a flush: {took:?}");
    gateway(&lab, &["readdress", "gw-north", "198.51.100.77"]);
    let took = all_hear(&lab, &pods);
    eprintln!("with another address: {took:?}");
    // Nobody told them, and the old one is not gone by any more.
    let hub = lab.inside("hub-1", "ip -4 route show proto 203 proto 204");
    assert!(hub.contains("via 198.51.100.77 ") && !hub.contains("via 198.51.100.2 "), "{hub}");
}

#[test]
fn when_a_carrier_dies_another_takes_over_and_keeps_it() {
    let lab = forgetful();
    let pods = pods(&lab);
    all_hear(&lab, &pods);
    let carrier = || {
        ["north-1", "north-2"]
            .into_iter()
            .find(|node| heard(&lab, node).contains(&"198.51.100.11".to_owned()))
    };
    until("no node of the site hears hub-1", carrier, Option::is_some);
    let first = carrier().unwrap();
    let other = if first == "north-1" { "north-2" } else { "north-1" };
    lab.inside(first, "ip link set eth0 down");
    lab.run("kill", &[&format!("agent/{first}")]);
    let alive: Vec<Pod> = NODES.into_iter().filter(|node| *node != first).map(|node| lab.pod(node)).collect();
    let took = until("pods that do not hear others", || deaf(&lab, &alive), Vec::is_empty);
    eprintln!("another carrier after {took:?}");
    until(
        "the other does not hear hub-1",
        || heard(&lab, other),
        |heard| heard.contains(&"198.51.100.11".to_owned()),
    );

    // The first one comes back, and takes nothing away.
    let (from, to) = (lab.pod(other), lab.pod("hub-1"));
    let there = Datagrams::start("from the site", &from.enter(), &to.enter(), to.v4());
    let back = Datagrams::start("to the site", &to.enter(), &from.enter(), from.v6());
    lab.inside(first, "ip link set eth0 up");
    let address = if first == "north-1" { "fd00:a::11/64" } else { "fd00:a::12/64" };
    lab.inside(first, &format!("ip address add {address} dev eth0 nodad"));
    lab.inside(first, "ip route replace default via 10.0.0.1 dev eth0 proto static");
    lab.run("restart", &[&format!("agent/{first}")]);
    all_hear(&lab, &pods);
    assert!(there.finish() > 100 && back.finish() > 100);
    assert!(heard(&lab, other).contains(&"198.51.100.11".to_owned()), "the tunnel was taken away");
}

#[test]
fn vxlan_is_refused_with_the_reason() {
    let lab = Lab::up_changed("nat-gateway.yaml", &[("protocol: ipip", "protocol: vxlan")]);
    for (node, words) in [
        ("hub-1", "Node north-1 is behind the NAT gateway of site north, and cannot be reached in VXLAN"),
        ("north-1", "Node hub-1 is outside of site north, behind whose NAT gateway this node is"),
    ] {
        let status = || {
            let output = Command::new(CAMBRIC).args(["status", "--run-dir", &run_dir(&lab, node)]).output();
            String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
        };
        until("no word of it", status, |status| status.contains(words));
        assert!(status().contains("use protocol ipip in spec.encapsulation"), "{}", status());
        let routes = lab.inside(node, "ip -4 route show");
        assert_eq!(routes.matches(" onlink").count(), 1, "to the node beside it: {routes}");
    }
}
