//! What becomes of connections to services, case by case, in both families.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{
    Attachment, AttachmentId, Cluster, Encapsulation, Endpoint, EndpointPort, EndpointSlice, Family,
    NetworkConfig, Node, NodeName, ObjectName, Protocol, Service, ServicePort, TrafficPolicy,
};
use plan::services::{Backend, Picker, ServicePlan, Target};
use plan::{Facts, plan};

use super::{End, Outcome, Packet, Start, Step, World, walk_all};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Everybody who has an address, with the two of them.
const ADDRESSES: [(&str, &str, &str); 21] = [
    ("a", "10.244.1.2", "fd00:10:f4:1::2"),
    ("b", "10.244.2.2", "fd00:10:f4:2::2"),
    ("ghost", "10.244.1.77", "fd00:10:f4:1::77"),
    ("gateway-1", "10.244.1.1", "fd00:10:f4:1::1"),
    ("gateway-2", "10.244.2.1", "fd00:10:f4:2::1"),
    ("node-1", "192.0.2.1", "2001:db8::1"),
    ("node-2", "192.0.2.2", "2001:db8::2"),
    ("friend", "198.51.100.7", "2001:db8:100::7"),
    ("stranger", "198.18.0.7", "2001:db8:18::7"),
    ("web", "10.96.0.10", "fd00:10:96::10"),
    ("local", "10.96.0.11", "fd00:10:96::11"),
    ("inner", "10.96.0.12", "fd00:10:96::12"),
    ("empty", "10.96.0.13", "fd00:10:96::13"),
    ("hosts", "10.96.0.14", "fd00:10:96::14"),
    ("sticky", "10.96.0.15", "fd00:10:96::15"),
    ("nobody", "10.96.0.99", "fd00:10:96::99"),
    ("web-outside", "203.0.113.10", "2001:db8:113::10"),
    ("local-outside", "203.0.113.11", "2001:db8:113::11"),
    ("local-balancer", "203.0.113.21", "2001:db8:113::21"),
    ("empty-outside", "203.0.113.13", "2001:db8:113::13"),
    ("sticky-outside", "203.0.113.15", "2001:db8:113::15"),
];

fn address(name: &str, family: Family) -> IpAddr {
    let (_, v4, v6) = ADDRESSES.iter().find(|(known, ..)| *known == name).unwrap();
    if family == Family::V4 { v4.parse().unwrap() } else { v6.parse().unwrap() }
}

fn name(address: IpAddr) -> &'static str {
    let text = address.to_string();
    ADDRESSES.iter().find(|(_, v4, v6)| text == *v4 || text == *v6).unwrap().0
}

fn both(name: &str) -> Vec<IpAddr> {
    Family::BOTH.map(|family| address(name, family)).into()
}

fn node_name(number: u8) -> NodeName {
    NodeName::new(format!("node-{number}")).unwrap()
}

fn pod(name: &str) -> Attachment {
    let id = AttachmentId { container_id: name.to_owned(), ifname: "eth0".to_owned() };
    Attachment { id, addresses: both(name) }
}

/// A service with one port, 80, and at every node if `node_port` is one.
fn service(name: &str, node_port: Option<u16>) -> Service {
    let outside = format!("{name}-outside");
    let known = ADDRESSES.iter().any(|(known, ..)| *known == outside);
    Service {
        name: ObjectName::new("default", name),
        cluster_addresses: both(name),
        external_addresses: if known { both(&outside) } else { Vec::new() },
        balancer_addresses: Vec::new(),
        balancer_sources: Vec::new(),
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    }
}

/// The slices of a service whose endpoints are these, with the nodes that they are on.
fn slices(service: &str, endpoints: &[(&str, Option<u8>)]) -> Vec<EndpointSlice> {
    let endpoint = |(name, node): &(&str, Option<u8>), family| Endpoint {
        address: address(name, family),
        ready: true,
        serving: true,
        terminating: false,
        node: node.map(|number| Arc::new(node_name(number))),
        zones: Arc::new([]),
        nodes: Arc::new([]),
    };
    let slice = |family| EndpointSlice {
        name: ObjectName::new("default", format!("{service}-{family}")),
        service: service.into(),
        family,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(|each| endpoint(each, family)).collect(),
    };
    Family::BOTH.map(slice).into()
}

