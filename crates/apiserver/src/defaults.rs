//! Defaults of the built-in kinds, as far as clients rely on them.

mod service;

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::object::{as_map, map_mut, meta, text};

/// Fills in what the object leaves out.
pub(crate) fn set(kind: &Kind, object: &mut Value) {
    if let Some(custom) = &kind.custom {
        custom.schema.complete(object);
        return;
    }
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pod_spec(map_mut(object, "spec")),
        ("", "services") => service::complete(object),
        ("", "namespaces") => namespace(object),
        ("", "secrets") => secret(as_map(object)),
        ("", "events") => absent(as_map(object), "type", "Normal"),
        ("apps", "deployments") => deployment(map_mut(object, "spec")),
        ("apps", "replicasets") => {
            let spec = map_mut(object, "spec");
            absent(spec, "replicas", 1);
            template(spec);
        }
        ("apps", "daemonsets") => daemon_set(map_mut(object, "spec")),
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(object),
        ("networking.k8s.io", "networkpolicies") => network_policy(map_mut(object, "spec")),
        ("apiextensions.k8s.io", "customresourcedefinitions") => definition(map_mut(object, "spec")),
        _ => {}
    }
}

/// Takes out of a changed object what it had, and what has no sense any more after the change.
pub(crate) fn drop_stale(kind: &Kind, old: &Value, new: &mut Value) {
    if kind.is("", "services") {
        service::drop_stale(old, new);
    }
}

/// What a new object's status is before anybody wrote it; the status in the request is ignored.
pub(crate) fn initial_status(kind: &Kind, object: &mut Value) {
    let status = match (kind.group.as_str(), kind.plural.as_str()) {
        // A kubelet registers its node with a status.
        ("", "nodes") => return,
        ("", "pods") => json!({"phase": "Pending", "qosClass": "BestEffort"}),
        ("", "services") => json!({"loadBalancer": {}}),
        ("", "namespaces") => json!({"phase": "Active"}),
        ("apps", "daemonsets") => json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0,
            "numberMisscheduled": 0, "numberReady": 0}),
        ("apps", "replicasets") => json!({"replicas": 0}),
        _ if kind.custom.is_some() => {
            as_map(object).remove("status");
            return;
        }
        _ => json!({}),
    };
    as_map(object).insert("status".into(), status);
}

fn absent(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// `stringData` is for writing only: it is encoded into `data`.
fn secret(secret: &mut Map<String, Value>) {
    absent(secret, "type", "Opaque");
    if let Some(Value::Object(plain)) = secret.remove("stringData") {
        let encoded = plain.into_iter().map(|(key, value)| {
            let text = value.as_str().unwrap_or_default();
            (key, base64::engine::general_purpose::STANDARD.encode(text).into())
        });
        as_map(secret.entry("data").or_insert(Value::Null)).extend(encoded);
    }
}

fn each<'a>(map: &'a mut Map<String, Value>, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let items = map.get_mut(list).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn pod_spec(spec: &mut Map<String, Value>) {
    absent(spec, "restartPolicy", "Always");
    absent(spec, "dnsPolicy", "ClusterFirst");
    absent(spec, "terminationGracePeriodSeconds", 30);
    absent(spec, "schedulerName", "default-scheduler");
    absent(spec, "securityContext", json!({}));
    absent(spec, "enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
            let tag = image.rsplit('/').next().unwrap_or_default().split_once(':').map(|(_, tag)| tag);
            let pull = if matches!(tag, None | Some("latest")) { "Always" } else { "IfNotPresent" };
            absent(container, "imagePullPolicy", pull);
            absent(container, "resources", json!({}));
            absent(container, "terminationMessagePath", "/dev/termination-log");
            absent(container, "terminationMessagePolicy", "File");
            for port in each(container, "ports") {
                absent(port, "protocol", "TCP");
            }
            for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                if let Some(Value::Object(probe)) = container.get_mut(probe) {
                    for (key, value) in [
                        ("timeoutSeconds", 1),
                        ("periodSeconds", 10),
                        ("successThreshold", 1),
                        ("failureThreshold", 3),
                    ] {
                        absent(probe, key, value);
                    }
                }
            }
        }
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for container in each(spec, "containers") {
            for port in each(container, "ports") {
                if let Some(number) = port.get("containerPort").cloned() {
                    absent(port, "hostPort", number);
                }
            }
        }
    }
}

