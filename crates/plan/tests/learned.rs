//! What becomes of routes that BGP peers tell.

#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Encapsulation, LinkName, NetworkConfig, Node, NodeName, PerFamily, RouteSource, Sending, When};
use plan::{Change, Entry, Input, Key, LearnedPath, Origin, Planner, Problem, Underlay, route_protocol};
use proptest::prelude::*;
use proptest::sample::Index;

use RouteSource::{Bgp, Kubernetes};

const VXLAN: Sending = Sending::Vxlan(When::Always);
const IPIP: Sending = Sending::Ipip(When::Always);
const CROSS_VXLAN: Sending = Sending::Vxlan(When::CrossSubnet);
const CROSS_IPIP: Sending = Sending::Ipip(When::CrossSubnet);

fn network(sending: Sending, route_source: RouteSource) -> Input {
    let ranges = ["10.244.0.0/16".to_owned(), "fd00:10:f4::/48".to_owned()];
    let services = ["10.96.0.0/12".to_owned(), "fd00:96::/108".to_owned()];
    let encapsulation = Encapsulation { sending, ..Encapsulation::default() };
    let network = NetworkConfig::parse(&ranges, &services, encapsulation, "auto").unwrap();
    Input::Network(NetworkConfig { route_source, ..network })
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn node(text: &str, number: u8, addresses: &[&str]) -> Node {
    let ranges = [format!("10.244.{number}.0/24"), format!("fd00:10:f4:{number}::/64")];
    Node::parse(name(text), addresses.iter().copied(), ranges.iter().map(String::as_str)).unwrap()
}

fn one() -> Node {
    node("one", 1, &["192.0.2.1", "2001:db8::1"])
}

/// Beside this node.
fn near() -> Node {
    node("near", 2, &["192.0.2.2", "2001:db8::2"])
}

/// Behind a router.
fn far() -> Node {
    node("far", 3, &["198.51.100.3", "2001:db8:3::3"])
}

fn underlay() -> Input {
    let on = |link: &str, net: &str| {
        Some(Underlay { link: LinkName::new(link).unwrap(), net: net.parse().unwrap(), mtu: 1500 })
    };
    Input::Underlay(PerFamily { v4: on("eth0", "192.0.2.1/24"), v6: on("eth1", "2001:db8::1/64") })
}

fn paths(next_hops: &[&str]) -> Vec<LearnedPath> {
    let path = |next_hop: &&str| LearnedPath {
        next_hop: next_hop.parse().unwrap(),
        peer: format!("peer-{next_hop}").into(),
        stale: false,
    };
    next_hops.iter().map(path).collect()
}

fn learned(prefix: &str, next_hops: &[&str]) -> Input {
    Input::Learned(prefix.parse().unwrap(), paths(next_hops))
}

/// Node one among three, without routes that were told.
fn planner(sending: Sending, source: RouteSource) -> Planner {
    let mut planner = Planner::new(name("one"));
    for input in [underlay(), network(sending, source)] {
        planner.update(input);
    }
    for node in [one(), near(), far()] {
        planner.update(Input::Node(node));
    }
    planner
}

fn line(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Route(route) => Some(format!("{route} proto {}", route_protocol(route.learned))),
        Entry::TunnelRoute { destination, route } => {
            Some(format!("{destination} in {}", route.outer.destination()))
        }
        _ => None,
    }
}

/// Routes to prefixes that were told, and to pod ranges.
fn routes(planner: &Planner) -> Vec<String> {
    planner.entries().values().filter_map(|planned| line(&planned.entry)).collect()
}

fn problems(planner: &Planner) -> Vec<String> {
    planner.problems().iter().map(Problem::to_string).collect()
}

