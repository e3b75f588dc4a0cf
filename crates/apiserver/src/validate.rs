//! Rules that objects of the built-in kinds must keep.

pub(crate) mod service;

use std::net::IpAddr;

use serde_json::Value;

use crate::error::Cause;
use crate::kinds::Kind;
use crate::names::{dns_label, dns_subdomain, label_key, label_value, service_label};
use crate::object::{array, at, meta, text};
use crate::schema;

/// What is wrong with `object`.
pub(crate) fn object(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(kind, object, &mut causes);
    if let Some(custom) = &kind.custom {
        causes.extend(custom.schema.validate(object));
        return causes;
    }
    let spec = &object["spec"];
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pod_spec(spec, "spec", &mut causes),
        ("", "nodes") => node(spec, &mut causes),
        ("", "services") => service::service(spec, &mut causes),
        ("apps", _) => workload(spec, &mut causes),
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(object, &mut causes),
        ("apiextensions.k8s.io", _) => definition(object, &mut causes),
        _ => {}
    }
    causes
}

/// What is wrong with the change from `old` to `new`: fields that may not change.
pub(crate) fn change(kind: &Kind, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut fixed = |path: &[&str]| {
        let (before, after) = (at(old, path), at(new, path));
        if before.is_some_and(|v| !v.is_null() && v != "") && before != after {
            let value = after.unwrap_or(&Value::Null);
            causes.push(Cause::invalid(path.join("."), value, "field is immutable"));
        }
    };
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("apps", _) => fixed(&["spec", "selector"]),
        ("", "services") if text(new, &["spec", "type"]) != "ExternalName" => {
            fixed(&["spec", "clusterIP"]);
            if new["spec"]["type"] == "LoadBalancer" && new["spec"]["externalTrafficPolicy"] == "Local" {
                fixed(&["spec", "healthCheckNodePort"]);
            }
        }
        ("discovery.k8s.io", "endpointslices") => fixed(&["addressType"]),
        ("apiextensions.k8s.io", _) => fixed(&["spec", "scope"]),
        ("", "nodes") => fixed(&["spec", "podCIDR"]),
        ("", "pods") if changeable_masked(&old["spec"]) != changeable_masked(&new["spec"]) => {
            let why = "pod updates may not change fields other than `spec.containers[*].image`, \
                       `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only \
                       additions to existing tolerations), `spec.terminationGracePeriodSeconds`";
            causes.push(Cause::forbidden("spec", why));
        }
        _ => {}
    }
    causes
}

/// A pod's specification without the fields that may change; a pod without a node may still get one.
fn changeable_masked(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
            map.remove(field);
        }
        for list in ["containers", "initContainers"] {
            for container in map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    container.remove("image");
                    container.remove("imagePullPolicy");
                }
            }
        }
    }
    spec
}

fn metadata(kind: &Kind, object: &Value, causes: &mut Vec<Cause>) {
    let name = &object["metadata"]["name"];
    let rule = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces") => dns_label,
        ("", "services") => service_label,
        _ => dns_subdomain,
    };
    match name.as_str() {
        None | Some("") => causes.push(Cause::required("metadata.name", "name or generateName is required")),
        Some(text) => {
            if let Err(why) = rule(text) {
                causes.push(Cause::invalid("metadata.name", name, why));
            }
        }
    }
    for (key, value) in at(object, &["metadata", "labels"]).and_then(Value::as_object).into_iter().flatten() {
        if let Err(why) = label_key(key) {
            causes.push(Cause::invalid("metadata.labels", &key.as_str().into(), why));
        }
        if let Err(why) = label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid("metadata.labels", value, why));
        }
    }
    for key in
        at(object, &["metadata", "annotations"]).and_then(Value::as_object).into_iter().flat_map(|m| m.keys())
    {
        if let Err(why) = label_key(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.as_str().into(), why));
        }
    }
    for (index, owner) in array(object, &["metadata", "ownerReferences"]).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                causes.push(Cause::required(format!("metadata.ownerReferences[{index}].{field}"), ""));
            }
        }
    }
}

fn one_of(value: Option<&Value>, field: String, supported: &[&str], causes: &mut Vec<Cause>) {
    if let Some(value) = value.filter(|v| !v.is_null())
        && !supported.iter().any(|s| value == s)
    {
        causes.push(Cause::not_supported(field, value, supported));
    }
}

fn port_number(value: Option<&Value>, field: String, causes: &mut Vec<Cause>) {
    match value {
        None | Some(Value::Null) => causes.push(Cause::required(field, "")),
        Some(value) if !value.as_i64().is_some_and(|port| (1..=65535).contains(&port)) => {
            causes.push(Cause::invalid(field, value, "must be between 1 and 65535, inclusive"));
        }
        Some(_) => {}
    }
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

fn pod_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if array(spec, &["containers"]).is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut names = Vec::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in array(spec, &[list]).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let name = text(container, &["name"]);
            if name.is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            } else if let Err(why) = dns_label(name) {
                causes.push(Cause::invalid(format!("{path}.name"), &container["name"], why));
            } else if names.contains(&name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &container["name"]));
            }
            names.push(name);
            if text(container, &["image"]).is_empty() {
                causes.push(Cause::required(format!("{path}.image"), ""));
            }
            for (index, port) in array(container, &["ports"]).iter().enumerate() {
                let path = format!("{path}.ports[{index}]");
                port_number(port.get("containerPort"), format!("{path}.containerPort"), causes);
                one_of(port.get("protocol"), format!("{path}.protocol"), PROTOCOLS, causes);
            }
        }
    }
    let restart = &["Always", "OnFailure", "Never"];
    one_of(spec.get("restartPolicy"), format!("{path}.restartPolicy"), restart, causes);
}

