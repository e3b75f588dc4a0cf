//! Services from the embedded API into the real kernel, by the real agent.

#![allow(clippy::unwrap_used)]

mod agent_common;

use std::time::{Duration, Instant};

use agent_common::news::{News, only_about, same};
use agent_common::{Node, SOON, START, merge};
use serde_json::{Value, json};

const BACKENDS: &str = "nft -j list map ip cambric-services backends";
const BACKENDS6: &str = "nft -j list map ip6 cambric-services backends";
const SERVICES: &str = "nft -j list map ip cambric-services services";

fn web() -> Value {
    json!({
        "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "ipFamilies": ["IPv4", "IPv6"],
        "ports": [{"port": 80, "targetPort": 8080}],
    })
}

/// A service `web` with two endpoints per family, on a node with a ready agent.
fn serving() -> Node {
    let mut node = Node::new();
    node.put_node("b", 2);
    put_web(&node);
    node.start_agent();
    node.wait_ready();
    assert!(is_served(&node));
    node
}

fn put_web(node: &Node) {
    node.put_service("web", &web());
    node.put_slice("web-4", &["10.244.2.2", "10.244.2.3"]);
    node.put_slice("web-6", &["fd00:10:244:2::2", "fd00:10:244:2::3"]);
}

/// Whether all of `web` is in the kernel.
fn is_served(node: &Node) -> bool {
    ["10.244.2.2", "10.244.2.3"].iter().all(|endpoint| node.shows(BACKENDS, endpoint))
        && ["fd00:10:244:2::2", "fd00:10:244:2::3"].iter().all(|endpoint| node.shows(BACKENDS6, endpoint))
        && node.shows(SERVICES, "goto")
}

