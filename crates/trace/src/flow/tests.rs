use std::net::SocketAddr;

use model::flow::{Connection, Count, Flow, Status, Tuple};
use model::{ObjectName, Protocol};

use super::*;
use crate::fixture::{pod, scene};
use crate::journey::{Party, PartyError};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A flow from one address to another, that is answered by a third to a fourth.
fn flow(protocol: u8, [from, to, by, back]: [&str; 4]) -> TrackedFlow {
    let tuple = |source: &str, destination: &str| Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        zone: 0,
    };
    let (original, reply) = (tuple(from, to), tuple(by, back));
    let flow = Flow { protocol, original, reply, status: Status(0), id: 7, zone: 0 };
    TrackedFlow { flow, connection: None, counters: None, begun: None }
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// An end in few words.
fn words(end: &EndView) -> String {
    let port = end.port.map(|port| format!(":{port}")).unwrap_or_default();
    let node = end.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    format!("{} {}{port}{node}", end.kind, end.name)
}

fn line(flow: &NamedFlow) -> String {
    let mut line = format!("{} {} > {}", flow.protocol, words(&flow.client), words(&flow.destination));
    line.extend(flow.service.iter().map(|service| format!(" = {service}")));
    line.extend(flow.backend.iter().map(|backend| format!(" > {}", words(backend))));
    line.extend(flow.seen_as.iter().map(|as_whom| format!(" as {}", words(as_whom))));
    line
}

#[test]
fn addresses_become_names() {
    let mut scene = scene();
    for service in scene.cluster.services.values_mut() {
        service.external_addresses = vec!["203.0.113.7".parse().unwrap(), "2001:db8:e::7".parse().unwrap()];
        service.balancer_addresses = vec!["198.51.100.7".parse().unwrap()];
    }
    // It has the address of its node.
    scene.pods.push(model::Pod {
        host_network: true,
        addresses: scene.cluster.nodes[&node("node-2")].addresses.clone(),
        ..pod("agent", 2, 9)
    });
    let names = Names::new(&scene);
    for (protocol, tuples, expected) in [
        (
            TCP,
            ["10.244.1.2:4000", "10.96.0.10:80", "10.244.2.2:8080", "10.244.1.2:4000"],
            "TCP pod default/client:4000 on node-1 > service default/web:80 = default/web:http \
             > pod default/web-2:8080 on node-2",
        ),
        (
            TCP,
            [
                "[fd00:10:244:1::2]:4000",
                "[fd00:10:96::10]:80",
                "[fd00:10:244:2::2]:8080",
                "[fd00:10:244:1::2]:4000",
            ],
            "TCP pod default/client:4000 on node-1 > service default/web:80 = default/web:http \
             > pod default/web-2:8080 on node-2",
        ),
        // From outside by a node port, masqueraded.
        (
            TCP,
            ["192.0.2.99:4000", "192.0.2.1:30080", "10.244.2.2:8080", "10.244.1.1:4000"],
            "TCP outside 192.0.2.99:4000 > node node-1:30080 on node-1 = default/web:http \
             > pod default/web-2:8080 on node-2 as node node-1:4000 on node-1",
        ),
        (
            TCP,
            [
                "[2001:db8::99]:4000",
                "[2001:db8:e::7]:80",
                "[fd00:10:244:2::2]:8080",
                "[fd00:10:244:1::1]:4000",
            ],
            "TCP outside 2001:db8::99:4000 > service default/web:80 = default/web:http \
             > pod default/web-2:8080 on node-2 as node node-1:4000 on node-1",
        ),
        (
            TCP,
            ["192.0.2.99:4000", "198.51.100.7:80", "10.244.1.3:8080", "192.0.2.99:4000"],
            "TCP outside 192.0.2.99:4000 > service default/web:80 = default/web:http \
             > pod default/web-1:8080 on node-1",
        ),
        // Another protocol, and another port, are not the service's.
        (
            UDP,
            ["10.244.1.2:4000", "10.96.0.10:80", "10.96.0.10:80", "10.244.1.2:4000"],
            "UDP pod default/client:4000 on node-1 > service default/web:80",
        ),
        (
            TCP,
            ["10.244.1.2:4000", "192.0.2.2:22", "192.0.2.2:22", "10.244.1.2:4000"],
            "TCP pod default/client:4000 on node-1 > node node-2:22 on node-2",
        ),
        // A pod that nobody knows any more, to the world.
        (
            TCP,
            ["10.244.1.77:4000", "1.1.1.1:443", "1.1.1.1:443", "192.0.2.1:4000"],
            "TCP pod 10.244.1.77:4000 on node-1 > outside 1.1.1.1:443 as node node-1:4000 on node-1",
        ),
        (
            ICMPV6,
            ["[fd00:10:244:1::2]:0", "[fd00:10:244:2::2]:0", "[fd00:10:244:2::2]:0", "[fd00:10:244:1::2]:0"],
            "ICMPv6 pod default/client on node-1 > pod default/web-2 on node-2",
        ),
        (
            TCP,
            ["[::1]:4000", "[::1]:6443", "[::1]:6443", "[::1]:4000"],
            "TCP node node-1:4000 on node-1 > node node-1:6443 on node-1",
        ),
    ] {
        let named = names.name(&node("node-1"), &flow(protocol, tuples), false);
        assert_eq!(line(&named), expected);
    }
}

