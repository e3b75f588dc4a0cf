//! Services, planned: cases, and the two ways to a plan held against each other.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{
    Cluster, Encapsulation, Endpoint, EndpointPort, EndpointSlice, Family, NetworkConfig, Node, NodeName,
    ObjectName, Protocol, Service, ServicePort, TrafficPolicy, VxlanSettings,
};
use plan::services::{Backend, Balancer, Datum, Frontend, ServicePlan, Target, elements, ranges};
use plan::{Facts, Input, Planner};
use proptest::prelude::*;

fn network() -> NetworkConfig {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    NetworkConfig::parse(
        &texts(&["10.244.0.0/16", "fd00:10:244::/56"]),
        &texts(&["10.96.0.0/16", "fd00:10:96::/112"]),
        Encapsulation::Vxlan(VxlanSettings::default()),
        "auto",
    )
    .unwrap()
}

fn node(number: u8) -> Node {
    let name = NodeName::new(format!("node-{number}")).unwrap();
    let addresses = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
    let ranges = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
    Node::parse(name, addresses.iter().map(String::as_str), ranges.iter().map(String::as_str)).unwrap()
}

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text)
}

fn service(text: &str, number: u8) -> Service {
    Service {
        name: name(text),
        cluster_addresses: vec![[10, 96, 0, number].into(), format!("fd00:10:96::{number}").parse().unwrap()],
        external_addresses: vec![],
        balancer_addresses: vec![],
        balancer_sources: vec![],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    }
}

/// Endpoint `pod` of a node in a family.
fn endpoint(node: u8, pod: u8, family: Family) -> Endpoint {
    let none: Arc<[Box<str>]> = Arc::new([]);
    Endpoint {
        address: match family {
            Family::V4 => [10, 244, node, pod].into(),
            Family::V6 => format!("fd00:10:244:{node}::{pod:x}").parse().unwrap(),
        },
        ready: true,
        serving: true,
        terminating: false,
        node: Some(Arc::new(NodeName::new(format!("node-{node}")).unwrap())),
        zones: none.clone(),
        nodes: none,
    }
}

fn slice(slice: &str, service: &str, family: Family, endpoints: &[(u8, u8)]) -> EndpointSlice {
    EndpointSlice {
        name: name(slice),
        service: service.into(),
        family,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(|(node, pod)| endpoint(*node, *pod, family)).collect(),
    }
}

fn planned(services: &[Service], slices: &[EndpointSlice]) -> ServicePlan {
    let cluster = Cluster {
        network: network(),
        nodes: [node(1), node(2)].into_iter().map(|node| (node.name.clone(), node)).collect(),
        services: services.iter().map(|service| (service.name.clone(), service.clone())).collect(),
        slices: slices.iter().map(|slice| (slice.name.clone(), slice.clone())).collect(),
    };
    plan::plan(&cluster, &node(1).name, &Facts::default()).services
}

fn at(text: &str, port: u16) -> Frontend {
    Frontend { address: text.parse().unwrap(), protocol: Protocol::Tcp, port }
}

/// The endpoints behind a frontend, as `address:port`.
fn backends(target: &Target) -> Vec<String> {
    let text = |backend: &Backend| std::net::SocketAddr::from((backend.address, backend.port)).to_string();
    target.backends().iter().map(text).collect()
}

fn of<'a>(plan: &'a ServicePlan, text: &str, port: u16) -> &'a Balancer {
    plan.frontends.get(&at(text, port)).unwrap_or_else(|| panic!("{text} {port}: {:#?}", plan.frontends))
}

