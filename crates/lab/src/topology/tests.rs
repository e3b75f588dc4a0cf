use std::fmt::Write as _;

use model::Family;
use proptest::prelude::*;

use super::*;

const EXAMPLES: [(&str, &str); 8] = [
    ("vxlan", include_str!("../../../../examples/labs/vxlan.yaml")),
    ("direct-kubernetes", include_str!("../../../../examples/labs/direct-kubernetes.yaml")),
    ("cross-subnet", include_str!("../../../../examples/labs/cross-subnet.yaml")),
    ("vxlan-v4", include_str!("../../../../examples/labs/vxlan-v4.yaml")),
    ("vxlan-v6", include_str!("../../../../examples/labs/vxlan-v6.yaml")),
    ("direct", include_str!("../../../../examples/labs/direct.yaml")),
    ("cross-subnet-bgp", include_str!("../../../../examples/labs/cross-subnet-bgp.yaml")),
    ("two-subnets", include_str!("../../../../examples/labs/two-subnets.yaml")),
];

/// A topology from which the cases are made by replacing one text.
const BASE: &str = "\
network:
  podRanges: [10.244.0.0/16, \"fd00:10:244::/56\"]
  serviceRanges: [10.96.0.0/16]
  mtu: auto
subnets:
  - name: lan
    prefixes: [192.0.2.0/24, \"2001:db8:1::/64\"]
    mtu: 1500
  - name: home
    prefixes: [203.0.113.0/24]
  - name: world
    prefixes: [198.51.100.0/24, \"2001:db8:2::/64\"]
routers:
  - name: r1
    subnets: [lan, world]
natGateways:
  - {name: gw, inside: home, outside: world}
nodes:
  - name: n1
    subnet: lan
    addresses: [192.0.2.77]
    labels: {zone: a}
  - name: n2
    subnet: home
outside:
  - name: h1
    subnet: world
";

fn addresses(topology: &Topology, name: &str) -> Vec<String> {
    let machine = topology.machine(name).unwrap();
    machine.interfaces.iter().flat_map(|one| one.addresses.iter()).map(ToString::to_string).collect()
}

fn routes(topology: &Topology, name: &str) -> Vec<String> {
    let routes = &topology.machine(name).unwrap().routes;
    routes.iter().map(|route| format!("{} via {}", route.destination, route.gateway)).collect()
}

#[test]
fn the_examples_are_topologies() {
    for (name, text) in EXAMPLES {
        let topology = parse(text).unwrap_or_else(|error| panic!("{name}.yaml:{error}"));
        assert!(topology.nodes().count() >= 3, "{name}");
    }
}

#[test]
fn addresses_are_chosen_by_role_and_given_ones_kept() {
    let topology = parse(BASE).unwrap();
    assert_eq!(addresses(&topology, "n1"), ["192.0.2.77/24", "2001:db8:1::11/64"]);
    assert_eq!(addresses(&topology, "n2"), ["203.0.113.11/24"]);
    assert_eq!(
        addresses(&topology, "r1"),
        ["192.0.2.1/24", "2001:db8:1::1/64", "198.51.100.1/24", "2001:db8:2::1/64"]
    );
    assert_eq!(addresses(&topology, "gw"), ["203.0.113.1/24", "198.51.100.2/24", "2001:db8:2::2/64"]);
    assert_eq!(addresses(&topology, "h1"), ["198.51.100.101/24", "2001:db8:2::101/64"]);
    assert_eq!(topology.machine("n1").unwrap().labels["zone"], "a");
}

#[test]
fn bgp_and_its_peers_are_taken_over() {
    let text = BASE.replace("mtu: auto", "routeSource: bgp\n  bgp: {asn: 65000, announce: [LoadBalancerIP]}")
        + "bgpPeers:\n  - {name: tor, spec: {address: \"2001:db8:1::9\", asn: 65001}}\n";
    let topology = parse(&text).unwrap();
    assert_eq!(topology.network.config.route_source, model::RouteSource::Bgp);
    assert!(topology.network.config.bgp.announce.balancer);
    let network = model::NetworkConfig::try_from(&topology.network.spec);
    assert_eq!(network.as_ref(), Ok(&topology.network.config));
    assert_eq!(topology.peers["tor"].address, "2001:db8:1::9");
}

#[test]
fn hosts_route_to_a_router_or_gateway_and_nobody_routes_into_a_nat() {
    let topology = parse(BASE).unwrap();
    assert_eq!(routes(&topology, "n1"), ["0.0.0.0/0 via 192.0.2.1", "::/0 via 2001:db8:1::1"]);
    assert_eq!(routes(&topology, "n2"), ["0.0.0.0/0 via 203.0.113.1"]);
    assert_eq!(routes(&topology, "h1"), ["0.0.0.0/0 via 198.51.100.1", "::/0 via 2001:db8:2::1"]);
    assert_eq!(routes(&topology, "gw"), ["0.0.0.0/0 via 198.51.100.1", "::/0 via 2001:db8:2::1"]);
    assert_eq!(routes(&topology, "r1"), Vec::<String>::new());
}

#[test]
fn nodes_behind_a_gateway_have_its_outer_addresses_unless_it_keeps_them_to_itself() {
    let text = BASE.replace("outside: world}", "outside: world, genericTimeout: 5}");
    let topology = parse(&text).unwrap();
    let node = |topology: &Topology, name: &str| topology.external(topology.machine(name).unwrap());
    let outer = node(&topology, "n2");
    assert_eq!(outer.v4, Some("198.51.100.2".parse().unwrap()));
    assert_eq!(outer.v6, Some("2001:db8:2::2".parse().unwrap()));
    assert!(node(&topology, "n1").is_empty());
    assert_eq!(topology.machine("gw").unwrap().nat, Some(Nat { generic_timeout: Some(5), external: true }));
    let silent = parse(&BASE.replace("outside: world}", "outside: world, externalIPs: false}")).unwrap();
    assert!(node(&silent, "n2").is_empty());
}

#[test]
fn networks_that_are_each_behind_a_gateway_may_have_the_same_prefix() {
    let twice = BASE
        .replace("  - name: world", "  - name: hut\n    prefixes: [203.0.113.0/25]\n  - name: world")
        .replace(
            "nodes:",
            "  - {name: gw2, inside: hut, outside: world}\nnodes:\n  - {name: n3, subnet: hut}",
        );
    let topology = parse(&twice).unwrap();
    assert_eq!(addresses(&topology, "n2"), ["203.0.113.11/24"]);
    assert_eq!(addresses(&topology, "n3"), ["203.0.113.11/25"]);
    assert_eq!(routes(&topology, "n3"), ["0.0.0.0/0 via 203.0.113.1"]);
    assert!(topology.machines.iter().flat_map(|one| &one.routes).all(|route| {
        route.destination.prefix_len() == 0 || !route.destination.to_string().starts_with("203.0.113.")
    }));
    // Not so if a router sees one of them.
    let seen = twice.replace("subnets: [lan, world]", "subnets: [lan, world, hut]");
    let error = parse(&seen).unwrap_err().to_string();
    assert!(error.contains("subnet hut: 203.0.113.0/25 overlaps the subnet home"), "{error}");
}

#[test]
fn routers_that_speak_bgp_have_sessions_with_the_nodes_of_their_subnets() {
    let text =
        BASE.replace("subnets: [lan, world]", "subnets: [lan, world]\n    bgp: {asn: 64513, bfd: true}");
    let topology = parse(&text).unwrap();
    let (router, bgp) = topology.bgp_routers().next().unwrap();
    assert!(bgp.speaker && bgp.bfd && bgp.announce.is_empty() && bgp.asn.value() == 64513);
    let sessions = topology.sessions(router).into_iter();
    let sessions: Vec<String> =
        sessions.map(|one| format!("{} {} {}", one.node.name, one.router, one.peer)).collect();
    assert_eq!(sessions, ["n1 192.0.2.1 192.0.2.77", "n1 2001:db8:1::1 2001:db8:1::11"]);
    let peers = topology.peers.iter();
    let peers: Vec<String> = peers
        .map(|(name, peer)| {
            let (subnet, bfd) = (&peer.node_selector.match_labels[SUBNET_LABEL], peer.bfd.is_some());
            format!("{name} {} {} {subnet} {bfd}", peer.address, peer.asn)
        })
        .collect();
    assert_eq!(peers, ["r1-lan-ipv4 192.0.2.1 64513 lan true", "r1-lan-ipv6 2001:db8:1::1 64513 lan true"]);
    assert!(parse(&(text + "bgpPeers: []\n")).unwrap().peers.is_empty());
    let silent = parse(BASE).unwrap();
    assert!(silent.bgp_routers().next().is_none() && silent.peers.is_empty());
}

#[test]
fn routers_know_the_way_over_other_routers() {
    let mut text = "network: {podRanges: [10.244.0.0/16]}\nsubnets:\n".to_owned();
    for subnet in 1..=4 {
        writeln!(text, "  - {{name: s{subnet}, prefixes: [10.0.{subnet}.0/24]}}").unwrap();
    }
    text += "routers:\n";
    for router in 1..=3 {
        writeln!(text, "  - {{name: r{router}, subnets: [s{router}, s{}]}}", router + 1).unwrap();
    }
    text += "nodes: [{name: a, subnet: s1}, {name: b, subnet: s2}]\n";
    let topology = parse(&text).unwrap();
    assert_eq!(routes(&topology, "r1"), ["10.0.3.0/24 via 10.0.2.2", "10.0.4.0/24 via 10.0.2.2"]);
    assert_eq!(routes(&topology, "r3"), ["10.0.1.0/24 via 10.0.3.1", "10.0.2.0/24 via 10.0.3.1"]);
    assert_eq!(routes(&topology, "a"), ["0.0.0.0/0 via 10.0.1.1"]);
    // Its default route is the first router's, but s3 and s4 are nearer over the second.
    assert_eq!(
        routes(&topology, "b"),
        ["0.0.0.0/0 via 10.0.2.1", "10.0.3.0/24 via 10.0.2.2", "10.0.4.0/24 via 10.0.2.2"]
    );
}

/// What is replaced, by what, and the error, which begins with the place.
const ERRORS: &[(&str, &str, &str)] = &[
    (
        "network:",
        "netwrok:",
        "1:1: unknown field \"netwrok\"; use one of network, subnets, routers, natGateways",
    ),
    (
        "  mtu: auto",
        "  mtu: 1279",
        "4:8: network.mtu: \"1279\" cannot be used; use auto or a number from 1280",
    ),
    ("  mtu: auto", "  mtu: auto\n  mtu: auto", "5:3: "),
    (
        "[10.96.0.0/16]",
        "[10.96.0.0]",
        "3:19: network.serviceRanges[0]: \"10.96.0.0\" is not an address prefix",
    ),
    ("[10.96.0.0/16]", "[10.244.1.0/24]", "3:19: network: 10.244.0.0/16 and 10.244.1.0/24 overlap"),
    ("10.244.0.0/16,", "10.244.0.0/31,", "2:15: network.podRanges[0]: pod range 10.244.0.0/31 has no room"),
    (
        "mtu: auto",
        "encapsulation: {protocol: gre}",
        "4:29: \"gre\" is not known here; use vxlan, ipip or none",
    ),
    (
        "mtu: auto",
        "encapsulation: {protocol: none, when: crossSubnet}",
        "4:41: network.encapsulation.when: \"crossSubnet\" makes no sense with protocol none",
    ),
    ("mtu: auto", "encapsulation: {vni: 0}", "4:24: network.encapsulation.vni: 0 is out of range; use 1 to"),
    ("mtu: auto", "encapsulation: {port: 65536}", "4:25: network.encapsulation.port: 65536 is out of range"),
    (
        "mtu: auto",
        "encapsulation: {prot: vxlan}",
        "4:19: unknown field \"prot\"; use one of protocol, when, vni, port",
    ),
    ("mtu: auto", "routeSource: rip", "4:16: \"rip\" is not known here; use kubernetes or bgp"),
    ("mtu: auto", "bgp: {asn: 0}", "4:8: network.bgp.asn: 0 is the number of no autonomous system; use 1"),
    (
        "outside:\n",
        "bgpPeers: [{name: tor, spec: {address: r1, asn: 65001}}]\noutside:\n",
        "25:30: bgpPeers: tor: spec.address: \"r1\" is not an IP address",
    ),
    ("name: home", "name: lan", "9:11: there are two subnets \"lan\"; give each its own name"),
    ("name: home", "name: fabric", "9:11: subnet \"fabric\": the lab itself uses this name"),
    ("name: home", "name: Home", "9:11: subnet \"Home\": a name has 1 to 12 lower-case letters"),
    ("name: home", "name: a--b", "9:11: subnet \"a--b\": a name has 1 to 12 lower-case letters"),
    (
        "name: n1",
        "name: a-node-with-a-long-name",
        "19:11: node \"a-node-with-a-long-name\": a name has 1 to 12",
    ),
    ("[203.0.113.0/24]", "[]", "10:15: subnet home has no prefix; use for instance"),
    ("[203.0.113.0/24]", "[203.0.113.0]", "10:16: subnet home: \"203.0.113.0\" is not an address prefix"),
    (
        "[203.0.113.0/24]",
        "[203.0.113.1/24]",
        "10:16: subnet home: \"203.0.113.1/24\" has bits set after its length; use 203.0.113.0/24",
    ),
    (
        "[203.0.113.0/24]",
        "[203.0.113.0/31]",
        "10:16: subnet home: \"203.0.113.0/31\" has no room for two machines",
    ),
    ("[203.0.113.0/24]", "[127.0.0.0/8]", "10:16: subnet home: \"127.0.0.0/8\" is not for hosts"),
    ("[203.0.113.0/24]", "[\"fe80::/64\"]", "10:16: subnet home: \"fe80::/64\" is not for hosts"),
    ("[203.0.113.0/24]", "[\"ff02::/64\"]", "10:16: subnet home: \"ff02::/64\" is not for hosts"),
    (
        "[203.0.113.0/24]",
        "[192.0.2.128/25]",
        "10:16: subnet home: 192.0.2.128/25 overlaps the subnet lan; use a prefix",
    ),
    (
        "[203.0.113.0/24]",
        "[10.244.8.0/24]",
        "10:16: subnet home: 10.244.8.0/24 overlaps the pod range 10.244.0.0/16",
    ),
    (
        "[203.0.113.0/24]",
        "[10.96.8.0/24]",
        "10:16: subnet home: 10.96.8.0/24 overlaps the service range 10.96.0.0/16",
    ),
    (
        "  mtu: auto",
        "  loadBalancerRanges: [203.0.113.0/28]",
        "10:16: subnet home: 203.0.113.0/24 overlaps the load balancer range 203.0.113.0/28",
    ),
    (
        "  mtu: auto",
        "  loadBalancerRanges: [10.96.128.0/17]",
        "4:24: network.loadBalancerRanges: \"10.96.128.0/17\" overlaps 10.96.0.0/16",
    ),
    (
        "  mtu: auto",
        "  loadBalancerRanges: [10.0.0.1]",
        "4:24: network.loadBalancerRanges: \"10.0.0.1\" is no range; it would look like",
    ),
    (
        "[203.0.113.0/24]",
        "[203.0.113.0/24, 10.0.0.0/24]",
        "10:32: subnet home: 203.0.113.0/24 and 10.0.0.0/24 are both IPv4",
    ),
    ("mtu: 1500", "mtu: 1279", "8:10: subnet lan: mtu 1279 cannot be used; use 1280 to 65535"),
    ("mtu: 1500", "mtu: big", "8:10: "),
    ("subnets: [lan, world]", "subnets: [lan]", "15:14: router r1 has less than two subnets"),
    ("subnets: [lan, world]", "subnets: [lan, lan]", "15:20: router r1 is already in subnet \"lan\""),
    (
        "subnets: [lan, world]",
        "subnets: [lan, wide]",
        "15:20: there is no subnet \"wide\"; use one of lan, home, world",
    ),
    (
        "subnets: [lan, world]",
        "subnets: [lan, world]\n    bgp: {asn: 0}",
        "16:16: router r1: bgp.asn: 0 is the number of no autonomous system; use 1 to",
    ),
    (
        "subnets: [lan, world]",
        "subnets: [lan, world]\n    bgp: {asn: 64513, announce: [198.51.100.1/24]}",
        "16:34: router r1: bgp.announce: \"198.51.100.1/24\" has bits set after its length; use 198.51.100.0/24",
    ),
    (
        "subnets: [lan, world]",
        "subnets: [lan, world]\n    bgp: {asn: 64513, speaker: bird}",
        "16:32: \"bird\" is not known here; use cambric or none",
    ),
    (
        "outside: world}",
        "outside: world, genericTimeout: 0}",
        "17:62: NAT gateway gw: genericTimeout 0 cannot be used; use 1 to",
    ),
    (
        "outside: world}",
        "outside: home}",
        "17:39: NAT gateway gw: inside and outside are one subnet; use two",
    ),
    ("inside: home", "inside: away", "17:24: there is no subnet \"away\"; use one of lan, home, world"),
    (
        "name: h1",
        "name: n2",
        "26:11: there are two machines \"n2\" (node and outside host); give each its own",
    ),
    ("    subnet: home", "", "23:5: the field \"subnet\" is missing"),
    ("    subnet: home", "    subnet: hom", "24:13: there is no subnet \"hom\""),
    ("[192.0.2.77]", "[192.0.2]", "21:17: node n1: address \"192.0.2\" is not an IP address"),
    (
        "[192.0.2.77]",
        "[192.0.3.1]",
        "21:17: node n1: address \"192.0.3.1\" is not in subnet lan; use one of 192.0.2.0/24",
    ),
    ("[192.0.2.77]", "[192.0.2.255]", "21:17: node n1: address \"192.0.2.255\" cannot be a host's"),
    (
        "[192.0.2.77]",
        "[192.0.2.7, 192.0.2.8]",
        "21:28: node n1: address \"192.0.2.8\" is the second IPv4 address",
    ),
    (
        "    subnet: home",
        "    subnet: home\n    addresses: [\"2001:db8::1\"]",
        "25:17: node n2: address \"2001:db8::1\" is IPv6, but subnet home has no IPv6 prefix",
    ),
    (
        "    subnet: home",
        "    subnet: lan\n    addresses: [192.0.2.77]",
        "25:17: node n2: address \"192.0.2.77\" has been given to another machine",
    ),
    ("{zone: a}", "{zone: \"a b\"}", "22:20: node n1: \"zone: a b\" is no label"),
    (
        "    labels: {zone: a}",
        "    taints: []",
        "22:5: unknown field \"taints\"; use one of name, subnet, addresses, labels",
    ),
];

#[test]
fn errors_say_where_what_and_what_would_be_right() {
    parse(BASE).unwrap();
    let mut wrong = Vec::new();
    for (old, new, expected) in ERRORS {
        assert!(BASE.contains(old), "{old}");
        let error = parse(&BASE.replacen(old, new, 1)).unwrap_err().to_string();
        if !error.starts_with(expected) || error.contains('\n') {
            wrong.push(format!("{old} -> {new}\n  is: {error}\nnot: {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_topology_at_all() {
    for (text, expected) in [
        ("", "there is nothing in it"),
        ("# nothing\n", "there is nothing in it"),
        ("a: [", "1:"),
        ("- a\n", "1:1: "),
        ("network: {podRanges: []}\nsubnets: []\nnodes: []\n", "1:10: network.podRanges is empty"),
        (
            "network: {podRanges: [10.0.0.0/8]}\nsubnets: []\nnodes: []\n",
            "2:10: subnets: a topology has 1 to 64",
        ),
        (
            "network: {podRanges: [10.0.0.0/8]}\nsubnets: [{name: a, prefixes: [192.0.2.0/24]}]\nnodes: []\n",
            "3:8: a topology has at least one node",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn a_subnet_can_be_full() {
    let mut text =
        "network: {podRanges: [10.0.0.0/8]}\nsubnets: [{name: a, prefixes: [192.0.2.0/30]}]\nnodes:\n"
            .to_owned();
    text += "  - {name: a, subnet: a}\n  - {name: b, subnet: a}\n";
    let topology = parse(&text).unwrap();
    assert_eq!(addresses(&topology, "b"), ["192.0.2.2/30"]);
    text += "  - {name: c, subnet: a}\n";
    let error = parse(&text).unwrap_err().to_string();
    assert_eq!(error, "6:12: subnet a has no IPv4 address left for c; use a shorter prefix");
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lab.yaml");
    std::fs::write(&file, BASE.replacen("subnet: home", "subnet: hom", 1)).unwrap();
    let error = load(&file).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:24:13: there is no subnet", file.display())), "{error}");
}

/// The text of a topology in which every address of a single-homed machine is given.
fn written_out(topology: &Topology) -> String {
    let mut text = "network: {podRanges: [10.244.0.0/16]}\nsubnets:\n".to_owned();
    for subnet in &topology.subnets {
        let prefixes: Vec<String> = subnet.prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect();
        writeln!(
            text,
            "  - {{name: {}, prefixes: [{}], mtu: {}}}",
            subnet.name,
            prefixes.join(", "),
            subnet.mtu
        )
        .unwrap();
    }
    text += "routers:\n";
    for router in topology.of_role(Role::Router) {
        let subnets: Vec<&str> =
            router.interfaces.iter().map(|one| topology.subnets[one.subnet].name.as_str()).collect();
        writeln!(text, "  - {{name: {}, subnets: [{}]}}", router.name, subnets.join(", ")).unwrap();
    }
    text += "nodes:\n";
    for node in topology.nodes() {
        let addresses: Vec<String> =
            node.addresses().iter().map(|address| format!("\"{address}\"")).collect();
        let subnet = &topology.subnets[node.interfaces[0].subnet].name;
        writeln!(
            text,
            "  - {{name: {}, subnet: {subnet}, addresses: [{}]}}",
            node.name,
            addresses.join(", ")
        )
        .unwrap();
    }
    text
}

fn any_topology() -> impl Strategy<Value = String> {
    let subnet = (prop::bool::ANY, prop::bool::ANY, 16_u8..=26);
    (prop::collection::vec(subnet, 1..6), prop::collection::vec((0_usize..8, 0_usize..8), 0..4), 1_usize..20)
        .prop_map(|(subnets, routers, nodes)| {
            let mut text = "network: {podRanges: [10.244.0.0/16]}\nsubnets:\n".to_owned();
            for (index, (v4, v6, length)) in subnets.iter().enumerate() {
                let mut prefixes = Vec::new();
                if *v4 || !v6 {
                    prefixes.push(format!("172.{}.0.0/{length}", 16 + index));
                }
                if *v6 {
                    prefixes.push(format!("\"2001:db8:{index}::/64\""));
                }
                writeln!(text, "  - {{name: s{index}, prefixes: [{}]}}", prefixes.join(", ")).unwrap();
            }
            let legs: Vec<(usize, usize)> = routers
                .iter()
                .map(|(one, other)| (one % subnets.len(), other % subnets.len()))
                .filter(|(one, other)| one != other)
                .collect();
            text += "routers:\n";
            for (index, (one, other)) in legs.iter().enumerate() {
                writeln!(text, "  - {{name: r{index}, subnets: [s{one}, s{other}]}}").unwrap();
            }
            text += "nodes:\n";
            for node in 0..nodes {
                writeln!(text, "  - {{name: n{node}, subnet: s{}}}", node % subnets.len()).unwrap();
            }
            text
        })
}

proptest! {
    #[test]
    fn addresses_are_unique_and_in_their_subnets(text in any_topology()) {
        let topology = parse(&text.replace("routers:\nnodes:", "nodes:")).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for machine in &topology.machines {
            for interface in &machine.interfaces {
                for family in Family::BOTH {
                    let prefix = topology.subnets[interface.subnet].prefixes.of(family);
                    let address = interface.addresses.of(family);
                    prop_assert_eq!(prefix.is_some(), address.is_some());
                    if let (Some(prefix), Some(address)) = (prefix, address) {
                        prop_assert_eq!(prefix, &address.trunc());
                        prop_assert!(address.addr() != prefix.network());
                        prop_assert!(seen.insert(address.addr()), "{address} twice");
                    }
                }
            }
        }
    }

    #[test]
    fn giving_the_chosen_addresses_changes_nothing(text in any_topology()) {
        let topology = parse(&text.replace("routers:\nnodes:", "nodes:")).unwrap();
        let again = parse(&written_out(&topology).replace("routers:\nnodes:", "nodes:")).unwrap();
        prop_assert_eq!(topology, again);
    }

    #[test]
    fn every_gateway_is_a_neighbour_that_forwards(text in any_topology()) {
        let topology = parse(&text.replace("routers:\nnodes:", "nodes:")).unwrap();
        for machine in &topology.machines {
            for route in &machine.routes {
                let next = topology.of_role(Role::Router).find(|router| {
                    router.interfaces.iter().any(|one| one.addresses.iter().any(|net| net.addr() == route.gateway))
                });
                prop_assert!(next.is_some());
                let neighbour = machine.interfaces.iter().any(|one| {
                    one.addresses.iter().any(|net| net.contains(&route.gateway))
                });
                prop_assert!(neighbour, "{} via {}", machine.name, route.gateway);
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0_usize..BASE.len(), insert in "[ -~\n]{0,5}", cut in 0_usize..20) {
        let end = (at + cut).min(BASE.len());
        let _ = parse(&format!("{}{insert}{}", &BASE[..at], &BASE[end..]));
    }
}
