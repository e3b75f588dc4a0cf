//! Rules that services must keep.

use std::net::IpAddr;

use serde_json::Value;

use super::{PROTOCOLS, one_of, port_number};
use crate::error::Cause;
use crate::names::dns_label;
use crate::object::{array, text};

/// What is wrong with a service's specification.
pub(super) fn service(spec: &Value, causes: &mut Vec<Cause>) {
    words(spec, causes);
    let kind = text(spec, &["type"]);
    let external = kind == "ExternalName";
    if external && text(spec, &["externalName"]).is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    let headless = text(spec, &["clusterIP"]) == "None";
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {kind} services");
        causes.push(Cause::invalid("spec.clusterIPs[0]", &"None".into(), &why));
    }
    let ports = array(spec, &["ports"]);
    if ports.is_empty() && !external && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        service_port(port, &format!("spec.ports[{index}]"), ports.len() > 1, causes);
        let before = ports.get(..index).unwrap_or_default();
        let same = |field: &str| {
            before.iter().any(|other| {
                number(port, field) != 0
                    && number(port, field) == number(other, field)
                    && text(port, &["protocol"]) == text(other, &["protocol"])
            })
        };
        if same("port") {
            causes.push(Cause::duplicate(format!("spec.ports[{index}]"), port));
        }
        if same("nodePort") {
            causes.push(Cause::duplicate(format!("spec.ports[{index}].nodePort"), &port["nodePort"]));
        }
        let name = text(port, &["name"]);
        if !name.is_empty() && before.iter().any(|other| text(other, &["name"]) == name) {
            causes.push(Cause::duplicate(format!("spec.ports[{index}].name"), &port["name"]));
        }
    }
    addresses(spec, causes);
    affinity(spec, causes);
    external_traffic(spec, causes);
}

/// Fields that take one of a few words.
fn words(spec: &Value, causes: &mut Vec<Cause>) {
    let policies: &[&str] = &["Cluster", "Local"];
    let fields: [(&str, &[&str]); 6] = [
        ("type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
        ("sessionAffinity", &["ClientIP", "None"]),
        ("externalTrafficPolicy", policies),
        ("internalTrafficPolicy", policies),
        ("ipFamilyPolicy", &["SingleStack", "PreferDualStack", "RequireDualStack"]),
        ("trafficDistribution", &["PreferClose", "PreferSameZone", "PreferSameNode"]),
    ];
    for (field, supported) in fields {
        one_of(spec.get(field), format!("spec.{field}"), supported, causes);
    }
    for (index, family) in array(spec, &["ipFamilies"]).iter().enumerate() {
        one_of(Some(family), format!("spec.ipFamilies[{index}]"), &["IPv4", "IPv6"], causes);
    }
}

fn number(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or_default()
}

fn service_port(port: &Value, path: &str, named: bool, causes: &mut Vec<Cause>) {
    let name = text(port, &["name"]);
    if name.is_empty() && named {
        causes.push(Cause::required(format!("{path}.name"), ""));
    } else if let Some(why) = dns_label(name).err().filter(|_| !name.is_empty()) {
        causes.push(Cause::invalid(format!("{path}.name"), &port["name"], why));
    }
    port_number(port.get("port"), format!("{path}.port"), causes);
    one_of(port.get("protocol"), format!("{path}.protocol"), PROTOCOLS, causes);
    if port.get("targetPort").is_some_and(Value::is_number) {
        port_number(port.get("targetPort"), format!("{path}.targetPort"), causes);
    }
}

fn addresses(spec: &Value, causes: &mut Vec<Cause>) {
    for field in ["externalIPs", "clusterIPs"] {
        for (index, address) in array(spec, &[field]).iter().enumerate() {
            let parsed = address.as_str().and_then(|address| address.parse::<IpAddr>().ok());
            let why = match parsed {
                None if field == "clusterIPs" && address == "None" => continue,
                None => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                Some(address) if field == "externalIPs" && is_special(&address) => {
                    "may not be unspecified, loopback, link-local or multicast"
                }
                Some(_) => continue,
            };
            causes.push(Cause::invalid(format!("spec.{field}[{index}]"), address, why));
        }
    }
}

fn is_special(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast()
}

/// The longest affinity: a day.
const MOST_SECONDS: i64 = 86_400;

fn affinity(spec: &Value, causes: &mut Vec<Cause>) {
    if text(spec, &["sessionAffinity"]) != "ClientIP" {
        return;
    }
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if !seconds.as_i64().is_some_and(|seconds| (1..=MOST_SECONDS).contains(&seconds)) {
        let why = format!("must be between 1 and {MOST_SECONDS}, inclusive");
        causes.push(Cause::invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, &why));
    }
}