#[test]
fn a_prefix_leads_to_the_node_that_is_its_next_hop_the_way_that_the_mode_says() {
    let cases: &[(Sending, &str, &[&str], &[&str])] = &[
        // A pod range, and something else behind the same node.
        (
            VXLAN,
            "10.244.3.0/24",
            &["198.51.100.3"],
            &["10.244.3.0/24 via 10.244.3.1 dev vxlan.cambric src 10.244.1.1 proto 204"],
        ),
        (
            VXLAN,
            "10.9.0.0/16",
            &["192.0.2.2"],
            &["10.9.0.0/16 via 10.244.2.1 dev vxlan.cambric src 10.244.1.1 proto 204"],
        ),
        (
            VXLAN,
            "fd00:9::/48",
            &["192.0.2.2"],
            &["fd00:9::/48 via fd00:10:f4:2::1 dev vxlan.cambric src fd00:10:f4:1::1 proto 204"],
        ),
        (
            VXLAN,
            "10.9.0.0/16",
            &["2001:db8::2"],
            &["10.9.0.0/16 via 10.244.2.1 dev vxlan.cambric src 10.244.1.1 proto 204"],
        ),
        (CROSS_VXLAN, "10.244.2.0/24", &["192.0.2.2"], &["10.244.2.0/24 via 192.0.2.2 dev eth0 proto 204"]),
        (
            CROSS_VXLAN,
            "10.244.3.0/24",
            &["198.51.100.3"],
            &["10.244.3.0/24 via 10.244.3.1 dev vxlan.cambric src 10.244.1.1 proto 204"],
        ),
        (
            IPIP,
            "10.9.0.0/16",
            &["192.0.2.2"],
            &[
                "10.9.0.0/16 in 192.0.2.2",
                "10.9.0.0/16 via 192.0.2.2 dev eth0 src 10.244.1.1 mtu 1480 proto 204",
            ],
        ),
        (
            IPIP,
            "fd00:9::/48",
            &["2001:db8:3::3"],
            &[
                "fd00:9::/48 in 198.51.100.3",
                "fd00:9::/48 via fd00:10:f4:3::1 dev eth0 src fd00:10:f4:1::1 mtu 1480 proto 204",
            ],
        ),
        (
            CROSS_IPIP,
            "fd00:10:f4:2::/64",
            &["2001:db8::2"],
            &["fd00:10:f4:2::/64 via 2001:db8::2 dev eth1 proto 204"],
        ),
        (
            Sending::Plain,
            "10.244.2.0/24",
            &["192.0.2.2"],
            &["10.244.2.0/24 via 192.0.2.2 dev eth0 proto 204"],
        ),
        // An IPv4 prefix with an IPv6 next hop (RFC 8950).
        (
            Sending::Plain,
            "10.244.2.0/24",
            &["2001:db8::2"],
            &["10.244.2.0/24 via 2001:db8::2 dev eth1 proto 204"],
        ),
        // Nobody's next hop: a router of the subnet.
        (VXLAN, "10.9.0.0/16", &["192.0.2.99"], &["10.9.0.0/16 via 192.0.2.99 dev eth0 proto 204"]),
        (VXLAN, "::/0", &["2001:db8::99"], &["::/0 via 2001:db8::99 dev eth1 proto 204"]),
        (IPIP, "10.9.0.0/16", &["2001:db8::99"], &["10.9.0.0/16 via 2001:db8::99 dev eth1 proto 204"]),
        // Several, in the order of next hops, and none twice.
        (
            VXLAN,
            "10.9.0.0/16",
            &["198.51.100.3", "192.0.2.2", "2001:db8::2"],
            &[
                "10.9.0.0/16 via 10.244.2.1 dev vxlan.cambric and via 10.244.3.1 dev vxlan.cambric src 10.244.1.1 proto 204",
            ],
        ),
        (
            CROSS_VXLAN,
            "10.9.0.0/16",
            &["192.0.2.2", "198.51.100.3", "192.0.2.99"],
            &[
                "10.9.0.0/16 via 10.244.3.1 dev vxlan.cambric and via 192.0.2.2 dev eth0 and via 192.0.2.99 dev eth0 src 10.244.1.1 proto 204",
            ],
        ),
        // What goes into IP in IP has one way: the best if it is such a one, or else it is none of them.
        (
            IPIP,
            "10.9.0.0/16",
            &["198.51.100.3", "192.0.2.99"],
            &[
                "10.9.0.0/16 in 198.51.100.3",
                "10.9.0.0/16 via 10.244.3.1 dev eth0 src 10.244.1.1 mtu 1480 proto 204",
            ],
        ),
        (
            IPIP,
            "10.9.0.0/16",
            &["192.0.2.99", "198.51.100.3"],
            &["10.9.0.0/16 via 192.0.2.99 dev eth0 proto 204"],
        ),
        // This node itself is no way.
        (
            VXLAN,
            "10.9.0.0/16",
            &["192.0.2.1", "192.0.2.99"],
            &["10.9.0.0/16 via 192.0.2.99 dev eth0 proto 204"],
        ),
        (VXLAN, "10.9.0.0/16", &["192.0.2.1"], &[]),
    ];
    for (sending, prefix, next_hops, expected) in cases {
        let mut planner = planner(*sending, Bgp);
        planner.update(Input::Converged);
        assert_eq!(routes(&planner), Vec::<String>::new(), "routes come from BGP alone");
        let ready = planner.entries().clone();
        let change = planner.update(learned(prefix, next_hops));
        let mut lines: Vec<String> =
            change.keys.values().map(|planned| line(&planned.as_ref().unwrap().entry).unwrap()).collect();
        lines.sort();
        assert_eq!(lines, *expected, "{sending:?} {prefix} {next_hops:?}");
        assert_eq!(problems(&planner), Vec::<String>::new(), "{sending:?} {prefix} {next_hops:?}");
        planner.update(Input::Learned(prefix.parse().unwrap(), Vec::new()));
        assert_eq!(*planner.entries(), ready);
    }
}

