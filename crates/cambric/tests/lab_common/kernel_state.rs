//! What a node's kernel holds, as `ip`, `bridge` and `nft` tell it, without what differs between two lives of the
//! same thing.

use std::process::Command;

use serde_json::Value;

use super::{Lab, succeed};

/// Numbers that the kernel gives, and counters.
const PASSING: [&str; 9] =
    ["handle", "packets", "bytes", "ifindex", "link_index", "index", "stats", "stats64", "gc_timer"];

/// Everything that we make on a node, one text per thing, sorted.
pub fn ours(lab: &Lab, node: &str) -> Vec<String> {
    let mut all = Vec::new();
    for family in ["-4", "-6"] {
        // The kernel's own routes on the bridge come and go with the bridge.
        for route in json(lab, node, &format!("ip {family} -j route show table main")) {
            let device = route["dev"].as_str().unwrap_or_default();
            if route["protocol"] == "203"
                || route["protocol"] == "204"
                || device == "cbr0"
                || device.contains("cambric")
            {
                all.push(format!("route {family} {}", without_passing(&route)));
            }
        }
    }
    for link in json(lab, node, "ip -d -j link show") {
        let name = link["ifname"].as_str().unwrap_or_default();
        if name == "cbr0" || name.contains("cambric") || name.starts_with("cbv") {
            let fact = |key: &str| link[key].to_string();
            all.push(format!(
                "link {name} up {} mtu {} address {} master {} alias {} vxlan {}",
                link["flags"].as_array().unwrap().contains(&"UP".into()),
                fact("mtu"),
                fact("address"),
                fact("master"),
                fact("ifalias"),
                without_passing(&link["linkinfo"]["info_data"]["id"]),
            ));
        }
    }
    for device in ["vxlan.cambric", "vxlan6.cambric"] {
        for entry in json(lab, node, &format!("bridge -j fdb show dev {device}")) {
            all.push(format!("fdb {device} {}", without_passing(&entry)));
        }
        for entry in json(lab, node, &format!("ip -j neigh show dev {device} nud permanent")) {
            all.push(format!("neighbour {device} {}", without_passing(&entry)));
        }
    }
    for device in ["cbr0", "vxlan.cambric", "vxlan6.cambric"] {
        for address in json(lab, node, &format!("ip -j address show dev {device}")) {
            for info in address["addr_info"].as_array().unwrap() {
                if info["scope"] == "global" {
                    all.push(format!("address {device} {}/{}", info["local"], info["prefixlen"]));
                }
            }
        }
    }
    for family in ["ip", "ip6", "bridge"] {
        for part in tables(lab, node, &format!("nft -j list table {family} cambric")) {
            all.push(format!("nft {family} {part}"));
        }
    }
    all.sort();
    all
}

/// The parts of a table; none if there is no such table.
fn tables(lab: &Lab, node: &str, command: &str) -> Vec<String> {
    let output = Command::new("ip")
        .args(["netns", "exec", &lab.namespace(node)])
        .args(command.split(' '))
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let parts = listed["nftables"].as_array().cloned().unwrap_or_default();
    parts
        .iter()
        .filter(|part| part["metainfo"].is_null())
        .map(|part| without_passing(part).to_string())
        .collect()
}

/// What a command prints as JSON; nothing if it fails, for instance because a link is gone for the moment.
fn json(lab: &Lab, node: &str, command: &str) -> Vec<Value> {
    let output = Command::new("ip")
        .args(["netns", "exec", &lab.namespace(node)])
        .args(command.split(' '))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn without_passing(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| !PASSING.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), without_passing(value)))
            .collect(),
        Value::Array(array) => {
            let mut array: Vec<Value> = array.iter().map(without_passing).collect();
            // The elements of a set have no order.
            if array
                .iter()
                .all(|one| one.is_string() || one.get("concat").is_some() || one.get("prefix").is_some())
            {
                array.sort_by_key(Value::to_string);
            }
            Value::Array(array)
        }
        other => other.clone(),
    }
}

/// Runs a command in a node; it must succeed.
pub fn inside(lab: &Lab, node: &str, words: &[&str]) {
    succeed(Command::new("ip").args(["netns", "exec", &lab.namespace(node)]).args(words));
}
