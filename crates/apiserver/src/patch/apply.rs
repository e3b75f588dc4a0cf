//! Server-side apply: each manager says which fields it wants, and what it no longer says is removed.
//!
//! Only managers that apply are recorded in `managedFields`; those that update or patch own nothing, so they
//! are never in conflict with an apply.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::lists::{ListType, key_value, list_type};
use crate::error::{ApiError, Cause};
use crate::kinds::Kind;
use crate::object::{array, as_map, meta_mut, text};
use crate::time;

/// What `live` (null if there is nothing yet) becomes when `manager` wants `wanted`.
pub(crate) fn apply(
    kind: &Kind,
    live: &Value,
    wanted: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, ApiError> {
    if !wanted.is_object() {
        return Err(ApiError::bad_request("an apply patch is an object"));
    }
    if wanted["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mut wanted = wanted.clone();
    for field in ["resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"] {
        meta_mut(&mut wanted).remove(field);
    }
    let (mut mine, mut others) = (Value::Null, Vec::new());
    for entry in array(live, &["metadata", "managedFields"]) {
        let fields = entry.get("fieldsV1").cloned().unwrap_or_default();
        match text(entry, &["manager"]) {
            name if name == manager => mine = fields,
            name => others.push((name.to_owned(), fields, entry.clone())),
        }
    }
    let fields = fields_of(kind, &wanted);
    let mut conflicts = Vec::new();
    for (other, theirs, _) in &mut others {
        let found = conflicting(&fields, theirs, live, &wanted);
        if force {
            for path in &found {
                disown(theirs, path);
            }
        } else {
            conflicts.extend(found.iter().map(|path| (other.clone(), shown(path))));
        }
    }
    if !conflicts.is_empty() {
        return Err(refused(&conflicts));
    }
    let mut object = live.clone();
    merge(kind, &mut object, &wanted, &mut Vec::new());
    let their_fields: Vec<&Value> = others.iter().map(|(_, fields, _)| fields).collect();
    remove_unwanted(&mut object, &mine, Some(&fields), &their_fields);
    let mut entries: Vec<Value> = Vec::new();
    for (_, fields, mut entry) in others {
        if !is_leaf(&fields) {
            entry["fieldsV1"] = fields;
            entries.push(entry);
        }
    }
    entries.push(json!({
        "manager": manager, "operation": "Apply", "apiVersion": kind.api_version(),
        "time": time::format(time::now()), "fieldsType": "FieldsV1", "fieldsV1": fields,
    }));
    // An apply that changes nothing must not look like a change because of its time.
    let unchanged = same_but_time(array(live, &["metadata", "managedFields"]), &entries);
    let entries = if unchanged { live["metadata"]["managedFields"].clone() } else { entries.into() };
    meta_mut(&mut object).insert("managedFields".into(), entries);
    Ok(object)
}

fn same_but_time(old: &[Value], new: &[Value]) -> bool {
    let strip = |entries: &[Value]| -> Vec<Value> {
        let mut entries = entries.to_vec();
        for entry in &mut entries {
            as_map(entry).remove("time");
        }
        entries.sort_by(|a, b| text(a, &["manager"]).cmp(text(b, &["manager"])));
        entries
    };
    strip(old) == strip(new)
}

fn refused(conflicts: &[(String, String)]) -> ApiError {
    let plural = if conflicts.len() == 1 { "" } else { "s" };
    let mut message = format!("Apply failed with {} conflict{plural}:", conflicts.len());
    let mut causes = Vec::new();
    for (manager, field) in conflicts {
        let _ = write!(message, " conflict with {manager:?}: {field}");
        causes.push(Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {manager:?}"),
            field: field.clone(),
        });
    }
    ApiError::apply_conflict(message, causes)
}

fn is_leaf(fields: &Value) -> bool {
    fields.as_object().is_none_or(Map::is_empty)
}

/// The set of fields in `wanted`, in the form of `FieldsV1`.
fn fields_of(kind: &Kind, wanted: &Value) -> Value {
    let mut fields = collect(kind, wanted, &mut Vec::new());
    let map = as_map(&mut fields);
    map.remove("f:apiVersion");
    map.remove("f:kind");
    if let Some(metadata) = map.get_mut("f:metadata") {
        let metadata = as_map(metadata);
        metadata.remove("f:name");
        metadata.remove("f:namespace");
        if metadata.is_empty() {
            map.remove("f:metadata");
        }
    }
    fields
}

fn collect<'a>(kind: &Kind, value: &'a Value, path: &mut Vec<&'a str>) -> Value {
    let mut fields = Map::new();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                path.push(name);
                fields.insert(format!("f:{name}"), collect(kind, value, path));
                path.pop();
            }
        }
        Value::Array(items) => match list_type(kind, path) {
            ListType::Atomic => {}
            ListType::Set => fields.extend(items.iter().map(|item| (format!("v:{item}"), json!({})))),
            ListType::Map(keys) => {
                for item in items {
                    let mut of_item = collect(kind, item, path);
                    as_map(&mut of_item).insert(".".into(), json!({}));
                    fields.insert(item_id(item, &keys), of_item);
                }
            }
        },
        _ => {}
    }
    fields.into()
}