/// Two nodes with a pod each, and services of all kinds.
fn world() -> World {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let network = NetworkConfig::parse(
        &texts(&["10.244.0.0/16", "fd00:10:f4::/48"]),
        &texts(&["10.96.0.0/16", "fd00:10:96::/112"]),
        Encapsulation::default(),
        "auto",
    );
    let node = |number: u8| {
        let (v4, v6) = (format!("10.244.{number}.0/24"), format!("fd00:10:f4:{number}::/64"));
        let own = both(&format!("node-{number}")).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        let own = own.iter().map(String::as_str);
        Node::parse(node_name(number), own, [v4.as_str(), v6.as_str()]).unwrap()
    };
    let sources = ["198.51.100.0/24", "2001:db8:100::/64"].map(|net| net.parse().unwrap());
    let (a, b) = (("a", Some(1)), ("b", Some(2)));
    let services = [
        (service("web", Some(30080)), vec![a, b]),
        (
            Service {
                external_policy: TrafficPolicy::Local,
                balancer_addresses: both("local-balancer"),
                balancer_sources: sources.into(),
                ..service("local", Some(30081))
            },
            vec![b],
        ),
        (Service { internal_policy: TrafficPolicy::Local, ..service("inner", None) }, vec![b]),
        (service("empty", Some(30083)), vec![]),
        (service("hosts", Some(30084)), vec![("node-1", Some(1)), ("node-2", Some(2)), ("stranger", None)]),
        (Service { affinity: Some(Duration::from_secs(60)), ..service("sticky", None) }, vec![a, b]),
    ];
    let cluster = Cluster {
        network: network.unwrap(),
        nodes: [1, 2].map(|number| (node_name(number), node(number))).into(),
        slices: services
            .iter()
            .flat_map(|(service, endpoints)| slices(&service.name.name, endpoints))
            .map(|slice| (slice.name.clone(), slice))
            .collect(),
        services: services.into_iter().map(|(service, _)| (service.name.clone(), service)).collect(),
    };
    let planned = |(name, node): (&NodeName, &Node)| {
        let pod = pod(if name.as_str() == "node-1" { "a" } else { "b" });
        let plan = plan(&cluster, name, &Facts { attachments: vec![pod], ..Facts::default() });
        assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        (name.clone(), (node.clone(), plan))
    };
    World { nodes: cluster.nodes.iter().map(planned).collect::<BTreeMap<_, _>>(), ..World::default() }
}

/// All outcomes of a packet. It is from a pod; from a node, perhaps `as` another address of it; or from outside `at` a
/// node.
fn outcomes(world: &World, from: &str, to: &str, protocol: u8, family: Family) -> Vec<Outcome> {
    let node = |name: &str| NodeName::new(name).unwrap();
    let (source, start) = match (from.split_once(" at "), from.split_once(" as ")) {
        (Some((source, at)), _) => (source, Start::Outside { node: node(at) }),
        (_, Some((at, source))) => (source, Start::Node(node(at))),
        _ if from == "a" => (from, Start::Pod(node_name(1), pod("a").id.host_link())),
        _ if from == "b" => (from, Start::Pod(node_name(2), pod("b").id.host_link())),
        _ => (from, Start::Node(node(from))),
    };
    let (to, port) = to.split_once(':').unwrap();
    let packet = Packet {
        source: address(source, family),
        destination: address(to, family),
        protocol,
        destination_port: Some(port.parse().unwrap()),
    };
    walk_all(world, &start, packet).collect()
}

