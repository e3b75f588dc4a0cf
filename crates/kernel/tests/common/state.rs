//! The state of a namespace as the usual tools tell it, in a form that can be compared.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use serde_json::Value;

use super::TestNs;

/// What differs between two states that are the same to us: numbers that the kernel gives, clocks and counters.
const IGNORED: [&str; 25] = [
    "ifindex",
    "link_index",
    "handle",
    "packets",
    "bytes",
    "gc_timer",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "topology_change",
    "topology_change_detected",
    "metainfo",
    "port_id",
    "port_no",
    "root_id",
    "bridge_id",
    "designated_cost",
    "message_age_timer",
    "forward_delay_timer",
    "hold_timer",
    "stats64",
    "operstate",
    "state",
    "linkmode",
    // Of a bridge that had a port once and has none.
    "tso_max_size",
];

/// All links, addresses, routes, neighbours and forwarding entries that are permanent, and nftables tables.
pub fn state(test: &TestNs) -> String {
    let mut lines = Vec::new();
    for command in [
        "ip -j -d link show",
        "ip -j addr show",
        "ip -j route show table all",
        "ip -j -6 route show table all",
        "bridge -j fdb show",
        "ip -j neigh show nud permanent",
        "ip -j -6 neigh show nud permanent",
        "nft -j list ruleset",
    ] {
        let output = test.run(command);
        let text = if output.trim().is_empty() { "[]" } else { &output };
        let value: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{command}: {error}: {output}"));
        let items = match value {
            Value::Array(items) => items,
            Value::Object(mut ruleset) => ruleset.remove("nftables").unwrap().as_array().unwrap().clone(),
            other => vec![other],
        };
        let mut shown: Vec<String> =
            items.into_iter().filter(counts).map(|item| format!("{command}: {}", plain(item))).collect();
        shown.sort();
        lines.extend(shown);
    }
    lines.join("\n")
}

/// Fails with the lines in which two states differ.
#[track_caller]
pub fn assert_same(found: &str, wanted: &str, after: &str) {
    let more = |one: &str, other: &str| {
        let all: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !all.contains(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    let (extra, missing) = (more(found, wanted), more(wanted, found));
    assert!(
        extra.is_empty() && missing.is_empty(),
        "after {after}\nextra: {extra:#?}\nmissing: {missing:#?}"
    );
}

/// What the kernel makes by itself, a while after something else, is nobody's.
fn counts(item: &Value) -> bool {
    let text = item.to_string();
    let multicast = item
        .get("mac")
        .and_then(Value::as_str)
        .is_some_and(|mac| mac.starts_with("33:33:") || mac.starts_with("01:00:5e:"));
    let own = text.contains("\"fe80::")
        || text.contains("\"ff00::/8\"")
        || text.contains("\"multicast\"")
        || text.contains("\"anycast\"");
    let port = item.get("master").is_some() && item.get("mac").is_some();
    !multicast && !port && (!own || item.get("addr_info").is_some())
}

fn plain(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !IGNORED.contains(&name.as_str()));
            for field in fields.values_mut() {
                *field = plain(field.take());
            }
            // Flags follow the carrier, and link-local addresses come when they are ready.
            if let Some(Value::Array(flags)) = fields.get_mut("flags") {
                flags.retain(|flag| matches!(flag.as_str(), Some("UP" | "onlink" | "interval")));
            }
            if let Some(Value::Array(addresses)) = fields.get_mut("addr_info") {
                addresses.retain(|address| address.get("scope").and_then(Value::as_str) != Some("link"));
            }
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_key(Value::to_string);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = plain(item.take())),
        _ => {}
    }
    value
}