fn item_id(item: &Value, keys: &[String]) -> String {
    let id: Map<String, Value> = keys.iter().map(|key| (key.clone(), key_value(item, key))).collect();
    format!("k:{}", Value::from(id))
}

/// The place in a list of the item that `id` (`k:{…}` or `v:…`) names.
fn position(items: &[Value], id: &str) -> Option<usize> {
    if let Some(key) = id.strip_prefix("k:") {
        let key: Map<String, Value> = serde_json::from_str(key).ok()?;
        return items.iter().position(|item| key.iter().all(|(k, v)| key_value(item, k) == *v));
    }
    let value: Value = serde_json::from_str(id.strip_prefix("v:")?).ok()?;
    items.iter().position(|item| *item == value)
}

/// The value in `value` that one step of a field path names.
fn step<'a>(value: &'a Value, id: &str) -> Option<&'a Value> {
    match id.strip_prefix("f:") {
        Some(name) => value.get(name),
        None => value.as_array().and_then(|items| items.get(position(items, id)?)),
    }
}

/// The fields (as paths of steps) that both want, and for which `wanted` has another value than `live`.
fn conflicting(mine: &Value, theirs: &Value, live: &Value, wanted: &Value) -> Vec<Vec<String>> {
    let (Some(mine), Some(theirs)) = (mine.as_object(), theirs.as_object()) else { return Vec::new() };
    let mut found = Vec::new();
    for (id, mine) in mine.iter().filter(|(id, _)| *id != ".") {
        let Some(theirs) = theirs.get(id) else { continue };
        let (live, wanted) = (step(live, id), step(wanted, id));
        if is_leaf(mine) || is_leaf(theirs) {
            if live != wanted {
                found.push(vec![id.clone()]);
            }
            continue;
        }
        let (Some(live), Some(wanted)) = (live, wanted) else { continue };
        for mut path in conflicting(mine, theirs, live, wanted) {
            path.insert(0, id.clone());
            found.push(path);
        }
    }
    found
}

fn disown(fields: &mut Value, path: &[String]) {
    match path {
        [] => {}
        [last] => {
            as_map(fields).remove(last);
        }
        [first, rest @ ..] => {
            if let Some(inner) = as_map(fields).get_mut(first) {
                disown(inner, rest);
            }
        }
    }
}

fn shown(path: &[String]) -> String {
    path.iter().fold(String::new(), |text, step| match step.split_once(':') {
        Some(("f", name)) => format!("{text}.{name}"),
        Some(("k", key)) => format!("{text}[{}]", key.trim_matches(['{', '}']).replace(':', "=")),
        _ => format!("{text}[{step}]"),
    })
}