#[test]
fn cluster_addresses_lead_to_the_endpoints_of_their_family() {
    let plan = planned(
        &[service("web", 1)],
        &[
            slice("web-4", "web", Family::V4, &[(2, 5), (1, 5)]),
            slice("web-6", "web", Family::V6, &[(1, 5)]),
            slice("other", "other", Family::V4, &[(1, 9)]),
        ],
    );
    assert_eq!(plan.frontends.len(), 2);
    assert_eq!(backends(&of(&plan, "10.96.0.1", 80).target), ["10.244.1.5:8080", "10.244.2.5:8080"]);
    assert_eq!(backends(&of(&plan, "fd00:10:96::1", 80).target), ["[fd00:10:244:1::5]:8080"]);
    // Only pods of this node can come to themselves here.
    let own: BTreeSet<IpAddr> =
        ["10.244.1.5", "fd00:10:244:1::5"].iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(plan.hairpins, own);
}

#[test]
fn without_endpoints_connections_are_refused_and_without_usable_ones_dropped() {
    let mut local = service("local", 2);
    local.internal_policy = TrafficPolicy::Local;
    let plan = planned(
        &[service("none", 1), local],
        &[slice("local", "local", Family::V4, &[(2, 5)]), slice("none", "none", Family::V4, &[])],
    );
    assert_eq!(of(&plan, "10.96.0.1", 80).target, Target::Refuse);
    assert_eq!(of(&plan, "10.96.0.2", 80).target, Target::Drop, "there is an endpoint, on another node");
    assert_eq!(of(&plan, "fd00:10:96::2", 80).target, Target::Refuse, "none in this family");
}

#[test]
fn every_way_to_a_service_from_outside() {
    let mut web = service("web", 1);
    web.external_addresses = vec!["198.51.100.1".parse().unwrap()];
    web.balancer_addresses = vec!["198.51.100.2".parse().unwrap(), "2001:db8:100::2".parse().unwrap()];
    web.balancer_sources = vec!["203.0.113.0/24".parse().unwrap(), "203.0.113.128/25".parse().unwrap()];
    web.ports[0].node_port = Some(30080);
    let slices = [slice("web", "web", Family::V4, &[(1, 5), (2, 5)])];
    let plan = planned(std::slice::from_ref(&web), &slices);
    for (address, port) in [("198.51.100.1", 80), ("198.51.100.2", 80), ("192.0.2.1", 30080)] {
        let balancer = of(&plan, address, port);
        assert!(balancer.exposed && balancer.outside.is_none(), "{address}");
        assert_eq!(balancer.target.backends().len(), 2, "{address}");
    }
    assert!(!of(&plan, "10.96.0.1", 80).exposed);
    assert!(!plan.frontends.contains_key(&at("192.0.2.2", 30080)), "the address of another node");
    let sources = |text| of(&plan, text, 80).sources.as_ref().map(|sources| sources.len());
    assert_eq!(sources("198.51.100.1"), None, "the list is about the balancer's addresses");
    assert_eq!(sources("198.51.100.2"), Some(1), "what is in another range is left out");
    assert_eq!(sources("2001:db8:100::2"), Some(0), "nobody of a family that is not in the list");

    web.external_policy = TrafficPolicy::Local;
    let plan = planned(&[web], &slices);
    for (address, port) in [("198.51.100.1", 80), ("198.51.100.2", 80), ("192.0.2.1", 30080)] {
        let balancer = of(&plan, address, port);
        assert_eq!(balancer.target.backends().len(), 2, "sources in the cluster go anywhere: {address}");
        assert_eq!(backends(balancer.outside.as_ref().unwrap()), ["10.244.1.5:8080"], "{address}");
    }
    assert_eq!(of(&plan, "10.96.0.1", 80).outside, None, "the policy is not about cluster addresses");
}

