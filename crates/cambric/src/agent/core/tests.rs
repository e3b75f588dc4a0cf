use kube_source::ClusterNetworkSpec;
use plan::Key;

use super::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn node(text: &str, number: u8) -> Node {
    let ips = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
    let cidrs = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
    Node::parse(name(text), ips.iter().map(String::as_str), cidrs.iter().map(String::as_str)).unwrap()
}

fn network() -> NetworkConfig {
    let json = r#"{"podRanges": ["10.244.0.0/16", "fd00:10:244::/48"]}"#;
    let spec: ClusterNetworkSpec = serde_json::from_str(json).unwrap();
    NetworkConfig::try_from(&spec).unwrap()
}

fn synced(events: impl IntoIterator<Item = Event>) -> Core {
    let mut core = Core::new(name("a"));
    for event in events {
        assert_eq!(core.take(event), Todo::Nothing);
    }
    assert_eq!(core.take(Event::Synced), Todo::Reconcile);
    core
}

/// A service with cluster addresses `10.96.0.<number>` and `fd00:96::<number>`.
fn service(text: &str, number: u8) -> Service {
    let port = model::ServicePort {
        name: "".into(),
        protocol: model::Protocol::Tcp,
        port: 80,
        node_port: Some(30000 + u16::from(number)),
    };
    Service {
        name: ObjectName::new("shop", text),
        cluster_addresses: [format!("10.96.0.{number}"), format!("fd00:96::{number}")]
            .map(|address| address.parse().unwrap())
            .into(),
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        balancer_sources: Vec::new(),
        ports: vec![port],
        internal_policy: model::TrafficPolicy::Cluster,
        external_policy: model::TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    }
}

/// A slice of a service with these endpoints, all of one family.
fn slice(text: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoint = |address: &&str| model::Endpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zones: Arc::default(),
        nodes: Arc::default(),
    };
    let port = model::EndpointPort { name: "".into(), protocol: model::Protocol::Tcp, port: 8080 };
    let endpoints: Vec<model::Endpoint> = addresses.iter().map(endpoint).collect();
    EndpointSlice {
        name: ObjectName::new("shop", text),
        service: service.into(),
        family: Family::of(&endpoints[0].address),
        ports: vec![port],
        endpoints,
    }
}

fn routes(core: &Core) -> usize {
    core.entries().keys().filter(|key| matches!(key, Key::Route(_))).count()
}

#[test]
fn nothing_is_planned_before_the_lists_are_complete() {
    let mut core = Core::new(name("a"));
    for event in [Event::Network(network()), Event::Node(node("a", 1)), Event::Node(node("b", 2))] {
        assert_eq!(core.take(event), Todo::Nothing);
        assert!(!core.has_plan());
    }
    assert!(core.missing().unwrap().contains("has not listed"));
    core.take(Event::Synced);
    assert!(core.has_plan() && core.missing().is_none());
    assert_eq!(routes(&core), 2);
}

#[test]
fn what_is_missing_is_named() {
    let core = synced([Event::Node(node("a", 1))]);
    assert!(!core.has_plan());
    assert!(core.missing().unwrap().contains("no ClusterNetwork named \"default\""));

    let mut core = synced([Event::Network(network()), Event::Node(node("b", 2))]);
    assert!(core.missing().unwrap().contains("no Node a"));
    // It comes later: everything is planned at once.
    assert!(matches!(core.take(Event::Node(node("a", 1))), Todo::Apply(change) if !change.is_empty()));
    assert!(core.has_plan());

    let object = Object { kind: "ClusterNetwork", name: "default".to_owned() };
    let refused = Event::Refused { object, reason: "spec.mtu: 5".to_owned() };
    let core = synced([Event::Node(node("a", 1)), refused]);
    assert_eq!(core.missing().unwrap(), "ClusterNetwork default: spec.mtu: 5");
}

