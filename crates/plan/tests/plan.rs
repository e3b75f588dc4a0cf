//! Plans of small clusters, case by case.
#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{
    Attachment, AttachmentId, Cluster, Encapsulation, Endpoint, EndpointPort, EndpointSlice, Family,
    LinkName, MacAddr, NetworkConfig, Node, NodeName, ObjectName, PerFamily, Protocol, Service,
    TrafficPolicy,
};
use plan::{Entry, Facts, Input, Key, Link, NodePlan, Origin, Planner, Problem, Underlay, plan};

fn network(mtu: &str) -> NetworkConfig {
    let encapsulation = Encapsulation::default();
    let ranges = ["10.244.0.0/16".to_owned(), "fd00:10:f4::/48".to_owned()];
    NetworkConfig::parse(&ranges, &[], encapsulation, mtu).unwrap()
}

fn node(name: &str, addresses: &[&str], ranges: &[&str]) -> Node {
    Node::parse(NodeName::new(name).unwrap(), addresses.iter().copied(), ranges.iter().copied()).unwrap()
}

fn one() -> Node {
    node("one", &["192.0.2.1", "2001:db8::1"], &["10.244.1.0/24", "fd00:10:f4:1::/64"])
}

fn two() -> Node {
    node("two", &["192.0.2.2", "2001:db8::2"], &["10.244.2.0/24", "fd00:10:f4:2::/64"])
}

/// The links of node `one`, with these MTUs in bytes.
fn on_eth0(v4: u32, v6: u32) -> PerFamily<Underlay> {
    let on_eth0 = |net: &str, mtu| {
        Some(Underlay { link: LinkName::new("eth0").unwrap(), net: net.parse().unwrap(), mtu })
    };
    PerFamily { v4: on_eth0("192.0.2.1/24", v4), v6: on_eth0("2001:db8::1/64", v6) }
}

fn plan_of(nodes: &[Node], network: NetworkConfig, facts: &Facts) -> NodePlan {
    let nodes: BTreeMap<_, _> = nodes.iter().map(|node| (node.name.clone(), node.clone())).collect();
    plan(
        &Cluster { network, nodes, services: BTreeMap::new(), slices: BTreeMap::new() },
        &NodeName::new("one").unwrap(),
        facts,
    )
}

/// The plan as lines, in the order of its keys.
fn lines(plan: &NodePlan) -> Vec<String> {
    let line = |entry: &Entry| match entry {
        Entry::Table(table) => format!("table {:?} with {} chains", table.family, table.chains.len()),
        Entry::Member(member) => format!("{:?} {} {}", member.family, member.set, member.key_text()),
        Entry::Link(Link::Bridge { name, mac, mtu }) => format!("bridge {name} {mac} mtu {mtu}"),
        Entry::Link(Link::Vxlan { name, vni, port, local, mac, mtu }) => {
            format!("vxlan {name} {mac} id {} port {} local {local} mtu {mtu}", vni.value(), port.value())
        }
        Entry::Link(Link::Headroom { name, local, mac }) => format!("headroom by {name} {mac} local {local}"),
        Entry::Port { link, bridge } => format!("port {link} of {bridge}"),
        Entry::Sysctl { path, value } => format!("{path} = {value}"),
        Entry::Address { link, net } => format!("address {net} dev {link}"),
        Entry::Forwarding { link, mac, node } => format!("fdb {mac} dev {link} dst {node}"),
        Entry::Neighbour { link, address, mac } => format!("neigh {address} lladdr {mac} dev {link}"),
        Entry::TunnelLocal(address) => format!("ipip at {address}"),
        Entry::TunnelNode(address) => format!("ipip from {address}"),
        Entry::TunnelRoute { destination, route } => format!("ipip {destination} by {route:?}"),
        Entry::TunnelUplink(link) => format!("ipip on {link}"),
        Entry::FastPath => "fast path".to_owned(),
        Entry::Route(route) => format!("route {route}"),
    };
    plan.entries.values().map(|planned| format!("{} | {}", line(&planned.entry), planned.origin)).collect()
}