fn node(spec: &Value, causes: &mut Vec<Cause>) {
    for (index, cidr) in array(spec, &["podCIDRs"]).iter().enumerate() {
        let parsed = cidr.as_str().and_then(|cidr| cidr.split_once('/')).map(|(address, length)| {
            let most = if address.parse::<IpAddr>().is_ok_and(|a| a.is_ipv4()) { 32 } else { 128 };
            address.parse::<IpAddr>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= most)
        });
        if parsed != Some(true) {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(format!("spec.podCIDRs[{index}]"), cidr, why));
        }
    }
}

fn workload(spec: &Value, causes: &mut Vec<Cause>) {
    if let Some(replicas) = spec.get("replicas").filter(|r| r.as_i64().is_some_and(|r| r < 0)) {
        causes.push(Cause::invalid("spec.replicas", replicas, "must be greater than or equal to 0"));
    }
    let selector = spec.get("selector").filter(|s| !s.is_null());
    let Some(selector) = selector else {
        causes.push(Cause::required("spec.selector", ""));
        return;
    };
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let labels = at(spec, &["template", "metadata", "labels"]);
    let matches = wanted.into_iter().flatten().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v));
    if !matches {
        let labels = labels.unwrap_or(&Value::Null);
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
    }
    pod_spec(&spec["template"]["spec"], "spec.template.spec", causes);
}

fn endpoint_slice(object: &Value, causes: &mut Vec<Cause>) {
    let family = text(object, &["addressType"]);
    if family.is_empty() {
        causes.push(Cause::required("addressType", ""));
    }
    one_of(object.get("addressType"), "addressType".into(), &["FQDN", "IPv4", "IPv6"], causes);
    for (index, endpoint) in array(object, &["endpoints"]).iter().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        let addresses = array(endpoint, &["addresses"]);
        if addresses.is_empty() {
            causes.push(Cause::required(&path, "must contain at least 1 address"));
        }
        for (index, address) in addresses.iter().enumerate() {
            let parsed = address.as_str().and_then(|a| a.parse::<IpAddr>().ok());
            let fits = match family {
                "IPv4" => parsed.is_some_and(|a| a.is_ipv4()),
                "IPv6" => parsed.is_some_and(|a| a.is_ipv6()),
                _ => true,
            };
            if !fits {
                let why = format!("must be a valid {family} address");
                causes.push(Cause::invalid(format!("{path}[{index}]"), address, &why));
            }
        }
    }
}

fn definition(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    for path in [&["group"][..], &["names", "plural"], &["names", "kind"], &["scope"]] {
        if text(spec, path).is_empty() {
            causes.push(Cause::required(format!("spec.{}", path.join(".")), ""));
        }
    }
    one_of(spec.get("scope"), "spec.scope".into(), &["Cluster", "Namespaced"], causes);
    let name = format!("{}.{}", text(spec, &["names", "plural"]), text(spec, &["group"]));
    if meta(object, "name") != name {
        let why = format!("must be spec.names.plural+\".\"+spec.group, that is {name:?}");
        causes.push(Cause::invalid("metadata.name", &object["metadata"]["name"], &why));
    }
    let versions = array(spec, &["versions"]);
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], why));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        if let Err(why) = service_label(text(version, &["name"])) {
            causes.push(Cause::invalid(format!("{path}.name"), &version["name"], why));
        }
        match at(version, &["schema", "openAPIV3Schema"]) {
            Some(root) => schema::problems(root, &format!("{path}.schema.openAPIV3Schema"), causes),
            None => {
                causes
                    .push(Cause::required(format!("{path}.schema.openAPIV3Schema"), "schemas are required"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Registry;

    fn faults(resource: &str, value: &Value) -> Vec<String> {
        let kind = Registry::builtin().by_resource(resource).unwrap();
        object(&kind, value).into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn pods_need_containers_with_names_and_images() {
        let pod = json!({"metadata": {"name": "A_"}, "spec": {"containers": [{"name": "a"}, {"name": "a", "image": "i"}],
            "restartPolicy": "Sometimes"}});
        let faults = faults("pods", &pod);
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(
            faults[0].starts_with("metadata.name: Invalid value: \"A_\": a lowercase RFC 1123 subdomain")
        );
        assert_eq!(faults[1], "spec.containers[0].image: Required value");
        assert_eq!(faults[2], "spec.containers[1].name: Duplicate value: \"a\"");
    }

    #[test]
    fn slices_hold_addresses_of_their_family() {
        let slice = |family: &str, address: &str| json!({"metadata": {"name": "a"}, "addressType": family, "endpoints": [{"addresses": [address]}]});
        assert_eq!(faults("endpointslices.discovery.k8s.io", &slice("IPv6", "fd00::1")), [""; 0]);
        assert_eq!(faults("endpointslices.discovery.k8s.io", &slice("IPv6", "10.0.0.1")).len(), 1);
    }

    #[test]
    fn some_fields_do_not_change() {
        let registry = Registry::builtin();
        let service = registry.by_resource("services").unwrap();
        let with = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip}});
        assert_eq!(change(&service, &with("10.0.0.1"), &with("10.0.0.2"))[0].field, "spec.clusterIP");
        assert_eq!(change(&service, &with(""), &with("10.0.0.2")), []);
        let pods = registry.by_resource("pods").unwrap();
        let with = |image: &str, port: u16| json!({"spec": {"containers": [{"name": "a", "image": image, "ports": [{"containerPort": port}]}]}});
        assert_eq!(change(&pods, &with("a:1", 1), &with("a:2", 1)), []);
        assert_eq!(change(&pods, &with("a:1", 1), &with("a:1", 2))[0].field, "spec");
    }
}
