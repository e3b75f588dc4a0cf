//! JSON patch, RFC 6902.

use serde_json::Value;

use crate::error::ApiError;
use crate::object::text;

/// Most operations one patch may have.
const MAX_OPERATIONS: usize = 10_000;
/// Most that all `copy` operations of one patch may add together, in bytes or so; a patch of a few hundred bytes
/// can double an object with each operation.
const MAX_COPIED: usize = 1024 * 1024;

/// What `object` becomes by the operations of `patch`, one after the other; all or none.
pub(crate) fn apply(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let operations =
        patch.as_array().ok_or_else(|| ApiError::bad_request("a JSON patch is an array of operations"))?;
    if operations.len() > MAX_OPERATIONS {
        let message = format!(
            "the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(ApiError::too_many_operations(message));
    }
    let mut object = object.clone();
    let mut copied = 0;
    for (index, operation) in operations.iter().enumerate() {
        run(&mut object, operation, &mut copied).map_err(|why| {
            ApiError::unprocessable(format!("JSON patch operation {index} ({operation}): {why}"))
        })?;
    }
    Ok(object)
}

fn run(object: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), String> {
    let pointer = |name: &str| -> Result<Vec<String>, String> {
        let text = operation.get(name).and_then(Value::as_str);
        parse_pointer(text.ok_or_else(|| format!("{name:?} is missing"))?)
    };
    let path = pointer("path")?;
    let value = || operation.get("value").cloned().ok_or("\"value\" is missing");
    match text(operation, &["op"]) {
        "add" => add(object, &path, value()?),
        "remove" => remove(object, &path).map(drop),
        "replace" => {
            *find(object, &path)? = value()?;
            Ok(())
        }
        "move" => {
            let from = pointer("from")?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err("a value cannot be moved into itself".into());
            }
            let moved = remove(object, &from)?;
            add(object, &path, moved)
        }
        "copy" => {
            let source = find(object, &pointer("from")?)?;
            *copied += weight(source);
            if *copied > MAX_COPIED {
                return Err(format!("all copies together have more than {MAX_COPIED} bytes"));
            }
            let copy = source.clone();
            add(object, &path, copy)
        }
        "test" => match *find(object, &path)? == value()? {
            true => Ok(()),
            false => Err("the test failed".into()),
        },
        other => Err(format!("unknown \"op\" {other:?}")),
    }
}

/// About the number of bytes that `value` takes as JSON.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + 3 + weight(value)).sum::<usize>(),
        _ => 4,
    }
}

/// Splits a JSON pointer, RFC 6901.
fn parse_pointer(text: &str) -> Result<Vec<String>, String> {
    match text.strip_prefix('/') {
        Some(rest) => Ok(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect()),
        None if text.is_empty() => Ok(Vec::new()),
        None => Err(format!("pointer {text:?} does not start with '/'")),
    }
}

fn index(part: &str, len: usize) -> Result<usize, String> {
    let canonical = part == "0" || !part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
    match part.parse::<usize>() {
        Ok(index) if canonical && index < len => Ok(index),
        _ => Err(format!("{part:?} is not an index into an array of {len}")),
    }
}

fn find<'a>(mut value: &'a mut Value, path: &[String]) -> Result<&'a mut Value, String> {
    for part in path {
        value = match value {
            Value::Object(map) => map.get_mut(part).ok_or_else(|| format!("there is no {part:?}"))?,
            Value::Array(items) => {
                let at = index(part, items.len())?;
                &mut items[at]
            }
            _ => return Err(format!("{part:?} is asked of a value that is neither object nor array")),
        };
    }
    Ok(value)
}

fn add(object: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    let Some((last, parents)) = path.split_last() else {
        *object = value;
        return Ok(());
    };
    match find(object, parents)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(last, items.len() + 1)?;
            items.insert(at, value);
        }
        _ => return Err(format!("{last:?} is added to a value that is neither object nor array")),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &[String]) -> Result<Value, String> {
    let Some((last, parents)) = path.split_last() else {
        return Ok(object.take());
    };
    match find(object, parents)? {
        Value::Object(map) => map.remove(last).ok_or_else(|| format!("there is no {last:?}")),
        Value::Array(items) => {
            let at = index(last, items.len())?;
            Ok(items.remove(at))
        }
        _ => Err(format!("{last:?} is removed from a value that is neither object nor array")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_change_the_object() {
        for (object, patch, result) in [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!([1, 3]), json!([{"op": "add", "path": "/1", "value": 2}]), json!([1, 2, 3])),
            (json!([1]), json!([{"op": "add", "path": "/-", "value": 2}]), json!([1, 2])),
            (json!({"a": 1}), json!([{"op": "remove", "path": "/a"}]), json!({})),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "replace", "path": "/a/1", "value": 9}]),
                json!({"a": [1, 9]}),
            ),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1})),
            (
                json!({"a": [1]}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": [1], "b": [1]}),
            ),
            (
                json!({"a/b": {"~": 1}}),
                json!([{"op": "test", "path": "/a~1b/~0", "value": 1}]),
                json!({"a/b": {"~": 1}}),
            ),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": []}]), json!([])),
        ] {
            assert_eq!(apply(&object, &patch).unwrap(), result, "{patch}");
        }
    }

    #[test]
    fn operations_that_do_not_fit_are_refused() {
        for (patch, code) in [
            (json!({}), 400),
            (json!([{"op": "remove", "path": "/x"}]), 422),
            (json!([{"op": "add", "path": "/a/00", "value": 1}]), 422),
            (json!([{"op": "add", "path": "/a/3", "value": 1}]), 422),
            (json!([{"op": "add", "path": "a", "value": 1}]), 422),
            (json!([{"op": "add", "path": "/a"}]), 422),
            (json!([{"op": "test", "path": "/a", "value": 1}]), 422),
            (json!([{"op": "move", "from": "/a", "path": "/a/b"}]), 422),
            (json!([{"op": "nope", "path": "/a"}]), 422),
            (json!([{"path": "/a"}]), 422),
        ] {
            assert_eq!(apply(&json!({"a": [1, 2]}), &patch).unwrap_err().code, code, "{patch}");
        }
    }

    #[test]
    fn copies_do_not_grow_without_bound() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let patch = Value::Array(vec![double; 200]);
        assert_eq!(apply(&json!({"a": [1, 2]}), &patch).unwrap_err().code, 422);
    }
}