/// Fields that only services have which are reached from outside.
fn external_traffic(spec: &Value, causes: &mut Vec<Cause>) {
    let policy = &spec["externalTrafficPolicy"];
    if policy.is_string() && !is_external(spec) {
        let why = "may only be set for externally-accessible services";
        causes.push(Cause::invalid("spec.externalTrafficPolicy", policy, why));
    }
    let health = &spec["healthCheckNodePort"];
    if number(spec, "healthCheckNodePort") != 0 && (spec["type"] != "LoadBalancer" || policy != "Local") {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid("spec.healthCheckNodePort", health, why));
    }
}

/// Whether a service has addresses or ports for clients outside the cluster.
pub(crate) fn is_external(spec: &Value) -> bool {
    match text(spec, &["type"]) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !array(spec, &["externalIPs"]).is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec: Value) -> Vec<String> {
        let mut causes = Vec::new();
        service(&spec, &mut causes);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn with(fields: Value) -> Value {
        let mut spec = json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]});
        for (key, value) in fields.as_object().unwrap() {
            spec[key.as_str()] = value.clone();
        }
        spec
    }

    #[test]
    fn ports_are_sound_and_apart() {
        assert_eq!(faults(json!({"ports": []})), ["spec.ports: Required value"]);
        assert_eq!(
            faults(json!({"ports": [{"port": 70000}]})),
            ["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"]
        );
        assert_eq!(faults(json!({"clusterIP": "None"})), [""; 0]);
        let port = |name: &str, port: u16, node: u16| json!({"name": name, "port": port, "protocol": "TCP", "nodePort": node});
        let two =
            |second: Value| faults(json!({"type": "NodePort", "ports": [port("a", 80, 30080), second]}));
        assert_eq!(two(port("b", 81, 30081)), [""; 0]);
        assert!(two(port("b", 80, 30081))[0].starts_with("spec.ports[1]: Duplicate value"));
        assert_eq!(two(port("b", 81, 30080)), ["spec.ports[1].nodePort: Duplicate value: 30080"]);
        assert_eq!(two(port("a", 81, 30081)), ["spec.ports[1].name: Duplicate value: \"a\""]);
        assert_eq!(two(port("", 81, 30081)), ["spec.ports[1].name: Required value"]);
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let config = |seconds: u64| json!({"clientIP": {"timeoutSeconds": seconds}});
        for (fields, expected) in [
            (
                json!({"type": "LoadBalancer", "clusterIP": "None"}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not",
            ),
            (
                json!({"externalIPs": ["::1"]}),
                "spec.externalIPs[0]: Invalid value: \"::1\": may not be unspecified",
            ),
            (
                json!({"externalIPs": ["here"]}),
                "spec.externalIPs[0]: Invalid value: \"here\": must be a valid IP",
            ),
            (
                json!({"externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only",
            ),
            (
                json!({"type": "NodePort", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000}),
                "spec.healthCheckNodePort: Invalid value: 30000: may only",
            ),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(86_401)}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401",
            ),
            (json!({"trafficDistribution": "Near"}), "spec.trafficDistribution: Unsupported value"),
        ] {
            let found = faults(with(fields.clone()));
            assert!(found.len() == 1 && found[0].starts_with(expected), "{fields}: {found:?}");
        }
        for fields in [
            json!({"externalIPs": ["198.51.100.9", "2001:db8::9"], "externalTrafficPolicy": "Local"}),
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000}),
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(86_400)}),
            json!({"trafficDistribution": "PreferSameNode"}),
        ] {
            assert_eq!(faults(with(fields.clone())), [""; 0], "{fields}");
        }
    }
}
