//! Strategic merge patch: a merge patch that knows the keys of lists and has directives.
//!
//! Source: "Strategic Merge Patch" in kubernetes/community, contributors/devel/sig-api-machinery.

use serde_json::{Map, Value};

use super::lists::{is_set, merge_key};
use crate::error::ApiError;
use crate::object::as_map;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// What `object` becomes by `patch`.
pub(crate) fn apply(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let patch =
        patch.as_object().ok_or_else(|| ApiError::bad_request("a strategic merge patch is a JSON object"))?;
    let mut object = object.clone();
    merge_map(as_map(&mut object), patch, &[])?;
    Ok(object)
}

fn refuse(path: &[&str], why: &str) -> ApiError {
    let place = if path.is_empty() { "the object".into() } else { path.join(".") };
    ApiError::bad_request(format!("strategic merge patch of {place}: {why}"))
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    path: &[&str],
) -> Result<(), ApiError> {
    match patch.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("replace") => target.clear(),
        Some(other) => return Err(refuse(path, &format!("unknown directive \"$patch\": {other:?}"))),
    }
    if let Some(retain) = patch.get(RETAIN_KEYS) {
        let keys = retain.as_array().ok_or_else(|| refuse(path, "\"$retainKeys\" must be a list"))?;
        target.retain(|key, _| keys.iter().any(|k| k == key));
    }
    for (field, values) in directives(patch, DELETE_FROM) {
        let gone =
            values.as_array().ok_or_else(|| refuse(path, "\"$deleteFromPrimitiveList\" must be a list"))?;
        if let Some(Value::Array(items)) = target.get_mut(field) {
            items.retain(|item| !gone.contains(item));
        }
    }
    for (key, change) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let path = [path, &[key.as_str()]].concat();
        match change {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(change) => {
                let slot = target.entry(key.as_str()).or_insert(Value::Null);
                merge_map(as_map(slot), change, &path)?;
            }
            Value::Array(change) => {
                let slot = target.entry(key.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(slot, change, &path)?;
            }
            scalar => {
                target.insert(key.clone(), scalar.clone());
            }
        }
    }
    for (field, order) in directives(patch, SET_ORDER) {
        let order = order.as_array().ok_or_else(|| refuse(path, "\"$setElementOrder\" must be a list"))?;
        if let Some(Value::Array(items)) = target.get_mut(field) {
            reorder(items, order, merge_key(&[path, &[field]].concat()));
        }
    }
    Ok(())
}

/// The directives of one sort, with the field each is about.
fn directives<'a>(
    patch: &'a Map<String, Value>,
    prefix: &'static str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    patch.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}

fn merge_list(slot: &mut Value, patch: &[Value], path: &[&str]) -> Result<(), ApiError> {
    let Value::Array(items) = slot else {
        *slot = Value::Array(Vec::new());
        return merge_list(slot, patch, path);
    };
    let key = merge_key(path);
    let replaces = |item: &Value| item.get(PATCH).is_some_and(|d| d == "replace");
    let whole = patch.iter().any(|item| replaces(item) && key.is_none_or(|key| item.get(key).is_none()));
    if whole || key.is_none() && !is_set(path) {
        let kept = patch.iter().filter(|item| item.get(PATCH).is_none());
        *items = kept.map(|item| cleaned(item, path)).collect::<Result<_, _>>()?;
        return Ok(());
    }
    let Some(key) = key else {
        for value in patch {
            if !items.contains(value) {
                items.push(value.clone());
            }
        }
        return Ok(());
    };
    for change in patch {
        let (Some(change), Some(id)) = (change.as_object(), change.get(key)) else {
            return Err(refuse(path, &format!("{change} does not contain declared merge key: {key}")));
        };
        let found = items.iter().position(|item| item.get(key) == Some(id));
        match (found, change.get(PATCH).is_some_and(|d| d == "delete")) {
            (Some(at), true) => {
                items.remove(at);
            }
            (None, true) => {}
            (Some(at), false) => merge_map(as_map(&mut items[at]), change, path)?,
            (None, false) => {
                let mut new = Map::new();
                merge_map(&mut new, change, path)?;
                items.push(new.into());
            }
        }
    }
    Ok(())
}

/// A value of a patch without directives.
fn cleaned(value: &Value, path: &[&str]) -> Result<Value, ApiError> {
    match value {
        Value::Object(map) => {
            let mut new = Map::new();
            merge_map(&mut new, map, path)?;
            Ok(new.into())
        }
        other => Ok(other.clone()),
    }
}