/// Where it ends and whom the end sees, or why it does not.
fn told(outcome: &Outcome) -> String {
    let Packet { source, destination, destination_port, .. } = outcome.walk.packet;
    let end = match &outcome.walk.end {
        End::Lost(loss) => return loss.to_string(),
        End::Pod(..) => "pod",
        End::Node(_) => "node",
        End::Outside => "outside",
    };
    let seen = format!("{end} {}:{} from {}", name(destination), destination_port.unwrap(), name(source));
    match outcome.one_in {
        1 => seen,
        more => format!("1/{more} {seen}"),
    }
}

#[test]
fn connections_end_where_they_should_with_the_source_that_finds_the_way_back() {
    let world = world();
    let no_endpoint = "dropped in chain drop-silently: no endpoint that this client may use";
    let not_allowed = "dropped in chain balance: loadBalancerSourceRanges";
    let reset = "refused in chain refuse: TCP is reset";
    let by_gateway_1 = ["1/2 pod a:8080 from gateway-1", "1/2 pod b:8080 from gateway-1"].as_slice();
    let host_ends = ["1/3 node node-1:8080 from node-1", "1/3 node node-2:8080 from node-1"];
    let cases: &[(&str, &str, &[&str])] = &[
        // A pod is seen as itself, and by itself as its gateway.
        ("a", "web:80", &["1/2 pod a:8080 from gateway-1", "1/2 pod b:8080 from a"]),
        ("b", "web:80", &["1/2 pod a:8080 from b", "1/2 pod b:8080 from gateway-2"]),
        ("a", "web-outside:80", &["1/2 pod a:8080 from gateway-1", "1/2 pod b:8080 from a"]),
        ("a", "node-1:30080", &["1/2 pod a:8080 from gateway-1", "1/2 pod b:8080 from a"]),
        ("a", "sticky:80", &["1/2 pod a:8080 from gateway-1", "1/2 pod b:8080 from a"]),
        // By another node's port it comes from its node, and that node translates again.
        ("b", "node-1:30080", by_gateway_1),
        // All others are seen as the node that translated.
        ("node-1", "web:80", by_gateway_1),
        ("node-1 as gateway-1", "web:80", by_gateway_1),
        ("node-1", "web-outside:80", by_gateway_1),
        ("node-1", "node-1:30080", by_gateway_1),
        ("node-2", "node-1:30080", by_gateway_1),
        ("stranger at node-1", "node-1:30080", by_gateway_1),
        ("stranger at node-1", "web-outside:80", by_gateway_1),
        ("stranger at node-1", "web:80", by_gateway_1),
        ("stranger at node-1", "sticky-outside:80", by_gateway_1),
        // Nobody translates what is sent to a pod itself.
        ("stranger at node-1", "a:8080", &["pod a:8080 from stranger"]),
        ("stranger at node-1", "b:8080", &["pod b:8080 from stranger"]),
        // externalTrafficPolicy: Local
        ("stranger at node-2", "node-2:30081", &["pod b:8080 from stranger"]),
        ("stranger at node-2", "local-outside:80", &["pod b:8080 from stranger"]),
        ("stranger at node-1", "node-1:30081", &[no_endpoint]),
        ("stranger at node-1", "local-outside:80", &[no_endpoint]),
        ("node-1", "node-2:30081", &["pod b:8080 from node-1"]),
        ("node-2", "node-1:30081", &[no_endpoint]),
        ("node-1", "node-1:30081", &["pod b:8080 from gateway-1"]),
        ("a", "node-1:30081", &["pod b:8080 from a"]),
        ("a", "node-2:30081", &["pod b:8080 from node-1"]),
        ("a", "local:80", &["pod b:8080 from a"]),
        ("stranger at node-1", "local:80", &["pod b:8080 from gateway-1"]),
        // internalTrafficPolicy: Local
        ("a", "inner:80", &[no_endpoint]),
        ("node-1", "inner:80", &[no_endpoint]),
        ("b", "inner:80", &["pod b:8080 from gateway-2"]),
        ("node-2", "inner:80", &["pod b:8080 from gateway-2"]),
        // loadBalancerSourceRanges
        ("friend at node-2", "local-balancer:80", &["pod b:8080 from friend"]),
        ("friend at node-1", "local-balancer:80", &[no_endpoint]),
        ("stranger at node-2", "local-balancer:80", &[not_allowed]),
        ("a", "local-balancer:80", &[not_allowed]),
        // No endpoint at all, and no service.
        ("a", "empty:80", &[reset]),
        ("node-1", "empty:80", &[reset]),
        ("stranger at node-1", "node-1:30083", &[reset]),
        ("stranger at node-1", "empty-outside:80", &[reset]),
        ("a", "nobody:80", &[reset]),
        ("a", "web:81", &[reset]),
        ("node-1", "nobody:80", &[reset]),
        ("stranger at node-1", "nobody:80", &[reset]),
        ("a", "web-outside:81", &["outside web-outside:81 from node-1"]),
        ("stranger at node-1", "node-1:22", &["node node-1:22 from stranger"]),
        // Endpoints that are no pods.
        (
            "a",
            "hosts:80",
            &["1/3 node node-1:8080 from a", host_ends[1], "1/3 outside stranger:8080 from node-1"],
        ),
        ("node-1", "hosts:80", &[host_ends[0], host_ends[1], "1/3 outside stranger:8080 from node-1"]),
        (
            "friend at node-1",
            "node-1:30084",
            &["1/3 node node-1:8080 from friend", host_ends[1], "1/3 outside stranger:8080 from node-1"],
        ),
    ];
    for (from, to, expected) in cases {
        for family in Family::BOTH {
            let mut found: Vec<String> = outcomes(&world, from, to, TCP, family).iter().map(told).collect();
            found.sort();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{from} to {to}, {family}");
        }
    }
}

