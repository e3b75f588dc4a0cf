mod bench;
mod bgp;
mod services;
mod state;

use model::{Attachment, Node, NodeName};

use super::*;
use bench::*;

#[test]
fn nothing_is_touched_before_the_cluster_is_known() {
    let mut bench = Bench::new();
    bench.turn(|_| Heard::Change(Vec::new()));
    bench.turn(|_| Heard::Overrun);
    bench.events(vec![node("a", 1), Event::Synced]);
    bench.turn(|_| Heard::Overrun);
    bench.run();
    assert_eq!(bench.record(), Vec::<&str>::new());
    assert!(bench.health.ready().unwrap_err().contains("no ClusterNetwork"));
    assert_eq!(bench.read("net.d/10-cambric.conflist"), None);
}

#[test]
fn a_change_is_applied_and_not_compared() {
    let mut bench = Bench::new();
    bench.events(cluster());
    bench.events(vec![node("c", 3)]);
    bench.run();
    assert_eq!(bench.record(), ["reconcile", "apply"]);
    assert_eq!(bench.health.ready(), Ok(()));
}

#[test]
fn a_single_entry_is_put_right_before_all_is_compared() {
    let mut bench = Bench::new();
    bench.events(cluster());
    let kernel = bench.kernel.clone();
    let key = Key::Route("10.244.2.0/24".parse().unwrap());
    let lost = key.clone();
    bench.turn(move |_| {
        kernel.with(|state| state.entries.remove(&lost)).unwrap();
        Heard::Change(vec![lost.clone(), Key::Route("10.9.0.0/24".parse().unwrap())])
    });
    bench.run();
    assert_eq!(bench.record(), ["reconcile", "apply", "reconcile"]);
    assert!(bench.kernel.with(|state| state.entries.contains_key(&key)));
}

#[test]
fn events_of_the_kernel_are_compared_together() {
    let mut bench = Bench::new();
    bench.events(cluster());
    for _ in 0..3 {
        bench.turn(|_| Heard::Change(Vec::new()));
    }
    bench.turn(|_| Heard::Overrun);
    bench.run();
    let record = bench.record();
    assert!(record.len() >= 3 && record.iter().all(|what| *what == "reconcile"), "{record:?}");
}

#[test]
fn what_others_change_ends_flows_of_the_fast_path() {
    let mut bench = Bench::new();
    bench.events(cluster());
    bench.turn(|_| Heard::Nothing);
    for heard in [Heard::Change(Vec::new()), Heard::Services(Vec::new()), Heard::Overrun] {
        bench.turn(move |_| heard.clone());
    }
    bench.run();
    let (doubts, attended) = bench.kernel.with(|state| (state.doubts, state.attended));
    assert_eq!(doubts, 3);
    assert!(attended >= 5, "{attended} times in as many turns");
}

#[test]
fn the_files_are_published_when_all_is_in_place() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| {
        state.mtu = Some(9000);
        state.refuse = true;
    });
    bench.events(cluster());
    let (kernel, path, health) =
        (bench.kernel.clone(), bench.dir.path().join("net.d/10-cambric.conflist"), bench.health.clone());
    bench.turn(move |_| {
        // The kernel refuses: the plugin may know of the node, the container runtime not of the plugin.
        assert!(!path.exists());
        assert!(health.ready().unwrap_err().contains("no such device"));
        kernel.with(|state| state.refuse = false);
        Heard::Change(Vec::new())
    });
    bench.run();
    let file: serde_json::Value = serde_json::from_str(&bench.read("run/node.json").unwrap()).unwrap();
    assert_eq!(file["mtu"], 8950);
    assert_eq!(file["podRanges"], serde_json::json!(["10.244.1.0/24"]));
    let list: serde_json::Value =
        serde_json::from_str(&bench.read("net.d/10-cambric.conflist").unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["type"], "cambric");
    assert_eq!(list["plugins"][0]["nodeFile"].as_str(), bench.dir.path().join("run/node.json").to_str());
    assert_eq!(bench.health.ready(), Ok(()));
    assert!(*bench.wanted.borrow());
    let status: serde_json::Value = serde_json::from_str(&bench.read("run/status.json").unwrap()).unwrap();
    assert_eq!(status["nodes"], 2);
    assert_eq!(status["problems"], serde_json::json!([]));
}

