//! The services as the kernel holds them, read back and damaged with `nft`.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::TestNs;
use common::cluster::{self, Stack};
use kernel::{AddressKind, Kernel, SeenServices};
use model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PerFamily, Protocol, Service, ServicePort,
    TrafficPolicy,
};
use plan::Facts;
use plan::services::ServicePlan;

fn web() -> Service {
    Service {
        name: ObjectName::new("shop", "web"),
        cluster_addresses: vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()],
        external_addresses: vec!["198.51.100.1".parse().unwrap(), "2001:db8:e::1".parse().unwrap()],
        balancer_addresses: vec!["198.51.100.2".parse().unwrap(), "2001:db8:e::2".parse().unwrap()],
        balancer_sources: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:c::/48".parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        affinity: Some(Duration::from_secs(600)),
        health_check_port: None,
    }
}

fn slice(family: Family, endpoints: &[(&str, u32)]) -> EndpointSlice {
    let endpoint = |(address, node): &(&str, u32)| Endpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(cluster::name(*node).into()),
        zones: [].into(),
        nodes: [].into(),
    };
    EndpointSlice {
        name: ObjectName::new("shop", format!("web-{family}")),
        service: "web".into(),
        family,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

fn plan() -> ServicePlan {
    let service = web();
    let slices = [
        slice(Family::V4, &[("10.128.0.2", 0), ("10.128.1.2", 1)]),
        slice(Family::V6, &[("fd00:10:0:0::2", 0), ("fd00:10:0:1::2", 1)]),
    ];
    let mut cluster = cluster::cluster(2, Stack::Dual);
    cluster.services = BTreeMap::from([(service.name.clone(), service)]);
    cluster.slices = slices.into_iter().map(|slice| (slice.name.clone(), slice)).collect();
    let facts = Facts { underlay_mtu: PerFamily { v4: Some(1500), v6: Some(1500) }, ..Facts::default() };
    let plan = plan::plan(&cluster, &cluster::name(0), &facts);
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    plan.services
}

fn faults(seen: &SeenServices) -> Vec<&String> {
    seen.faults.iter().chain(seen.frontends.iter().flat_map(|each| &each.faults)).collect()
}

#[test]
fn services_read_back_as_they_were_planned() {
    let test = TestNs::underlay("seen");
    let _guard = test.enter();
    let plan = plan();
    let mut kernel = Kernel::open().unwrap();
    let report = kernel.reconcile_services(&plan).unwrap();
    assert!(report.services.is_none(), "{report}");
    let seen = kernel.services_seen().unwrap();
    assert!(seen.is_sound(), "{:#?}", faults(&seen));
    assert_eq!(seen.frontends.len(), plan.frontends.len());
    for each in &seen.frontends {
        let planned = &plan.frontends[&each.frontend];
        assert_eq!(each.service, planned.service.to_string());
        assert_eq!(each.target.as_ref(), Some(&planned.target));
        assert_eq!(each.outside, planned.outside);
        assert_eq!(each.affinity, planned.affinity);
        assert_eq!(each.sources.as_deref(), planned.sources.as_deref());
    }
    let kinds = |kind| seen.frontends.iter().filter(|each| each.kind == kind).count();
    assert_eq!(kinds(AddressKind::Cluster), 2);
    assert_eq!(kinds(AddressKind::Node), 2);
    assert_eq!(kinds(AddressKind::External), 4);
}

#[test]
fn what_others_damage_is_seen() {
    let test = TestNs::underlay("hurt");
    let _guard = test.enter();
    let mut kernel = Kernel::open().unwrap();
    for (command, expected) in [
        (
            "nft delete element ip cambric-services backends { 10.96.0.1 . tcp . 80 . 1 }",
            "services says goto stick-2, but backends has only 1 of these endpoints",
        ),
        (
            "nft delete element ip6 cambric-services sticky { fd00:96::1 . tcp . 80 }",
            "services says goto stick-2, but sticky keeps no client",
        ),
        (
            "nft add element ip cambric-services services { 10.96.0.9 . udp . 53 : drop }",
            "services says drop, which leads to no endpoint",
        ),
        (
            "nft flush chain ip6 cambric-services stick-2",
            "chain stick-2 in table ip6 cambric-services has other rules",
        ),
        ("nft delete table ip6 cambric-services", "table ip6 cambric-services is missing"),
        (
            "nft add element ip cambric-services affinity { 203.0.113.9 . 10.96.0.1 . tcp . 80 timeout 60s : \
             10.128.9.9 . 8080 }",
            "affinity keeps 1 client with endpoints that it does not have",
        ),
    ] {
        kernel.doubt_services();
        let report = kernel.reconcile_services(&plan()).unwrap();
        assert!(report.services.is_none(), "{report}");
        assert!(kernel.services_seen().unwrap().is_sound());
        test.run(command);
        let seen = kernel.services_seen().unwrap();
        assert!(faults(&seen).contains(&&expected.to_owned()), "{command}: {:#?}", faults(&seen));
    }
}