#[test]
fn what_a_node_knows_better_or_cannot_reach_is_left_out_with_words() {
    let beyond = "which is in no subnet of this node and no node's address";
    let cases: &[(Sending, &str, &[&str], &str)] = &[
        (
            VXLAN,
            "10.244.1.0/24",
            &["192.0.2.2"],
            "BGP: 10.244.1.0/24 lies in 10.244.1.0/24, a pod range of this node",
        ),
        (
            VXLAN,
            "fd00:10:f4:1::7/128",
            &["192.0.2.2"],
            "BGP: fd00:10:f4:1::7/128 lies in fd00:10:f4:1::/64, a pod range",
        ),
        (VXLAN, "192.0.2.1/32", &["192.0.2.2"], "BGP: 192.0.2.1/32 is an address of this node"),
        (VXLAN, "2001:db8::77/128", &["2001:db8::2"], "BGP: 2001:db8::77/128 is an address of this node"),
        (
            VXLAN,
            "10.9.0.0/16",
            &["203.0.113.9"],
            "BGP: 10.9.0.0/16 has the next hop 203.0.113.9, told by peer-203.0.113.9, which is in no subnet",
        ),
        (
            VXLAN,
            "fd00:9::/48",
            &["192.0.2.99"],
            "BGP: fd00:9::/48 has the next hop 192.0.2.99, told by peer-192.0.2.99, which cannot be used: IPv6 packets",
        ),
        (
            Sending::Plain,
            "10.9.0.0/16",
            &["198.51.100.3"],
            "BGP: 10.9.0.0/16 leads to Node far, as peer-198.51.100.3 has told, which cannot be reached: 198.51.100.3 is not in 192.0.2.0/24",
        ),
        (
            VXLAN,
            "198.51.100.0/24",
            &["198.51.100.3"],
            "BGP: 198.51.100.0/24 leads to Node far by a tunnel, as peer-198.51.100.3 has told, but contains 198.51.100.3",
        ),
        (IPIP, "0.0.0.0/0", &["198.51.100.3"], "BGP: 0.0.0.0/0 leads to Node far by a tunnel"),
        // Our own services, told by others that announce them too.
        (VXLAN, "10.96.0.0/12", &["192.0.2.2"], ""),
        (VXLAN, "fd00:96::5/128", &["192.0.2.2"], ""),
    ];
    for (sending, prefix, next_hops, problem) in cases {
        let mut planner = planner(*sending, Bgp);
        planner.update(Input::Converged);
        planner.update(Input::Addresses(vec!["2001:db8::77".parse().unwrap()]));
        assert!(planner.update(learned(prefix, next_hops)).is_empty(), "{prefix}");
        let problems = problems(&planner);
        match problem.is_empty() {
            true => assert_eq!(problems, Vec::<String>::new()),
            false => assert!(problems.len() == 1 && problems[0].starts_with(problem), "{problems:?}"),
        }
        planner.update(Input::Learned(prefix.parse().unwrap(), Vec::new()));
        assert!(planner.problems().is_empty());
    }
    // Many of the same are one problem, and what can be used of a prefix is.
    let mut planner = planner(VXLAN, Bgp);
    planner.update(Input::Converged);
    for number in 0..3 {
        planner.update(learned(&format!("10.{number}.0.0/16"), &["203.0.113.9", "192.0.2.99"]));
    }
    assert_eq!(routes(&planner).len(), 3);
    let problems = problems(&planner);
    assert!(
        problems.len() == 1 && problems[0].contains("10.0.0.0/16, like 2 others, has the next hop"),
        "{problems:?}"
    );
    assert!(problems[0].contains(beyond));
    // A default route in the subnet's own tunnel is fine: the other end is reached without it.
    let mut planner = self::planner(VXLAN, Bgp);
    planner.update(Input::Converged);
    planner.update(learned("0.0.0.0/0", &["192.0.2.2"]));
    assert_eq!(routes(&planner), ["0.0.0.0/0 via 10.244.2.1 dev vxlan.cambric src 10.244.1.1 proto 204"]);
}