#[test]
fn a_node_without_pod_ranges_is_not_ready_and_says_so() {
    let mut bench = Bench::new();
    let own = Node::parse(NodeName::new("a").unwrap(), ["192.0.2.1"], []).unwrap();
    bench.events(vec![network(r#"{"podRanges": ["10.244.0.0/16"]}"#), Event::Node(own), Event::Synced]);
    bench.run();
    assert!(bench.health.ready().unwrap_err().contains("Node a has no spec.podCIDRs"));
    assert_eq!(bench.read("run/node.json"), None);
}

#[test]
fn a_change_of_the_own_addresses_looks_up_the_underlay_again() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.mtu = Some(1500));
    bench.events(cluster());
    let kernel = bench.kernel.clone();
    bench.turn(move |_| {
        kernel.with(|state| state.mtu = Some(1400));
        Heard::Nothing
    });
    bench.events(vec![node("a", 9)]);
    bench.run();
    assert_eq!(bench.record(), ["reconcile", "apply", "reconcile"]);
    let file: serde_json::Value = serde_json::from_str(&bench.read("run/node.json").unwrap()).unwrap();
    assert_eq!((&file["mtu"], &file["podRanges"][0]), (&1350.into(), &"10.244.9.0/24".into()));
}

#[test]
fn pods_of_the_node_are_part_of_the_plan() {
    let mut bench = Bench::new();
    let id = model::AttachmentId { container_id: "x".to_owned(), ifname: "eth0".to_owned() };
    let attachment = Attachment { id: id.clone(), addresses: vec!["10.244.1.2".parse().unwrap()] };
    bench.kernel.with(|state| state.attachments = vec![attachment]);
    bench.events(cluster());
    bench.run();
    assert!(bench.kernel.with(|state| state.entries.contains_key(&Key::Port(id.host_link()))));
}

#[test]
fn what_is_refused_is_shown_before_the_next_comparison() {
    let mut bench = Bench::new();
    bench.events(cluster());
    let object = kube_source::Object { kind: "Service", name: "shop/web".to_owned() };
    bench.events(vec![Event::Refused { object, reason: "Service shop/web: spec.ports".to_owned() }]);
    bench.run();
    assert_eq!(bench.record(), ["reconcile"]);
    let status: serde_json::Value = serde_json::from_str(&bench.read("run/status.json").unwrap()).unwrap();
    assert_eq!(status["problems"], serde_json::json!(["Service shop/web: spec.ports"]));
}

#[test]
fn a_change_has_taken_as_long_as_it_was_not_in_the_kernel() {
    const LONG_AGO: Duration = Duration::from_secs(100);
    let count = |metrics: &Metrics, what: &str| -> f64 {
        let text = metrics.text();
        let name = format!("cambric_programming_latency_seconds_{what} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    let failure = Failure { error: "no such device".to_owned(), origin: String::new() };
    for (hindered, refuse) in [
        (Outcome { failed: vec![failure], ..Outcome::default() }, true),
        (Outcome { reconcile_needed: true, ..Outcome::default() }, true),
        (Outcome { reconcile_needed: true, ..Outcome::default() }, false),
    ] {
        let mut bench = Bench::new();
        bench.events(cluster());
        let (kernel, metrics) = (bench.kernel.clone(), bench.metrics.clone());
        bench.turn(move |inbox| {
            assert_eq!(count(&metrics, "count"), 0.0, "the first list is no change");
            kernel.with(|state| (state.hindered, state.refuse) = (Some(hindered.clone()), refuse));
            let before = Instant::now().checked_sub(LONG_AGO).unwrap();
            inbox.send(Message::Cluster(node("c", 3), before)).unwrap();
            Heard::Nothing
        });
        let (kernel, metrics) = (bench.kernel.clone(), bench.metrics.clone());
        bench.turn(move |_| {
            assert_eq!(count(&metrics, "count"), f64::from(u8::from(!refuse)));
            kernel.with(|state| state.refuse = false);
            Heard::Change(Vec::new())
        });
        bench.run();
        assert_eq!(count(&bench.metrics, "count"), 1.0);
        assert!(count(&bench.metrics, "sum") >= LONG_AGO.as_secs_f64());
    }
}

#[test]
fn a_change_before_the_first_comparison_is_in_the_kernel_after_it() {
    let mut bench = Bench::new();
    let unreadable = Failure { error: "no buffer".to_owned(), origin: String::new() };
    bench.kernel.with(|state| state.addresses = Err(unreadable));
    bench.events(cluster());
    bench.events(vec![node("c", 3)]);
    let (kernel, metrics) = (bench.kernel.clone(), bench.metrics.clone());
    bench.turn(move |_| {
        assert!(metrics.text().contains("programming_latency_seconds_count 0\n"));
        kernel.with(|state| state.addresses = Ok(Vec::new()));
        Heard::Change(Vec::new())
    });
    bench.run();
    assert_eq!(bench.record(), ["reconcile"]);
    assert!(bench.metrics.text().contains("programming_latency_seconds_count 1\n"));
}