fn template(spec: &mut Map<String, Value>) {
    if let Some(template) = spec.get_mut("template").filter(|t| t.is_object()) {
        pod_spec(map_mut(template, "spec"));
        let metadata = map_mut(template, "metadata");
        absent(metadata, "creationTimestamp", Value::Null);
    }
}

fn deployment(spec: &mut Map<String, Value>) {
    absent(spec, "replicas", 1);
    absent(spec, "revisionHistoryLimit", 10);
    absent(spec, "progressDeadlineSeconds", 600);
    absent(spec, "strategy", json!({}));
    if let Some(Value::Object(strategy)) = spec.get_mut("strategy") {
        absent(strategy, "type", "RollingUpdate");
        rolling_update(strategy, &[("maxUnavailable", "25%".into()), ("maxSurge", "25%".into())]);
    }
    template(spec);
}

fn daemon_set(spec: &mut Map<String, Value>) {
    absent(spec, "revisionHistoryLimit", 10);
    absent(spec, "updateStrategy", json!({}));
    if let Some(Value::Object(strategy)) = spec.get_mut("updateStrategy") {
        absent(strategy, "type", "RollingUpdate");
        rolling_update(strategy, &[("maxUnavailable", 1.into()), ("maxSurge", 0.into())]);
    }
    template(spec);
}

fn rolling_update(strategy: &mut Map<String, Value>, defaults: &[(&str, Value)]) {
    if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
        absent(strategy, "rollingUpdate", json!({}));
        if let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate") {
            for (key, value) in defaults {
                absent(rolling, key, value.clone());
            }
        }
    }
}

fn namespace(object: &mut Value) {
    let name = meta(object, "name").to_owned();
    let metadata = map_mut(object, "metadata");
    absent(metadata, "labels", json!({}));
    if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
    absent(map_mut(object, "spec"), "finalizers", json!(["kubernetes"]));
}

fn endpoint_slice(object: &mut Value) {
    for port in each(as_map(object), "ports") {
        absent(port, "name", "");
        absent(port, "protocol", "TCP");
    }
}

fn network_policy(spec: &mut Map<String, Value>) {
    let egress = spec.get("egress").is_some_and(Value::is_array);
    absent(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    for list in ["ingress", "egress"] {
        for rule in each(spec, list) {
            for port in each(rule, "ports") {
                absent(port, "protocol", "TCP");
            }
        }
    }
}

fn definition(spec: &mut Map<String, Value>) {
    absent(spec, "conversion", json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) {
        let kind = text(names, &["kind"]).to_owned();
        let names = as_map(names);
        absent(names, "singular", kind.to_lowercase());
        absent(names, "listKind", format!("{kind}List"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn completed(resource: &str, mut object: Value) -> Value {
        set(&Registry::builtin().by_resource(resource).unwrap(), &mut object);
        object
    }

    #[test]
    fn deployments_default_their_template() {
        let spec = json!({"template": {"spec": {"containers": [{"image": "a:1", "ports": [{"containerPort": 1}]}]}}});
        let spec = &completed("deployments.apps", json!({"spec": spec}))["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(spec["template"]["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(spec["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    }

    #[test]
    fn plain_data_of_secrets_is_encoded() {
        let secret = completed("secrets", json!({"data": {"a": "eA=="}, "stringData": {"b": "y"}}));
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
    }

    #[test]
    fn completing_twice_changes_nothing() {
        for resource in ["pods", "services", "deployments.apps", "daemonsets.apps", "namespaces"] {
            let once = completed(resource, json!({"metadata": {"name": "a"}, "spec": {"template": {}}}));
            assert_eq!(completed(resource, once.clone()), once, "{resource}");
        }
    }
}