#[test]
fn a_node_costs_its_own_entries() {
    let mut core = synced([Event::Network(network()), Event::Node(node("a", 1)), Event::Node(node("b", 2))]);
    let Todo::Apply(change) = core.take(Event::Node(node("c", 3))) else { panic!() };
    let origins: Vec<String> = change.keys.values().flatten().map(|entry| entry.origin.to_string()).collect();
    assert!(!origins.is_empty() && origins.iter().all(|origin| origin == "Node c"), "{origins:?}");
    let Todo::Apply(change) = core.take(Event::NodeGone(name("c"))) else { panic!() };
    assert!(change.keys.values().all(Option::is_none));
}

#[test]
fn the_network_and_the_own_node_stay_when_they_are_deleted() {
    let mut core = synced([Event::Network(network()), Event::Node(node("a", 1)), Event::Node(node("b", 2))]);
    let before = core.entries().clone();
    assert_eq!(core.take(Event::NetworkGone), Todo::Nothing);
    assert_eq!(core.take(Event::NodeGone(name("a"))), Todo::Nothing);
    assert_eq!(core.entries(), &before);
    assert_eq!(core.problems().len(), 2);
    assert!(core.has_plan());
    core.take(Event::Network(network()));
    core.take(Event::Node(node("a", 1)));
    assert_eq!(core.problems(), Vec::<String>::new());
}

#[test]
fn an_earlier_state_holds_until_the_api_is_heard() {
    let mut core = Core::new(name("a"));
    let nodes = [node("a", 1), node("b", 2), node("c", 3)].map(|node| (node.name.clone(), node));
    core.restore(network(), Objects { nodes: nodes.into(), ..Objects::default() });
    assert!(core.has_plan());
    assert_eq!(routes(&core), 4);
    assert!(core.problems()[0].contains("has not been heard"));
    // c was deleted while nobody watched; the rest comes one by one, and nothing is removed before all is there.
    core.take(Event::Node(node("a", 1)));
    core.take(Event::Network(network()));
    assert_eq!(routes(&core), 4);
    core.take(Event::Node(node("b", 2)));
    assert_eq!(core.take(Event::Synced), Todo::Reconcile);
    assert_eq!(routes(&core), 2);
    assert_eq!(core.problems(), Vec::<String>::new());
}

#[test]
fn an_earlier_state_fills_in_for_what_the_api_has_lost() {
    let mut core = Core::new(name("a"));
    let nodes = [node("a", 1), node("b", 2)].map(|node| (node.name.clone(), node));
    core.restore(network(), Objects { nodes: nodes.into(), ..Objects::default() });
    core.take(Event::Node(node("b", 2)));
    core.take(Event::Synced);
    assert!(core.has_plan());
    assert_eq!(routes(&core), 2);
    assert_eq!(core.problems().len(), 2, "{:?}", core.problems());
}

#[test]
fn the_condition_is_wanted_until_it_is_there() {
    let mut core = synced([Event::Network(network()), Event::Node(node("a", 1))]);
    assert!(!core.wants_condition());
    core.take(Event::LocalNode { says_available: false });
    assert!(core.wants_condition());
    core.take(Event::LocalNode { says_available: true });
    assert!(!core.wants_condition());
}

#[test]
fn a_broken_watch_is_a_problem_until_it_works() {
    let mut core = synced([Event::Network(network()), Event::Node(node("a", 1))]);
    let before = core.entries().clone();
    core.take(Event::Disconnected { watched: Watched::Nodes, error: "refused".to_owned() });
    assert_eq!(core.problems(), ["watching nodes: refused"]);
    assert_eq!(core.entries(), &before);
    core.take(Event::Connected(Watched::Nodes));
    assert_eq!(core.problems(), Vec::<String>::new());
}

