//! JSON types of the fields that clients decode into typed structures: an object with a wrong type in one of
//! them would make every typed client fail, so it is refused at the door.

use serde_json::Value;

use crate::error::{ApiError, type_name};
use crate::kinds::Kind;

/// Type of a field in the tables below.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Text,
    Number,
    Flag,
    Map,
    /// Map with text values.
    Texts,
    List,
    /// Integer or text.
    Either,
}

use Type::{Either, Flag, List, Map, Number, Text, Texts};

/// Field path (`[]` stands for each item of a list) and its type.
type Table = &'static [(&'static str, Type)];

const META: Table = &[
    ("metadata", Map),
    ("metadata.name", Text),
    ("metadata.generateName", Text),
    ("metadata.namespace", Text),
    ("metadata.uid", Text),
    ("metadata.resourceVersion", Text),
    ("metadata.labels", Texts),
    ("metadata.annotations", Texts),
    ("metadata.finalizers", List),
    ("metadata.finalizers[]", Text),
    ("metadata.ownerReferences", List),
    ("metadata.ownerReferences[]", Map),
    ("metadata.ownerReferences[].uid", Text),
    ("metadata.ownerReferences[].controller", Flag),
];

const STANDARD: Table = &[("spec", Map), ("status", Map)];

const POD: Table = &[
    ("nodeName", Text),
    ("hostNetwork", Flag),
    ("restartPolicy", Text),
    ("serviceAccountName", Text),
    ("nodeSelector", Texts),
    ("terminationGracePeriodSeconds", Number),
    ("tolerations", List),
    ("volumes", List),
    ("volumes[]", Map),
    ("initContainers", List),
    ("initContainers[]", Map),
    ("initContainers[].name", Text),
    ("initContainers[].image", Text),
    ("containers", List),
    ("containers[]", Map),
    ("containers[].name", Text),
    ("containers[].image", Text),
    ("containers[].command", List),
    ("containers[].command[]", Text),
    ("containers[].args", List),
    ("containers[].args[]", Text),
    ("containers[].env", List),
    ("containers[].env[]", Map),
    ("containers[].env[].name", Text),
    ("containers[].env[].value", Text),
    ("containers[].ports", List),
    ("containers[].ports[]", Map),
    ("containers[].ports[].containerPort", Number),
    ("containers[].ports[].hostPort", Number),
    ("containers[].ports[].name", Text),
    ("containers[].ports[].protocol", Text),
];

const SERVICE: Table = &[
    ("spec.type", Text),
    ("spec.clusterIP", Text),
    ("spec.clusterIPs", List),
    ("spec.clusterIPs[]", Text),
    ("spec.externalIPs", List),
    ("spec.externalIPs[]", Text),
    ("spec.ipFamilies", List),
    ("spec.ipFamilies[]", Text),
    ("spec.selector", Texts),
    ("spec.publishNotReadyAddresses", Flag),
    ("spec.healthCheckNodePort", Number),
    ("spec.externalTrafficPolicy", Text),
    ("spec.internalTrafficPolicy", Text),
    ("spec.trafficDistribution", Text),
    ("spec.allocateLoadBalancerNodePorts", Flag),
    ("spec.loadBalancerIP", Text),
    ("spec.loadBalancerClass", Text),
    ("spec.loadBalancerSourceRanges", List),
    ("spec.loadBalancerSourceRanges[]", Text),
    ("spec.sessionAffinity", Text),
    ("spec.sessionAffinityConfig", Map),
    ("spec.sessionAffinityConfig.clientIP", Map),
    ("spec.sessionAffinityConfig.clientIP.timeoutSeconds", Number),
    ("spec.ports", List),
    ("spec.ports[]", Map),
    ("spec.ports[].name", Text),
    ("spec.ports[].protocol", Text),
    ("spec.ports[].port", Number),
    ("spec.ports[].nodePort", Number),
    ("spec.ports[].targetPort", Either),
    ("status.loadBalancer", Map),
    ("status.loadBalancer.ingress", List),
    ("status.loadBalancer.ingress[]", Map),
    ("status.loadBalancer.ingress[].ip", Text),
    ("status.loadBalancer.ingress[].ipMode", Text),
    ("status.loadBalancer.ingress[].hostname", Text),
];

