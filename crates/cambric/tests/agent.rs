//! The agent against the embedded API and the real kernel, in namespaces.

#![allow(clippy::unwrap_used)]

mod agent_common;

use std::time::{Duration, Instant};

use agent_common::news::{News, only_about, same};
use agent_common::{Node, SOON, START};
use serde_json::{Value, json};

#[test]
fn a_node_becomes_ready_and_says_so() {
    let mut node = Node::new();
    node.put_node("b", 2);
    node.start_agent();
    node.wait_ready();
    assert!(node.shows("ip route", "10.244.2.0/24 via 10.244.2.1 dev vxlan.cambric proto 203"));
    assert!(node.shows("ip -6 route", "fd00:10:244:2::/64 via fd00:10:244:2::1 dev vxlan.cambric"));
    assert!(node.shows("bridge fdb show dev vxlan.cambric", "06:58:c0:00:02:02 dst 192.0.2.2"));

    let read = |path: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(node.dir.path().join(path)).unwrap()).unwrap()
    };
    assert_eq!(read("run/node.json")["mtu"], 1450);
    assert_eq!(read("net.d/10-cambric.conflist")["plugins"][0]["type"], "cambric");
    node.eventually(START, "the Node's condition is set", || {
        let own = node.api().read("nodes", "", "a").unwrap();
        own["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|condition| {
                condition["type"] == "NetworkUnavailable"
                    && condition["status"] == "False"
                    && condition["reason"] == "CambricReady"
            })
        })
    });
    node.eventually(START, "the ClusterNetwork has its status", || {
        let status = &node.network()["status"];
        status["conditions"][0]["status"] == "True"
            && status["message"]
                .as_str()
                .is_some_and(|message| message.starts_with("In force: pods 10.244.0.0/16"))
    });
    assert_eq!(node.metric("cambric_nodes"), 2.0);
    assert!(node.get("/healthz").is_some_and(|body| body == "ok\n"));
    let mut status = node.command("status");
    let status = status.arg("--run-dir").arg(node.dir.path().join("run")).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(status.status.success() && text.contains("ready       yes"), "{text}");
}

#[test]
fn what_others_break_is_repaired_within_a_second() {
    let node = Node::ready();
    let fdb = "bridge fdb show dev vxlan.cambric";
    let mut times = Vec::new();
    for (breaks, shows, text) in [
        ("ip route del 10.244.2.0/24", "ip route", "10.244.2.0/24 via 10.244.2.1"),
        ("ip -6 route del fd00:10:244:2::/64", "ip -6 route", "fd00:10:244:2::/64 via"),
        (
            "ip route replace 10.244.2.0/24 dev eth0 proto 203",
            "ip route show 10.244.2.0/24",
            "via 10.244.2.1 dev vxlan.cambric",
        ),
        ("bridge fdb del 06:58:c0:00:02:02 dev vxlan.cambric dst 192.0.2.2", fdb, "dst 192.0.2.2"),
        ("ip neigh del 10.244.2.1 dev vxlan.cambric", "ip neigh", "10.244.2.1 dev vxlan.cambric"),
        ("ip address del 10.244.1.1/24 dev cbr0", "ip address show dev cbr0", "10.244.1.1/24"),
        ("ip link set vxlan.cambric down", "ip route", "10.244.2.0/24 via 10.244.2.1"),
        ("ip link set cbr0 mtu 1300", "ip link show cbr0", "mtu 1450"),
        ("ip link del cbr0", "ip address show dev cbr0", "10.244.1.1/24"),
        ("ip link del vxlan.cambric", "ip route", "10.244.2.0/24 via 10.244.2.1"),
        ("nft delete table ip cambric", "nft list set ip cambric nodes", "192.0.2.2"),
        ("nft delete table bridge cambric", "nft list table bridge cambric", "chain from-pod"),
        ("nft flush chain ip6 cambric input", "nft list table ip6 cambric", "dport 4789"),
        ("nft delete element ip cambric nodes { 192.0.2.2 }", "nft list set ip cambric nodes", "192.0.2.2"),
    ] {
        node.exec(breaks);
        times.push(node.comes(shows, text));
    }
    times.sort_unstable();
    println!("repaired after {times:?}");
    // The median: one that the machine held up is not ours.
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
    // All of it, and not only what was looked at: nothing is left to repair.
    let before = node.kernel_state();
    node.eventually(SOON, "the agent is content", || node.metric("cambric_problems") == 0.0);
    same(&before, &node.kernel_state());
    assert!(node.metric("cambric_repairs_total{kind=\"route\"}") >= 3.0);
    assert!(
        node.log().contains("kind=\"route\" entry=\"10.244.2.0/24\" origin=\"Node b\""),
        "{}",
        node.log()
    );
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let node = Node::ready();
    for command in [
        "ip link add other type bridge",
        "ip link set other up",
        "ip route add 198.51.100.0/24 dev eth0",
        "ip route add 203.0.113.0/24 via 192.0.2.9 proto bird",
        "ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
        "ip address add 192.0.2.66/32 dev lo",
        "nft add table ip foreign",
        "nft add chain ip foreign c",
        "nft add table inet cambric-not",
    ] {
        node.exec(command);
    }
    // A comparison of everything happens after each of these.
    node.exec("ip route del 10.244.2.0/24");
    node.comes("ip route", "10.244.2.0/24 via 10.244.2.1");
    node.exec("ip link del cbr0");
    node.comes("ip address show dev cbr0", "10.244.1.1/24");
    for (command, text) in [
        ("ip link show other", "other"),
        ("ip route", "198.51.100.0/24 dev eth0"),
        ("ip route", "203.0.113.0/24 via 192.0.2.9 dev eth0 proto bird"),
        ("ip neigh show nud permanent", "192.0.2.77"),
        ("ip address show dev lo", "192.0.2.66/32"),
        ("nft list tables", "table ip foreign"),
        ("nft list tables", "table inet cambric-not"),
    ] {
        assert!(node.shows(command, text), "{command}: {text}");
    }
}