#[test]
fn services_of_a_complete_list_are_planned_and_others_are_gone() {
    let mut core = Core::new(name("a"));
    let nodes = [node("a", 1)].map(|node| (node.name.clone(), node));
    let services = [service("gone", 1), service("web", 2)].map(|service| (service.name.clone(), service));
    let slices = [slice("gone-1", "gone", &["10.244.1.2"]), slice("web-1", "web", &["10.244.1.3"])];
    let slices = slices.map(|slice| (slice.name.clone(), slice));
    core.restore(
        network(),
        Objects {
            nodes: nodes.into(),
            services: services.into(),
            slices: slices.into(),
            ..Objects::default()
        },
    );
    // Per service two cluster addresses and a node port on two addresses; one endpoint for those of IPv4.
    let counts = |core: &Core| (core.services().frontends.len(), core.services().endpoints());
    assert_eq!(counts(&core), (8, 4));
    for event in [
        Event::Network(network()),
        Event::Node(node("a", 1)),
        Event::Service(service("web", 2)),
        Event::Service(service("late", 3)),
        Event::ServiceGone(ObjectName::new("shop", "late")),
        Event::Slice(slice("web-1", "web", &["10.244.1.3", "10.244.1.4"])),
        Event::Slice(slice("web-2", "web", &["fd00:10:244:1::3"])),
        Event::Slice(slice("web-3", "web", &["fd00:10:244:1::4"])),
        Event::SliceGone(ObjectName::new("shop", "web-3")),
    ] {
        assert_eq!(core.take(event), Todo::Nothing);
        assert_eq!(counts(&core), (8, 4));
    }
    assert_eq!(core.take(Event::Synced), Todo::Reconcile);
    assert_eq!(counts(&core), (4, 6));
    assert_eq!((core.known_services().count(), core.known_slices().count()), (1, 2));
}

#[test]
fn a_service_costs_its_own_frontends() {
    let mut core =
        synced([Event::Network(network()), Event::Node(node("a", 1)), Event::Service(service("web", 2))]);
    let revision = core.revision();
    let Todo::Apply(change) = core.take(Event::Service(service("more", 3))) else { panic!() };
    assert!(change.keys.is_empty() && !change.services.settings);
    assert_eq!(change.services.frontends.len(), 4);
    let more = slice("more-1", "more", &["10.244.2.2"]);
    let Todo::Apply(change) = core.take(Event::Slice(more.clone())) else { panic!() };
    assert_eq!(change.services.frontends.len(), 2, "{change:?}");
    assert_eq!(core.services().endpoints(), 2);
    let Todo::Apply(change) = core.take(Event::SliceGone(more.name)) else { panic!() };
    assert_eq!(change.services.frontends.len(), 2);
    let Todo::Apply(change) = core.take(Event::ServiceGone(ObjectName::new("shop", "more"))) else {
        panic!()
    };
    assert!(change.services.frontends.values().all(Option::is_none));
    // What is kept for a start without the API is kept anew.
    assert_eq!(core.revision(), revision + 4);
}

#[test]
fn the_nodes_own_addresses_outlive_a_list() {
    let mut core = Core::new(name("a"));
    let own: Vec<IpAddr> = vec!["198.51.100.1".parse().unwrap()];
    core.observe(Input::Addresses(own.clone()));
    let json = r#"{"podRanges": ["10.244.0.0/16"], "nodePortAddresses": ["198.51.100.0/24"]}"#;
    let spec: ClusterNetworkSpec = serde_json::from_str(json).unwrap();
    core.take(Event::Network(NetworkConfig::try_from(&spec).unwrap()));
    core.take(Event::Node(node("a", 1)));
    core.take(Event::Service(service("web", 2)));
    core.take(Event::Synced);
    assert_eq!(core.addresses(), own);
    let node_ports: Vec<String> =
        core.services().frontends.keys().filter(|each| each.port > 30000).map(ToString::to_string).collect();
    assert_eq!(node_ports, ["198.51.100.1:30002 TCP"]);
}

/// The refusal of an object of this kind, and why it is shown.
fn refused(kind: &'static str, name: &str) -> Event {
    Event::Refused { object: Object { kind, name: name.to_owned() }, reason: "spec.x: 5".to_owned() }
}

