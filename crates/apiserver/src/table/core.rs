//! Columns of nodes, services and the smaller kinds.

use serde_json::Value;

use super::{Heading, age, joined, labels, number, or_none, since, text, wide};
use crate::object::{array, at, is_deleting, meta, text as field};

pub(super) const NODE: &[Heading] = &[
    text("Name"),
    text("Status"),
    text("Roles"),
    text("Age"),
    text("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

pub(super) fn node(object: &Value, now: i64) -> Vec<Value> {
    let conditions = array(object, &["status", "conditions"]);
    let ready = conditions.iter().find(|c| c["type"] == "Ready").map(|c| c["status"] == "True");
    let mut status = match ready {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let names = at(object, &["metadata", "labels"]).and_then(Value::as_object);
    let roles = names.into_iter().flatten().filter_map(|(key, value)| {
        let role = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty());
        role.or((key == "kubernetes.io/role").then_some(value.as_str().unwrap_or_default()))
            .map(str::to_owned)
    });
    let addresses = |kind: &str| {
        let addresses = array(object, &["status", "addresses"]).iter().filter(|a| a["type"] == kind);
        joined(addresses.map(|a| field(a, &["address"]).to_owned()).take(1)).into()
    };
    let info = |name: &str| match field(object, &["status", "nodeInfo", name]) {
        "" => Value::from("<unknown>"),
        text => text.into(),
    };
    vec![
        meta(object, "name").into(),
        status.into(),
        joined(roles).into(),
        age(object, now),
        field(object, &["status", "nodeInfo", "kubeletVersion"]).into(),
        addresses("InternalIP"),
        addresses("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) const SERVICE: &[Heading] = &[
    text("Name"),
    text("Type"),
    text("Cluster-IP"),
    text("External-IP"),
    text("Port(s)"),
    text("Age"),
    wide("Selector"),
];

pub(super) fn service(object: &Value, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let strings = |list: &[Value]| -> Vec<String> {
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut external = strings(array(spec, &["externalIPs"]));
    match field(spec, &["type"]) {
        "ExternalName" => external = vec![field(spec, &["externalName"]).to_owned()],
        "LoadBalancer" => {
            let ingress = array(object, &["status", "loadBalancer", "ingress"]).iter();
            let given: Vec<String> =
                ingress
                    .map(|i| {
                        if field(i, &["ip"]).is_empty() { field(i, &["hostname"]) } else { field(i, &["ip"]) }
                    })
                    .map(str::to_owned)
                    .collect();
            external.splice(0..0, given);
            if external.is_empty() {
                external.push("<pending>".into());
            }
        }
        _ => {}
    }
    let ports = array(spec, &["ports"]).iter().map(|port| {
        let protocol = field(port, &["protocol"]);
        match port["nodePort"].as_i64().filter(|n| *n > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
            None => format!("{}/{protocol}", port["port"]),
        }
    });
    vec![
        meta(object, "name").into(),
        field(spec, &["type"]).into(),
        or_none(field(spec, &["clusterIP"])),
        joined(external).into(),
        joined(ports).into(),
        age(object, now),
        labels(spec.get("selector")).into(),
    ]
}

pub(super) const NAMESPACE: &[Heading] = &[text("Name"), text("Status"), text("Age")];

pub(super) fn namespace(object: &Value, now: i64) -> Vec<Value> {
    let phase = field(object, &["status", "phase"]);
    let status = if is_deleting(object) { "Terminating" } else { phase };
    vec![meta(object, "name").into(), status.into(), age(object, now)]
}

pub(super) const ENDPOINTS: &[Heading] = &[text("Name"), text("Endpoints"), text("Age")];

pub(super) fn endpoints(object: &Value, now: i64) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in array(object, &["subsets"]) {
        for address in array(subset, &["addresses"]) {
            let ip = field(address, &["ip"]);
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            let ports = array(subset, &["ports"]);
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
            if ports.is_empty() {
                all.push(ip);
            }
        }
    }
    vec![meta(object, "name").into(), shortened(all).into(), age(object, now)]
}

/// The first three of a list, and how many more there are.
fn shortened(all: Vec<String>) -> String {
    match all.len().checked_sub(3) {
        Some(more) if more > 0 => format!("{} + {more} more...", all[..3].join(",")),
        _ => joined(all),
    }
}

pub(super) const CONFIG_MAP: &[Heading] = &[text("Name"), number("Data"), text("Age")];

fn count(object: &Value, maps: &[&str]) -> Value {
    let sizes = maps.iter().filter_map(|map| object.get(map).and_then(Value::as_object));
    sizes.map(|map| map.len()).sum::<usize>().into()
}

pub(super) fn config_map(object: &Value, now: i64) -> Vec<Value> {
    vec![meta(object, "name").into(), count(object, &["data", "binaryData"]), age(object, now)]
}

pub(super) const SECRET: &[Heading] = &[text("Name"), text("Type"), number("Data"), text("Age")];

pub(super) fn secret(object: &Value, now: i64) -> Vec<Value> {
    vec![
        meta(object, "name").into(),
        field(object, &["type"]).into(),
        count(object, &["data"]),
        age(object, now),
    ]
}

pub(super) const SERVICE_ACCOUNT: &[Heading] = &[text("Name"), number("Secrets"), text("Age")];

pub(super) fn service_account(object: &Value, now: i64) -> Vec<Value> {
    vec![meta(object, "name").into(), array(object, &["secrets"]).len().into(), age(object, now)]
}

pub(super) const EVENT: &[Heading] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    Heading("Count", "integer", true),
    Heading("Name", "string", true),
];

pub(super) fn event(object: &Value, now: i64) -> Vec<Value> {
    let first_of = |names: [&str; 2]| {
        let given = names.iter().map(|name| field(object, &[name])).find(|text| !text.is_empty());
        since(given.unwrap_or_default(), now)
    };
    let about = &object["involvedObject"];
    let source = match field(object, &["source", "component"]) {
        "" => field(object, &["reportingComponent"]),
        component => component,
    };
    let host = field(object, &["source", "host"]);
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    vec![
        first_of(["lastTimestamp", "eventTime"]).into(),
        field(object, &["type"]).into(),
        field(object, &["reason"]).into(),
        format!("{}/{}", field(about, &["kind"]).to_lowercase(), field(about, &["name"])).into(),
        field(about, &["fieldPath"]).into(),
        source.into(),
        field(object, &["message"]).trim().into(),
        first_of(["firstTimestamp", "eventTime"]).into(),
        object["count"].as_i64().unwrap_or(1).into(),
        meta(object, "name").into(),
    ]
}

pub(super) const ENDPOINT_SLICE: &[Heading] =
    &[text("Name"), text("AddressType"), text("Ports"), text("Endpoints"), text("Age")];

pub(super) fn endpoint_slice(object: &Value, now: i64) -> Vec<Value> {
    let ports = array(object, &["ports"]).iter().map(|p| p["port"].to_string());
    let addresses = array(object, &["endpoints"]).iter().flat_map(|e| array(e, &["addresses"]));
    let addresses = addresses.filter_map(Value::as_str).map(str::to_owned);
    let unset = |text: String| if text == "<none>" { "<unset>".to_owned() } else { text };
    vec![
        meta(object, "name").into(),
        field(object, &["addressType"]).into(),
        unset(shortened(ports.collect())).into(),
        unset(shortened(addresses.collect())).into(),
        age(object, now),
    ]
}

pub(super) const NETWORK_POLICY: &[Heading] = &[text("Name"), text("Pod-Selector"), text("Age")];

pub(super) fn network_policy(object: &Value, now: i64) -> Vec<Value> {
    let selector = labels(at(object, &["spec", "podSelector", "matchLabels"]));
    vec![meta(object, "name").into(), selector.into(), age(object, now)]
}

pub(super) const LEASE: &[Heading] = &[text("Name"), text("Holder"), text("Age")];

pub(super) fn lease(object: &Value, now: i64) -> Vec<Value> {
    let holder = field(object, &["spec", "holderIdentity"]);
    vec![meta(object, "name").into(), holder.into(), age(object, now)]
}