fn merge<'a>(kind: &Kind, live: &mut Value, wanted: &'a Value, path: &mut Vec<&'a str>) {
    match wanted {
        Value::Object(fields) => {
            let map = as_map(live);
            for (name, wanted) in fields {
                path.push(name);
                merge(kind, map.entry(name.as_str()).or_insert(Value::Null), wanted, path);
                path.pop();
            }
        }
        Value::Array(wanted_items) => match (list_type(kind, path), &mut *live) {
            (ListType::Set, Value::Array(items)) => {
                for item in wanted_items {
                    if !items.contains(item) {
                        items.push(item.clone());
                    }
                }
            }
            (ListType::Map(keys), Value::Array(items)) => {
                for item in wanted_items {
                    match position(items, &item_id(item, &keys)) {
                        Some(at) => merge(kind, &mut items[at], item, path),
                        None => items.push(item.clone()),
                    }
                }
            }
            _ => *live = wanted.clone(),
        },
        scalar => *live = scalar.clone(),
    }
}

/// Removes the fields in `old` that neither `new` nor any of `others` has.
fn remove_unwanted(live: &mut Value, old: &Value, new: Option<&Value>, others: &[&Value]) {
    let Some(old) = old.as_object() else { return };
    for (id, old) in old.iter().filter(|(id, _)| *id != ".") {
        let new = new.and_then(|new| new.get(id));
        let others: Vec<&Value> = others.iter().filter_map(|other| other.get(id)).collect();
        let unwanted = new.is_none() && others.is_empty();
        match (id.strip_prefix("f:"), &mut *live) {
            (Some(name), Value::Object(map)) => {
                let Some(inner) = map.get_mut(name) else { continue };
                if !(unwanted && is_leaf(old)) {
                    remove_unwanted(inner, old, new, &others);
                }
                let empty = inner.as_object().is_some_and(Map::is_empty)
                    || inner.as_array().is_some_and(Vec::is_empty);
                if unwanted && (is_leaf(old) || empty) {
                    map.remove(name);
                }
            }
            (None, Value::Array(items)) => {
                let Some(at) = position(items, id) else { continue };
                if unwanted {
                    items.remove(at);
                } else {
                    remove_unwanted(&mut items[at], old, new, &others);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::object::meta;

    fn deployments() -> std::sync::Arc<Kind> {
        Registry::builtin().by_resource("deployments.apps").unwrap()
    }

    fn container(name: &str, image: &str) -> Value {
        json!({"name": name, "image": image})
    }

    fn wanted(replicas: u32, containers: &[Value]) -> Value {
        json!({"metadata": {"name": "web", "labels": {"a": "1"}},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn what_is_no_longer_applied_is_removed() {
        let kind = deployments();
        let one = wanted(1, &[container("a", "a:1"), container("b", "b:1")]);
        let mut live = apply(&kind, &Value::Null, &one, "me", false).unwrap();
        live["spec"]["paused"] = true.into();
        let two = json!({"metadata": {"name": "web"},
            "spec": {"template": {"spec": {"containers": [container("b", "b:2")]}}}});
        let live = apply(&kind, &live, &two, "me", false).unwrap();
        assert_eq!(
            live["spec"],
            json!({"paused": true, "template": {"spec": {"containers": [container("b", "b:2")]}}})
        );
        assert_eq!(meta(&live, "name"), "web");
        assert!(live["metadata"].get("labels").is_none());
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let kind = deployments();
        let one = wanted(1, &[container("a", "a:1")]);
        let live = apply(&kind, &Value::Null, &one, "me", false).unwrap();
        let mut older = live.clone();
        older["metadata"]["managedFields"][0]["time"] = "2020-01-01T00:00:00Z".into();
        assert_eq!(apply(&kind, &older, &one, "me", false).unwrap(), older);
    }

    #[test]
    fn another_managers_field_is_a_conflict_unless_forced() {
        let kind = deployments();
        let live = apply(&kind, &Value::Null, &wanted(1, &[container("a", "a:1")]), "one", false).unwrap();
        let error = apply(&kind, &live, &json!({"spec": {"replicas": 2}}), "two", false).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (409, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas",)
        );
        let live = apply(&kind, &live, &json!({"spec": {"replicas": 2}}), "two", true).unwrap();
        assert_eq!(live["spec"]["replicas"], 2);
        // The first manager no longer owns the count, so leaving it out does not remove it.
        let rest = json!({"metadata": {"name": "web"}});
        let live = apply(&kind, &live, &rest, "one", false).unwrap();
        assert_eq!(live["spec"], json!({"replicas": 2}));
    }
}