#[test]
fn what_is_refused_in_the_first_list_stays_as_an_earlier_run_knew_it() {
    let events = [
        Event::Network(network()),
        Event::Node(node("a", 1)),
        refused("Node", "b"),
        refused("Service", "shop/web"),
        refused("EndpointSlice", "shop/web-1"),
        Event::Slice(slice("web-2", "web", &["fd00:10:244:1::3"])),
        // It has no good state that anybody knew.
        refused("Service", "shop/new"),
    ];
    let mut core = Core::new(name("a"));
    for event in events {
        core.take(event);
    }
    assert!(core.needs_earlier());
    let nodes = [node("a", 1), node("b", 2), node("c", 3)].map(|node| (node.name.clone(), node));
    let services = [service("gone", 1), service("web", 2)].map(|service| (service.name.clone(), service));
    let slices = [slice("gone-1", "gone", &["10.244.1.2"]), slice("web-1", "web", &["10.244.1.3"])];
    let slices = slices.map(|slice| (slice.name.clone(), slice));
    let objects = Objects {
        nodes: nodes.into(),
        services: services.into(),
        slices: slices.into(),
        ..Objects::default()
    };
    core.restore(network(), objects);
    assert!(!core.needs_earlier());
    core.take(Event::Synced);
    let nodes: Vec<String> = core.nodes().keys().map(ToString::to_string).collect();
    assert_eq!((nodes, routes(&core)), (vec!["a".to_owned(), "b".to_owned()], 2));
    // Two cluster addresses and a node port on two addresses, and an endpoint for each.
    assert_eq!((core.services().frontends.len(), core.services().endpoints()), (4, 4));
    assert_eq!(core.problems().len(), 4, "{:?}", core.problems());
}

#[test]
fn what_was_good_in_the_list_is_newer_than_what_an_earlier_run_knew() {
    let mut core = Core::new(name("a"));
    let services = [service("web", 2)].map(|service| (service.name.clone(), service));
    let nodes = [node("a", 1)].map(|node| (node.name.clone(), node));
    core.restore(network(), Objects { nodes: nodes.into(), services: services.into(), ..Objects::default() });
    for event in [Event::Network(network()), Event::Node(node("a", 1)), Event::Service(service("web", 3))] {
        core.take(event);
    }
    core.take(refused("Service", "shop/web"));
    core.take(Event::Synced);
    let addresses = |core: &Core| core.known_services().next().map(|each| each.cluster_addresses.clone());
    assert_eq!(addresses(&core), Some(service("web", 3).cluster_addresses));
}

#[test]
fn a_network_that_is_refused_at_the_start_is_not_gone() {
    let mut core = Core::new(name("a"));
    core.take(Event::Node(node("a", 1)));
    assert!(!core.needs_earlier());
    core.take(refused("ClusterNetwork", "another"));
    assert!(!core.needs_earlier(), "it was never in force");
    core.take(refused("ClusterNetwork", "default"));
    assert!(core.needs_earlier());
    core.restore(network(), Objects::default());
    core.take(Event::Synced);
    assert!(core.has_plan());
    let problems = core.problems();
    assert!(problems.iter().all(|problem| problem.ends_with("spec.x: 5")), "{problems:?}");
}

fn bgp_network(bgp: &str) -> NetworkConfig {
    let json = format!(r#"{{"podRanges": ["10.244.0.0/16"], "routeSource": "bgp", "bgp": {bgp}}}"#);
    NetworkConfig::try_from(&serde_json::from_str::<ClusterNetworkSpec>(&json).unwrap()).unwrap()
}

fn tor() -> BgpPeer {
    let spec = r#"{"address": "192.0.2.200", "asn": 65001, "nodeSelector": {"matchLabels": {"rack": "1"}},
        "passwordSecret": {"namespace": "net", "name": "bgp", "key": "tor"}}"#;
    kube_source::peer("tor", &serde_json::from_str(spec).unwrap()).unwrap()
}

fn sessions(core: &mut Core) -> Option<Vec<String>> {
    let speaker = core.new_speaker()?;
    Some(speaker.iter().flat_map(|speaker| speaker.sessions.keys()).map(ToString::to_string).collect())
}