#[test]
fn without_the_api_nothing_is_lost_and_drift_is_repaired() {
    let mut node = Node::ready();
    let before = node.kernel_state();
    node.stop_api();
    node.eventually(START, "the agent has noticed", || node.log().contains("cannot be watched"));
    same(&before, &node.kernel_state());
    node.exec("ip route del 10.244.2.0/24");
    node.comes("ip route", "10.244.2.0/24 via 10.244.2.1");
    assert_eq!(node.get("/readyz").unwrap(), "ok\n");
    node.keeps("10.244.2.0/24");

    // The agent comes back and the API is still away: it goes by what the last one knew.
    assert!(!node.end_agent("KILL"));
    node.exec("ip route del 10.244.2.0/24");
    node.start_agent();
    node.eventually(START, "the route is back", || node.shows("ip route", "10.244.2.0/24 via 10.244.2.1"));
    same(&before, &node.kernel_state());

    node.start_api();
    node.put_node("c", 3);
    node.api().delete("nodes", "", "b", &apiserver::api::DeleteOptions::default()).unwrap();
    let patience = Duration::from_secs(40);
    node.eventually(patience, "the news arrives", || node.shows("ip route", "10.244.3.0/24"));
    node.goes("ip route", "10.244.2.0/24");
}

#[test]
fn a_restart_changes_nothing() {
    let mut node = Node::ready();
    let before = node.kernel_state();
    for signal in ["KILL", "TERM", "INT"] {
        assert_eq!(node.end_agent(signal), signal != "KILL", "{signal}");
        same(&before, &node.kernel_state());
        let news = News::listen(&node);
        node.start_agent();
        node.wait_ready();
        assert_eq!(news.heard("fence0"), Vec::<String>::new(), "{signal}");
        same(&before, &node.kernel_state());
    }
}

#[test]
fn a_bad_network_leaves_the_last_good_one_in_force() {
    let node = Node::ready();
    let before = node.kernel_state();
    // An API server that checks schemas lets this pass: ranges that overlap are beyond a schema.
    node.put_network(&json!({
        "podRanges": ["10.244.0.0/16", "fd00:10:244::/48"], "serviceRanges": ["10.244.7.0/24"],
    }));
    node.eventually(START, "the status says what is wrong", || {
        let status = &node.network()["status"];
        status["conditions"][0]["status"] == "False"
            && status["message"].as_str().is_some_and(|message| {
                message.contains("10.244.0.0/16 and 10.244.7.0/24 overlap")
                    && message.contains("last configuration")
            })
    });
    same(&before, &node.kernel_state());
    assert_eq!(node.get("/readyz").unwrap(), "ok\n");

    node.put_network(
        &json!({"podRanges": ["10.244.0.0/16", "fd00:10:244::/48"], "serviceRanges": [], "mtu": 1400}),
    );
    node.comes("ip link show cbr0", "mtu 1400");
    node.eventually(START, "the status is right again", || {
        node.network()["status"]["conditions"][0]["status"] == "True"
    });
}