const NODE: Table = &[
    ("spec.podCIDR", Text),
    ("spec.podCIDRs", List),
    ("spec.podCIDRs[]", Text),
    ("spec.unschedulable", Flag),
    ("status.addresses", List),
    ("status.addresses[]", Map),
    ("status.addresses[].type", Text),
    ("status.addresses[].address", Text),
    ("status.conditions", List),
    ("status.conditions[]", Map),
];

const POD_STATUS: Table = &[
    ("status.phase", Text),
    ("status.podIP", Text),
    ("status.podIPs", List),
    ("status.podIPs[]", Map),
    ("status.conditions", List),
    ("status.conditions[]", Map),
    ("status.containerStatuses", List),
    ("status.containerStatuses[]", Map),
];

const WORKLOAD: Table = &[
    ("spec.replicas", Number),
    ("spec.selector", Map),
    ("spec.selector.matchLabels", Texts),
    ("spec.template", Map),
    ("spec.template.metadata", Map),
    ("spec.template.metadata.labels", Texts),
    ("spec.template.metadata.annotations", Texts),
    ("spec.template.spec", Map),
    ("status.replicas", Number),
];

const SLICE: Table = &[
    ("addressType", Text),
    ("endpoints", List),
    ("endpoints[]", Map),
    ("endpoints[].addresses", List),
    ("endpoints[].addresses[]", Text),
    ("endpoints[].nodeName", Text),
    ("endpoints[].conditions", Map),
    ("endpoints[].conditions.ready", Flag),
    ("endpoints[].conditions.serving", Flag),
    ("endpoints[].conditions.terminating", Flag),
    ("endpoints[].zone", Text),
    ("endpoints[].hints", Map),
    ("endpoints[].hints.forZones", List),
    ("endpoints[].hints.forZones[]", Map),
    ("endpoints[].hints.forZones[].name", Text),
    ("endpoints[].hints.forNodes", List),
    ("endpoints[].hints.forNodes[]", Map),
    ("endpoints[].hints.forNodes[].name", Text),
    ("ports", List),
    ("ports[]", Map),
    ("ports[].port", Number),
    ("ports[].name", Text),
    ("ports[].protocol", Text),
];

const DEFINITION: Table = &[
    ("spec.group", Text),
    ("spec.scope", Text),
    ("spec.names", Map),
    ("spec.names.plural", Text),
    ("spec.names.kind", Text),
    ("spec.versions", List),
    ("spec.versions[]", Map),
    ("spec.versions[].name", Text),
    ("spec.versions[].served", Flag),
    ("spec.versions[].storage", Flag),
];

/// How deep an object may be nested. What is stored is read again by parsers with a limit of 128.
const MAX_DEPTH: usize = 100;

fn deeper_than(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth == 0 || items.iter().any(|item| deeper_than(item, depth - 1)),
        Value::Object(map) => depth == 0 || map.values().any(|value| deeper_than(value, depth - 1)),
        _ => false,
    }
}

