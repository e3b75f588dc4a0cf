//! `cambric trace` against the network: what the walker predicts of packets is what is captured of them.
//!
//! In labs of several modes, hundreds of packets between random ends are traced, sent, and captured on all links. And a
//! plan or a kernel with one wrong entry is noticed.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lab::live::Stage;
use lab::signals::Interrupts;
use lab_common::hearing::all_hear;
use lab_common::{CAMBRIC, Lab, succeed};
use model::{Family, NodeName};
use plan::{Entry, Key};
use serde_json::Value;
use trace::World;
use trace::journey::{Journey, Named, Party, Port, Query, Transport};
use trace::live::{Comparison, compare};

/// How many packets are sent in each lab.
const CASES: usize = 200;

/// What the labs run, beside the demonstration's: services of all kinds.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: open}
spec:
  type: NodePort
  selector: {app: web}
  ipFamilyPolicy: PreferDualStack
  ports:
    - {name: http, port: 80, targetPort: 8080, protocol: TCP}
    - {name: datagrams, port: 80, targetPort: 8080, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  selector: {app: pair}
  ipFamilyPolicy: PreferDualStack
  ports: [{name: left, port: 81, targetPort: 8081, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec:
  selector: {app: nobody}
  ipFamilyPolicy: PreferDualStack
  ports: [{name: http, port: 80, protocol: TCP}]
";

/// Random numbers (xorshift, Marsaglia 2003), the same for the same seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.throw(of.len())]
    }
}

fn seed() -> u64 {
    let given = std::env::var("TRACE_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    given.unwrap_or_else(now) | 1
}

fn with_pods(topology: &str) -> Lab {
    let lab = Lab::up(topology);
    let demo = include_str!("../../../examples/manifests/demo.yaml");
    lab.apply(&format!("{demo}\n---\n{SERVICES}"));
    lab
}

/// The lab, once every node sends to all endpoints.
fn stage(lab: &Lab) -> Stage {
    let interrupts = Interrupts::hold().unwrap();
    let stage = || Stage::load(&lab.name.parse().unwrap(), &interrupts).unwrap();
    let nodes: Vec<NodeName> = stage().scene.cluster.nodes.into_keys().collect();
    let pods = lab.pods();
    for node in &nodes {
        lab.agent_ready(node.as_str());
        let everywhere = pods.iter().filter(|pod| pod.name.starts_with("web-"));
        // The service that pair is behind has it on its own node only.
        let here = pods.iter().filter(|pod| pod.name == "pair" && pod.node == node.as_str());
        let endpoints: Vec<IpAddr> = everywhere.chain(here).flat_map(|pod| pod.addresses.clone()).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let maps = ["ip", "ip6"].map(|family| {
                lab.inside(node.as_str(), &format!("nft list map {family} cambric-services backends"))
            });
            let maps = maps.concat();
            let words: BTreeSet<&str> = maps.split_whitespace().collect();
            if endpoints.iter().all(|endpoint| words.contains(endpoint.to_string().as_str())) {
                break;
            }
            assert!(Instant::now() < deadline, "{node} does not send to {endpoints:?}: {maps}");
            thread::sleep(Duration::from_millis(10));
        }
    }
    stage()
}

/// A question between random ends, or none if the dice make no sense together.
fn question(stage: &Stage, dice: &mut Dice) -> Option<Query> {
    let scene = &stage.scene;
    let family = *dice.one(&Family::BOTH);
    let pods: Vec<&model::Pod> = scene.pods.iter().collect();
    let nodes: Vec<&NodeName> = scene.cluster.nodes.keys().collect();
    let named = |party| Named { party, address: None, port: None };
    let outside = stage.outside(family);
    let source = match dice.throw(8) {
        0 | 1 => named(Party::Node((*dice.one(&nodes)).clone())),
        2 => {
            let address = outside?;
            Named { party: Party::Outside(address), address: Some(address), port: None }
        }
        _ => named(Party::Pod((*dice.one(&pods)).clone())),
    };
    let from_outside = matches!(source.party, Party::Outside(_));
    let service = |dice: &mut Dice| {
        let services: Vec<_> = scene.cluster.services.values().collect();
        (*dice.one(&services)).clone()
    };
    let at = |party: Party, port: Option<u16>| Named { party, address: None, port: port.map(Port::Number) };
    let (destination, transport) = match dice.throw(if from_outside { 3 } else { 10 }) {
        0 => {
            let service = service(dice);
            let port = (*dice.one(&service.ports)).clone();
            let transport =
                if port.protocol == model::Protocol::Udp { Transport::Udp } else { Transport::Tcp };
            (at(Party::Node((*dice.one(&nodes)).clone()), Some(port.node_port?)), transport)
        }
        1 => (at(Party::Node((*dice.one(&nodes)).clone()), None), Transport::Icmp),
        // Nothing listens there.
        2 => (at(Party::Node((*dice.one(&nodes)).clone()), Some(9)), Transport::Tcp),
        3..=5 => {
            let service = service(dice);
            let port = (*dice.one(&service.ports)).clone();
            let transport =
                if port.protocol == model::Protocol::Udp { Transport::Udp } else { Transport::Tcp };
            // Or one that it does not have.
            let number = if dice.throw(5) == 0 { 4 } else { port.port };
            (at(Party::Service(service.name), Some(number)), transport)
        }
        6 => {
            let address = outside?;
            (Named { party: Party::Outside(address), address: Some(address), port: None }, Transport::Icmp)
        }
        7 => (at(Party::Pod((*dice.one(&pods)).clone()), None), Transport::Icmp),
        8 => (at(Party::Pod((*dice.one(&pods)).clone()), Some(9)), Transport::Tcp),
        _ => {
            let web: Vec<_> = pods.iter().filter(|pod| pod.name.name.starts_with("web-")).collect();
            let transport = *dice.one(&[Transport::Tcp, Transport::Udp]);
            (at(Party::Pod((**dice.one(&web)).clone()), Some(8080)), transport)
        }
    };
    // What gateways make of packets that are in no tunnel is not in the plans.
    let plain = from_outside || matches!(destination.party, Party::Node(_));
    if plain && !scene.gateways.is_empty() {
        return None;
    }
    // What a pod or node sends to itself does not leave it.
    (source.party != destination.party).then_some(Query {
        source,
        destination,
        transport: Some(transport),
        family: Some(family),
        via: None,
    })
}

fn journeys(stage: &Stage, dice: &mut Dice, count: usize) -> Vec<Journey> {
    let mut all = Vec::new();
    while all.len() < count {
        // Families that not both have are no case.
        all.extend(question(stage, dice).and_then(|query| stage.scene.journey(&query).ok()));
    }
    all
}

/// Traces and sends; what was predicted otherwise than it came.
fn disagreements(stage: &Stage, journeys: &[Journey]) -> Vec<(Journey, Comparison)> {
    let observed = stage.observe(journeys).unwrap();
    let compared =
        journeys.iter().zip(&observed).map(|(journey, seen)| (journey.clone(), compare(journey, seen)));
    compared.filter(|(_, comparison)| comparison.difference.is_some()).collect()
}

fn assert_agrees(topology: &str) {
    let lab = with_pods(topology);
    // While ways still change, what is predicted is out of date when it is sent.
    all_hear(&lab, &lab.pods());
    let stage = stage(&lab);
    let seed = seed();
    let journeys = journeys(&stage, &mut Dice(seed), CASES);
    let wrong = disagreements(&stage, &journeys);
    for (journey, comparison) in &wrong {
        eprintln!(
            "{:?} {}: {}",
            journey.start,
            trace::journey::text::render(journey, &Default::default()),
            trace::live::text(comparison)
        );
    }
    assert!(
        wrong.is_empty(),
        "{} of {CASES} differ in {topology}; again with TRACE_SEED={seed}",
        wrong.len()
    );
    let delivered = journeys.iter().filter(|journey| journey.delivered).count();
    assert!(delivered > CASES / 2 && delivered < CASES, "{delivered} delivered: too much of one kind");
    assert_agrees_by_the_fast_path(&lab, &stage, &journeys[..CASES / 2]);
}

/// The same packets again: a flow's first ones take the kernel's path, past the programs of the fast path, which look at them.
fn assert_agrees_by_the_fast_path(lab: &Lab, stage: &Stage, journeys: &[Journey]) {
    let nodes = lab.nodes();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    lab.set_fast_path(&nodes, true);
    let wrong = disagreements(stage, journeys);
    let shown: Vec<String> = wrong.iter().map(|(_, comparison)| trace::live::text(comparison)).collect();
    assert!(shown.is_empty(), "with the fast path {} differ: {}", shown.len(), shown.concat());
    lab.await_new_flows(&nodes);
}

#[test]
fn what_is_predicted_is_what_is_captured_with_vxlan() {
    assert_agrees("vxlan.yaml");
}

#[test]
fn what_is_predicted_is_what_is_captured_across_subnets() {
    assert_agrees("cross-subnet.yaml");
}

#[test]
fn what_is_predicted_is_what_is_captured_without_encapsulation() {
    assert_agrees("direct-kubernetes.yaml");
}

#[test]
fn what_is_predicted_is_what_is_captured_with_ip_in_ip() {
    assert_agrees("ipip.yaml");
}

#[test]
fn what_is_predicted_is_what_is_captured_with_routes_from_bgp() {
    assert_agrees("direct.yaml");
}

#[test]
fn what_is_predicted_is_what_is_captured_through_a_nat_gateway() {
    assert_agrees("nat-gateway.yaml");
}

/// In the plan of the first node the way to the last one's pods.
fn forget_a_route(world: &mut World) {
    let ranges = world.nodes.values().next_back().unwrap().0.pod_ranges.clone();
    let (_, plan) = world.nodes.values_mut().next().unwrap();
    plan.entries.retain(|key, planned| {
        let planned = matches!(planned.entry, Entry::Route(_))
            && matches!(key, Key::Route(net) if ranges.iter().any(|range| range.net() == *net));
        !planned
    });
}

/// From each pod of the first node to each one of the last.
fn first_to_last(stage: &Stage, family: Family) -> Vec<Journey> {
    let scene = &stage.scene;
    let of = |node: &NodeName| {
        let node = node.clone();
        let pods = scene.pods.iter().filter(move |pod| pod.node == node && !pod.host_network);
        pods.map(|pod| Named { party: Party::Pod(pod.clone()), address: None, port: None })
    };
    let nodes = || scene.cluster.nodes.keys();
    let pairs = of(nodes().next().unwrap()).flat_map(|source| {
        of(nodes().next_back().unwrap()).map(move |destination| Query {
            source: source.clone(),
            destination,
            transport: Some(Transport::Icmp),
            family: Some(family),
            via: None,
        })
    });
    let journeys: Vec<_> = pairs.map(|query| scene.journey(&query).unwrap()).collect();
    assert!(!journeys.is_empty(), "no pods on the first node or on the last");
    journeys
}

/// As a walker has it that forgets to rewrite addresses; none if nothing rewrites them on the way.
fn untranslated(mut journey: Journey) -> Option<Journey> {
    let mut forgotten = false;
    for route in &mut journey.ways {
        let Some(sent) = route.points.first().cloned() else { continue };
        for point in &mut route.points {
            forgotten |= point.always && (point.source, point.destination) != (sent.source, sent.destination);
            (point.source, point.destination) = (sent.source, sent.destination);
        }
    }
    (journey.delivered && forgotten).then_some(journey)
}

#[test]
fn one_wrong_entry_is_noticed_in_a_plan_and_in_a_kernel_and_so_is_a_wrong_walker() {
    let lab = with_pods("vxlan.yaml");
    let mut stage = stage(&lab);
    let asked = journeys(&stage, &mut Dice(seed()), CASES / 4);
    let asked: Vec<Journey> = asked.into_iter().filter_map(untranslated).collect();
    assert!(!asked.is_empty(), "nothing is translated");
    assert_eq!(disagreements(&stage, &asked).len(), asked.len(), "a walker that forgets translation");
    stage.scene.changes.push(forget_a_route);
    for family in Family::BOTH {
        let asked = first_to_last(&stage, family);
        assert_eq!(disagreements(&stage, &asked).len(), asked.len(), "a plan without a route ({family:?})");
    }
    stage.scene.changes.clear();
    // One that nobody repairs.
    lab.run("kill", &["agent/node-1"]);
    let ranges = stage.scene.cluster.nodes.values().next_back().unwrap().pod_ranges.clone();
    for family in Family::BOTH {
        let range = ranges.iter().find(|range| range.family() == family).unwrap().net();
        let (ip, asked) =
            (if family == Family::V4 { "ip -4" } else { "ip -6" }, first_to_last(&stage, family));
        lab.inside("node-1", &format!("{ip} route replace blackhole {range} proto 203"));
        let wrong = disagreements(&stage, &asked);
        assert_eq!(wrong.len(), asked.len(), "a kernel without a route ({family:?})");
        for (_, each) in &wrong {
            assert!(each.difference.as_ref().unwrap().contains("the kernel of node-1"), "{each:#?}");
        }
    }
}

fn trace(lab: &Lab, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(CAMBRIC).args(["trace", "--lab", &lab.name]).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_shows_sends_and_says_what_is_wrong() {
    let lab = with_pods("vxlan.yaml");
    drop(stage(&lab));
    for family in ["4", "6"] {
        let (ok, text, err) =
            trace(&lab, &["pair", "service/default/web:http", "--live", "--family", family]);
        assert!(ok && text.contains("prediction and observation agree"), "{text}{err}");
        assert!(text.contains("Service default/web:http"), "{text}");
    }
    let (ok, text, _) = trace(&lab, &["pair", "svc/empty", "--live"]);
    assert!(
        !ok && text.contains("LOST") && text.contains("the sender is told") && text.contains("agree"),
        "{text}"
    );
    let (ok, text, _) = trace(&lab, &["pair", "web-1", "--json"]);
    assert!(!ok && text.is_empty());
    let (ok, text, _) = trace(&lab, &["pair", "svc/web", "--json", "--live"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(ok && json["delivered"] == true && json["live"]["difference"].is_null(), "{json:#}");
    assert_eq!(json["ways"].as_array().unwrap().len(), 6);
    let (ok, _, err) = trace(&lab, &["pairs", "svc/web"]);
    assert!(!ok && err.contains("did you mean pod/default/pair?"), "{err}");

    // As a cluster, of which only the API is known; and as kubectl's plugin.
    let kubeconfig = format!("/run/cambric-lab/{}/kubeconfig", lab.name);
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().join("kubectl-cambric");
    std::os::unix::fs::symlink(CAMBRIC, &plugin).unwrap();
    let text =
        succeed(Command::new(&plugin).env("KUBECONFIG", &kubeconfig).args(["trace", "pair", "svc/web"]));
    assert!(text.contains("note: the API does not tell"), "{text}");
    by_the_agents(&lab, &plugin, &kubeconfig);
    let help = succeed(Command::new(&plugin).args(["trace", "--help"]));
    assert!(help.contains("Usage: kubectl cambric trace"), "{help}");
}

/// `--live` on what is a cluster to the command: the nodes' agents send and capture.
fn by_the_agents(lab: &Lab, plugin: &Path, kubeconfig: &str) {
    let trace = |arguments: &[&str]| {
        let output =
            Command::new(plugin).env("KUBECONFIG", kubeconfig).arg("trace").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    for family in ["4", "6"] {
        for protocol in ["tcp", "udp"] {
            let to = ["pair", "svc/open:80", "--live", "--family", family, "--protocol", protocol];
            let (ok, text, err) = trace(&to);
            assert!(
                ok && text.contains("prediction and observation agree"),
                "{family} {protocol} {text}{err}"
            );
            assert!(text.contains("the sender should get an answer") && !text.contains("assumed"), "{text}");
        }
        let (ok, text, err) = trace(&["node/node-1", "web-1", "--live", "--family", family]);
        assert!(!ok && text.is_empty() && err.contains("did you mean"), "{text}{err}");
        let (ok, text, err) = trace(&["node/node-1", "node/node-2", "--live", "--family", family]);
        assert!(ok && text.contains("got an answer"), "{text}{err}");
    }
    let (ok, text, _) = trace(&["pair", "svc/empty", "--live"]);
    assert!(
        !ok && text.contains("LOST") && text.contains("got a refusal") && text.contains("agree"),
        "{text}"
    );
    let (ok, _, err) = trace(&["198.51.100.7", "node/node-1:30080", "--live"]);
    assert!(!ok && err.contains("in a lab only"), "{err}");

    // A route of somebody else's, which agents leave alone.
    let pair = lab.pod("pair");
    let pods = lab.pods();
    let far = pods.iter().find(|pod| pod.name.starts_with("web-") && pod.node != pair.node).unwrap();
    for (family, address) in [("4", far.v4()), ("6", far.v6())] {
        let route = |verb: &str| {
            lab.inside(&pair.node, &format!("ip -{family} route {verb} blackhole {address} proto static"))
        };
        route("add");
        let (ok, text, err) = trace(&["pair", &format!("{}:8080", far.name), "--live", "--family", family]);
        route("del");
        let there = format!("on the way there, at {} vxlan", pair.node);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!ok && text.contains("DIFFERENT") && text.contains(&there), "{text}{err}");
        assert!(
            text.contains(&format!("the kernel of {} does not do what its plan says", pair.node)),
            "{text}"
        );
    }
    let left = lab.run("kubectl", &["--", "get", "probes", "-o", "name"]);
    assert!(left.trim().is_empty(), "probes are deleted: {left}");
    assert!(refusal(lab, &pair.node).contains("is another by now"));
}

/// What an agent says of a probe that names a pod by a UID that it does not have.
fn refusal(lab: &Lab, node: &str) -> String {
    lab.apply(&format!(
        "
apiVersion: cambric.io/v1alpha1
kind: Probe
metadata: {{name: of-another}}
spec:
  sender: {{node: {node}, pod: {{namespace: default, name: pair, uid: gone}}}}
  packet: {{protocol: icmp, destination: 10.96.0.1}}
  watchers: [{{node: {node}}}]
"
    ));
    let refused = "--for=jsonpath={.status.nodes[0].phase}=Refused";
    lab.run("kubectl", &["--", "wait", "probe/of-another", "--timeout=20s", refused]);
    let message =
        lab.run("kubectl", &["--", "get", "probe/of-another", "-o", "jsonpath={.status.nodes[0].message}"]);
    lab.run("kubectl", &["--", "delete", "probe/of-another"]);
    message
}