#[test]
fn where_the_node_objects_say_it_peers_are_heard_of_the_rest() {
    let mut planner = planner(VXLAN, Kubernetes);
    let before = routes(&planner);
    for prefix in ["10.244.2.0/24", "10.244.3.128/25", "fd00:10:f4:2::/64", "fd00:10:f4:2::5/128"] {
        assert!(planner.update(learned(prefix, &["192.0.2.99", "2001:db8::99"])).is_empty(), "{prefix}");
    }
    assert!(planner.problems().is_empty());
    planner.update(learned("10.244.9.0/24", &["192.0.2.99"]));
    planner.update(learned("10.244.0.0/16", &["192.0.2.99"]));
    let more = [
        "10.244.0.0/16 via 192.0.2.99 dev eth0 proto 204".to_owned(),
        "10.244.9.0/24 via 192.0.2.99 dev eth0 proto 204".to_owned(),
    ];
    let mut all = [&before[..], &more].concat();
    all.sort();
    let mut now = routes(&planner);
    now.sort();
    assert_eq!(now, all);
    // A node comes whose range was told of, and goes.
    let change = planner.update(Input::Node(node("new", 9, &["192.0.2.9"])));
    let key = Key::Route("10.244.9.0/24".parse().unwrap());
    assert_eq!(change.keys[&key].as_ref().unwrap().origin, Origin::Node(name("new")));
    planner.update(Input::NodeGone(name("new")));
    assert_eq!(planner.planned(&key).unwrap().origin, Origin::Learned("10.244.9.0/24".parse().unwrap()));
    assert!(planner.problems().is_empty());
}

fn origin<'c>(change: &'c Change, prefix: &str) -> Option<Option<&'c Origin>> {
    let key = Key::Route(prefix.parse().unwrap());
    change.keys.get(&key).map(|planned| planned.as_ref().map(|planned| &planned.origin))
}

#[test]
fn from_the_node_objects_to_bgp_and_back_no_route_goes_before_the_next_is_there() {
    let (near, far) = ("10.244.2.0/24", "10.244.3.0/24");
    let told = |prefix: &str| Origin::Learned(prefix.parse().unwrap());
    let mut planner = planner(CROSS_VXLAN, Kubernetes);
    // There was BGP before, with others.
    planner.update(Input::Converged);
    assert!(!planner.retains_learned(true));
    let before = planner.entries().clone();

    let change = planner.update(network(CROSS_VXLAN, Bgp));
    assert!(change.keys.is_empty(), "{change:?}");
    assert_eq!(*planner.entries(), before);
    assert!(planner.retains_learned(false));

    let change = planner.update(learned(near, &["192.0.2.2"]));
    assert_eq!(change.keys.len(), 1);
    assert_eq!(origin(&change, near), Some(Some(&told(near))));
    // It cannot be used any more, so the Node object stands in.
    let change = planner.update(learned(near, &["203.0.113.9"]));
    assert_eq!(origin(&change, near), Some(Some(&Origin::Node(name("near")))));
    planner.update(learned(near, &["192.0.2.2"]));
    assert!(planner.problems().is_empty(), "{:?}", problems(&planner));

    // All is told, and of the node that is far nobody has told.
    let change = planner.update(Input::Converged);
    assert_eq!(origin(&change, far), Some(None));
    assert_eq!(origin(&change, near), None);
    assert!(!planner.retains_learned(true));
    let change = planner.update(Input::Learned(near.parse().unwrap(), Vec::new()));
    assert_eq!(origin(&change, near), Some(None));
    planner.update(learned(near, &["192.0.2.2"]));

    let change = planner.update(network(CROSS_VXLAN, Kubernetes));
    for (prefix, node) in [(near, "near"), (far, "far")] {
        assert_eq!(origin(&change, prefix), Some(Some(&Origin::Node(name(node)))), "{prefix}");
    }
    assert_eq!(*planner.entries(), before);
}

