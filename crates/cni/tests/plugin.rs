//! What the plugin does for a container runtime, one command at a time.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{DUAL, PLUGIN, TestNode, TestNs, V4, V6, reaches};
use serde_json::{Value, json};

fn text(error: &Value) -> String {
    format!("{} {} {}", error["code"], error["msg"], error["details"])
}

#[test]
fn a_pod_is_attached_checked_and_detached_in_every_version_and_family() {
    for (ranges, version) in [(DUAL, "1.1.0"), (DUAL, "0.4.0"), (V4, "1.0.0"), (V6, "1.1.0"), (V4, "0.3.1")] {
        let (node, pod) = (TestNode::new("node", ranges), TestNs::new("pod"));
        let config = node.config(version);
        let result = node.call("ADD", "c0", &pod.path, &config).unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"].as_array().unwrap().len(), ranges.len());
        assert_eq!(result["interfaces"][1]["sandbox"], pod.path.to_str().unwrap());
        for ip in result["ips"].as_array().unwrap() {
            assert_eq!(ip.get("version").is_some(), version.starts_with("0."), "{ip}");
            // At once: nothing waits for duplicate address detection.
            assert!(reaches(&pod, ip["gateway"].as_str().unwrap()), "{ip}");
            let address = ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
            assert!(reaches(&node.ns, &address), "{ip}");
        }
        let host = result["interfaces"][0]["name"].as_str().unwrap();
        let link = &node.ns.json(&format!("ip -j -d link show {host}"))[0];
        assert_eq!(link["master"], "cbr0");
        assert_eq!(link["ifalias"], "cambric pod default/web-0");
        assert_eq!(link["linkinfo"]["info_slave_data"]["hairpin"], true);
        assert_eq!(link["address"], result["interfaces"][0]["mac"]);
        let inside = &pod.json("ip -j link show eth0")[0];
        assert_eq!((&inside["address"], &inside["mtu"]), (&result["interfaces"][1]["mac"], &json!(1450)));
        let lo = &pod.json("ip -j link show lo")[0];
        assert!(lo["flags"].as_array().unwrap().contains(&json!("UP")), "{lo}");
        if ranges != V4 {
            let addresses = pod.run("ip -6 addr show dev eth0");
            assert!(
                addresses.contains("scope link nodad") && !addresses.contains("tentative"),
                "{addresses}"
            );
        }
        assert_eq!(node.traces().len(), 1 + ranges.len() * 2 + 2, "{:?}", node.traces());
        // What the agent finds is what it would make: nothing is written.
        node.reconcile();
        if version != "0.3.1" {
            assert_eq!(node.check("c0", &pod, &result), Ok(Value::Null));
        }
        for _ in 0..2 {
            assert_eq!(node.call("DEL", "c0", &pod.path, &config), Ok(Value::Null));
            assert_eq!(node.traces(), [] as [String; 0]);
        }
        assert!(!pod.try_run("ip link show eth0").status.success());
    }
}

#[test]
fn two_pods_reach_each_other_and_themselves_and_cannot_pretend() {
    let node = TestNode::new("node", DUAL);
    let pods = [TestNs::new("a"), TestNs::new("b")];
    for (id, pod) in ["c0", "c1"].iter().zip(&pods) {
        node.add(id, pod).unwrap();
    }
    assert!(reaches(&pods[0], "10.244.1.3") && reaches(&pods[1], "fd00:10:244:1::2"));
    // The link-local address of the other's Ethernet address.
    assert!(reaches(&pods[0], "fe80::858:aff:fef4:103%eth0"));
    pods[0].run("ip addr add 10.244.1.77/24 dev eth0");
    assert!(!pods[0].try_run("ping -c 1 -W 1 -I 10.244.1.77 10.244.1.3").status.success());
}

#[test]
fn an_interface_that_is_there_is_left_alone() {
    let (node, pod) = (TestNode::new("node", V4), TestNs::new("pod"));
    pod.run("ip link add eth0 type bridge");
    let error = node.add("c0", &pod).unwrap_err();
    assert!(error["code"] == 100 && text(&error).contains("has an interface eth0"), "{error}");
    assert_eq!(node.traces(), [] as [String; 0]);
    pod.run("ip link del eth0");

    let first = node.add("c0", &pod).unwrap();
    let before = node.traces();
    let error = node.add("c0", &pod).unwrap_err();
    assert_eq!(error["code"], 100);
    assert_eq!(node.traces(), before);
    assert_eq!(node.check("c0", &pod, &first), Ok(Value::Null));
}