#[test]
fn node_ports_are_at_the_addresses_that_the_network_names() {
    let mut web = service("web", 1);
    web.ports[0].node_port = Some(30080);
    let mut planner = Planner::new(node(1).name);
    planner.update(Input::Network(
        network()
            .with_node_port_addresses(&["198.51.100.0/24".to_owned(), "2001:db8:5::/64".to_owned()])
            .unwrap(),
    ));
    planner.update(Input::Node(node(1)));
    planner.update(Input::Service(web));
    assert!(!planner.services().frontends.keys().any(|frontend| frontend.port == 30080));
    let own = ["192.0.2.1", "198.51.100.7", "2001:db8:5::7"].map(|text| text.parse().unwrap());
    let change = planner.update(Input::Addresses(own.to_vec()));
    let known: Vec<Frontend> =
        planner.services().frontends.keys().copied().filter(|frontend| frontend.port == 30080).collect();
    assert_eq!(known, [at("198.51.100.7", 30080), at("2001:db8:5::7", 30080)]);
    assert_eq!(change.services.frontends.keys().copied().collect::<Vec<_>>(), known);
}

#[test]
fn a_service_of_one_family_is_reached_in_that_family_only() {
    let mut web = service("web", 1);
    web.cluster_addresses.truncate(1);
    web.external_addresses = vec!["198.51.100.1".parse().unwrap(), "2001:db8:100::1".parse().unwrap()];
    web.ports[0].node_port = Some(30080);
    let plan = planned(&[web], &[slice("web", "web", Family::V4, &[(1, 5)])]);
    let known: Vec<Frontend> = plan.frontends.keys().copied().collect();
    assert_eq!(known, [at("10.96.0.1", 80), at("192.0.2.1", 30080), at("198.51.100.1", 80)]);
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let mut web = service("web", 1);
    web.ports.push(ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: None });
    let mut ports = slice("web", "web", Family::V4, &[(1, 5)]);
    ports.ports.push(EndpointPort { name: "dns".into(), protocol: Protocol::Udp, port: 5353 });
    ports.ports.push(EndpointPort { name: "http".into(), protocol: Protocol::Udp, port: 1 });
    let plan = planned(&[web], &[ports]);
    assert_eq!(backends(&of(&plan, "10.96.0.1", 80).target), ["10.244.1.5:8080"]);
    let udp = Frontend { protocol: Protocol::Udp, ..at("10.96.0.1", 53) };
    assert_eq!(backends(&plan.frontends[&udp].target), ["10.244.1.5:5353"]);
}

#[test]
fn of_two_services_with_one_address_the_first_by_name_has_it_until_it_goes() {
    let mut planner = Planner::new(node(1).name);
    planner.update(Input::Network(network()));
    planner.update(Input::Node(node(1)));
    for (text, number) in [("b", 1), ("c", 2), ("a", 3)] {
        let mut service = service(text, number);
        service.external_addresses = vec!["198.51.100.1".parse().unwrap()];
        planner.update(Input::Service(service));
    }
    let holder = |planner: &Planner| {
        let balancer = planner.services().frontends.get(&at("198.51.100.1", 80));
        balancer.map(|balancer| balancer.service.service.name.to_string())
    };
    assert_eq!(holder(&planner).as_deref(), Some("a"));
    let problems: Vec<String> = planner.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2);
    assert_eq!(
        problems[0],
        "Service default/b and Service default/a both claim 198.51.100.1:80 TCP; default/a keeps it until one of them \
         changes"
    );
    planner.update(Input::ServiceGone(name("b")));
    assert_eq!(holder(&planner).as_deref(), Some("a"));
    planner.update(Input::ServiceGone(name("a")));
    assert_eq!(holder(&planner).as_deref(), Some("c"));
    assert!(planner.problems().is_empty());
    planner.update(Input::ServiceGone(name("c")));
    assert_eq!(holder(&planner), None);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_other() {
    let mut planner = Planner::new(node(1).name);
    planner.update(Input::Network(network()));
    planner.update(Input::Node(node(1)));
    planner.update(Input::Service(service("a", 1)));
    planner.update(Input::Service(service("b", 2)));
    planner.update(Input::Slice(slice("slice", "a", Family::V4, &[(1, 5)])));
    planner.update(Input::Slice(slice("slice", "b", Family::V4, &[(1, 5)])));
    assert_eq!(of(planner.services(), "10.96.0.1", 80).target, Target::Refuse);
    assert_eq!(backends(&of(planner.services(), "10.96.0.2", 80).target), ["10.244.1.5:8080"]);
}