#[test]
fn services_and_endpoints_come_change_and_go() {
    let node = Node::ready();
    put_web(&node);
    node.eventually(SOON, "both families are served", || is_served(&node));
    node.eventually(SOON, "they are counted", || {
        node.metric("cambric_services") == 2.0 && node.metric("cambric_endpoints") == 4.0
    });
    assert!(node.metric("cambric_programming_latency_seconds_count") > 0.0);

    let news = News::listen(&node);
    node.put_slice("web-4", &["10.244.2.3"]);
    node.goes(BACKENDS, "10.244.2.2");
    node.put_slice("web-6", &["fd00:10:244:2::4"]);
    node.goes(BACKENDS6, "fd00:10:244:2::2");
    node.comes(BACKENDS6, "fd00:10:244:2::4");
    // The two frontends' own elements, and the chain for one endpoint.
    only_about(&news.heard("fence0"), &["10.96.0.7", "fd00:96::7", "pick-1"]);

    // Whoever names another proxy is none of ours; the endpoints follow by their own label.
    let label = |value: Value| {
        let patch =
            merge(json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": value}}}));
        node.api().patch("services", "default", "web", &patch).unwrap();
    };
    label("another".into());
    node.goes(SERVICES, "10.96.0.7");
    node.goes(BACKENDS, "10.244.2.3");
    label(Value::Null);
    node.comes(BACKENDS, "10.244.2.3");

    let gone = apiserver::api::DeleteOptions::default();
    node.api().delete("endpointslices.discovery.k8s.io", "default", "web-4", &gone).unwrap();
    node.goes(BACKENDS, "10.244.2.3");
    assert!(node.shows(SERVICES, "refuse"), "a service without endpoints tells its clients");
    node.api().delete("services", "default", "web", &gone).unwrap();
    node.goes(SERVICES, "10.96.0.7");
    node.goes(BACKENDS6, "fd00:10:244:2::4");
}

#[test]
fn a_restart_without_the_api_rewrites_nothing() {
    let mut node = serving();
    let before = node.kernel_state();
    node.stop_api();
    assert!(!node.end_agent("KILL"));
    let news = News::listen(&node);
    node.start_agent();
    node.wait_ready();
    assert!(is_served(&node));
    assert_eq!(news.heard("fence0"), Vec::<String>::new());
    same(&before, &node.kernel_state());
    assert!(node.problems()[0].contains("has not been heard"), "{:?}", node.problems());
    // What it goes by is good for repairs too.
    node.exec("nft delete table ip6 cambric-services");
    node.comes(BACKENDS6, "fd00:10:244:2::3");

    // The API comes back without one of the endpoints.
    node.start_api();
    node.put_slice("web-4", &["10.244.2.3"]);
    let patience = Duration::from_secs(40);
    node.eventually(patience, "the news arrives", || !node.shows(BACKENDS, "10.244.2.2"));
    assert!(node.shows(BACKENDS, "10.244.2.3"));
}

#[test]
fn a_restart_with_the_api_rewrites_nothing() {
    let mut node = serving();
    let before = node.kernel_state();
    assert!(node.end_agent("TERM"));
    let news = News::listen(&node);
    node.start_agent();
    node.wait_ready();
    assert_eq!(news.heard("fence0"), Vec::<String>::new());
    same(&before, &node.kernel_state());
}

#[test]
fn what_others_break_of_services_is_repaired_within_a_second() {
    let node = serving();
    let before = node.kernel_state();
    let mut times = Vec::new();
    for (breaks, shows, text) in [
        (
            "nft delete element ip cambric-services backends { 10.96.0.7 . tcp . 80 . 1 }",
            BACKENDS,
            "10.244.2.3",
        ),
        (
            "nft delete element ip6 cambric-services services { fd00:96::7 . tcp . 80 }",
            "nft -j list map ip6 cambric-services services",
            "fd00:96::7",
        ),
        ("nft flush map ip cambric-services backends", BACKENDS, "10.244.2.3"),
        (
            "nft flush chain ip cambric-services prerouting",
            "nft list chain ip cambric-services prerouting",
            "jump balance",
        ),
        ("nft delete table ip cambric-services", BACKENDS, "10.244.2.3"),
        ("nft delete table ip6 cambric-services", BACKENDS6, "fd00:10:244:2::3"),
    ] {
        node.exec(breaks);
        times.push((node.comes(shows, text), breaks));
    }
    times.sort_unstable();
    println!("repaired after {times:?}");
    // The median: one that the machine held up is not ours.
    assert!(times[times.len() / 2].0 < Duration::from_secs(1), "{times:?}");
    node.eventually(SOON, "all of it is back", || node.kernel_state() == before);
}

#[test]
fn cleanup_removes_the_services_tables() {
    let mut node = serving();
    node.exec("nft add table ip cambric-services-not");
    assert!(node.end_agent("TERM"));
    assert!(is_served(&node), "the datapath goes on without the agent");
    let (done, said) = node.cleanup();
    assert!(done, "{said}");
    assert_eq!(node.exec("nft list tables").trim(), "table ip cambric-services-not");
}

#[test]
fn a_bad_service_is_refused_in_words_and_keeps_its_last_good_state() {
    let node = serving();
    let mut bad = web();
    // The API lets this one pass.
    bad["externalIPs"] = json!(["255.255.255.255"]);
    bad["ports"] = json!([{"port": 81}]);
    node.put_service("web", &bad);
    node.eventually(SOON, "the status says what is wrong", || {
        node.problems().iter().any(|problem| {
            problem.starts_with("Service default/web: spec.externalIPs: 255.255.255.255 is not unicast")
        })
    });
    // Its endpoints go on to change, and others are not held up.
    node.put_slice("web-4", &["10.244.2.3"]);
    node.goes(BACKENDS, "10.244.2.2");
    node.put_slice("web-4", &["10.244.2.2", "10.244.2.3"]);
    node.comes(BACKENDS, "10.244.2.2");
    assert!(is_served(&node));
    let services = "nft list map ip cambric-services services";
    assert!(node.shows(services, "10.96.0.7 . tcp . 80") && !node.shows(services, ". tcp . 81"));
    assert_eq!(node.get("/readyz").unwrap(), "ok\n");

    bad["externalIPs"] = json!(["198.51.100.7", "2001:db8:1::7"]);
    node.put_service("web", &bad);
    node.comes(SERVICES, "198.51.100.7");
    node.comes("nft -j list map ip6 cambric-services services", "2001:db8:1::7");
    node.eventually(SOON, "nothing is wrong any more", || node.problems().is_empty());
}

#[test]
fn node_ports_are_open_on_the_addresses_of_the_configuration() {
    let node = serving();
    let mut spec = web();
    spec["type"] = "NodePort".into();
    spec["ports"][0]["nodePort"] = 30080.into();
    node.put_service("web", &spec);
    node.comes(SERVICES, "192.0.2.1");
    node.comes("nft -j list map ip6 cambric-services services", "2001:db8::1");

    node.put_network(&json!({
        "podRanges": ["10.244.0.0/16", "fd00:10:244::/48"],
        "nodePortAddresses": ["198.51.100.0/24", "2001:db8:1::/64"],
    }));
    node.goes(SERVICES, "192.0.2.1");
    for (family, address) in [("", "198.51.100.9/32"), ("6", "2001:db8:1::9/128")] {
        let map = format!("nft -j list map ip{family} cambric-services services");
        let text = address.split('/').next().unwrap();
        node.ip(&format!("address add {address} dev eth0"));
        node.comes(&map, text);
        node.ip(&format!("address del {address} dev eth0"));
        node.goes(&map, text);
    }
    node.eventually(START, "the agent is content", || node.metric("cambric_problems") == 0.0);
}

#[test]
fn many_services_are_small_and_a_change_among_them_is_quick() {
    // Enough to see a cost per service; more only takes longer.
    const SERVICES: u32 = 1000;
    const ENDPOINTS: u32 = 10;
    let mut node = Node::new();
    for number in 0..SERVICES {
        let (name, low) = (format!("s{number}"), number % 250 + 1);
        let (address, prefix) = match number % 2 {
            0 => (format!("10.96.{}.{low}", number / 250), "10.244.2."),
            _ => (format!("fd00:96::{:x}:{low:x}", number / 250), "fd00:10:244:2::"),
        };
        let spec = json!({"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]});
        node.put_service(&name, &spec);
        let endpoints: Vec<String> =
            (0..ENDPOINTS).map(|endpoint| format!("{prefix}{}", endpoint + 2)).collect();
        node.put_slice_of(&name, &name, &endpoints.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let start = Instant::now();
    node.start_agent();
    node.eventually(START * 3, "the agent is ready", || {
        node.get("/readyz").is_some_and(|body| body == "ok\n")
    });
    let ready = start.elapsed();
    assert_eq!(node.metric("cambric_services"), f64::from(SERVICES));
    assert_eq!(node.metric("cambric_endpoints"), f64::from(SERVICES * ENDPOINTS));
    let state = std::fs::metadata(node.dir.path().join("run/state.json")).unwrap().len();

    // Tests are not optimised and run beside each other: the times are for the reader, the bounds are generous.
    let count = node.metric("cambric_programming_latency_seconds_count");
    node.put_slice_of("s0", "s0", &["10.244.2.99"]);
    node.eventually(SOON, "the change is programmed", || {
        node.metric("cambric_programming_latency_seconds_count") > count
    });
    let latency = node.metric("cambric_programming_latency_seconds_sum");
    let element = "nft get element ip cambric-services backends { 10.96.0.1 . tcp . 80 . 0 }";
    assert!(node.shows(element, "10.244.2.99"));
    let resident = node.metric("cambric_resident_memory_bytes") / f64::from(1 << 20);
    println!("ready {ready:?}, changed in {latency} s, state {state} bytes, resident {resident:.1} MiB");
    assert!(latency < 1.0, "{latency} s");
    assert!(resident < 80.0, "{resident} MiB resident");
}
