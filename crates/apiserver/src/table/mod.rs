//! Objects as tables (`meta.k8s.io/v1` `Table`), with the columns that `kubectl` shows.

mod core;
mod jsonpath;
mod workloads;

use serde_json::{Value, json};

use crate::kinds::{Column, Kind};
use crate::object::meta;
use crate::time;

/// Which part of each object goes with its row (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// A column of a built-in kind: heading, OpenAPI type, and whether it is shown in wide output only.
struct Heading(&'static str, &'static str, bool);

const fn text(name: &'static str) -> Heading {
    Heading(name, "string", false)
}

const fn number(name: &'static str) -> Heading {
    Heading(name, "integer", false)
}

const fn wide(name: &'static str) -> Heading {
    Heading(name, "string", true)
}

/// Writes the table of `objects`; the headings are left out if `headings` is false.
pub(crate) fn table(
    kind: &Kind,
    objects: &[Value],
    list_metadata: Value,
    include: Include,
    headings: bool,
) -> Value {
    let now = time::now();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": cells(kind, object, now)});
            row["object"] = match include {
                Include::None => return row,
                Include::Metadata => partial(object),
                Include::Object => object.clone(),
            };
            row
        })
        .collect();
    let mut table =
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata, "rows": rows});
    table["columnDefinitions"] = if headings { definitions(kind) } else { Value::Null };
    table
}

/// The object's metadata alone (`PartialObjectMetadata`).
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn definitions(kind: &Kind) -> Value {
    if let Some(custom) = &kind.custom {
        let name = definition("Name", "string", 0, "");
        let columns = custom_columns(&custom.columns);
        let columns = columns.iter().map(|c| definition(&c.name, &c.kind, c.priority, &c.description));
        return std::iter::once(name).chain(columns).collect();
    }
    let headings = headings(kind).iter();
    headings.map(|Heading(name, kind, wide)| definition(name, kind, i64::from(*wide), "")).collect()
}

fn definition(name: &str, kind: &str, priority: i64, description: &str) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

fn cells(kind: &Kind, object: &Value, now: i64) -> Vec<Value> {
    if let Some(custom) = &kind.custom {
        let name = Value::from(meta(object, "name"));
        let columns = custom_columns(&custom.columns);
        return std::iter::once(name).chain(columns.iter().map(|c| custom_cell(c, object, now))).collect();
    }
    let (group, plural) = (kind.group.as_str(), kind.plural.as_str());
    match (group, plural) {
        ("", "pods") => workloads::pod(object, now),
        ("", "nodes") => core::node(object, now),
        ("", "services") => core::service(object, now),
        ("", "namespaces") => core::namespace(object, now),
        ("", "endpoints") => core::endpoints(object, now),
        ("", "configmaps") => core::config_map(object, now),
        ("", "secrets") => core::secret(object, now),
        ("", "events") => core::event(object, now),
        ("", "serviceaccounts") => core::service_account(object, now),
        ("apps", "deployments") => workloads::deployment(object, now),
        ("apps", "replicasets") => workloads::replica_set(object, now),
        ("apps", "daemonsets") => workloads::daemon_set(object, now),
        ("discovery.k8s.io", _) => core::endpoint_slice(object, now),
        ("networking.k8s.io", _) => core::network_policy(object, now),
        ("coordination.k8s.io", _) => core::lease(object, now),
        ("apiextensions.k8s.io", _) => {
            vec![meta(object, "name").into(), meta(object, "creationTimestamp").into()]
        }
        _ => vec![meta(object, "name").into(), age(object, now)],
    }
}

const DEFINITION: &[Heading] = &[text("Name"), text("Created At")];
const OTHER: &[Heading] = &[text("Name"), text("Age")];

