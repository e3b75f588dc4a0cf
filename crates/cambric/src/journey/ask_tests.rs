use kube_source::{ProbeReply, ProbeReplyKind};
use model::{Cluster, Encapsulation, NetworkConfig, Node, ObjectName};
use trace::journey::Query;

use super::*;

fn spec() -> ProbeSpec {
    serde_json::from_value(serde_json::json!({
        "sender": {"node": "a"},
        "packet": {"protocol": "udp", "destination": "10.96.0.10", "port": 53},
        "watchers": [{"node": "a"}, {"node": "b"}],
    }))
    .unwrap()
}

/// Two nodes, each with a pod; the second may be in a site.
fn scene(site: Option<&str>) -> Scene {
    let ranges = |number: u8| format!("10.244.{number}.0/24");
    let node = |number: u8, site: Option<&str>| {
        let (address, range) = (format!("192.0.2.{number}"), ranges(number));
        let name = NodeName::new(format!("node-{number}")).unwrap();
        let node = Node::parse(name.clone(), [address.as_str()], [range.as_str()]).unwrap();
        (name, Node { site: site.map(Box::from), ..node })
    };
    let pod = |number: u8| Pod {
        name: ObjectName::new("default", format!("pod-{number}")),
        uid: format!("uid-{number}").into(),
        node: NodeName::new(format!("node-{number}")).unwrap(),
        host_network: false,
        addresses: PerFamily { v4: format!("10.244.{number}.2").parse().ok(), v6: None },
    };
    let network =
        NetworkConfig::parse(&["10.244.0.0/16".to_owned()], &[], Encapsulation::default(), "auto").unwrap();
    let cluster = Cluster {
        network,
        nodes: [node(1, None), node(2, site)].into(),
        services: BTreeMap::new(),
        slices: BTreeMap::new(),
    };
    Scene::assumed(cluster, vec![pod(1), pod(2)])
}

fn journey(scene: &Scene, from: &str) -> Journey {
    let query = Query {
        source: scene.source(from, "default").unwrap(),
        destination: scene.party("pod-2:8080", "default").unwrap(),
        transport: None,
        family: None,
        via: None,
    };
    scene.journey(&query).unwrap()
}

#[test]
fn the_nodes_and_pods_on_the_way_are_asked() {
    let scene = scene(None);
    let spec = super::spec(&scene, &journey(&scene, "pod-1")).unwrap();
    let pod = |number: u8| ProbePod {
        namespace: "default".to_owned(),
        name: format!("pod-{number}"),
        uid: format!("uid-{number}"),
    };
    let watcher = |number: u8| ProbeWatcher { node: format!("node-{number}"), pods: vec![pod(number)] };
    assert_eq!(spec.sender, ProbeSender { node: "node-1".to_owned(), pod: Some(pod(1)) });
    assert_eq!(spec.watchers, [watcher(1), watcher(2)]);
    assert_eq!((spec.packet.destination.as_str(), spec.packet.port), ("10.244.2.2", Some(8080)));
    let of_node = super::spec(&scene, &journey(&scene, "node/node-1")).unwrap();
    assert_eq!((of_node.sender.pod, of_node.watchers[0].pods.len()), (None, 0));
}

#[test]
fn what_cannot_be_sent_is_refused_with_a_reason() {
    let near = scene(None);
    let outside = super::spec(&near, &journey(&near, "198.51.100.7")).unwrap_err();
    assert!(outside.contains("in a lab only"), "{outside}");
    let far = scene(Some("berlin"));
    let through = super::spec(&far, &journey(&far, "pod-1")).unwrap_err();
    assert!(through.contains("NAT gateway"), "{through}");
}

#[test]
fn it_waits_for_all_and_says_who_refuses() {
    let status = |nodes: &[ProbeReport]| ProbeStatus { nodes: nodes.to_vec() };
    let (a, b) = (ProbeReport::new("a", ProbePhase::Done), ProbeReport::new("b", ProbePhase::Ready));
    let both = status(&[a.clone(), b]);
    assert_eq!(progress(&spec(), &both), Progress::Waiting(vec!["b".to_owned()]));
    assert_eq!(silent(&spec(), &both), Vec::<String>::new());
    assert_eq!(silent(&spec(), &status(std::slice::from_ref(&a))), ["b"]);
    assert_eq!(
        progress(&spec(), &status(&[a.clone(), ProbeReport::new("b", ProbePhase::Done)])),
        Progress::Done
    );
    let refused =
        ProbeReport { message: Some("it is busy".to_owned()), ..ProbeReport::new("b", ProbePhase::Refused) };
    assert_eq!(
        progress(&spec(), &status(&[a, refused])),
        Progress::Refused("the agent of b refuses: it is busy".to_owned())
    );
}

#[test]
fn datagrams_need_no_answer() {
    let mut sender = ProbeReport::new("a", ProbePhase::Done);
    sender.reply = Some(ProbeReply { kind: ProbeReplyKind::Nothing, message: String::new() });
    let mut far = ProbeReport::new("b", ProbePhase::Done);
    far.incomplete = true;
    let status = ProbeStatus { nodes: vec![far, sender] };
    let observed = observation(Transport::Udp, &status);
    assert!(observed.reply == Reply::Nothing && !observed.answers && observed.blind);
    assert!(observation(Transport::Tcp, &status).answers);
}

#[test]
fn links_are_what_nodes_say() {
    let mut own = ProbeReport::new("a", ProbePhase::Done);
    own.underlay = serde_json::from_value(serde_json::json!([
        {"link": "eth0", "address": "192.0.2.11/24", "mtu": 1500},
        {"link": "eth0", "address": "not one", "mtu": 1500},
    ]))
    .unwrap();
    let links = links(&ProbeStatus { nodes: vec![own] });
    assert_eq!(links[0].0.as_str(), "a");
    assert_eq!(links[0].1.v4.as_ref().unwrap().link.as_str(), "eth0");
    assert_eq!(links[0].1.v6, None);
}
