//! Plans of clusters with nodes behind NAT gateways.
#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{
    Cluster, Encapsulation, Family, LinkName, NetworkConfig, Node, NodeName, PerFamily, RouteSource, Sending,
    When,
};
use plan::site::{Contact, Contacts, End, HOLD, Heard};
use plan::{Entry, Facts, Input, Key, NodePlan, Origin, Planner, Problem, Underlay, plan};
use proptest::prelude::*;

fn network(sending: Sending, source: RouteSource) -> NetworkConfig {
    let ranges = ["10.244.0.0/16".to_owned(), "fd00:10:f4::/48".to_owned()];
    let encapsulation = Encapsulation { sending, ..Encapsulation::default() };
    let network = NetworkConfig::parse(&ranges, &[], encapsulation, "auto").unwrap();
    NetworkConfig { route_source: source, ..network }
}

fn ipip() -> NetworkConfig {
    network(Sending::Ipip(When::CrossSubnet), RouteSource::Bgp)
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(text: &str, number: u8, site: Option<&str>, address: &str) -> Node {
    let ranges = [format!("10.244.{number}.0/24"), format!("fd00:10:f4:{number}::/64")];
    let node = Node::parse(name(text), [address], ranges.iter().map(String::as_str)).unwrap();
    Node { site: site.map(Into::into), ..node }
}

/// Two nodes outside, two behind the gateway of one site, and one behind another, with the address of one of those.
fn nodes() -> [Node; 5] {
    [
        node("hub-1", 1, None, "198.51.100.11"),
        node("hub-2", 2, None, "198.51.100.12"),
        node("north-1", 3, Some("north"), "10.0.0.11"),
        node("north-2", 4, Some("north"), "10.0.0.12"),
        node("south-1", 5, Some("south"), "10.0.0.11"),
    ]
}

fn on_eth0(net: &str) -> PerFamily<Underlay> {
    let link = LinkName::new("eth0").unwrap();
    PerFamily { v4: Some(Underlay { link, net: net.parse().unwrap(), mtu: 1500 }), v6: None }
}

fn contact(seen: &str, heard: &[End]) -> Contact {
    let both = |end: &End| Family::BOTH.map(|family| (*end, family));
    Contact { seen: ip(seen), heard: heard.iter().flat_map(both).collect() }
}

/// What a hub knows when the sessions of all are up.
fn contacts_of_hub() -> Contacts {
    let others = [
        ("hub-2", contact("198.51.100.12", &[])),
        ("north-1", contact("203.0.113.1", &[])),
        ("north-2", contact("203.0.113.1", &[])),
        ("south-1", contact("203.0.113.2", &[])),
    ];
    Contacts {
        others: others.into_iter().map(|(node, contact)| (name(node), contact)).collect(),
        heard: BTreeSet::new(),
    }
}

fn contacts_of_north() -> Contacts {
    let others = [
        ("hub-1", contact("198.51.100.11", &[])),
        ("hub-2", contact("198.51.100.12", &[])),
        ("north-2", contact("10.0.0.12", &[])),
    ];
    Contacts {
        others: others.into_iter().map(|(node, contact)| (name(node), contact)).collect(),
        heard: BTreeSet::new(),
    }
}

fn plan_of(local: &str, network: NetworkConfig, net: &str, contacts: Contacts) -> NodePlan {
    let nodes: BTreeMap<_, _> = nodes().into_iter().map(|node| (node.name.clone(), node)).collect();
    let cluster = Cluster { network, nodes, services: BTreeMap::new(), slices: BTreeMap::new() };
    let facts = Facts { underlay: on_eth0(net), contacts, ..Facts::default() };
    plan(&cluster, &name(local), &facts)
}

/// What of a plan is about IP in IP.
fn tunnels(plan: &NodePlan) -> Vec<String> {
    let line = |planned: &plan::Planned| match &planned.entry {
        Entry::TunnelNode(address) => Some(format!("from {address} | {}", planned.origin)),
        Entry::TunnelRoute { destination, route } => {
            let held = route.hold.map(|hold| format!(" held {}", hold.as_secs())).unwrap_or_default();
            let (from, to) = (route.outer.source(), route.outer.destination());
            Some(format!("{destination} as {from} > {to}{held} | {}", planned.origin))
        }
        _ => None,
    };
    plan.entries.values().filter_map(line).collect()
}

fn problems(plan: &NodePlan) -> Vec<String> {
    plan.problems.iter().map(Problem::to_string).collect()
}

#[test]
fn the_outside_waits_for_the_gateways_and_takes_from_them_alone() {
    let plan = plan_of("hub-1", ipip(), "198.51.100.11/24", contacts_of_hub());
    assert_eq!(
        tunnels(&plan),
        [
            "from 198.51.100.12 | Node hub-2",
            "from 203.0.113.1 | site north",
            "from 203.0.113.2 | site south",
            "10.244.3.0/24 as 198.51.100.11 > 203.0.113.1 held 10 | Node north-1",
            "10.244.4.0/24 as 198.51.100.11 > 203.0.113.1 held 10 | Node north-2",
            "10.244.5.0/24 as 198.51.100.11 > 203.0.113.2 held 10 | Node south-1",
            "fd00:10:f4:2::/64 as 198.51.100.11 > 198.51.100.12 | Node hub-2",
            "fd00:10:f4:3::/64 as 198.51.100.11 > 203.0.113.1 held 10 | Node north-1",
            "fd00:10:f4:4::/64 as 198.51.100.11 > 203.0.113.1 held 10 | Node north-2",
            "fd00:10:f4:5::/64 as 198.51.100.11 > 203.0.113.2 held 10 | Node south-1",
        ]
    );
    assert_eq!(HOLD.as_secs(), 10);
    assert_eq!(problems(&plan), Vec::<String>::new());
    assert!(plan.keepalives.is_empty(), "nobody was heard");
    let members =
        plan.entries.keys().filter(|key| matches!(key, Key::Member(_))).map(|key| format!("{key:?}"));
    assert!(!members.collect::<String>().contains("10.0.0.11"), "whose address that is nobody knows here");

    let heard = [(ip("203.0.113.1"), Family::V4)].into();
    let plan = plan_of("hub-1", ipip(), "198.51.100.11/24", Contacts { heard, ..contacts_of_hub() });
    let keepalives: Vec<String> = plan.keepalives.iter().map(|one| format!("{one:?}")).collect();
    assert_eq!(keepalives.len(), 1, "{keepalives:?}");
    assert!(keepalives[0].contains("203.0.113.1") && keepalives[0].contains("inner: V4"), "{keepalives:?}");
}

#[test]
fn inside_the_carrier_has_the_tunnel_and_the_others_go_through_it() {
    // North-2 has both tunnels.
    let mut contacts = contacts_of_north();
    let carrier = contact("10.0.0.12", &[End::node(&name("hub-1")), End::node(&name("hub-2"))]);
    contacts.others.insert(name("north-2"), carrier);
    let plan = plan_of("north-1", ipip(), "10.0.0.11/24", contacts.clone());
    let route = |plan: &NodePlan, net: &str| match &plan.entries[&Key::Route(net.parse().unwrap())].entry {
        Entry::Route(route) => format!("{route:?}"),
        other => panic!("{other:?}"),
    };
    for number in [1, 2, 5] {
        let route = route(&plan, &format!("10.244.{number}.0/24"));
        assert!(route.contains("10.0.0.12") && route.contains("10.244.3.1"), "{route}");
    }
    assert!(plan.keepalives.is_empty(), "{:?}", plan.keepalives);
    let from: Vec<String> = tunnels(&plan).into_iter().filter(|line| line.starts_with("from")).collect();
    assert_eq!(
        from,
        [
            "from 10.0.0.12 | Node north-2",
            "from 198.51.100.11 | Node hub-1",
            "from 198.51.100.12 | Node hub-2"
        ]
    );
    assert_eq!(problems(&plan), Vec::<String>::new());

    // North-2 is gone.
    contacts.others.remove(&name("north-2"));
    let plan = plan_of("north-1", ipip(), "10.0.0.11/24", contacts);
    let all = tunnels(&plan).join("\n");
    assert!(all.contains("10.244.1.0/24 as 10.0.0.11 > 198.51.100.11 | Node hub-1"), "{all}");
    assert!(all.contains("10.244.2.0/24 as 10.0.0.11 > 198.51.100.12 | Node hub-2"), "{all}");
    assert!(all.contains("10.244.5.0/24 as 10.0.0.11 > 198.51.100.1"), "{all}");
    assert_eq!(plan.keepalives.len(), 4);
}

#[test]
fn a_node_of_another_site_that_turns_up_last_is_reached() {
    let mut planner = Planner::new(name("north-1"));
    planner.update(Input::Underlay(on_eth0("10.0.0.11/24")));
    planner.update(Input::Network(ipip()));
    for node in nodes() {
        planner.update(Input::Node(node));
    }
    for (node, contact) in contacts_of_north().others {
        planner.update(Input::Contact(node, Some(contact)));
    }
    // Until then Node objects are gone by, and it would have its routes.
    planner.update(Input::Converged);
    let change = planner.update(Input::Contact(name("south-1"), Some(contact("198.51.100.11", &[]))));
    for range in ["10.244.5.0/24", "fd00:10:f4:5::/64"] {
        assert!(change.keys.contains_key(&Key::Route(range.parse().unwrap())), "{range}");
    }
}

#[test]
fn a_gateway_with_a_new_address_is_followed() {
    let mut planner = Planner::new(name("hub-1"));
    planner.update(Input::Underlay(on_eth0("198.51.100.11/24")));
    planner.update(Input::Network(ipip()));
    for node in nodes() {
        planner.update(Input::Node(node));
    }
    for (node, contact) in contacts_of_hub().others {
        planner.update(Input::Contact(node, Some(contact)));
    }
    let south = || contact("203.0.113.77", &[]);
    let change = planner.update(Input::Contact(name("south-1"), Some(south())));
    let keys: Vec<&Key> = change.keys.keys().collect();
    assert_eq!(keys.len(), 6, "two addresses to take from, two routes with their neighbours: {keys:?}");
    let lines = tunnels(&planner.plan()).join("\n");
    assert!(lines.contains("203.0.113.77 held") && !lines.contains("203.0.113.2 "), "{lines}");
    assert!(planner.update(Input::Contact(name("south-1"), Some(south()))).is_empty());
    // Nobody knows where it is, and a Node that says so helps.
    planner.update(Input::Contact(name("south-1"), None));
    let [problem] = problems(&planner.plan()).try_into().unwrap_or_else(|all| panic!("{all:?}"));
    assert!(problem.contains("the outer address of the NAT gateway of site south"), "{problem}");
    let [.., mut node] = nodes();
    node.external.insert(Family::V4, ip("203.0.113.2"));
    planner.update(Input::Node(node));
    let lines = tunnels(&planner.plan()).join("\n");
    assert!(lines.contains("203.0.113.2 held"), "{lines}");
    assert_eq!(problems(&planner.plan()), Vec::<String>::new());
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let vxlan = network(Sending::Vxlan(When::Always), RouteSource::Bgp);
    let heard = [(ip("203.0.113.1"), Family::V4)].into();
    let contacts = Contacts { heard, ..contacts_of_hub() };
    let plan = plan_of("hub-1", vxlan.clone(), "198.51.100.11/24", contacts);
    assert!(plan.keepalives.is_empty(), "{:?}", plan.keepalives);
    let expected = |node: &str, site: &str| {
        format!(
            "Node {node} is behind the NAT gateway of site {site}, and cannot be reached in VXLAN: that is sent from any UDP \
             port to port 4789 of an address, and the gateway passes on only what the inside has asked for; use protocol \
             ipip in spec.encapsulation"
        )
    };
    assert_eq!(
        problems(&plan),
        [expected("north-1", "north"), expected("north-2", "north"), expected("south-1", "south")]
    );
    let routes = |plan: &NodePlan| plan.entries.keys().filter(|key| matches!(key, Key::Route(_))).count();
    assert_eq!(routes(&plan), 2, "to the other hub");
    let plan = plan_of("north-1", vxlan, "10.0.0.11/24", contacts_of_north());
    assert_eq!(routes(&plan), 2, "to the other node of the site");
    let said = problems(&plan).join("\n");
    assert!(
        said.contains("Node hub-1 is outside of site north, behind whose NAT gateway this node is"),
        "{said}"
    );
    assert!(said.contains("Node south-1 is behind the NAT gateway of site south"), "{said}");
    let plain = network(Sending::Plain, RouteSource::Bgp);
    let said = problems(&plan_of("hub-1", plain, "198.51.100.11/24", contacts_of_hub())).join("\n");
    assert!(said.contains("the gateway knows no way to pods; use protocol ipip"), "{said}");

    let alone = Contacts::default();
    let said = problems(&plan_of("north-1", ipip(), "10.0.0.11/24", alone)).join("\n");
    assert!(said.contains("Node south-1 of site south cannot be reached from site north"), "{said}");
}

#[test]
fn entries_of_a_site_are_the_sites() {
    let plan = plan_of("hub-1", ipip(), "198.51.100.11/24", contacts_of_hub());
    let of_gateway = plan.entries[&Key::TunnelNode(ip("203.0.113.1"))].origin.clone();
    assert_eq!(of_gateway, Origin::Site("north".into()));
}

#[derive(Debug, Clone)]
enum Event {
    Node(usize, Option<&'static str>),
    Gone(usize),
    Contact(usize, Option<(u8, bool)>),
    Heard(u8),
    Network(bool, bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let site = prop_oneof![Just(None), Just(Some("north")), Just(Some("south"))];
    let event = prop_oneof![
        3 => (0..5_usize, site).prop_map(|(index, site)| Event::Node(index, site)),
        1 => (0..5_usize).prop_map(Event::Gone),
        3 => (0..5_usize, prop::option::of((1..4_u8, any::<bool>())))
            .prop_map(|(index, contact)| Event::Contact(index, contact)),
        1 => any::<u8>().prop_map(Event::Heard),
        1 => any::<[bool; 2]>().prop_map(|[ipip, bgp]| Event::Network(ipip, bgp)),
    ];
    prop::collection::vec(event, 1..24)
}

proptest! {
    /// Whatever comes in which order: what is kept up is what would be planned anew.
    #[test]
    fn what_is_kept_up_is_what_would_be_made(events in events(), local in 0..5_usize) {
        let all = nodes();
        let local = all[local].name.clone();
        let mut planner = Planner::new(local.clone());
        planner.update(Input::Underlay(on_eth0("198.51.100.11/24")));
        let facts = Facts { underlay: on_eth0("198.51.100.11/24"), ..Facts::default() };
        let mut facts = facts;
        let mut cluster = Cluster {
            network: ipip(),
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        };
        planner.update(Input::Network(ipip()));
        let mut before = planner.entries().clone();
        for event in events {
            let change = match event {
                Event::Node(index, site) => {
                    let node = Node { site: site.map(Into::into), ..all[index].clone() };
                    cluster.nodes.insert(node.name.clone(), node.clone());
                    planner.update(Input::Node(node))
                }
                Event::Gone(index) => {
                    cluster.nodes.remove(&all[index].name);
                    planner.update(Input::NodeGone(all[index].name.clone()))
                }
                Event::Contact(index, known) => {
                    let name = all[index].name.clone();
                    let contact = known.map(|(seen, hears)| {
                        let heard = hears.then(|| [End::node(&all[0].name), End::site("north")]);
                        contact(&format!("203.0.113.{seen}"), heard.as_ref().map_or(&[], |ends| &ends[..]))
                    });
                    match contact.clone() {
                        Some(contact) => drop(facts.contacts.others.insert(name.clone(), contact)),
                        None => drop(facts.contacts.others.remove(&name)),
                    }
                    planner.update(Input::Contact(name, contact))
                }
                Event::Heard(bits) => {
                    let addresses = ["198.51.100.11", "198.51.100.12", "203.0.113.1", "203.0.113.2"];
                    let both = addresses.iter().flat_map(|text| Family::BOTH.map(|family| (ip(text), family)));
                    let heard = both.enumerate().filter(|(index, _)| bits & 1 << index != 0).map(|(_, one)| one);
                    facts.contacts.heard = heard.collect();
                    planner.update(Input::Heard(facts.contacts.heard.clone()))
                }
                Event::Network(ipip, bgp) => {
                    let sending = if ipip { Sending::Ipip(When::Always) } else { Sending::Vxlan(When::CrossSubnet) };
                    let source = if bgp { RouteSource::Bgp } else { RouteSource::Kubernetes };
                    cluster.network = network(sending, source);
                    planner.update(Input::Network(cluster.network.clone()))
                }
            };
            // What has changed was told.
            for (key, planned) in change.keys {
                match planned {
                    Some(planned) => drop(before.insert(key, planned)),
                    None => drop(before.remove(&key)),
                }
            }
            prop_assert_eq!(&before, planner.entries());
            prop_assert_eq!(planner.plan(), plan(&cluster, &local, &facts));
            let _: Heard = planner.heard();
        }
    }
}
