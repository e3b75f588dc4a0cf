//! Labs whose nodes speak BGP: with each other, and with a BIRD in the router's place.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Command;

use kernel::netns;
use lab_common::bird::Bird;
use lab_common::{Lab, PODS, until};
use serde_json::Value;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

fn settings(more: &str) -> (&'static str, String) {
    let ranges = "loadBalancerRanges: [203.0.113.0/24, \"2001:db8:f::/112\"]";
    ("mtu: auto", format!("mtu: auto\n  {ranges}\n  {more}"))
}

/// A node's sessions.
fn sessions(lab: &Lab, node: &str) -> Vec<Value> {
    let json: Value = serde_json::from_str(&lab.status_with(node, &["bgp", "--json"])).unwrap();
    json["bgp"]["sessions"].as_array().cloned().unwrap_or_default()
}

/// Waits until a node has these sessions and all of them are up.
fn wait_for_sessions(lab: &Lab, node: &str, names: &[&str]) {
    let look = || -> Vec<(String, String)> {
        let text = |session: &Value, field: &str| session[field].as_str().unwrap().to_owned();
        sessions(lab, node).iter().map(|session| (text(session, "name"), text(session, "state"))).collect()
    };
    let wanted: Vec<(String, String)> =
        names.iter().map(|name| ((*name).to_owned(), "Established".to_owned())).collect();
    until(&format!("sessions of {node}"), look, |seen| *seen == wanted);
}

/// The pod ranges of a node.
fn pod_ranges(lab: &Lab, node: &str) -> Vec<String> {
    let node: Value =
        serde_json::from_str(&lab.run("kubectl", &["--", "get", "node", node, "-o", "json"])).unwrap();
    let ranges = node["spec"]["podCIDRs"].as_array().unwrap();
    ranges.iter().map(|range| range.as_str().unwrap().to_owned()).collect()
}

#[test]
fn nodes_speak_each_with_each_and_status_shows_it() {
    let (old, new) = settings("routeSource: bgp\n  bgp: {bfd: {}}");
    let lab = Lab::up_changed("direct-kubernetes.yaml", &[(old, &new)]);
    for (node, others) in [
        ("node-1", ["node/node-2", "node/node-3"]),
        ("node-2", ["node/node-1", "node/node-3"]),
        ("node-3", ["node/node-1", "node/node-2"]),
    ] {
        wait_for_sessions(&lab, node, &others);
        let up = |seen: &Vec<Value>| {
            seen.iter().all(|session| {
                let one = |family: &str| session["prefixes"][family]["received"] == 1;
                session["bfd"] == "Up" && one("IPv4") && one("IPv6")
            })
        };
        until("BFD and prefixes", || sessions(&lab, node), up);
    }
    // What was told is a route.
    for range in pod_ranges(&lab, "node-2") {
        let family = if range.contains(':') { "-6" } else { "-4" };
        let look = || lab.inside("node-1", &format!("ip {family} route show {range}"));
        until("a route to node-2", look, |seen| seen.contains("via ") && seen.contains("dev eth0"));
    }
    lab.apply(PODS);
    let target = lab.pod("b");
    for address in [target.v4(), target.v6()] {
        lab.inside("node-1", &format!("ping -c 1 -W 5 {address}"));
    }

    let text = lab.status_bgp("node-1");
    assert!(text.starts_with("AS 64512, router id 192.0.2.11\n"), "{text}");
    assert!(text.contains("node/node-2") && text.contains("Established") && text.contains("1/1"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    // A label makes a reflector of a node, and then the others speak with it alone.
    lab.run("kubectl", &["--", "label", "node", "node-1", "cambric.io/route-reflector=true"]);
    wait_for_sessions(&lab, "node-2", &["node/node-1"]);
    wait_for_sessions(&lab, "node-3", &["node/node-1"]);
    let two = |seen: &Vec<Value>| seen[0]["prefixes"]["IPv6"]["received"] == 2;
    until("node-3's range comes over the reflector", || sessions(&lab, "node-2"), two);

    // Without routes from BGP nobody speaks.
    let source = r#"{"spec": {"routeSource": "kubernetes"}}"#;
    lab.run("kubectl", &["--", "patch", "clusternetwork", "default", "--type=merge", "-p", source]);
    for node in NODES {
        until("silence", || sessions(&lab, node), Vec::is_empty);
    }
    assert!(lab.status_bgp("node-1").contains("no BGP: routes come from Kubernetes"));
}

const BIRD: &str = "router id 192.0.2.1;\n\
    protocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 5; }; }\n\
    protocol bgp n1 { local 192.0.2.1 as 65001; neighbor 192.0.2.11 as 64512; password \"sesame\"; bfd on; \
      connect retry time 1; connect delay time 1; error wait time 1, 2; \
      ipv4 { import all; export none; }; ipv6 { import all; export none; }; }\n\
    protocol static s4 { ipv4; route 198.51.100.0/24 blackhole; }\n\
    protocol static s6 { ipv6; route 2001:db8:2::/64 blackhole; }\n\
    protocol bgp n2 { local 2001:db8:1::1 as 65001; neighbor 2001:db8:1::12 as 64512; passive on; \
      ipv4 { import all; export where source = RTS_STATIC; next hop address 192.0.2.1; }; \
      ipv6 { import all; export where source = RTS_STATIC; }; }\n";

const PEER: &str = "bgpPeers:
  - name: tor
    spec:
      address: 192.0.2.1
      asn: 65001
      nodeSelector: {matchLabels: {rack: one}}
      passwordSecret: {namespace: default, name: bgp, key: tor}
      bfd: {intervalMilliseconds: 100, multiplier: 5}
  - name: tor6
    spec:
      address: 2001:db8:1::1
      asn: 65001
      nodeSelector: {matchLabels: {rack: two}}
outside:";

/// A service of each kind of address and policy. The endpoint is on node-1 or, by its label, on node-2.
const SERVICES: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: everywhere}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: far}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: RequireDualStack
  selector: {app: far}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: nobody}
  ports: [{port: 80, targetPort: 8080}]