#[test]
fn another_network_is_refused_in_its_status() {
    let node = Node::ready();
    let other = json!({
        "apiVersion": "cambric.io/v1alpha1", "kind": "ClusterNetwork", "metadata": {"name": "other"},
        "spec": {"podRanges": ["10.9.0.0/16"]},
    });
    node.api().create("clusternetworks.cambric.io", "", other).unwrap();
    node.eventually(START, "its status says that it is not in force", || {
        let other = node.api().read("clusternetworks.cambric.io", "", "other").unwrap();
        other["status"]["conditions"][0]["reason"] == "WrongName"
    });
    assert!(!node.shows("nft list ruleset", "10.9.0.0/16"));
}

#[test]
fn what_is_missing_is_told() {
    let mut node = Node::new();
    let gone = apiserver::api::DeleteOptions::default();
    node.api().delete("clusternetworks.cambric.io", "", "default", &gone).unwrap();
    node.start_agent();
    let says = |text: &str| node.get("/readyz").is_some_and(|body| body.contains(text));
    node.eventually(START, "the network is missed", || says("no ClusterNetwork named \"default\""));
    assert!(!node.shows("ip link", "cbr0") && !node.shows("nft list tables", "cambric"));
    assert!(!node.dir.path().join("net.d/10-cambric.conflist").exists());
    node.put_network(&json!({"podRanges": ["10.244.0.0/16"]}));
    node.wait_ready();
}

#[test]
fn the_own_node_and_the_network_can_be_deleted_without_harm() {
    let node = Node::ready();
    let before = node.kernel_state();
    let gone = apiserver::api::DeleteOptions::default();
    node.api().delete("nodes", "", "a", &gone).unwrap();
    node.api().delete("clusternetworks.cambric.io", "", "default", &gone).unwrap();
    node.eventually(START, "both are noticed", || {
        let log = node.log();
        log.contains("this node was deleted") && log.contains("ClusterNetwork default was deleted")
    });
    node.exec("ip route del 10.244.2.0/24");
    node.comes("ip route", "10.244.2.0/24 via 10.244.2.1");
    same(&before, &node.kernel_state());
}

#[test]
fn a_node_costs_only_its_own_entries() {
    let node = Node::ready();
    node.put_node("c", 3);
    node.comes("ip route", "10.244.3.0/24");

    let news = News::listen(&node);
    node.put_node("d", 4);
    node.comes("ip route", "10.244.4.0/24");
    node.comes("nft list set ip cambric nodes", "192.0.2.4");
    only_about(
        &news.heard("fence1"),
        &["10.244.4.", "fd00:10:244:4:", "192.0.2.4", "2001:db8::4", "06:58:c0:00:02:04"],
    );

    let news = News::listen(&node);
    node.put_addresses("d", 5);
    node.comes("bridge fdb show dev vxlan.cambric", "dst 192.0.2.5");
    node.goes("bridge fdb show dev vxlan.cambric", "dst 192.0.2.4");
    let about = ["10.244.4.", "fd00:10:244:4:", "192.0.2.4", "192.0.2.5", "2001:db8::", "06:58:c0:00:02:0"];
    only_about(&news.heard("fence2"), &about);

    let news = News::listen(&node);
    node.api().delete("nodes", "", "d", &apiserver::api::DeleteOptions::default()).unwrap();
    node.goes("ip route", "10.244.4.0/24");
    node.goes("nft list set ip cambric nodes", "192.0.2.5");
    only_about(
        &news.heard("fence3"),
        &["10.244.4.", "fd00:10:244:4:", "192.0.2.5", "2001:db8::5", "06:58:c0:00:02:05"],
    );
}

#[test]
fn lost_kernel_events_are_made_up_for() {
    let node = Node::ready();
    node.signal("STOP");
    let routes: String = (0..60_000)
        .map(|i| {
            format!("route add 198.18.{}.{}/32 dev lo table {}\n", i / 256 % 256, i % 256, 100 + i / 65_536)
        })
        .collect();
    let batch = node.dir.path().join("batch");
    std::fs::write(&batch, routes).unwrap();
    node.ip(&format!("-batch {}", batch.display()));
    node.ip("route flush table 100");
    node.exec("ip route del 10.244.2.0/24");
    node.exec("nft delete table ip cambric");
    node.signal("CONT");
    node.eventually(START, "the route is back", || node.shows("ip route", "10.244.2.0/24 via 10.244.2.1"));
    node.comes("nft list set ip cambric nodes", "192.0.2.2");
    assert!(node.metric("cambric_kernel_event_overruns_total") >= 1.0, "{}", node.log());
}