#[test]
fn flows_to_what_is_no_endpoint_any_more_are_stale() {
    let mut dns = service("dns", 1);
    dns.ports[0].protocol = Protocol::Udp;
    let mut endpoints = slice("dns", "dns", Family::V4, &[(1, 5)]);
    endpoints.ports[0].protocol = Protocol::Udp;
    let plan = planned(&[dns], &[endpoints]);
    let frontend = Frontend { protocol: Protocol::Udp, ..at("10.96.0.1", 80) };
    let answers = |address: [u8; 4], port| Backend { address: address.into(), port };
    assert!(!plan.is_stale(&frontend, &answers([10, 244, 1, 5], 8080)));
    assert!(plan.is_stale(&frontend, &answers([10, 244, 1, 6], 8080)), "an endpoint that is gone");
    assert!(plan.is_stale(&frontend, &answers([10, 96, 0, 1], 80)), "from before there were endpoints");
    let other = Frontend { port: 81, ..frontend };
    assert!(!plan.is_stale(&other, &answers([10, 96, 0, 1], 81)), "none of ours");
}

#[test]
fn ranges_of_nodes_outside_of_the_network_are_pods_too() {
    let mut stray = node(3);
    stray.pod_ranges.v4 = Some("172.20.3.0/24".parse().unwrap());
    let mut planner = Planner::new(node(1).name);
    planner.update(Input::Network(network()));
    planner.update(Input::Node(node(1)));
    let count = |planner: &Planner| ranges(planner.services().settings.as_ref().unwrap(), Family::V4).count();
    assert_eq!(count(&planner), 2);
    assert!(planner.update(Input::Node(stray.clone())).services.settings);
    assert_eq!(count(&planner), 3);
    assert!(!planner.update(Input::Node(node(4))).services.settings);
    assert!(planner.update(Input::NodeGone(stray.name)).services.settings);
    assert_eq!(count(&planner), 2);
}

#[test]
fn a_node_whose_pods_would_be_among_services_is_told_of() {
    let mut clashing = node(3);
    clashing.pod_ranges.v4 = Some("10.96.7.0/24".parse().unwrap());
    let mut planner = Planner::new(node(1).name);
    planner.update(Input::Network(network()));
    planner.update(Input::Node(node(1)));
    planner.update(Input::Node(clashing.clone()));
    let problems: Vec<String> = planner.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Node node-3: pod range 10.96.7.0/24 overlaps 10.96.0.0/16 in spec.serviceRanges, whose addresses are refused \
          unless a service has them; its pods cannot be reached"
        ]
    );
    planner.update(Input::NodeGone(clashing.name));
    assert!(planner.problems().is_empty());
}

/// What a test does to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Service(u8, u8),
    ServiceGone(u8),
    Slice { slice: u8, service: u8, endpoints: Vec<(u8, u8)>, conditions: u8 },
    SliceGone(u8),
    LocalRange(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((1u8..3, 2u8..8), 0..6);
    prop_oneof![
        4 => (0u8..4, 0u8..16).prop_map(|(number, shape)| Step::Service(number, shape)),
        1 => (0u8..4).prop_map(Step::ServiceGone),
        6 => (0u8..6, 0u8..4, endpoints, 0u8..8).prop_map(|(slice, service, endpoints, conditions)| Step::Slice {
            slice,
            service,
            endpoints,
            conditions
        }),
        1 => (0u8..6).prop_map(Step::SliceGone),
        1 => any::<bool>().prop_map(Step::LocalRange),
    ]
}

