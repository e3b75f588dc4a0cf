//! Nodes behind NAT gateways (row 10), and what happens to gateways and nodes in the course of time.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns;
use lab_common::hearing::{all_hear, deaf, hears};
use lab_common::traffic::Datagrams;
use lab_common::{CAMBRIC, Lab, Pod, succeed, until};
use serde_json::Value;

const NODES: [&str; 5] = ["hub-1", "hub-2", "north-1", "north-2", "south-1"];

/// A pod on each node, named after it.
fn pods(lab: &Lab) -> Vec<Pod> {
    for node in NODES {
        lab.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {node}}}\nspec: {{nodeName: {node}, containers: \
             [{{name: c, image: echo, ports: [{{containerPort: 8080}}]}}]}}"
        ));
    }
    NODES.map(|node| lab.pod(node)).into()
}

/// A command of `cambric lab gateway`, which must succeed.
fn gateway(lab: &Lab, verb: &str, arguments: &[&str]) {
    let mut command = Command::new(CAMBRIC);
    succeed(command.args(["lab", "gateway", verb, "--name", &lab.name]).args(arguments));
}

/// Connects from a pod; whoever answers is the right one.
fn connects(from: &Pod, to: SocketAddr) -> bool {
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(1));
    netns::run_in(&from.enter(), connect).unwrap().is_ok()
}

/// The cluster addresses of a service with a pod's name behind which this pod is alone.
fn service(lab: &Lab, pod: &str) -> [SocketAddr; 2] {
    lab.run("kubectl", &["--", "label", "pod", pod, &format!("app={pod}")]);
    lab.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {pod}}}\nspec: {{ipFamilyPolicy: RequireDualStack, \
         selector: {{app: {pod}}}, ports: [{{port: 80, targetPort: 8080}}]}}"
    ));
    let text = lab.run("kubectl", &["--", "get", "service", pod, "-o", "json"]);
    let service: Value = serde_json::from_str(&text).unwrap();
    let address = |index: usize| {
        let address: IpAddr = service["spec"]["clusterIPs"][index].as_str().unwrap().parse().unwrap();
        SocketAddr::new(address, 80)
    };
    [address(0), address(1)]
}

/// The prefixes of which a node has kept that who tells them hears somebody through a gateway.
fn kept(lab: &Lab, node: &str) -> usize {
    let Ok(text) = fs::read(format!("{}/contacts.json", lab.run_dir(node))) else { return 0 };
    let kept: Value = serde_json::from_slice(&text).unwrap();
    let contacts = kept["contacts"].as_array().unwrap();
    contacts.iter().filter(|one| !one["heard"].as_array().unwrap().is_empty()).count()
}

/// The BGP sessions of a node, by its agent's own account.
fn sessions(lab: &Lab, node: &str) -> Vec<Value> {
    let Ok(text) = fs::read(format!("{}/bgp.json", lab.run_dir(node))) else { return Vec::new() };
    let status: Value = serde_json::from_slice(&text).unwrap();
    status["sessions"].as_array().cloned().unwrap_or_default()
}

fn session(lab: &Lab, node: &str, name: &str) -> Value {
    sessions(lab, node).into_iter().find(|session| session["name"] == name).unwrap_or_default()
}

/// The outer addresses that a node hears, as its status says.
fn heard(lab: &Lab, node: &str) -> Vec<String> {
    let status = fs::read(format!("{}/status.json", lab.run_dir(node))).unwrap();
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
    let proved = || {
        let report = lab.run("check", &[]);
        let row = report.lines().find(|line| line.starts_with("10  nodes behind NAT")).unwrap();
        assert!(row.contains("IP in IP") && row.ends_with("proved"), "{report}");
    };
    proved();
    let nodes = lab.nodes();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    lab.set_fast_path(&nodes, true);
    proved();
    lab.await_hits(&nodes);
}

#[test]
fn gateways_may_forget_and_get_another_address() {
    let lab = Lab::up("nat-gateway.yaml");
    let pods = pods(&lab);
    all_hear(&lab, &pods);
    gateway(&lab, "flush", &["gw-north"]);
    let took = all_hear(&lab, &pods);
    eprintln!("after a flush: {took:?}");
    gateway(&lab, "readdress", &["gw-north", "198.51.100.77"]);
    let took = all_hear(&lab, &pods);
    eprintln!("with another address: {took:?}");
    // Nobody told them, and the old one is not gone by any more.
    let hub = lab.inside("hub-1", "ip -4 route show proto 203 proto 204");
    assert!(hub.contains("via 198.51.100.77 ") && !hub.contains("via 198.51.100.2 "), "{hub}");
    // Nor has anybody to guess why a node that nobody labelled is not let in.
    lab.run("kubectl", &["--", "label", "node", "north-1", "cambric.io/site-"]);
    let sessions = || {
        let command = lab.command("exec", &["hub-1", "--", CAMBRIC, "status", "bgp"]).output().unwrap();
        String::from_utf8(command.stdout).unwrap()
    };
    let told = |sessions: &String| {
        sessions.contains("connects from 198.51.100.77") && sessions.contains("label cambric.io/site")
    };
    until("hub-1 does not know of the gateway", sessions, told);
}

