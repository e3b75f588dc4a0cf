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
    core.restore(network(), nodes.into());
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
    core.restore(network(), nodes.into());
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