";

/// The addresses of a service: of the cluster, or of the balancer.
fn addresses(lab: &Lab, service: &str, balancer: bool) -> Vec<String> {
    let service: Value =
        serde_json::from_str(&lab.run("kubectl", &["--", "get", "service", service, "-o", "json"])).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list =
        if balancer { &service["status"]["loadBalancer"]["ingress"] } else { &service["spec"]["clusterIPs"] };
    let list = list.as_array().cloned().unwrap_or_default();
    let all: Vec<String> = list.iter().map(|one| text(if balancer { &one["ip"] } else { one })).collect();
    assert_eq!(all.len(), 2, "{service:#}");
    all.iter().map(|one| format!("{one}/{}", if one.contains(':') { 128 } else { 32 })).collect()
}

/// The prefixes that BIRD has from node-1.
fn heard(bird: &Bird) -> BTreeSet<String> {
    let all = bird.ask("show route protocol n1 all");
    let starts = all.lines().filter(|line| line.contains(" unicast ["));
    starts.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// A session on IPv6 carries both families, each with next hops of its own.
fn assert_both_families_over_ipv6(lab: &Lab, bird: &Bird) {
    wait_for_sessions(lab, "node-2", &["bgppeer/tor6"]);
    for (family, range) in ["-4", "-6"].into_iter().zip(pod_ranges(lab, "node-2")) {
        let (hop, outside, router) = match family {
            "-4" => ("192.0.2.12", "198.51.100.0/24", "192.0.2.1"),
            _ => ("2001:db8:1::12", "2001:db8:2::/64", "2001:db8:1::1"),
        };
        let told = || bird.ask(&format!("show route protocol n2 {range} all"));
        until("the range of node-2", told, |seen| seen.contains(&format!("BGP.next_hop: {hop}")));
        let learned = || lab.inside("node-2", &format!("ip {family} route show {outside} proto 204"));
        until("what BIRD has told", learned, |seen| seen.contains(&format!("via {router} ")));
    }
}

/// What is wrong with a node's BGP as a whole, and how often its one session has come up.
fn deafness(lab: &Lab, node: &str) -> (Vec<String>, u64) {
    let json: Value = serde_json::from_str(&lab.status_with(node, &["bgp", "--json"])).unwrap();
    let problems = json["bgp"]["problems"].as_array().cloned().unwrap_or_default();
    let words = problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect();
    (words, json["bgp"]["sessions"][0]["established"].as_u64().unwrap_or_default())
}

/// An agent that finds port 179 taken says so, speaks with whom it can connect to, and has the port as soon as it is free.
fn assert_goes_on_without_its_port(lab: &Lab, node: &str) {
    lab.run("kill", &[&format!("agent/{node}")]);
    let all = || TcpListener::bind(("::", 179));
    let taken = netns::run_in(&lab.enter(node), all).unwrap().unwrap();
    lab.run("restart", &[&format!("agent/{node}")]);
    let names_both = |problems: &[String]| {
        let wrong = |at: &str| format!("BGP: cannot listen on {at}: another process has the port");
        let wrong = ["192.0.2.12:179", "[2001:db8:1::12]:179"].map(wrong);
        problems.len() == 2 && problems.iter().zip(wrong).all(|(seen, wanted)| seen.starts_with(&wanted))
    };
    let speaks = |(problems, ups): &(Vec<String>, u64)| names_both(problems) && *ups == 1;
    until("a session in spite of it", || deafness(lab, node), speaks);
    assert!(lab.status(node).contains("ss -ltnp sport = :179"));
    drop(taken);
    // The session is the same one.
    until("the port is had", || deafness(lab, node), |seen| *seen == (Vec::new(), 1));
    let listening = lab.inside(node, "ss -Hltn sport = :179");
    assert_eq!(listening.lines().count(), 2, "{listening}");
    until("no problem is left", || lab.status(node), |seen| seen.contains("problems none"));
}

#[test]
fn a_router_outside_hears_what_it_is_meant_to_hear() {
    let (old, new) = settings("bgp: {announce: [ClusterIP, LoadBalancerIP]}");
    let one = ("  - name: node-1\n", "  - name: node-1\n    labels: {rack: one}\n");
    let two = ("  - name: node-2\n", "  - name: node-2\n    labels: {rack: two}\n");
    let lab = Lab::up_changed("direct-kubernetes.yaml", &[(old, &new), one, two, ("outside:", PEER)]);
    let bird = Bird::start(&lab, "router", BIRD);
    let listed = lab.run("kubectl", &["--", "get", "bgppeers"]);
    let row = |line: &str| line.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let rows: Vec<String> = listed.lines().map(row).collect();
    assert_eq!(rows, ["NAME ADDRESS AS", "tor 192.0.2.1 65001", "tor6 2001:db8:1::1 65001"], "{listed}");
    let missing = "BgpPeer tor: there is no session, because the password of spec.passwordSecret is unknown: there is no \
                   Secret default/bgp";
    until("the Secret is missed", || lab.status("node-1"), |seen| seen.contains(missing));
    assert!(!lab.status("node-2").contains("BgpPeer"), "it is not chosen");
    assert_both_families_over_ipv6(&lab, &bird);
    assert_goes_on_without_its_port(&lab, "node-2");

    let secret = ["--", "create", "secret", "generic", "bgp", "--from-literal=tor=sesame"];
    lab.run("kubectl", &secret);
    wait_for_sessions(&lab, "node-1", &["bgppeer/tor"]);
    until("no problem", || lab.status("node-1"), |seen| seen.contains("problems none"));
    until("BFD", || sessions(&lab, "node-1"), |seen| seen[0]["bfd"] == "Up");
    let of_bird = bird.ask("show bfd sessions");
    assert!(of_bird.contains("192.0.2.11") && of_bird.contains("Up"), "{of_bird}");

    // Pod ranges at once; addresses of services as they have endpoints.
    let mut expected: BTreeSet<String> = pod_ranges(&lab, "node-1").into_iter().collect();
    until("pod ranges", || heard(&bird), |seen| *seen == expected);
    let far = "
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec:
  nodeName: node-2
  containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]
";
    lab.apply(&[PODS, far, SERVICES].concat());
    expected.extend(addresses(&lab, "everywhere", false));
    expected.extend(addresses(&lab, "everywhere", true));
    // Its endpoint is on another node: the cluster's clients may come here, those from outside may not.
    expected.extend(addresses(&lab, "far", false));
    until("services", || heard(&bird), |seen| *seen == expected);
    let told = sessions(&lab, "node-1")[0]["prefixes"].clone();
    let count = |v6: bool| expected.iter().filter(|prefix| prefix.contains(':') == v6).count();
    assert_eq!(told["IPv4"]["advertised"], count(false), "{told}");
    assert_eq!(told["IPv6"]["advertised"], count(true), "{told}");

    // With the next hop of the node, of each family, and known as services by their community.
    let seen = bird.ask("show route protocol n1 all");
    assert!(
        seen.contains("BGP.next_hop: 192.0.2.11") && seen.contains("BGP.next_hop: 2001:db8:1::11"),
        "{seen}"
    );
    assert_eq!(seen.matches("(64512, 1, 1)").count(), expected.len() - 2, "{seen}");

    // An endpoint here makes the policy Local tell its addresses, and nobody's endpoint nobody's.
    lab.run("kubectl", &["--", "label", "pod", "a", "app=far"]);
    expected.extend(addresses(&lab, "far", true));
    until("an endpoint of this node", || heard(&bird), |seen| *seen == expected);
    lab.run("kubectl", &["--", "label", "pod", "a", "app-"]);
    for address in addresses(&lab, "far", true) {
        expected.remove(&address);
    }
    until("none any more", || heard(&bird), |seen| *seen == expected);

    // Another password ends it until BIRD has it too.
    let other = r#"{"stringData": {"tor": "open"}}"#;
    lab.run("kubectl", &["--", "patch", "secret", "bgp", "--type=merge", "-p", other]);
    let down = |seen: &Vec<Value>| seen[0]["state"] != "Established";
    until("the password is taken over", || sessions(&lab, "node-1"), down);
    drop(bird);
    let bird = Bird::start(&lab, "router", &BIRD.replace("sesame", "open"));
    wait_for_sessions(&lab, "node-1", &["bgppeer/tor"]);
    until("all of it again", || heard(&bird), |seen| *seen == expected);

    // A router that is gone is noticed by BFD, long before the hold time.
    drop(bird);
    lab.inside("router", "ip link set eth0 down");
    let gone = |seen: &Vec<Value>| seen[0]["state"] != "Established" && seen[0]["bfd"] == "Down";
    until("BFD notices", || sessions(&lab, "node-1"), gone);
    let directory = format!("/run/cambric-lab/{}", lab.name);
    let log = Command::new("grep")
        .args(["-rl", "sesame", "--include=*.log", "--include=*.json", &directory])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&log.stdout), "", "the password is in these files");
}