/// After a restart a reflector is often heard before the node of which it tells, and its way may lead back here.
#[test]
fn what_others_tell_of_a_nodes_range_does_not_count_before_all_was_told() {
    let range = "10.244.2.0/24";
    let told = Origin::Learned(range.parse().unwrap());
    for hops in [&["198.51.100.3"][..], &["192.0.2.99"]] {
        let mut planner = planner(CROSS_IPIP, Bgp);
        let before = planner.entries().clone();
        assert!(planner.update(learned(range, hops)).is_empty(), "{hops:?}");
        assert_eq!((planner.entries(), problems(&planner)), (&before, Vec::new()));
        // Of what is in no node's range nobody knows better.
        assert!(!planner.update(learned("10.9.0.0/16", hops)).is_empty());
        // The node itself.
        let change = planner.update(learned(range, &["192.0.2.2"]));
        assert_eq!(origin(&change, range), Some(Some(&told)));
        assert!(planner.retains_learned(false));

        // It has not come, and all others have told what they have.
        planner.update(learned(range, hops));
        let change = planner.update(Input::Converged);
        assert_eq!(origin(&change, range), Some(Some(&told)));
    }
}

#[test]
fn what_is_left_of_an_earlier_run_stays_until_all_was_told() {
    for (source, peers, retains) in
        [(Bgp, false, true), (Bgp, true, true), (Kubernetes, true, true), (Kubernetes, false, false)]
    {
        let mut planner = planner(VXLAN, source);
        assert_eq!(planner.retains_learned(peers), retains, "{source:?}, peers: {peers}");
        planner.update(Input::Converged);
        assert!(!planner.retains_learned(peers));
        // Other objects change nothing in what was told.
        planner.update(learned("10.9.0.0/16", &["192.0.2.99"]));
        let before = planner.plan();
        let mut next = planner.start_over();
        assert!(!next.retains_learned(peers));
        for input in [network(VXLAN, source), Input::Node(one()), Input::Node(near()), Input::Node(far())] {
            next.update(input);
        }
        assert_eq!(next.plan(), before);
    }
}

#[test]
fn a_change_costs_what_it_changes() {
    let mut planner = planner(VXLAN, Bgp);
    planner.update(Input::Converged);
    for number in 0..200u8 {
        let next_hop = if number < 3 { "198.51.100.3" } else { "192.0.2.2" };
        planner.update(learned(&format!("10.9.{number}.0/24"), &[next_hop]));
    }
    assert_eq!(planner.update(learned("10.9.7.0/24", &["198.51.100.3"])).keys.len(), 1);
    assert!(planner.update(learned("10.9.7.0/24", &["198.51.100.3"])).is_empty());
    let moved = node("far", 33, &["198.51.100.3", "2001:db8:3::3"]);
    let change = planner.update(Input::Node(moved));
    let routes = change.keys.keys().filter(|key| matches!(key, Key::Route(_)));
    assert_eq!(routes.count(), 4);
    assert_eq!(planner.learned(&"10.9.7.0/24".parse().unwrap())[0].next_hop.to_string(), "198.51.100.3");
}

/// Inputs of which any may come at any time, by what they are about: the last one counts.
fn inputs() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    prop::collection::vec((0u8..12, 0u8..4, 0u8..4), 1..40)
}

fn input((kind, which, how): (u8, u8, u8), bgp: bool) -> Input {
    let addresses: [&[&str]; 4] = [
        &["192.0.2.2", "2001:db8::2"],
        &["198.51.100.3", "2001:db8:3::3"],
        &["192.0.2.2"],
        &["2001:db8::2", "192.0.2.44"],
    ];
    let prefixes = ["10.244.2.0/24", "10.244.3.0/24", "10.9.0.0/16", "fd00:10:f4:2::/64"];
    let next_hops: [&[&str]; 4] = [
        &[],
        &["192.0.2.2", "198.51.100.3"],
        &["2001:db8::2", "203.0.113.9"],
        &["192.0.2.99", "2001:db8:3::3"],
    ];
    let modes = [VXLAN, CROSS_VXLAN, CROSS_IPIP, Sending::Plain];
    let (which, how) = (usize::from(which), usize::from(how));
    match kind {
        0 => network(modes[which], if bgp { Bgp } else { Kubernetes }),
        1 => Input::Node(one()),
        2 => Input::NodeGone(name("one")),
        3 | 4 => Input::Node(node(["a", "b"][which % 2], 2 + which as u8, addresses[how])),
        5 => Input::NodeGone(name(["a", "b"][which % 2])),
        6 => underlay(),
        7 => Input::Addresses(vec![addresses[how][0].parse::<IpAddr>().unwrap()]),
        8 if which == 0 => Input::Converged,
        _ => learned(prefixes[which], next_hops[how]),
    }
}