#[test]
fn who_has_come_since_is_not_known() {
    let names = Names::new(&scene());
    let knows = |to: &str| names.knows(&flow(UDP, ["10.244.1.2:4000", to, to, "10.244.1.2:4000"]));
    for known in ["10.244.2.2:53", "10.244.2.1:53", "10.96.0.10:80", "1.1.1.1:53", "192.0.2.2:53"] {
        assert!(knows(known), "{known}");
    }
    assert!(!knows("10.244.2.77:53"));
}

#[test]
fn verdicts() {
    let (seen, assured) = (1 << 1, 1 << 1 | 1 << 2);
    let opening = Some(Connection { name: "SYN_SENT", phase: Phase::Opening });
    let phase = |name, phase| Some(Connection { name, phase });
    for (status, connection, answers, now, at_the_end) in [
        (0, None, 0, Verdict::New, Verdict::Unanswered),
        (0, opening, 0, Verdict::New, Verdict::Unanswered),
        (0, opening, 1, Verdict::Refused, Verdict::Refused),
        (0, phase("CLOSE", Phase::Reset), 0, Verdict::Refused, Verdict::Refused),
        (seen, None, 1, Verdict::Replied, Verdict::Closed),
        (assured, None, 1, Verdict::Established, Verdict::Closed),
        (seen, phase("SYN_RECV", Phase::Opening), 1, Verdict::Replied, Verdict::Closed),
        (assured, phase("ESTABLISHED", Phase::Established), 1, Verdict::Established, Verdict::Closed),
        (assured, phase("TIME_WAIT", Phase::Closing), 1, Verdict::Closing, Verdict::Closed),
        (assured, phase("CLOSE", Phase::Reset), 1, Verdict::Closed, Verdict::Closed),
    ] {
        let base = flow(TCP, ["10.244.1.2:1", "10.244.2.2:2", "10.244.2.2:2", "10.244.1.2:1"]);
        let received = Count { packets: answers, bytes: 40 * answers };
        let tracked = TrackedFlow {
            flow: Flow { status: Status(status), ..base.flow },
            connection,
            counters: Some(Counters { sent: Count::default(), received }),
            begun: None,
        };
        let found = [false, true].map(|ended| Verdict::of(&tracked, ended));
        assert_eq!(found, [now, at_the_end], "{status} {connection:?} {answers}");
    }
}

#[test]
fn what_is_aside() {
    let names = Names::new(&scene());
    let nodes: BTreeSet<NodeName> = ["node-1", "node-2"].map(node).into();
    let named = |at: &str, protocol, from: &str, to: &str| {
        names.name(&node(at), &flow(protocol, [from, to, to, from]), false)
    };
    let pods = ("10.244.1.2:4000", "10.244.2.2:8080");
    assert!(!named("node-1", TCP, pods.0, pods.1).is_aside(&nodes));
    assert!(named("node-2", TCP, pods.0, pods.1).is_aside(&nodes), "node-1 tells of it");
    assert!(
        !named("node-2", TCP, pods.0, pods.1).is_aside(&[node("node-2")].into()),
        "nobody else tells of it"
    );
    assert!(!named("node-2", TCP, "192.0.2.99:1", pods.1).is_aside(&nodes));
    assert!(named("node-1", UDP, "192.0.2.1:50000", "192.0.2.2:4789").is_aside(&nodes), "VXLAN");
    assert!(!named("node-1", UDP, "10.244.1.2:50000", "10.244.2.2:4789").is_aside(&nodes));
    assert!(named("node-1", 41, "192.0.2.1:0", "192.0.2.2:0").is_aside(&nodes), "IPv6 in IPv4");
    assert!(named("node-1", TCP, "127.0.0.1:1", "127.0.0.1:2").is_aside(&nodes));
    assert!(named("node-1", 2, "192.0.2.1:0", "224.0.0.22:0").is_aside(&nodes), "IGMP");
}