fn input(step: &Step) -> Input {
    match step {
        Step::Service(number, shape) => {
            let mut service = service(&format!("service-{number}"), *number);
            if shape & 1 != 0 {
                service.external_policy = TrafficPolicy::Local;
            }
            if shape & 2 != 0 {
                // The same for all, so that they quarrel.
                service.external_addresses = vec!["198.51.100.1".parse().unwrap()];
            }
            if shape & 4 != 0 {
                service.affinity = Some(Duration::from_secs(u64::from(*number) + 1));
            }
            if shape & 8 != 0 {
                service.ports[0].node_port = Some(30000 + u16::from(*number));
            }
            Input::Service(service)
        }
        Step::ServiceGone(number) => Input::ServiceGone(name(&format!("service-{number}"))),
        Step::Slice { slice: number, service, endpoints, conditions } => {
            let family = if number % 2 == 0 { Family::V4 } else { Family::V6 };
            let mut slice =
                slice(&format!("slice-{number}"), &format!("service-{service}"), family, endpoints);
            for (index, endpoint) in slice.endpoints.iter_mut().enumerate() {
                endpoint.ready = (index as u8) % 3 != conditions % 3 || conditions & 4 != 0;
                endpoint.terminating = !endpoint.ready;
            }
            Input::Slice(slice)
        }
        Step::SliceGone(number) => Input::SliceGone(name(&format!("slice-{number}"))),
        Step::LocalRange(other) => {
            let mut local = node(1);
            if *other {
                local.pod_ranges.v4 = Some("10.244.2.0/24".parse().unwrap());
            }
            Input::Node(local)
        }
    }
}

proptest! {
    /// However a cluster came to be what it is, the plan is that of a planner which sees it at once; and whoever
    /// follows the changes has the plan.
    #[test]
    fn changes_lead_where_a_whole_plan_leads(steps in prop::collection::vec(step(), 1..40)) {
        let mut planner = Planner::new(node(1).name);
        planner.update(Input::Network(network()));
        planner.update(Input::Node(node(1)));
        let mut cluster = Cluster {
            network: network(),
            nodes: BTreeMap::from([(node(1).name, node(1))]),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        };
        let mut followed: BTreeMap<Frontend, Balancer> = BTreeMap::new();
        let mut hairpins: BTreeSet<IpAddr> = BTreeSet::new();
        for step in &steps {
            let input = input(step);
            match input.clone() {
                Input::Service(service) => drop(cluster.services.insert(service.name.clone(), service)),
                Input::ServiceGone(name) => drop(cluster.services.remove(&name)),
                Input::Slice(slice) => drop(cluster.slices.insert(slice.name.clone(), slice)),
                Input::SliceGone(name) => drop(cluster.slices.remove(&name)),
                Input::Node(node) => drop(cluster.nodes.insert(node.name.clone(), node)),
                _ => unreachable!(),
            }
            let change = planner.update(input).services;
            for (address, there) in change.hairpins {
                if there {
                    hairpins.insert(address);
                } else {
                    hairpins.remove(&address);
                }
            }
            for (frontend, balancer) in change.frontends {
                match balancer {
                    Some(balancer) => drop(followed.insert(frontend, balancer)),
                    None => drop(followed.remove(&frontend)),
                }
            }
            prop_assert_eq!(&followed, &planner.services().frontends);
        }
        let whole = plan::plan(&cluster, &node(1).name, &Facts::default());
        prop_assert_eq!(&whole.services, planner.services());
        prop_assert_eq!(&hairpins, &whole.services.hairpins);

        // Every element that leads to a chain leads to one that the plan has, and no number is missing.
        let settings = whole.services.settings.as_ref().unwrap();
        for (frontend, balancer) in &whole.services.frontends {
            for element in elements(frontend, balancer, settings) {
                if let Some(Datum::Goto(chain)) = &element.data {
                    let known = whole.services.pickers.keys().any(|(family, picker)| {
                        *family == frontend.family() && plan::services::picker_chain(*picker) == *chain
                    });
                    prop_assert!(known || ["refuse", "drop-silently"].contains(&&*chain.0), "{}", chain);
                }
            }
        }
    }
}
