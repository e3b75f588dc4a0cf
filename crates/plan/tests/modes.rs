//! What the modes of encapsulation change in plans: routes and the pods' MTU, and nothing else.
#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

use std::collections::BTreeMap;

use model::{
    Cluster, Encapsulation, Family, LinkName, MacAddr, NetworkConfig, Node, NodeName, PerFamily, Sending,
    When,
};
use plan::{Change, Entry, Facts, Input, Key, Link, NodePlan, Planner, Problem, Underlay, plan};

const MODES: [Sending; 5] = [
    Sending::Vxlan(When::Always),
    Sending::Vxlan(When::CrossSubnet),
    Sending::Ipip(When::Always),
    Sending::Ipip(When::CrossSubnet),
    Sending::Plain,
];

fn network(sending: Sending) -> NetworkConfig {
    let ranges = ["10.244.0.0/16".to_owned(), "fd00:10:f4::/48".to_owned()];
    let encapsulation = Encapsulation { sending, ..Encapsulation::default() };
    NetworkConfig::parse(&ranges, &[], encapsulation, "auto").unwrap()
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// A node with the pod ranges of a number.
fn node(text: &str, number: u8, addresses: &[&str]) -> Node {
    let ranges = [format!("10.244.{number}.0/24"), format!("fd00:10:f4:{number}::/64")];
    Node::parse(name(text), addresses.iter().copied(), ranges.iter().map(String::as_str)).unwrap()
}

/// This node, one beside it, and one behind a router.
fn three() -> [Node; 3] {
    [
        node("one", 1, &["192.0.2.1", "2001:db8::1"]),
        node("near", 2, &["192.0.2.2", "2001:db8::2"]),
        node("far", 3, &["198.51.100.3", "2001:db8:3::3"]),
    ]
}

fn on(link: &str, net: &str, mtu: u32) -> Option<Underlay> {
    Some(Underlay { link: LinkName::new(link).unwrap(), net: net.parse().unwrap(), mtu })
}

fn underlay() -> PerFamily<Underlay> {
    PerFamily { v4: on("eth0", "192.0.2.1/24", 1500), v6: on("eth1", "2001:db8::1/64", 1400) }
}

fn plan_of(nodes: &[Node], sending: Sending, underlay: PerFamily<Underlay>) -> NodePlan {
    let nodes: BTreeMap<_, _> = nodes.iter().map(|node| (node.name.clone(), node.clone())).collect();
    let cluster =
        Cluster { network: network(sending), nodes, services: BTreeMap::new(), slices: BTreeMap::new() };
    plan(&cluster, &name("one"), &Facts { underlay, ..Facts::default() })
}

fn routes(plan: &NodePlan) -> Vec<String> {
    let route = |entry: &Entry| match entry {
        Entry::Route(route) => Some(route.to_string()),
        _ => None,
    };
    plan.entries.values().filter_map(|planned| route(&planned.entry)).collect()
}

fn problems(plan: &NodePlan) -> Vec<String> {
    plan.problems.iter().map(Problem::to_string).collect()
}

#[test]
fn in_one_subnet_packets_go_as_they_are_and_across_in_the_tunnel() {
    let plan = plan_of(&three(), Sending::Vxlan(When::CrossSubnet), underlay());
    assert_eq!(
        routes(&plan),
        [
            "10.244.2.0/24 via 192.0.2.2 dev eth0",
            "10.244.3.0/24 via 10.244.3.1 dev vxlan.cambric src 10.244.1.1",
            "fd00:10:f4:2::/64 via 2001:db8::2 dev eth1",
            "fd00:10:f4:3::/64 via fd00:10:f4:3::1 dev vxlan.cambric src fd00:10:f4:1::1",
        ]
    );
    assert_eq!(problems(&plan), Vec::<String>::new());
}

/// What the programs on the uplinks do with packets.
fn tunnelled(plan: &NodePlan) -> Vec<String> {
    let route = |entry: &Entry| match entry {
        Entry::TunnelRoute { destination, route } => {
            let (from, to) = (route.outer.source(), route.outer.destination());
            Some(format!("{destination} from {from} to {to}, {:?}", route.next_hop))
        }
        _ => None,
    };
    plan.entries.values().filter_map(|planned| route(&planned.entry)).collect()
}

fn uplink_neighbours(plan: &NodePlan) -> Vec<String> {
    let neighbour = |key: &Key| match key {
        Key::Neighbour(link, address) if !link.as_str().starts_with("vxlan") => {
            Some(format!("{address} dev {link}"))
        }
        _ => None,
    };
    plan.entries.keys().filter_map(neighbour).collect()
}

/// In the subnet the other node is the next hop. Behind a router nobody is: the programs ask for it.
#[test]
fn ip_in_ip_goes_over_the_uplink_with_an_mtu_of_its_own() {
    let plan = plan_of(&three(), Sending::Ipip(When::Always), underlay());
    assert_eq!(
        routes(&plan),
        [
            "10.244.2.0/24 via 192.0.2.2 dev eth0 src 10.244.1.1 mtu 1480",
            "10.244.3.0/24 via 10.244.3.1 dev eth0 src 10.244.1.1 mtu 1480",
            "fd00:10:f4:2::/64 via fd00:10:f4:2::1 dev eth0 src fd00:10:f4:1::1 mtu 1480",
            "fd00:10:f4:3::/64 via fd00:10:f4:3::1 dev eth0 src fd00:10:f4:1::1 mtu 1480",
        ]
    );
    assert_eq!(
        tunnelled(&plan),
        [
            "10.244.2.0/24 from 192.0.2.1 to 192.0.2.2, Kept",
            "10.244.3.0/24 from 192.0.2.1 to 198.51.100.3, Asked",
            "fd00:10:f4:2::/64 from 192.0.2.1 to 192.0.2.2, Asked",
            "fd00:10:f4:3::/64 from 192.0.2.1 to 198.51.100.3, Asked",
        ]
    );
    assert_eq!(
        uplink_neighbours(&plan),
        ["10.244.3.1 dev eth0", "fd00:10:f4:2::1 dev eth0", "fd00:10:f4:3::1 dev eth0"]
    );
    assert_eq!(problems(&plan), Vec::<String>::new());

    let plan = plan_of(&three(), Sending::Ipip(When::CrossSubnet), underlay());
    assert_eq!(
        routes(&plan),
        [
            "10.244.2.0/24 via 192.0.2.2 dev eth0",
            "10.244.3.0/24 via 10.244.3.1 dev eth0 src 10.244.1.1 mtu 1480",
            "fd00:10:f4:2::/64 via 2001:db8::2 dev eth1",
            "fd00:10:f4:3::/64 via fd00:10:f4:3::1 dev eth0 src fd00:10:f4:1::1 mtu 1480",
        ]
    );
    assert_eq!(tunnelled(&plan).len(), 2);
}

/// A node that is a neighbour with addresses of both families is the same neighbour, if it is on the same link.
#[test]
fn ipv6_over_ipv4_has_a_neighbour_for_its_next_hop_where_there_is_one() {
    let one_link = PerFamily { v4: on("eth0", "192.0.2.1/24", 1500), v6: on("eth0", "2001:db8::1/64", 1500) };
    let plan = plan_of(&three(), Sending::Ipip(When::Always), one_link.clone());
    assert_eq!(
        routes(&plan)[2..],
        [
            "fd00:10:f4:2::/64 via 2001:db8::2 dev eth0 src fd00:10:f4:1::1 mtu 1480",
            "fd00:10:f4:3::/64 via fd00:10:f4:3::1 dev eth0 src fd00:10:f4:1::1 mtu 1480",
        ]
    );
    assert_eq!(
        tunnelled(&plan)[2..],
        [
            "fd00:10:f4:2::/64 from 192.0.2.1 to 192.0.2.2, Kept",
            "fd00:10:f4:3::/64 from 192.0.2.1 to 198.51.100.3, Asked",
        ]
    );
    // Its IPv4 address is behind the router.
    let split =
        [node("one", 1, &["192.0.2.1", "2001:db8::1"]), node("two", 2, &["198.51.100.2", "2001:db8::2"])];
    let plan = plan_of(&split, Sending::Ipip(When::Always), one_link);
    assert!(tunnelled(&plan).iter().all(|route| route.ends_with("to 198.51.100.2, Asked")));
}

#[test]
fn packets_from_pods_have_headroom_where_they_can_get_an_outer_header() {
    for mode in MODES {
        for addresses in [&["192.0.2.1", "2001:db8::1"][..], &["192.0.2.1"], &["2001:db8::1"]] {
            let plan = plan_of(&[node("one", 1, addresses)], mode, underlay());
            let found: Vec<&Link> = plan
                .entries
                .values()
                .filter_map(|planned| match &planned.entry {
                    Entry::Link(link @ Link::Headroom { .. }) => Some(link),
                    _ => None,
                })
                .collect();
            // For the bigger header.
            let local = addresses.last().unwrap().parse().unwrap();
            let mac = MacAddr::for_tunnel(&local);
            let wanted = Link::Headroom { name: LinkName::headroom(), local, mac };
            let wanted = if mode == Sending::Plain { vec![] } else { vec![&wanted] };
            assert_eq!(found, wanted, "{mode:?}");
        }
    }
}

#[test]
fn ip_in_ip_goes_over_either_family() {
    let six = [node("one", 1, &["2001:db8::1"]), node("near", 2, &["2001:db8::2"])];
    let plan = plan_of(&six, Sending::Ipip(When::Always), underlay());
    assert_eq!(
        routes(&plan),
        [
            "10.244.2.0/24 via 2001:db8::2 dev eth1 src 10.244.1.1 mtu 1360",
            "fd00:10:f4:2::/64 via 2001:db8::2 dev eth1 src fd00:10:f4:1::1 mtu 1360",
        ]
    );
    assert!(tunnelled(&plan).iter().all(|route| route.ends_with("from 2001:db8::1 to 2001:db8::2, Kept")));
    assert_eq!(uplink_neighbours(&plan), Vec::<String>::new());
    let four = [node("one", 1, &["192.0.2.1"]), node("near", 2, &["192.0.2.2"])];
    let plan = plan_of(&four, Sending::Ipip(When::CrossSubnet), underlay());
    assert_eq!(
        routes(&plan),
        [
            "10.244.2.0/24 via 192.0.2.2 dev eth0",
            "fd00:10:f4:2::/64 via fd00:10:f4:2::1 dev eth0 src fd00:10:f4:1::1 mtu 1480",
        ]
    );
    assert_eq!(tunnelled(&plan), ["fd00:10:f4:2::/64 from 192.0.2.1 to 192.0.2.2, Asked"]);
}

#[test]
fn in_every_mode_both_uplinks_take_ip_in_ip_from_all_nodes() {
    for mode in MODES {
        let plan = plan_of(&three(), mode, underlay());
        let texts = |pick: fn(&Key) -> Option<String>| -> Vec<String> {
            plan.entries.keys().filter_map(pick).collect()
        };
        let uplinks = texts(|key| match key {
            Key::TunnelUplink(link) => Some(link.to_string()),
            _ => None,
        });
        assert_eq!(uplinks, ["eth0", "eth1"]);
        let locals = texts(|key| match key {
            Key::TunnelLocal(address) => Some(address.to_string()),
            _ => None,
        });
        assert_eq!(locals, ["192.0.2.1", "2001:db8::1"]);
        let nodes = texts(|key| match key {
            Key::TunnelNode(address) => Some(address.to_string()),
            _ => None,
        });
        assert_eq!(nodes, ["192.0.2.2", "198.51.100.3", "2001:db8::2", "2001:db8:3::3"]);
    }
}

#[test]
fn without_encapsulation_another_subnet_is_a_problem_that_says_what_would_be_right() {
    let plan = plan_of(&three(), Sending::Plain, underlay());
    assert_eq!(
        routes(&plan),
        ["10.244.2.0/24 via 192.0.2.2 dev eth0", "fd00:10:f4:2::/64 via 2001:db8::2 dev eth1"]
    );
    assert_eq!(
        problems(&plan),
        [
            "Node far: there is no route to its pod range 10.244.3.0/24, because encapsulation is none and 198.51.100.3 \
             is not in 192.0.2.0/24, the subnet of this node; use protocol vxlan or ipip with when crossSubnet",
            "Node far: there is no route to its pod range fd00:10:f4:3::/64, because encapsulation is none and \
             2001:db8:3::3 is not in 2001:db8::/64, the subnet of this node; use protocol vxlan or ipip with when crossSubnet",
        ]
    );
}

#[test]
fn ipv4_goes_by_ipv6_next_hops_and_not_the_other_way_round() {
    let six = [node("one", 1, &["2001:db8::1"]), node("near", 2, &["2001:db8::2"])];
    for sending in [Sending::Vxlan(When::CrossSubnet), Sending::Plain] {
        let plan = plan_of(&six, sending, underlay());
        assert_eq!(
            routes(&plan),
            ["10.244.2.0/24 via 2001:db8::2 dev eth1", "fd00:10:f4:2::/64 via 2001:db8::2 dev eth1"]
        );
        assert_eq!(problems(&plan), Vec::<String>::new());
    }
    let four = [node("one", 1, &["192.0.2.1"]), node("near", 2, &["192.0.2.2"])];
    let plan = plan_of(&four, Sending::Vxlan(When::CrossSubnet), underlay());
    assert_eq!(
        routes(&plan),
        [
            "10.244.2.0/24 via 192.0.2.2 dev eth0",
            "fd00:10:f4:2::/64 via fd00:10:f4:2::1 dev vxlan.cambric src fd00:10:f4:1::1",
        ]
    );
    let plan = plan_of(&four, Sending::Plain, underlay());
    assert_eq!(routes(&plan), ["10.244.2.0/24 via 192.0.2.2 dev eth0"]);
    let [problem] = problems(&plan).try_into().unwrap();
    assert!(
        problem.ends_with(
            "the two nodes do not both have an IPv6 InternalIP; give them one, or use protocol vxlan or ipip"
        ),
        "{problem}"
    );
}

/// What nobody knows is sent in the tunnel, which works between all nodes; or it is a problem.
#[test]
fn the_subnet_must_be_that_of_the_nodes_address() {
    let stale = PerFamily { v4: on("eth0", "192.0.2.7/24", 1500), v6: None };
    let plan = plan_of(&three()[..2], Sending::Vxlan(When::CrossSubnet), stale.clone());
    assert!(routes(&plan).iter().all(|route| route.contains("dev vxlan.cambric")), "{:?}", routes(&plan));
    let plan = plan_of(&three()[..2], Sending::Plain, stale);
    assert_eq!(routes(&plan), Vec::<String>::new());
    assert!(problems(&plan)[0].contains("no link of this node has its InternalIP 192.0.2.1; see --node-ip"));
    // A prefix of one address is no subnet, whatever else is on the link.
    let alone = PerFamily { v4: on("eth0", "192.0.2.1/32", 1500), v6: on("eth0", "2001:db8::1/128", 1500) };
    let plan = plan_of(&three()[..2], Sending::Plain, alone);
    assert!(routes(&plan).is_empty() && plan.problems.len() == 2, "{:?}", plan.problems);
}

#[test]
fn the_mtu_is_the_underlays_without_encapsulation() {
    let mtu = |sending, addresses: &[&str]| {
        plan::pod_mtu(&network(sending), &node("one", 1, addresses), &underlay())
    };
    let both = &["192.0.2.1", "2001:db8::1"];
    assert_eq!(mtu(Sending::Vxlan(When::Always), both), (1450, None));
    assert_eq!(mtu(Sending::Vxlan(When::CrossSubnet), both), (1450, None));
    // The smaller one of two links.
    assert_eq!(mtu(Sending::Plain, both), (1400, None));
    assert_eq!(mtu(Sending::Plain, &["192.0.2.1"]), (1500, None));
    for when in [When::Always, When::CrossSubnet] {
        assert_eq!(mtu(Sending::Ipip(when), both), (1480, None));
        assert_eq!(mtu(Sending::Ipip(when), &["2001:db8::1"]), (1360, None));
    }
}

fn planner(sending: Sending) -> Planner {
    let mut planner = Planner::new(name("one"));
    planner.update(Input::Underlay(underlay()));
    planner.update(Input::Network(network(sending)));
    for node in three() {
        planner.update(Input::Node(node));
    }
    planner
}

/// The routes that a change is about, and how many keys of other kinds, but links and what IP in IP is sent by.
fn changed(change: &Change) -> (Vec<String>, usize) {
    let routes = change.keys.keys().filter_map(|key| match key {
        Key::Route(net) => Some(net.to_string()),
        _ => None,
    });
    let others = change.keys.keys().filter(|key| match key {
        Key::Route(_) | Key::Link(_) | Key::TunnelRoute(_) => false,
        Key::Neighbour(link, _) => link.as_str().starts_with("vxlan"),
        Key::Member(member) => member.set.0 != "tunnelled",
        _ => true,
    });
    (routes.collect(), others.count())
}

#[test]
fn a_change_of_mode_changes_routes_and_leaves_the_way_through_the_tunnel() {
    for from in MODES {
        for to in MODES {
            let mut planner = planner(from);
            let change = planner.update(Input::Network(network(to)));
            assert_eq!(changed(&change).1, 0, "{from:?} to {to:?}: {:?}", change.keys);
            assert_eq!(planner.plan(), plan_of(&three(), to, underlay()), "{from:?} to {to:?}");
            for family in Family::BOTH {
                let kept = |key: &Key| match key {
                    Key::Neighbour(link, address) => {
                        Family::of(address) == family && link.as_str().starts_with("vxlan")
                    }
                    _ => false,
                };
                assert_eq!(planner.entries().keys().filter(|key| kept(key)).count(), 2);
            }
            assert_eq!(planner.entries().keys().filter(|key| matches!(key, Key::Forwarding(..))).count(), 2);
        }
    }
}

#[test]
fn routes_follow_the_subnet_and_not_the_mtu() {
    let mut planner = planner(Sending::Vxlan(When::CrossSubnet));
    let mut underlay = underlay();
    underlay.v4 = on("eth0", "192.0.2.1/24", 9000);
    let change = planner.update(Input::Underlay(underlay.clone()));
    assert_eq!(changed(&change), (Vec::new(), 0));
    assert!(change.keys.contains_key(&Key::Link(LinkName::bridge())));
    underlay.v4 = on("eth0", "192.0.2.1/31", 9000);
    let change = planner.update(Input::Underlay(underlay.clone()));
    assert_eq!(changed(&change), (vec!["10.244.2.0/24".to_owned()], 0));
    underlay.v6 = on("bond0", "2001:db8::1/64", 1400);
    let change = planner.update(Input::Underlay(underlay));
    // And of the two uplinks one is another.
    assert_eq!(changed(&change), (vec!["fd00:10:f4:2::/64".to_owned()], 2));
}