#[test]
fn what_is_no_tcp_is_told_by_icmp() {
    let world = world();
    for family in Family::BOTH {
        let told: Vec<_> = outcomes(&world, "a", "nobody:53", UDP, family).iter().map(told).collect();
        assert_eq!(
            told,
            ["refused in chain refuse: anything else is told that the port cannot be reached"],
            "{family}"
        );
    }
}

#[test]
fn every_hop_says_where_it_is_and_what_it_is_for() {
    let outcomes = outcomes(&world(), "b", "node-1:30080", TCP, Family::V4);
    let line = |hop: &super::Hop| match &hop.origin {
        Some(origin) => format!("{}: {} ({origin})", hop.node, hop.step),
        None => format!("{}: {}", hop.node, hop.step),
    };
    let lines: Vec<String> = outcomes[1].walk.hops.iter().map(line).collect();
    let expected = "\
node-2: rule in chain from-pod: IPv4 from the pod's own address (ClusterNetwork)
node-2: routed: the node's own way out
node-2: rule in chain postrouting: pod to outside takes the node's address (ClusterNetwork)
node-2: source becomes 192.0.2.2 (ClusterNetwork)
node-1: rule in chain balance: to the endpoints of the service, by services { 192.0.2.1 . tcp . 30080 } (Service default/web:http)
node-1: rule in chain pick-2: one endpoint at random, by backends { 192.0.2.1 . tcp . 30080 . 1 } (Service default/web:http)
node-1: destination becomes 10.244.2.2:8080 (Service default/web:http)
node-1: routed: 10.244.2.0/24 via 10.244.2.1 dev vxlan.cambric (Node node-2)
node-1: rule in chain postrouting: to another address of a service, not from a pod (Service default/web:http)
node-1: rule in chain masquerade-source: to a pod (Service default/web:http)
node-1: source becomes 10.244.1.1 (Service default/web:http)
node-1: into VXLAN by vxlan.cambric: 192.0.2.1 to 192.0.2.2 (Node node-2)
node-2: out of VXLAN by vxlan.cambric
node-2: routed: 10.244.2.0/24 dev cbr0 (ClusterNetwork)
node-2: rule in chain postrouting: what does not come from a pod of this node is left alone (ClusterNetwork)";
    assert_eq!(lines.join("\n"), expected);
    let masqueraded = outcomes[1].walk.hops.iter().filter(|hop| matches!(hop.step, Step::Masqueraded { .. }));
    assert_eq!(masqueraded.count(), 1);
}