#[test]
fn two_dual_stack_nodes() {
    let id = AttachmentId { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
    let addresses = vec!["10.244.1.2".parse().unwrap(), "fd00:10:f4:1::2".parse().unwrap()];
    let facts = Facts { attachments: vec![Attachment { id, addresses }], ..Facts::default() };
    let plan = plan_of(&[one(), two()], network("auto"), &facts);
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    let expected = "\
table Bridge with 2 chains | ClusterNetwork
table Ip with 3 chains | ClusterNetwork
table Ip6 with 3 chains | ClusterNetwork
Bridge pod-addresses cbv6fa8d55f1b79 . 10.244.1.2 | Pod interface c1/eth0
Bridge pod-addresses6 cbv6fa8d55f1b79 . fd00:10:f4:1::2 | Pod interface c1/eth0
Bridge pod-addresses6 cbv6fa8d55f1b79 . fe80::858:aff:fef4:102 | Pod interface c1/eth0
Bridge pod-macs cbv6fa8d55f1b79 . 0a:58:0a:f4:01:02 | Pod interface c1/eth0
Ip cluster-pods 10.244.0.0/16 | ClusterNetwork
Ip local-pods 10.244.1.0/24 | ClusterNetwork
Ip nodes 192.0.2.2 | Node two
Ip6 cluster-pods fd00:10:f4::/48 | ClusterNetwork
Ip6 local-pods fd00:10:f4:1::/64 | ClusterNetwork
Ip6 nodes 2001:db8::2 | Node two
bridge cbr0 0e:58:0a:f4:01:01 mtu 1450 | ClusterNetwork
headroom by room.cambric 06:MAC6 local 2001:db8::1 | ClusterNetwork
vxlan vxlan.cambric 06:58:c0:00:02:01 id 4096 port 4789 local 192.0.2.1 mtu 1450 | ClusterNetwork
vxlan vxlan6.cambric 06:MAC6 id 4096 port 4789 local 2001:db8::1 mtu 1430 | ClusterNetwork
port cbv6fa8d55f1b79 of cbr0 | Pod interface c1/eth0
net/bridge/bridge-nf-call-ip6tables = 1 | ClusterNetwork
net/bridge/bridge-nf-call-iptables = 1 | ClusterNetwork
net/ipv4/conf/vxlan.cambric/rp_filter = 2 | ClusterNetwork
net/ipv4/conf/vxlan6.cambric/rp_filter = 2 | ClusterNetwork
net/ipv4/ip_forward = 1 | ClusterNetwork
net/ipv6/conf/all/forwarding = 1 | ClusterNetwork
net/ipv6/conf/cbr0/accept_dad = 0 | ClusterNetwork
net/netfilter/nf_conntrack_acct = 1 | ClusterNetwork
address 10.244.1.1/24 dev cbr0 | ClusterNetwork
address fd00:10:f4:1::1/64 dev cbr0 | ClusterNetwork
address 10.244.1.1/32 dev vxlan.cambric | ClusterNetwork
address 10.244.1.1/32 dev vxlan6.cambric | ClusterNetwork
fdb 06:58:c0:00:02:02 dev vxlan.cambric dst 192.0.2.2 | Node two
neigh 10.244.2.1 lladdr 06:58:c0:00:02:02 dev vxlan.cambric | Node two
neigh fd00:10:f4:2::1 lladdr 06:58:c0:00:02:02 dev vxlan.cambric | Node two
ipip at 192.0.2.1 | ClusterNetwork
ipip at 2001:db8::1 | ClusterNetwork
ipip from 192.0.2.2 | Node two
ipip from 2001:db8::2 | Node two
route 10.244.2.0/24 via 10.244.2.1 dev vxlan.cambric src 10.244.1.1 | Node two
route fd00:10:f4:2::/64 via fd00:10:f4:2::1 dev vxlan.cambric src fd00:10:f4:1::1 | Node two";
    let mac6 = MacAddr::for_tunnel(&"2001:db8::1".parse::<IpAddr>().unwrap()).to_string();
    let link = facts.attachments[0].id.host_link().to_string();
    let expected = expected.replace("06:MAC6", &mac6).replace("cbv6fa8d55f1b79", &link);
    assert_eq!(lines(&plan).join("\n"), expected);
}

#[test]
fn nodes_with_only_ipv6_in_common_use_the_ipv6_device() {
    let remote = node("two", &["2001:db8::2"], &["10.244.2.0/24"]);
    let plan = plan_of(&[one(), remote], network("auto"), &Facts::default());
    let text = lines(&plan).join("\n");
    assert!(
        text.contains("route 10.244.2.0/24 via 10.244.2.1 dev vxlan6.cambric src 10.244.1.1 | Node two"),
        "{text}"
    );
    assert!(text.contains("dev vxlan6.cambric dst 2001:db8::2"), "{text}");
}

#[test]
fn a_node_without_address_range_or_common_family_is_a_problem_of_its_own() {
    let nodes = [
        node("one", &["192.0.2.1"], &["10.244.1.0/24"]),
        node("no-address", &[], &["10.244.2.0/24"]),
        node("no-range", &["192.0.2.3"], &[]),
        node("stranger", &["2001:db8::4"], &["10.244.4.0/24"]),
        node("fine", &["192.0.2.5"], &["10.244.5.0/24"]),
    ];
    let plan = plan_of(&nodes, network("auto"), &Facts::default());
    let name = |name: &str| NodeName::new(name).unwrap();
    assert_eq!(
        plan.problems,
        [
            Problem::NoAddress(name("no-address")),
            Problem::NoRange(name("no-range")),
            Problem::NoCommonFamily { local: name("one"), remote: name("stranger") },
        ]
    );
    let routes = plan.entries.keys().filter(|key| matches!(key, Key::Route(_))).count();
    assert_eq!(routes, 1);
}

#[test]
fn of_two_nodes_with_one_range_the_first_by_name_has_it_until_it_leaves() {
    let a = node("a", &["192.0.2.2"], &["10.244.2.0/24"]);
    let b = node("b", &["192.0.2.3"], &["10.244.2.0/24"]);
    let key = Key::Route("10.244.2.0/24".parse().unwrap());
    // Whichever of them comes first.
    for nodes in [[&a, &b], [&b, &a]] {
        let mut planner = Planner::new(NodeName::new("one").unwrap());
        planner.update(Input::Network(network("auto")));
        planner.update(Input::Node(one()));
        for node in nodes {
            planner.update(Input::Node(node.clone()));
        }
        let origin = |name: &str| Origin::Node(NodeName::new(name).unwrap());
        assert_eq!(planner.plan().entries[&key].origin, origin("a"));
        let problems: Vec<_> = planner.problems().iter().map(Problem::to_string).collect();
        let expected = "Node b and Node a both claim the pod range 10.244.2.0/24; Node a keeps it until one of them changes";
        assert!(problems.iter().any(|problem| problem == expected), "{problems:?}");
        let change = planner.update(Input::NodeGone(a.name.clone()));
        assert_eq!(change.keys[&key].as_ref().unwrap().origin, origin("b"));
        assert!(planner.problems().is_empty());
    }
}

#[test]
fn of_three_claims_each_that_goes_leaves_the_others_in_order() {
    let claimants = ["a", "b", "c"];
    let node = |name: &str, last| node(name, &[&format!("192.0.2.{last}")], &["10.244.2.0/24"]);
    let key = Key::Route("10.244.2.0/24".parse().unwrap());
    for (come, go) in [([0, 1, 2], [0, 1, 2]), ([2, 1, 0], [1, 0, 2]), ([1, 2, 0], [2, 0, 1])] {
        let mut planner = Planner::new(NodeName::new("one").unwrap());
        planner.update(Input::Network(network("auto")));
        planner.update(Input::Node(one()));
        for each in come {
            planner.update(Input::Node(node(claimants[each], 10 + each)));
        }
        // One that changes claims once, as before.
        planner.update(Input::Node(node(claimants[go[2]], 20)));
        let mut left = vec![0, 1, 2];
        for gone in go {
            let winner = Origin::Node(NodeName::new(claimants[left[0]]).unwrap());
            assert_eq!(planner.planned(&key).unwrap().origin, winner, "{come:?} {go:?}");
            // Each that has lost is told of for the route and for the neighbour.
            assert_eq!(planner.problems().len(), 2 * (left.len() - 1), "{come:?} {go:?}");
            planner.update(Input::NodeGone(NodeName::new(claimants[gone]).unwrap()));
            left.retain(|each| *each != gone);
        }
        assert_eq!(planner.planned(&key), None);
    }
}

#[test]
fn a_range_that_overlaps_the_nodes_own_is_left_out() {
    let plan = plan_of(
        &[one(), node("two", &["192.0.2.2"], &["10.244.0.0/20"])],
        network("auto"),
        &Facts::default(),
    );
    assert!(matches!(plan.problems.as_slice(), [Problem::OverlapsLocal { .. }]), "{:?}", plan.problems);
    assert!(!plan.entries.keys().any(|key| matches!(key, Key::Route(_))));
}

#[test]
fn a_changed_address_changes_that_nodes_entries_only() {
    let mut planner = Planner::new(NodeName::new("one").unwrap());
    planner.update(Input::Network(network("auto")));
    for node in [one(), two(), node("three", &["192.0.2.3"], &["10.244.3.0/24"])] {
        planner.update(Input::Node(node));
    }
    let change =
        planner.update(Input::Node(node("two", &["192.0.2.22"], &["10.244.2.0/24", "fd00:10:f4:2::/64"])));
    let keys: Vec<String> = change.keys.keys().map(|key| format!("{key:?}")).collect();
    // Two neighbours changed, a forwarding entry, a member and a tunnel's node came, a forwarding entry, two members and
    // two of the tunnel's nodes went; the routes are as they were.
    assert_eq!(change.keys.len(), 10, "{keys:#?}");
    assert_eq!(change.keys.values().filter(|planned| planned.is_none()).count(), 5, "{keys:#?}");
    assert!(!change.keys.keys().any(|key| matches!(key, Key::Route(_))), "{keys:#?}");
}

#[test]
fn mtu_is_the_underlays_less_the_encapsulation() {
    let mtu = |setting: &str, underlay: u32, node: &Node| {
        plan::pod_mtu(&network(setting), node, &on_eth0(underlay, underlay))
    };
    let six = node("one", &["2001:db8::1"], &["fd00:10:f4:1::/64"]);
    assert_eq!(mtu("auto", 1500, &one()), (1450, None));
    assert_eq!(mtu("auto", 9000, &one()), (8950, None));
    assert_eq!(mtu("auto", 1500, &six), (1430, None));
    assert_eq!(mtu("1400", 1500, &one()), (1400, None));
    assert_eq!(mtu("1500", 1500, &one()), (1450, Some(Problem::MtuTooBig { configured: 1500, most: 1450 })));
    let (least, problem) = mtu("auto", 1300, &one());
    assert_eq!(least, 1280);
    assert!(problem.unwrap().to_string().contains("leaves pods 1250; IPv6 needs at least 1280"));
}

#[test]
fn ranges_outside_the_clusters_are_pod_traffic_too() {
    let plan =
        plan_of(&[one(), node("two", &["192.0.2.2"], &["10.99.2.0/24"])], network("auto"), &Facts::default());
    assert!(lines(&plan).contains(&"Ip cluster-pods 10.99.2.0/24 | Node two".to_owned()));
}

#[test]
fn nothing_is_planned_before_network_and_node_are_known() {
    let mut planner = Planner::new(NodeName::new("one").unwrap());
    assert!(planner.update(Input::Node(two())).is_empty());
    assert!(planner.update(Input::Network(network("auto"))).is_empty());
    assert!(!planner.update(Input::Node(one())).is_empty());
}

#[test]
fn a_load_balancer_is_told_of_this_nodes_endpoints_while_the_node_is_known() {
    let name = ObjectName::new("shop", "web");
    let service = Service {
        name: name.clone(),
        cluster_addresses: vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()],
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        balancer_sources: Vec::new(),
        ports: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        affinity: None,
        health_check_port: Some(32000),
    };
    let endpoint = |address: &str, node: &str| Endpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(NodeName::new(node).unwrap().into()),
        zones: [].into(),
        nodes: [].into(),
    };
    let slice = EndpointSlice {
        name: ObjectName::new("shop", "web-v4"),
        service: "web".into(),
        family: Family::V4,
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 80 }],
        endpoints: vec![endpoint("10.244.1.2", "one"), endpoint("10.244.2.2", "two")],
    };
    let mut planner = Planner::new(NodeName::new("one").unwrap());
    let answer = |planner: &Planner| {
        let checks = &planner.services().health_checks;
        checks.get(&32000).map(|check| check.local_endpoints.clone())
    };
    let slice_name = slice.name.clone();
    for input in [Input::Network(network("auto")), Input::Service(service), Input::Slice(slice)] {
        planner.update(input);
        assert_eq!(answer(&planner), None);
    }
    planner.update(Input::Node(one()));
    assert_eq!(answer(&planner), Some(PerFamily { v4: Some(1), v6: Some(0) }));
    planner.update(Input::SliceGone(slice_name));
    assert_eq!(answer(&planner), Some(PerFamily { v4: Some(0), v6: Some(0) }));
    planner.update(Input::NodeGone(one().name));
    assert_eq!(answer(&planner), None);
    planner.update(Input::Node(one()));
    assert!(answer(&planner).is_some());
    planner.update(Input::ServiceGone(name));
    assert_eq!(answer(&planner), None);
}