fn headings(kind: &Kind) -> &'static [Heading] {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => workloads::POD,
        ("", "nodes") => core::NODE,
        ("", "services") => core::SERVICE,
        ("", "namespaces") => core::NAMESPACE,
        ("", "endpoints") => core::ENDPOINTS,
        ("", "configmaps") => core::CONFIG_MAP,
        ("", "secrets") => core::SECRET,
        ("", "events") => core::EVENT,
        ("", "serviceaccounts") => core::SERVICE_ACCOUNT,
        ("apps", "deployments") => workloads::DEPLOYMENT,
        ("apps", "replicasets") => workloads::REPLICA_SET,
        ("apps", "daemonsets") => workloads::DAEMON_SET,
        ("discovery.k8s.io", _) => core::ENDPOINT_SLICE,
        ("networking.k8s.io", _) => core::NETWORK_POLICY,
        ("coordination.k8s.io", _) => core::LEASE,
        ("apiextensions.k8s.io", _) => DEFINITION,
        _ => OTHER,
    }
}

/// A definition's columns; the age, if it has none.
fn custom_columns(columns: &[Column]) -> Vec<Column> {
    if !columns.is_empty() {
        return columns.to_vec();
    }
    vec![Column {
        name: "Age".into(),
        kind: "date".into(),
        path: ".metadata.creationTimestamp".into(),
        priority: 0,
        description: String::new(),
    }]
}

fn custom_cell(column: &Column, object: &Value, now: i64) -> Value {
    let found = jsonpath::find(object, &column.path);
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        "date" => since(first.as_str().unwrap_or_default(), now).into(),
        "integer" | "number" | "boolean" => (*first).clone(),
        _ if found.len() > 1 => {
            Value::from(found.into_iter().cloned().collect::<Vec<_>>()).to_string().into()
        }
        _ => match first {
            Value::String(text) => text.as_str().into(),
            Value::Null => Value::Null,
            other => other.to_string().into(),
        },
    }
}

/// How long ago a timestamp was.
fn since(timestamp: &str, now: i64) -> String {
    match time::parse(timestamp) {
        Some(then) => time::human_duration(now - then),
        None if timestamp.is_empty() => "<unknown>".into(),
        None => "<invalid>".into(),
    }
}

fn age(object: &Value, now: i64) -> Value {
    since(meta(object, "creationTimestamp"), now).into()
}

/// Words joined by commas, or `<none>`.
fn joined(words: impl IntoIterator<Item = String>) -> String {
    let words: Vec<String> = words.into_iter().collect();
    if words.is_empty() { "<none>".into() } else { words.join(",") }
}

/// A label selector or label map as `a=b,c=d`.
fn labels(map: Option<&Value>) -> String {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    joined(entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())))
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn every_kind_has_as_many_cells_as_headings() {
        for kind in Registry::builtin().iter() {
            let object = json!({"metadata": {"name": "a"}});
            assert_eq!(cells(kind, &object, 0).len(), headings(kind).len(), "{}", kind.plural);
            assert_eq!(headings(kind).iter().filter(|h| h.0 == "Name").count(), 1, "{}", kind.plural);
        }
    }

    #[test]
    fn custom_columns_come_from_the_definition() {
        let column = |name: &str, kind: &str, path: &str| Column {
            name: name.into(),
            kind: kind.into(),
            path: path.into(),
            priority: 0,
            description: String::new(),
        };
        let object = json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"asn": 64512, "mode": "ipip"},
            "status": {"conditions": [{"type": "A", "status": "x"}, {"type": "Ready", "status": "True"}]}});
        for (column, cell) in [
            (column("Mode", "string", ".spec.mode"), json!("ipip")),
            (column("ASN", "integer", ".spec.asn"), json!(64512)),
            (column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"), json!("True")),
            (column("Age", "date", ".metadata.creationTimestamp"), json!("5m")),
            (column("None", "string", ".spec.none"), Value::Null),
        ] {
            assert_eq!(custom_cell(&column, &object, 300), cell, "{}", column.name);
        }
    }
}