#[test]
fn the_speaker_follows_nodes_peers_labels_and_passwords_and_nothing_else() {
    let mut core = synced([
        Event::Network(bgp_network("{}")),
        Event::Node(node("a", 1)),
        Event::Node(node("b", 2)),
        Event::Peer(tor()),
    ]);
    assert_eq!(sessions(&mut core), Some(vec!["node/b".to_owned()]));
    assert_eq!(sessions(&mut core), None);
    core.take(Event::LocalLabels([("rack".to_owned(), "1".to_owned())].into()));
    assert_eq!(sessions(&mut core), None, "without its password it is no session");
    assert!(core.problems().iter().any(|problem| problem.starts_with("BgpPeer tor: there is no session")));
    let key = tor().password.unwrap();
    core.take(Event::Passwords([(key, Ok(model::PeerPassword::new("sesame")))].into()));
    assert_eq!(sessions(&mut core), Some(vec!["node/b".to_owned(), "bgppeer/tor".to_owned()]));
    assert!(core.problems().is_empty(), "{:?}", core.problems());
    core.take(Event::Service(service("web", 1)));
    assert!(!core.is_speaker_stale());
    core.take(Event::NodeGone(name("b")));
    assert_eq!(sessions(&mut core), Some(vec!["bgppeer/tor".to_owned()]));
    core.take(Event::PeerGone("tor".into()));
    assert_eq!(sessions(&mut core), Some(Vec::new()));
}

/// An earlier run's state is gone by while the API is away, and by then routes come from BGP.
#[test]
fn another_source_of_routes_at_the_end_of_the_lists_leaves_no_gap() {
    let nodes = [node("a", 1), node("b", 2)];
    let route = Key::Route("10.244.2.0/24".parse().unwrap());
    let mut core = Core::new(name("a"));
    let objects =
        Objects { nodes: nodes.clone().map(|node| (node.name.clone(), node)).into(), ..Objects::default() };
    core.restore(network(), objects);
    assert_eq!(core.new_speaker(), Some(None));
    core.observe(Input::Converged);
    for event in [Event::Network(bgp_network("{}")), Event::Synced] {
        core.take(event);
    }
    assert_eq!(core.epoch(), 1);
    core.take(Event::Node(nodes[1].clone()));
    assert!(core.planned(&route).is_some());
    assert_eq!(core.unplanned(), Unplanned::Learned);
    core.observe(Input::Converged);
    assert!(core.planned(&route).is_none());
}

#[test]
fn a_peer_that_is_refused_at_the_start_is_as_an_earlier_run_knew_it() {
    let mut core = Core::new(name("a"));
    let objects = Objects {
        nodes: [node("a", 1)].map(|node| (node.name.clone(), node)).into(),
        peers: [("tor".into(), tor())].into(),
        labels: [("rack".to_owned(), "1".to_owned())].into(),
        ..Objects::default()
    };
    core.restore(bgp_network("{}"), objects);
    let object = Object { kind: "BgpPeer", name: "tor".to_owned() };
    core.take(Event::Refused { object, reason: "spec.asn: 0".to_owned() });
    core.take(Event::Network(bgp_network("{}")));
    core.take(Event::Node(node("a", 1)));
    core.take(Event::Synced);
    assert_eq!(core.peers().peers.len(), 1);
    assert_eq!(core.peers().labels.len(), 1);
}

#[test]
fn the_addresses_that_are_announced_are_told_as_news() {
    let mut core =
        synced([Event::Network(bgp_network(r#"{"announce": ["ClusterIP"]}"#)), Event::Node(node("a", 1))]);
    assert_eq!(core.new_announced(), Announced::All);
    assert_eq!(core.new_announced(), Announced::Changed(BTreeMap::new()));
    core.take(Event::Service(service("web", 1)));
    assert_eq!(core.new_announced(), Announced::Changed(BTreeMap::new()), "nobody serves it");
    let told = |address: &str, told| Announced::Changed([(address.parse().unwrap(), told)].into());
    core.take(Event::Slice(slice("web-1", "web", &["10.244.1.2"])));
    assert_eq!(core.new_announced(), told("10.96.0.1", true));
    core.take(Event::Slice(slice("web-2", "web", &["fd00:10:244:1::2"])));
    assert_eq!(core.new_announced(), told("fd00:96::1", true));
    core.take(Event::SliceGone(ObjectName::new("shop", "web-1")));
    assert_eq!(core.new_announced(), told("10.96.0.1", false));
    assert_eq!(core.announced().len(), 1);
    core.take(Event::Network(bgp_network("{}")));
    assert_eq!(core.new_announced(), told("fd00:96::1", false));
}