#[test]
fn filters() {
    let scene = scene();
    let names = Names::new(&scene);
    let party = |text: &str| scene.party(text, "default").unwrap();
    let to_service = ["10.244.1.2:4000", "10.96.0.10:80", "10.244.2.2:8080", "10.244.1.2:4000"];
    let named = names.name(&node("node-1"), &flow(TCP, to_service), false);
    let filter = Filter::default;
    for (wanted, filter) in [
        (true, filter()),
        (true, Filter { pods: vec![party("pod/client")], ..filter() }),
        (true, Filter { pods: vec![party("pod/web-2")], ..filter() }),
        (false, Filter { pods: vec![party("pod/web-1")], ..filter() }),
        (true, Filter { pods: vec![party("pod/web-1"), party("pod/web-2")], ..filter() }),
        (true, Filter { services: vec![party("service/web")], ..filter() }),
        (true, Filter { services: vec![party("service/web:http")], ..filter() }),
        (true, Filter { services: vec![party("service/web:80")], ..filter() }),
        (false, Filter { services: vec![party("service/web:https")], ..filter() }),
        (false, Filter { services: vec![party("service/web:81")], ..filter() }),
        (false, Filter { pods: vec![party("pod/web-1")], services: vec![party("service/web")], ..filter() }),
        (true, Filter { peers: vec![party("10.244.2.2")], ..filter() }),
        (true, Filter { peers: vec![party("10.244.2.2:8080")], ..filter() }),
        (false, Filter { peers: vec![party("10.244.2.2:80")], ..filter() }),
        (false, Filter { peers: vec![party("node/node-2")], ..filter() }),
        (true, Filter { ports: vec![80], ..filter() }),
        (true, Filter { ports: vec![443, 8080], ..filter() }),
        (false, Filter { ports: vec![4000], ..filter() }),
        (true, Filter { protocols: vec!["UDP", "TCP"], ..filter() }),
        (false, Filter { protocols: vec!["UDP"], ..filter() }),
        (true, Filter { verdicts: vec![Verdict::New], ..filter() }),
        (false, Filter { verdicts: vec![Verdict::Established], ..filter() }),
        (true, Filter { family: Some(Family::V4), ..filter() }),
        (false, Filter { family: Some(Family::V6), ..filter() }),
        (true, Filter { nodes: Some([node("node-1"), node("node-2")].into()), ..filter() }),
    ] {
        assert_eq!(filter.wants(&named), wanted, "{filter:?}");
    }
    let error = scene.party("service/wep", "default").unwrap_err();
    assert!(
        matches!(&error, PartyError::Unknown { .. }) && error.to_string().contains("did you mean"),
        "{error}"
    );
}

#[test]
fn json_has_names_and_no_structures_of_ours() {
    let tuples = ["10.244.1.2:4000", "10.96.0.10:80", "10.244.2.2:8080", "10.244.1.2:4000"];
    let counted =
        Counters { sent: Count { packets: 1, bytes: 60 }, received: Count { packets: 2, bytes: 120 } };
    let mut tracked = TrackedFlow { counters: Some(counted), ..flow(TCP, tuples) };
    tracked.flow.status = Status(1 << 1);
    let named = Names::new(&scene()).name(&node("node-1"), &tracked, true);
    let json = serde_json::to_value(&named).unwrap();
    assert_eq!(json["node"], "node-1");
    assert_eq!((&json["family"], &json["protocol"]), (&"IPv4".into(), &"TCP".into()));
    assert_eq!(json["service"], "default/web:http");
    assert_eq!(json["client"]["name"], "default/client");
    assert_eq!(json["backend"]["node"], "node-2");
    assert_eq!(json["seenAs"], serde_json::Value::Null);
    assert_eq!(json["verdict"], "closed");
    assert_eq!(json["traffic"]["receivedBytes"], 120);
}

/// The one that a scene asks for an address, and the one that names are made from, are the same.
#[test]
fn scenes_and_names_agree() {
    let scene = scene();
    let names = Names::new(&scene);
    for (address, _) in scene.holders() {
        let at = SocketAddr::new(address, 1);
        let tuple = Tuple { source: at, destination: at, zone: 0 };
        let own = Flow { protocol: UDP, original: tuple, reply: tuple, status: Status(0), id: 0, zone: 0 };
        let tracked = TrackedFlow { flow: own, connection: None, counters: None, begun: None };
        let party = scene.party_with(address);
        assert!(!matches!(party, Party::Outside(_)));
        let named = names.name(&node("node-1"), &tracked, false);
        assert_eq!(named.client, EndView::of(&party, address, Some(1)));
    }
    assert_eq!(
        scene.party_with("10.96.0.10".parse().unwrap()),
        Party::Service(ObjectName::new("default", "web"))
    );
    assert_eq!(Protocol::Udp.number(), UDP);
}