/// Puts the items that `order` names into its order; all others keep their places.
fn reorder(items: &mut [Value], order: &[Value], key: Option<&str>) {
    let id = |value: &Value| key.map_or_else(|| value.clone(), |key| value[key].clone());
    let rank = |item: &Value| order.iter().position(|wanted| id(wanted) == id(item));
    let places: Vec<usize> = (0..items.len()).filter(|&at| rank(&items[at]).is_some()).collect();
    let mut ordered: Vec<Value> = places.iter().map(|&at| items[at].clone()).collect();
    ordered.sort_by_key(|item| rank(item));
    for (place, item) in places.into_iter().zip(ordered) {
        items[place] = item;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn containers(names: &[&str]) -> Value {
        let items: Value = names.iter().map(|n| json!({"name": n, "image": format!("{n}:1")})).collect();
        json!({"spec": {"containers": items}})
    }

    #[test]
    fn merges_by_table() {
        for (what, object, patch, result) in [
            ("null removes", json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2})),
            ("maps merge", json!({"a": {"b": 1}}), json!({"a": {"c": 2}}), json!({"a": {"b": 1, "c": 2}})),
            (
                "containers merge by name",
                containers(&["a", "b"]),
                json!({"spec": {"containers": [{"name": "b", "image": "b:2"}]}}),
                json!({"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2"}]}}),
            ),
            (
                "new containers are appended",
                containers(&["a"]),
                json!({"spec": {"containers": [{"name": "b", "image": "b:1"}]}}),
                containers(&["a", "b"]),
            ),
            (
                "$patch: delete removes an item",
                containers(&["a", "b"]),
                json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
                containers(&["b"]),
            ),
            (
                "$patch: replace replaces the list",
                containers(&["a", "b"]),
                json!({"spec": {"containers": [{"name": "c", "image": "c:1"}, {"$patch": "replace"}]}}),
                containers(&["c"]),
            ),
            (
                "$patch: replace replaces a map",
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
                json!({"metadata": {"labels": {"b": "2"}}}),
            ),
            (
                "$patch: delete empties a map",
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "delete"}}}),
                json!({"metadata": {"labels": {}}}),
            ),
            (
                "service ports merge by port",
                json!({"spec": {"ports": [{"port": 80, "name": "http"}]}}),
                json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}}),
                json!({"spec": {"ports": [{"port": 80, "name": "http", "nodePort": 30080}, {"port": 443}]}}),
            ),
            (
                "container ports merge by containerPort",
                json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 2}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1}, {"containerPort": 2}]}]}}),
            ),
            (
                "endpoint slice ports are replaced",
                json!({"ports": [{"port": 80}]}),
                json!({"ports": [{"port": 81}]}),
                json!({"ports": [{"port": 81}]}),
            ),
            (
                "conditions merge by type",
                json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other"}]}}),
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]}}),
            ),
            (
                "tolerations are replaced",
                json!({"spec": {"tolerations": [{"key": "a"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
            ),
            (
                "finalizers are a set, and values can be deleted from it",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
            ),
            (
                "$setElementOrder orders, others keep their place",
                containers(&["a", "x", "b"]),
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                    "containers": [{"name": "b"}]}}),
                containers(&["b", "x", "a"]),
            ),
            (
                "$retainKeys drops the rest",
                json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}}),
                json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
                json!({"spec": {"strategy": {"type": "Recreate"}}}),
            ),
            (
                "directives do not end up in new values",
                json!({}),
                json!({"spec": {"containers": [{"name": "a", "env": [{"$patch": "replace"}, {"name": "e"}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "e"}]}]}}),
            ),
        ] {
            assert_eq!(apply(&object, &patch).unwrap(), result, "{what}");
        }
    }

    #[test]
    fn malformed_patches_are_refused() {
        for patch in [
            json!([]),
            json!({"$patch": "explode"}),
            json!({"spec": {"containers": [{"image": "no name"}]}}),
            json!({"spec": {"containers": ["a"]}}),
            json!({"$retainKeys": 1}),
            json!({"$setElementOrder/a": 1}),
        ] {
            assert_eq!(apply(&containers(&["a"]), &patch).unwrap_err().code, 400, "{patch}");
        }
    }
}