#[test]
fn an_agent_behind_a_gateway_may_be_killed_and_restarted() {
    let lab = Lab::up("nat-gateway.yaml");
    let pods = pods(&lab);
    all_hear(&lab, &pods);
    // Who is killed must have kept what it has heard: of the nodes outside and of the one beside it, for both families.
    for node in ["north-1", "north-2", "hub-1"] {
        until("not all contacts are kept", || kept(&lab, node), |kept| *kept >= 6);
    }
    let [hub, one, other] = ["hub-1", "north-1", "north-2"].map(|name| lab.pod(name));
    // One of the two carries for hub-1, and the other sends through it; then there is the way to the other site.
    let far = lab.pod("south-1");
    let pairs = [(&one, &hub), (&other, &hub), (&hub, &one), (&hub, &other), (&one, &far), (&far, &other)];
    for node in ["north-1", "north-2", "hub-1"] {
        let traffic: Vec<Datagrams> = pairs
            .iter()
            .enumerate()
            .map(|(index, (from, to))| {
                let address = if index % 2 == 0 { to.v4() } else { to.v6() };
                let what = format!("{} to {} at {address} while {node} restarts", from.name, to.name);
                Datagrams::start(&what, &from.enter(), &to.enter(), address)
            })
            .collect();
        lab.run("kill", &[&format!("agent/{node}")]);
        // One of them is away for longer than BFD waits.
        if node == "north-2" {
            let bfd = || session(&lab, "north-1", "node/north-2")["bfd"].clone();
            until("BFD still hears it", bfd, |bfd| bfd == "Down");
        }
        lab.run("restart", &[&format!("agent/{node}")]);
        lab.agent_ready(node);
        // Until all sessions are back.
        let status = || sessions(&lab, node);
        let up = |sessions: &Vec<Value>| {
            sessions.iter().filter(|session| session["state"] == "Established").count() >= 3
        };
        until("sessions are not back", status, up);
        for one in traffic {
            assert!(one.finish() > 100);
        }
    }
}

#[test]
fn it_is_no_matter_who_sends_first() {
    let lab = Lab::up("nat-gateway.yaml");
    let pods = pods(&lab);
    let pod = |name: &str| pods.iter().find(|pod| pod.name == name).unwrap();
    let services = ["hub-1", "north-2", "south-1"].map(|name| (pod(name), service(&lab, name)));
    let [(_, to_hub), (_, to_north), (_, to_south)] = &services;
    // The other families' turns, and the other direction's, come by themselves: all are tried until they get through.
    let outwards = [(pod("north-1"), to_hub), (pod("north-1"), to_south), (pod("south-1"), to_hub)];
    let inwards = [(pod("hub-1"), to_north), (pod("south-1"), to_north), (pod("hub-2"), to_south)];
    let try_all = |of: &[(&Pod, &[SocketAddr; 2])]| {
        for (from, addresses) in of {
            for address in *addresses {
                until(
                    &format!("{} does not get to {address}", from.name),
                    || connects(from, *address),
                    |got| *got,
                );
            }
        }
    };
    let by_pods = |names: [[&str; 2]; 2]| {
        for [from, to] in names {
            until(&format!("{from} does not hear {to}"), || hears(&lab, pod(from), pod(to)), |heard| *heard);
        }
    };
    let out = [["north-1", "hub-1"], ["north-2", "south-1"]];
    let back = [["hub-2", "north-1"], ["south-1", "north-2"]];
    all_hear(&lab, &pods);
    for order in ["outside", "inside", "both"] {
        for name in ["gw-north", "gw-south"] {
            gateway(&lab, "flush", &[name]);
        }
        let begin = Instant::now();
        match order {
            "outside" => {
                try_all(&inwards);
                by_pods(back);
                try_all(&outwards);
                by_pods(out);
            }
            "inside" => {
                try_all(&outwards);
                by_pods(out);
                try_all(&inwards);
                by_pods(back);
            }
            _ => thread::scope(|scope| {
                scope.spawn(|| try_all(&inwards));
                scope.spawn(|| by_pods(back));
                scope.spawn(|| try_all(&outwards));
                scope.spawn(|| by_pods(out));
            }),
        }
        eprintln!("{order} first: everything got through after {:?}", begin.elapsed());
    }
}

#[test]
fn when_a_carrier_dies_another_takes_over_and_keeps_it() {
    let lab = Lab::up_changed(
        "nat-gateway.yaml",
        &[("genericTimeout: 30", "genericTimeout: 5"), ("genericTimeout: 30", "genericTimeout: 5")],
    );
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
        let status = || lab.status(node);
        until("no word of it", status, |status| status.contains(words));
        assert!(status().contains("use protocol ipip in spec.encapsulation"), "{}", status());
        let routes = lab.inside(node, "ip -4 route show");
        assert_eq!(routes.matches(" onlink").count(), 1, "to the node beside it: {routes}");
    }
}