#[test]
fn what_an_earlier_attempt_left_is_taken_over() {
    let node = TestNode::new("node", DUAL);
    let (before, now) = (TestNs::new("before"), TestNs::new("now"));
    let first = node.add("c0", &before).unwrap();
    // The runtime made a new sandbox under the same name, and the old one is still there.
    let second = node.add("c0", &now).unwrap();
    assert_eq!(first["ips"], second["ips"]);
    assert!(!before.try_run("ip link show eth0").status.success());
    assert_eq!(node.check("c0", &now, &second), Ok(Value::Null));
    node.del("c0", &now).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn a_link_of_somebody_else_is_not_touched() {
    let (node, pod) = (TestNode::new("node", V4), TestNs::new("pod"));
    let host = node.add("c0", &pod).unwrap()["interfaces"][0]["name"].as_str().unwrap().to_owned();
    node.ns.run(&format!("ip link set {host} alias somebody-elses"));
    let error = node.del("c0", &pod).unwrap_err();
    assert!(text(&error).contains("is in the way and is not ours"), "{error}");
    // All else is gone.
    assert_eq!(node.traces(), [format!("link {host}")]);
}

#[test]
fn del_needs_neither_namespace_nor_agent() {
    let node = TestNode::new("node", DUAL);
    for without in ["namespace", "node file", "table", "everything"] {
        let pod = TestNs::new("pod");
        node.reconcile();
        node.add("c0", &pod).unwrap();
        if matches!(without, "node file" | "everything") {
            fs::remove_file(node.node_file()).unwrap();
        }
        if matches!(without, "table" | "everything") {
            node.ns.run("nft delete table bridge cambric");
        }
        if matches!(without, "everything") {
            node.ns.run("ip link del cbr0");
        }
        let path = pod.path.clone();
        if matches!(without, "namespace" | "everything") {
            drop(pod);
        }
        for netns in [path.as_path(), Path::new("")] {
            assert_eq!(node.call("DEL", "c0", netns, &node.config("1.1.0")), Ok(Value::Null), "{without}");
            assert_eq!(node.traces(), [] as [String; 0], "{without}");
        }
    }
}

#[test]
fn del_takes_away_what_the_store_does_not_know() {
    let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("pod"));
    node.add("c0", &pod).unwrap();
    fs::remove_dir_all(node.data_dir()).unwrap();
    node.del("c0", &pod).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);

    // One element that somebody removed does not keep the others.
    node.add("c1", &pod).unwrap();
    node.ns.run("nft flush set bridge cambric pod-macs");
    node.del("c1", &pod).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn check_tells_what_is_off() {
    let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("pod"));
    let host = |result: &Value| result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    for (place, command, expected) in [
        ("pod", "ip link set eth0 down", "interface eth0 is down"),
        ("pod", "ip link set eth0 address 02:00:00:00:00:01", "has the Ethernet address 02:00:00:00:00:01"),
        ("pod", "ip addr del 10.244.1.2/24 dev eth0", "lacks the address 10.244.1.2/24"),
        ("pod", "ip -6 route del default", "lacks the IPv6 default route via fd00:10:244:1::1"),
        ("pod", "ip link set eth0 name eth9", "has no interface eth0"),
        ("node", "ip link set HOST nomaster", "is no port of bridge cbr0"),
        ("node", "bridge link set dev HOST hairpin off", "not in hairpin mode"),
        ("node", "ip link set HOST down", "HOST is down"),
        ("node", "ip link set cbr0 down", "bridge cbr0 is down"),
        ("node", "ip link del cbr0", "no bridge cbr0"),
        ("node", "nft flush set bridge cambric pod-addresses", "set pod-addresses lacks the element"),
    ] {
        node.reconcile();
        // Addresses go round, so each pass begins anew.
        let _ = fs::remove_dir_all(node.data_dir());
        let result = node.add("c0", &pod).unwrap();
        let fill = |text: &str| text.replace("HOST", &host(&result));
        if place == "pod" { &pod } else { &node.ns }.run(&fill(command));
        let error = node.check("c0", &pod, &result).unwrap_err();
        assert!(error["code"] == 102 && text(&error).contains(&fill(expected)), "{command}: {error}");
        node.del("c0", &pod).unwrap();
        assert_eq!(node.traces(), [] as [String; 0], "{command}");
    }

    node.reconcile();
    let result = node.add("c1", &pod).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    fs::remove_file(node.data_dir().join("net").join(address)).unwrap();
    let error = node.check("c1", &pod, &result).unwrap_err();
    assert!(text(&error).contains(&format!("address {address} is not reserved")), "{error}");
    // DEL goes by the addresses that are left, so what was admitted for this one is left to the agent and to GC.
    node.del("c1", &pod).unwrap();
    node.gc(&[]).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn status_says_what_an_add_would_meet() {
    let node = TestNode::new("node", &["10.244.1.0/30"]);
    let status = || node.call("STATUS", "", Path::new(""), &node.config("1.1.0"));
    assert_eq!(status(), Ok(Value::Null));

    let pod = TestNs::new("pod");
    node.add("c0", &pod).unwrap();
    let error = status().unwrap_err();
    assert!(
        error["code"] == 50 && text(&error).contains("all 1 addresses of pod range 10.244.1.0/30"),
        "{error}"
    );
    let another = TestNs::new("another");
    let error = node.add("c1", &another).unwrap_err();
    assert!(error["code"] == 11 && text(&error).contains("1 of 1 are in use"), "{error}");
    node.del("c0", &pod).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);

    for (command, code, expected, retry) in [
        ("nft delete table bridge cambric", 50, "table bridge cambric", 101),
        ("ip link set cbr0 down", 51, "bridge cbr0 is down", 0),
        ("ip link del cbr0", 51, "no bridge cbr0", 101),
    ] {
        node.ns.run(command);
        let error = status().unwrap_err();
        assert!(error["code"] == code && text(&error).contains(expected), "{error}");
        if retry != 0 {
            assert_eq!(node.add("c0", &pod).unwrap_err()["code"], retry);
            assert_eq!(node.traces(), [] as [String; 0]);
        }
        node.reconcile();
        assert_eq!(status(), Ok(Value::Null));
    }
    for (content, code) in
        [(Some("{"), 6), (Some(r#"{"node":"a","bridge":"a/b","mtu":1,"podRanges":[]}"#), 6), (None, 11)]
    {
        match content {
            Some(content) => fs::write(node.node_file(), content).unwrap(),
            None => fs::remove_file(node.node_file()).unwrap(),
        }
        assert_eq!(status().unwrap_err()["code"], 50);
        let error = node.add("c0", &pod).unwrap_err();
        assert!(error["code"] == code && text(&error).contains("node.json"), "{error}");
    }
}

#[test]
fn gc_removes_what_is_not_valid_and_nothing_of_another_network() {
    let node = TestNode::new("node", DUAL);
    let pods: Vec<_> = (0..3).map(|_| TestNs::new("pod")).collect();
    let kept = node.add("c0", &pods[0]).unwrap();
    node.add("c1", &pods[1]).unwrap();
    let mut other = node.config("1.1.0");
    other["name"] = "other".into();
    // Another network has other ranges, as one has other addresses.
    let range = json!({ "node": "a", "bridge": "cbr0", "mtu": 1400, "podRanges": ["10.244.7.0/24"] });
    let file = node.directory.path().join("other.json");
    fs::write(&file, range.to_string()).unwrap();
    other["nodeFile"] = file.to_str().unwrap().into();
    let others = node.call("ADD", "c2", &pods[2].path, &other).unwrap();

    node.gc(&["c0"]).unwrap();
    assert_eq!(node.check("c0", &pods[0], &kept), Ok(Value::Null));
    other["prevResult"] = others;
    assert_eq!(node.call("CHECK", "c2", &pods[2].path, &other), Ok(Value::Null));
    assert!(!pods[1].try_run("ip link show eth0").status.success());
    let left = node.traces();
    assert_eq!(left.len(), 1 + 4 + 2 + 1 + 3, "{left:?}");
    node.gc(&[]).unwrap();
    node.call("DEL", "c2", &pods[2].path, &other).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn ipv6_that_is_disabled_in_new_namespaces_is_enabled_on_the_interface() {
    let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("pod"));
    pod.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    let result = node.add("c0", &pod).unwrap();
    assert!(reaches(&pod, "fd00:10:244:1::1"));
    assert_eq!(node.check("c0", &pod, &result), Ok(Value::Null));
}

#[test]
fn a_second_network_keeps_its_default_route() {
    let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("pod"));
    pod.run("ip link add net1 type bridge");
    pod.run("ip addr add 198.51.100.2/24 dev net1");
    pod.run("ip link set net1 up");
    pod.run("ip route add default via 198.51.100.1");
    let result = node.add("c0", &pod).unwrap();
    assert_eq!(result["routes"].as_array().unwrap().len(), 1, "{result}");
    assert_eq!(result["routes"][0]["dst"], "::/0");
    assert_eq!(node.check("c0", &pod, &result), Ok(Value::Null));
}

#[test]
fn a_namespace_that_is_none_is_refused() {
    let node = TestNode::new("node", V4);
    for (path, code) in [("/run/netns/there-is-none", 3), ("/proc/self/ns/mnt", 4), ("/etc/passwd", 4)] {
        let error = node.call("ADD", "c0", Path::new(path), &node.config("1.1.0")).unwrap_err();
        assert!(error["code"] == code && text(&error).contains("CNI_NETNS"), "{error}");
    }
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn a_result_that_nobody_reads_is_undone() {
    let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("pod"));
    let mut add = node.plugin(&[PLUGIN], "ADD", "c0", &pod.path);
    add.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = node.feed(&mut add, &node.config("1.1.0"));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the result"));
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn versions_and_help_need_nothing() {
    let run = |arguments: &[&str], command: Option<&str>| {
        let mut call = Command::new(PLUGIN);
        call.args(arguments).env_clear().stdin(Stdio::null());
        call.envs(command.map(|command| ("CNI_COMMAND", command)));
        common::succeeded("plugin", &call.output().unwrap())
    };
    let versions: Value = serde_json::from_str(&run(&[], Some("VERSION"))).unwrap();
    assert_eq!(versions["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert!(run(&["--help"], None).contains("CNI_COMMAND"));
    assert_eq!(run(&["--version"], None).trim(), format!("cambric-cni {}", env!("CARGO_PKG_VERSION")));
}
