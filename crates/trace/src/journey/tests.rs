use ipnet::IpNet;

use super::text::{Style, render};
use super::*;
use crate::fixture::scene;

fn query(scene: &Scene, from: &str, to: &str) -> Query {
    Query {
        source: scene.source(from, "default").unwrap(),
        destination: scene.party(to, "default").unwrap(),
        transport: None,
        family: None,
        via: None,
    }
}

fn journey(from: &str, to: &str) -> Journey {
    let scene = scene();
    scene.journey(&query(&scene, from, to)).unwrap()
}

#[test]
fn a_service_is_followed_to_each_endpoint_and_back() {
    for family in Family::BOTH {
        let scene = scene();
        let query = Query { family: Some(family), ..query(&scene, "client", "service/default/web") };
        let journey = scene.journey(&query).unwrap();
        assert!(journey.delivered, "{journey:#?}");
        let ends: Vec<_> = journey.ways.iter().map(|way| way.end.as_ref().unwrap().name.clone()).collect();
        assert_eq!(ends, ["default/web-1", "default/web-2"]);
        assert!(journey.ways.iter().all(|way| way.one_in == 2));
        for way in &journey.ways {
            let rewritten = way.there.iter().find(|hop| hop.action == Action::RewriteDestination).unwrap();
            assert_eq!(rewritten.object.as_deref(), Some("Service default/web:http"));
            let restored = way.back.iter().find(|hop| hop.action == Action::RestoreSource).unwrap();
            assert_eq!(restored.object, rewritten.object);
            assert_eq!(restored.node, "node-1");
            // The answer comes to the client from the address that it has asked.
            let last = way.points_back.last().unwrap();
            assert_eq!(last.place, Place::Pod("default/client".to_owned()));
            assert_eq!((last.source, last.destination), (journey.packet.destination, journey.packet.source));
        }
        let tunnel = journey.ways[1].there.iter().find(|hop| hop.action == Action::Encapsulate).unwrap();
        assert_eq!(tunnel.object.as_deref(), Some("Node node-2"));
        assert_eq!(tunnel.mtu, Some(1450), "{family}");
    }
}

#[test]
fn a_node_asks_by_the_address_of_the_way() {
    for (to, source) in
        [("web-1:8080", "10.244.1.1"), ("web-2:8080", "10.244.1.1"), ("node/node-2:22", "192.0.2.1")]
    {
        let journey = journey("node/node-1", to);
        assert_eq!(journey.packet.source, source.parse::<IpAddr>().unwrap(), "{to}");
        assert!(journey.delivered, "{to}: {journey:#?}");
    }
}

#[test]
fn from_outside_the_answer_goes_back_through_the_node_that_was_asked() {
    let journey = journey("198.51.100.7", "node/node-1:30080");
    assert!(journey.delivered, "{journey:#?}");
    let far = &journey.ways[1];
    let action = |hops: &[HopView], action| hops.iter().filter(|hop| hop.action == action).count();
    assert_eq!(action(&far.there, Action::RewriteSource), 1);
    assert_eq!(action(&far.back, Action::RestoreDestination), 1);
    assert_eq!(action(&far.back, Action::RestoreSource), 1);
    let last = far.points_back.last().unwrap();
    assert_eq!((last.source, last.destination), (journey.packet.destination, journey.packet.source));
    assert_eq!(last.place, Place::Node("node-1".to_owned()));
}

#[test]
fn what_is_lost_is_said_with_the_place() {
    let unserved = journey("client", "10.96.0.99:80");
    assert!(!unserved.delivered);
    let lost = unserved.ways[0].lost.as_ref().unwrap();
    assert_eq!(lost.node, "node-1");
    assert!(
        lost.told && lost.why.starts_with("a cluster address or port without a service: refused"),
        "{lost:?}"
    );
    assert_eq!(lost.object.as_deref(), Some("ClusterNetwork"));
    let nobody = journey("client", "10.244.2.77");
    assert!(nobody.ways[0].lost.as_ref().unwrap().why.contains("no pod has the address 10.244.2.77"));
    assert_eq!(nobody.protocol, "ICMP");
}

#[test]
fn names_that_are_wrong_are_answered_with_those_that_are_right() {
    let scene = scene();
    for (text, expected) in [
        (
            "pod/default/web-3",
            "there is no pod with an address \"default/web-3\"; did you mean pod/default/web-1",
        ),
        ("web", "did you mean service/default/web or pod/default/web-1 or pod/default/web-2?"),
        ("node/node-3", "there is no node \"node-3\"; did you mean node/node-1 or node/node-2?"),
        ("svc/default/wep", "did you mean service/default/web"),
        ("www.example.org", "there is no pod with an address \"www.example.org\""),
        ("a/b/c/d", "\"a/b/c/d\" names nobody; use pod/NAMESPACE/NAME"),
        ("web-1:0", "\"0\" is no port"),
        ("web-1:99999", "\"99999\" is no port"),
    ] {
        let error = scene.party(text, "default").unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(scene.source("client:80", "default").unwrap_err().to_string().contains("has a port"));
    let query = |from: &str, to: &str| scene.journey(&query(&scene, from, to)).unwrap_err().to_string();
    assert!(query("svc/web", "client").contains("sends nothing"));
    assert!(
        query("client", "svc/web:https")
            .contains("service/default/web has no port \"https\"; it has http (80/TCP)")
    );
    assert!(query("198.51.100.7", "svc/web").contains("--via NODE"));
}

#[test]
fn it_fits_a_terminal() {
    let ascii = Style { ascii: true, ..Style::default() };
    for (from, to) in [("client", "svc/web"), ("client", "web-2:8080"), ("198.51.100.7", "node/node-2:30080")]
    {
        let journey = journey(from, to);
        let text = render(&journey, &Style::default());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(text.lines().count() <= 40, "{text}");
        let text = render(&journey, &Style { all: true, rules: true, ..ascii });
        assert!(text.is_ascii(), "{text}");
    }
}

#[test]
fn a_service_call_as_it_is_shown() {
    let mut journey = journey("client", "svc/web");
    journey.ways.reverse();
    let text = render(&journey, &Style::default());
    assert_eq!(text, include_str!("testdata/service.txt"));
}

#[test]
fn the_underlay_is_taken_as_it_is_known() {
    let mut scene = scene();
    let net: IpNet = "192.0.2.1/24".parse().unwrap();
    let link = plan::Underlay { link: model::LinkName::new("ens3").unwrap(), net, mtu: 9000 };
    scene.underlay.get_mut(&NodeName::new("node-1").unwrap()).unwrap().v4 = Some(link);
    let journey = scene.journey(&query(&scene, "client", "web-2:8080")).unwrap();
    let uplink = journey.ways[0].points.iter().find(|point| point.outer.is_some()).unwrap();
    assert_eq!(uplink.link, "ens3");
    let tunnel = journey.ways[0].there.iter().find(|hop| hop.action == Action::Encapsulate).unwrap();
    assert_eq!(tunnel.mtu, Some(8950));
}
