//! How lists merge: which identify their items by keys, which are sets, which are replaced whole.

use serde_json::Value;

use crate::kinds::Kind;

/// How a list takes new items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListType {
    /// Replaced whole.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects, told apart by the values of these fields.
    Map(Vec<String>),
}

/// The field that tells items of the list `path` (field names from the root, without indices) apart in
/// strategic merge patches, as the `patchMergeKey` tags of `k8s.io/api` have it.
pub(super) fn merge_key(path: &[&str]) -> Option<&'static str> {
    let (field, parent) = match path {
        [.., parent, field] => (*field, *parent),
        [field] => (*field, ""),
        [] => return None,
    };
    let in_container = matches!(parent, "containers" | "initContainers" | "ephemeralContainers");
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
            if parent == "spec" =>
        {
            "name"
        }
        "secrets" | "imagePullSecrets" if parent.is_empty() => "name",
        "env" if in_container => "name",
        "volumeMounts" if in_container => "mountPath",
        "volumeDevices" if in_container => "devicePath",
        "ports" if in_container => "containerPort",
        "ports" if parent == "spec" => "port",
        "conditions" if parent == "status" => "type",
        "hostAliases" if parent == "spec" => "ip",
        "topologySpreadConstraints" if parent == "spec" => "topologyKey",
        "podIPs" | "hostIPs" if parent == "status" => "ip",
        "ownerReferences" if parent == "metadata" => "uid",
        _ => return None,
    })
}

/// Whether the list of scalars at `path` is a set (`patchStrategy: merge` without a key).
pub(super) fn is_set(path: &[&str]) -> bool {
    matches!(path, [.., "metadata", "finalizers"] | ["spec", "podCIDRs"])
}

/// The type of the list at `path` for server-side apply (`listType` and `listMapKey`).
pub(super) fn list_type(kind: &Kind, path: &[&str]) -> ListType {
    if let Some(custom) = &kind.custom
        && !matches!(path, ["metadata", ..])
    {
        return match custom.schema.list_type(path) {
            ("map", keys) => ListType::Map(keys.to_vec()),
            ("set", _) => ListType::Set,
            _ => ListType::Atomic,
        };
    }
    if is_set(path) {
        return ListType::Set;
    }
    let keys: &[&str] = match merge_key(path) {
        None => return ListType::Atomic,
        Some("containerPort") => &["containerPort", "protocol"],
        Some("port") => &["port", "protocol"],
        Some("topologyKey") => &["topologyKey", "whenUnsatisfiable"],
        Some(key) => &[key],
    };
    ListType::Map(keys.iter().map(|&k| k.into()).collect())
}

/// The value of a key field, with the default that the field has when it is absent.
pub(super) fn key_value(item: &Value, key: &str) -> Value {
    match item.get(key) {
        Some(value) => value.clone(),
        None if key == "protocol" => "TCP".into(),
        None => Value::Null,
    }
}