/// Refuses an object with a field of the wrong type, or one that is nested too deep.
///
/// # Errors
/// 400 that names the field.
pub(crate) fn check(kind: &Kind, object: &Value) -> Result<(), ApiError> {
    let wrong = |fault: String| {
        let (kind, version) = (&kind.kind, &kind.version);
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {fault}"))
    };
    if !object.is_object() {
        return Err(wrong(format!("{} is not an object", type_name(object))));
    }
    if deeper_than(object, MAX_DEPTH) {
        return Err(wrong(format!("it is nested more than {MAX_DEPTH} deep")));
    }
    run(META, object, "").map_err(wrong)?;
    if kind.custom.is_some() {
        return Ok(());
    }
    let tables: &[(&str, Table)] = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => &[("", STANDARD), ("spec", POD), ("", POD_STATUS)],
        ("", "services") => &[("", STANDARD), ("", SERVICE)],
        ("", "nodes") => &[("", STANDARD), ("", NODE)],
        ("", "configmaps") => &[("", &[("data", Texts), ("binaryData", Texts)])],
        ("", "secrets") => &[("", &[("data", Texts), ("stringData", Texts), ("type", Text)])],
        ("", "events") => {
            &[("", &[("involvedObject", Map), ("reason", Text), ("message", Text), ("count", Number)])]
        }
        ("apps", _) => &[("", STANDARD), ("", WORKLOAD), ("spec.template.spec", POD)],
        ("discovery.k8s.io", _) => &[("", SLICE)],
        ("apiextensions.k8s.io", _) => &[("", STANDARD), ("", DEFINITION)],
        _ => &[("", STANDARD)],
    };
    for (base, table) in tables {
        let inner = base.split('.').filter(|s| !s.is_empty()).try_fold(object, |value, key| value.get(key));
        if let Some(inner) = inner {
            run(table, inner, base).map_err(wrong)?;
        }
    }
    Ok(())
}

fn run(table: Table, object: &Value, base: &str) -> Result<(), String> {
    for (path, wanted) in table {
        look(object, path, *wanted).map_err(|got| {
            let dot = if base.is_empty() { "" } else { "." };
            format!("field {base}{dot}{path}: {got}")
        })?;
    }
    Ok(())
}

fn look(value: &Value, path: &str, wanted: Type) -> Result<(), String> {
    if path.is_empty() {
        return judge(value, wanted);
    }
    if let Some(rest) = path.strip_prefix("[]") {
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        return value.as_array().into_iter().flatten().try_for_each(|item| look(item, rest, wanted));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    match value.get(&path[..end]) {
        Some(inner) => {
            let rest = &path[end..];
            look(inner, rest.strip_prefix('.').unwrap_or(rest), wanted)
        }
        None => Ok(()),
    }
}

fn judge(value: &Value, wanted: Type) -> Result<(), String> {
    let (fits, word) = match wanted {
        Text => (value.is_string(), "string"),
        Number => (value.is_i64() || value.is_u64(), "integer"),
        Flag => (value.is_boolean(), "boolean"),
        Map => (value.is_object(), "object"),
        List => (value.is_array(), "array"),
        Either => (value.is_string() || value.is_i64(), "integer or string"),
        Texts => (
            value.as_object().is_some_and(|map| map.values().all(|v| v.is_string() || v.is_null())),
            "object with string values",
        ),
    };
    if fits || value.is_null() { Ok(()) } else { Err(format!("must be {word}, got {}", type_name(value))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn wrong_types_are_named() {
        let registry = Registry::builtin();
        for (resource, object, message) in [
            ("pods", json!({"spec": []}), "field spec: must be object, got array"),
            (
                "pods",
                json!({"metadata": {"labels": {"a": 1}}}),
                "field metadata.labels: must be object with string",
            ),
            (
                "deployments.apps",
                json!({"spec": {"template": {"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}}}),
                "field spec.template.spec.containers[].ports[].containerPort: must be integer, got string",
            ),
            (
                "services",
                json!({"spec": {"ports": [{"targetPort": true}]}}),
                "must be integer or string, got boolean",
            ),
            ("pods", json!(3), "integer is not an object"),
        ] {
            let error = check(&registry.by_resource(resource).unwrap(), &object).unwrap_err();
            assert!(error.message.contains(message), "{}", error.message);
        }
        let pods = registry.by_resource("pods").unwrap();
        let deep = (0..200).fold(json!({}), |inner, _| json!({"a": inner}));
        assert!(check(&pods, &deep).unwrap_err().message.contains("nested"));
        check(&pods, &json!({"metadata": {"name": "a", "labels": null}, "spec": {"containers": []}}))
            .unwrap();
    }
}