#[test]
fn the_underlay_mtu_is_followed() {
    let node = Node::ready();
    node.exec("ip link set eth0 mtu 9000");
    node.comes("ip link show cbr0", "mtu 8950");
    node.comes("ip link show vxlan.cambric", "mtu 8950");
    node.eventually(SOON, "the plugin is told", || {
        let file = std::fs::read_to_string(node.dir.path().join("run/node.json")).unwrap();
        serde_json::from_str::<Value>(&file).unwrap()["mtu"] == 8950
    });
}

#[test]
fn one_agent_per_node() {
    let node = Node::ready();
    let second = node
        .command("agent")
        .args(["--node-name", "a", "--listen", "127.0.0.1:9470", "--kubeconfig"])
        .arg(node.kubeconfig())
        .arg("--run-dir")
        .arg(node.dir.path().join("run"))
        .output()
        .unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    assert!(error.contains(&format!("process id {}", node.pid())), "{error}");
}

#[test]
fn cleanup_leaves_nothing_and_is_refused_while_an_agent_runs() {
    let mut node = Node::new();
    let before = node.kernel_state();
    node.put_node("b", 2);
    node.start_agent();
    node.wait_ready();
    let (done, said) = node.cleanup();
    assert!(!done && said.contains(&format!("process id {}", node.pid())), "{said}");
    assert!(node.shows("ip link", "cbr0"));

    assert!(node.end_agent("TERM"));
    assert!(node.shows("ip link", "cbr0"), "the datapath goes on without the agent");
    let (done, said) = node.cleanup();
    assert!(done && said.contains("10-cambric.conflist"), "{said}");
    same(&before, &node.kernel_state());
    assert!(!node.dir.path().join("run").exists() && !node.dir.path().join("networks/cambric").exists());
    assert_eq!(std::fs::read_dir(node.dir.path().join("net.d")).unwrap().count(), 0);
    let (done, said) = node.cleanup();
    assert!(done, "{said}");
}

#[test]
fn many_nodes_are_small_and_a_change_among_them_is_quick() {
    // Enough to see a cost per node; more only takes longer.
    const NODES: u32 = 1000;
    let mut node = Node::new();
    for number in 0..NODES {
        let (high, low) = (number / 250, number % 250 + 1);
        let name = format!("n{number}");
        let spec = json!({"podCIDRs": [format!("10.{}.{low}.0/24", 100 + high), format!("fd00:10:{high:x}:{low:x}::/64")]});
        node.api().create("nodes", "", json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        node.put_status(&name, &[&format!("172.16.{high}.{low}"), &format!("2001:db8:1::{high:x}:{low:x}")]);
    }
    let start = Instant::now();
    node.start_agent();
    node.eventually(START * 3, "the agent is ready", || {
        node.get("/readyz").is_some_and(|body| body == "ok\n")
    });
    let ready = start.elapsed();
    assert_eq!(node.metric("cambric_nodes"), f64::from(NODES + 1));
    assert_eq!(node.ip("route show proto 203").lines().count(), NODES as usize);

    // Tests are not optimised and run beside each other: the times are for the reader, the bounds are generous.
    let shows = |text: &'static str, command: &'static str| {
        let start = Instant::now();
        node.eventually(START, command, || node.shows(command, text));
        start.elapsed()
    };
    node.put_node("late", 200);
    let added = shows("vxlan.cambric", "ip route show 10.244.200.0/24");
    node.exec("ip route del 10.244.200.0/24");
    let repaired = shows("vxlan.cambric", "ip route show 10.244.200.0/24");
    node.exec("nft delete element ip cambric nodes { 192.0.2.200 }");
    let restored = shows("192.0.2.200 ", "nft list set ip cambric nodes");
    let resident = node.metric("cambric_resident_memory_bytes") / f64::from(1 << 20);
    println!(
        "ready {ready:?}, added {added:?}, route repaired {repaired:?}, set repaired {restored:?}, resident \
         {resident:.1} MiB"
    );
    assert!(resident < 67.0, "{resident} MiB resident");
}