#[test]
fn a_packet_that_two_nodes_send_to_each_other_is_a_circle() {
    let mut world = world();
    for (number, other) in [(1, "node-2"), (2, "node-1")] {
        let (_, plan) = world.nodes.get_mut(&node_name(number)).unwrap();
        for (frontend, balancer) in &mut plan.services.frontends {
            let backend = Backend { address: address(other, frontend.family()), port: 30080 };
            if frontend.port == 30080 {
                balancer.target = Target::Backends([backend].into());
            }
        }
        let counts = plan.services.pickers.keys().copied().collect::<Vec<_>>();
        for (family, _) in counts {
            plan.services.pickers.insert((family, Picker::Pick(1)), 1);
        }
    }
    for family in Family::BOTH {
        let told: Vec<_> = outcomes(&world, "node-1", "node-1:30080", TCP, family).iter().map(told).collect();
        assert_eq!(told, ["the way is a circle"]);
    }
}

/// A walker that believed anything would pass the tests above.
#[test]
fn a_broken_plan_is_noticed() {
    type Break = fn(&mut ServicePlan, Family);
    let cases: &[(&str, &str, Break, &str)] = &[
        (
            "a frontend is missing",
            "a",
            |plan, family| plan.frontends.retain(|frontend, _| frontend.address != address("web", family)),
            "refused in chain refuse",
        ),
        (
            "a backend is missing",
            "a",
            |plan, family| edit(plan, family, |backends| backends.truncate(1)),
            "pod a:8080 from gateway-1",
        ),
        ("the pickers are missing", "a", |plan, _| plan.pickers.clear(), "chain pick-2, which is not there"),
        (
            "a backend has an address that no pod has",
            "a",
            |plan, family| edit(plan, family, |backends| backends[0].address = address("ghost", family)),
            "no pod has the address",
        ),
        (
            "a backend has another port",
            "a",
            |plan, family| edit(plan, family, |backends| backends[1].port = 1),
            "b:1",
        ),
        ("pods may not be sent back", "a", |plan, _| plan.hairpins.clear(), "pod a:8080 from a"),
        (
            "the gateway is another",
            "node-1",
            |plan, _| {
                if let Some(settings) = &mut plan.settings {
                    settings.gateways.v4 = Some(address("stranger", Family::V4));
                    settings.gateways.v6 = Some(address("stranger", Family::V6));
                }
            },
            "pod b:8080 from stranger",
        ),
        (
            "the pod ranges are unknown",
            "a",
            |plan, _| {
                if let Some(settings) = &mut plan.settings {
                    settings.pods.clear();
                }
            },
            "pod b:8080 from gateway-1",
        ),
        (
            "there are no services at all",
            "a",
            |plan, _| *plan = ServicePlan::default(),
            "outside web:80 from node-1",
        ),
    ];
    for (what, from, damage, expected) in cases {
        for family in Family::BOTH {
            let mut world = world();
            let before: Vec<_> = outcomes(&world, from, "web:80", TCP, family).iter().map(told).collect();
            damage(&mut world.nodes.get_mut(&node_name(1)).unwrap().1.services, family);
            let after: Vec<_> = outcomes(&world, from, "web:80", TCP, family).iter().map(told).collect();
            assert_ne!(before, after, "{what}");
            assert!(after.iter().any(|told| told.contains(expected)), "{what}: {after:?}");
        }
    }
}

/// Changes the endpoints of the service `web`.
fn edit(plan: &mut ServicePlan, family: Family, change: impl FnOnce(&mut Vec<Backend>)) {
    let web = plan.frontends.iter_mut().find(|(frontend, _)| frontend.address == address("web", family));
    let (_, balancer) = web.unwrap();
    let mut backends = balancer.target.backends().to_vec();
    change(&mut backends);
    balancer.target = Target::Backends(backends.into());
}