/// What an input is about.
fn subject(input: &Input) -> String {
    match input {
        Input::Node(node) => format!("node {}", node.name),
        Input::NodeGone(name) => format!("node {name}"),
        Input::Learned(prefix, _) => format!("prefix {prefix}"),
        other => format!("{:?}", std::mem::discriminant(other)),
    }
}

proptest! {
    /// The last of what was said of each thing is what counts, in whatever order, and what changed on the way leads from
    /// one plan to the next.
    #[test]
    fn any_order_leads_to_the_plan_made_from_scratch(
        steps in inputs(),
        order in prop::collection::vec(any::<Index>(), 16),
        bgp in any::<bool>(),
    ) {
        let mut planner = Planner::new(name("one"));
        let mut followed = planner.entries().clone();
        let mut last: BTreeMap<String, Input> = BTreeMap::new();
        for step in steps {
            let input = input(step, bgp);
            last.insert(subject(&input), input.clone());
            for (key, planned) in planner.update(input).keys {
                match planned {
                    Some(planned) => followed.insert(key, planned),
                    None => followed.remove(&key),
                };
            }
            prop_assert_eq!(&followed, planner.entries());
        }
        let mut rest: Vec<Input> = last.into_values().collect();
        let mut scratch = Planner::new(name("one"));
        for index in order.iter().cycle().take(rest.len()) {
            scratch.update(rest.swap_remove(index.index(rest.len())));
        }
        prop_assert_eq!(planner.plan(), scratch.plan());
        let prefixes: Vec<IpNet> = planner.learned_prefixes().copied().collect();
        prop_assert!(prefixes.iter().all(|prefix| !planner.learned(prefix).is_empty()));
    }
}

#[test]
fn routes_are_explained() {
    let told = |planner: &mut Planner| {
        planner.update(learned("10.9.0.0/16", &["192.0.2.2", "198.51.100.3"]));
        planner.update(learned("10.8.0.0/16", &["192.0.2.99"]));
    };
    let why = |sending| {
        let mut planner = planner(sending, Kubernetes);
        told(&mut planner);
        let v4 = planner.routes().filter(|each| matches!(each.route.destination, IpNet::V4(_)));
        v4.map(|each| format!("{} {} {}: {}", each.route.destination, each.origin, each.tunnel, each.why))
            .collect::<Vec<_>>()
    };
    let (direct, router) = (
        "10.8.0.0/16 BGP route 10.8.0.0/16 none: learned from peer-192.0.2.99",
        "by a router in a subnet of this node",
    );
    let by = "learned from peer-192.0.2.2 and peer-198.51.100.3";
    assert_eq!(
        why(VXLAN),
        [
            format!("{direct}, {router}"),
            format!("10.9.0.0/16 BGP route 10.9.0.0/16 vxlan: {by}, always encapsulated by VXLAN"),
            "10.244.2.0/24 Node near vxlan: always encapsulated by VXLAN".to_owned(),
            "10.244.3.0/24 Node far vxlan: always encapsulated by VXLAN".to_owned(),
        ]
    );
    assert_eq!(
        why(CROSS_IPIP),
        [
            format!("{direct}, {router}"),
            format!("10.9.0.0/16 BGP route 10.9.0.0/16 none: {by}, same subnet"),
            "10.244.2.0/24 Node near none: same subnet".to_owned(),
            "10.244.3.0/24 Node far ipip: other subnet, encapsulated in IP".to_owned(),
        ]
    );
    // What is another is told.
    let mut planner = planner(VXLAN, Kubernetes);
    let before = planner.routes_revision();
    planner.update(Input::Converged);
    assert_eq!(planner.routes_revision(), before);
    told(&mut planner);
    assert_eq!(planner.routes_revision(), before + 2);
}
