//! Looking into objects.

use serde_json::{Value, json};

use super::Action;

/// The text at a JSON pointer (RFC 6901); empty if there is none.
pub(in crate::control) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer; empty if there is none.
pub(in crate::control) fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The number at a JSON pointer; 0 if there is none.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Whether it is being deleted.
pub(super) fn is_leaving(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The condition of a type, if it is there.
pub(super) fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    list(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)
}

/// Whether a condition is `True`.
pub(super) fn is(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| text(condition, "/status") == "True")
}

/// Whether the object is controlled by the one of this UID.
pub(super) fn is_controlled_by(object: &Value, owner: &str) -> bool {
    let mut owners = list(object, "/metadata/ownerReferences").iter();
    owners.any(|each| text(each, "/uid") == owner && each["controller"] == json!(true))
}

/// The reference to the controller of an object.
pub(super) fn controller(owner: &Value, api_version: &str, kind: &str) -> Value {
    json!([{
        "apiVersion": api_version,
        "kind": kind,
        "name": name(owner),
        "uid": uid(owner),
        "controller": true,
        "blockOwnerDeletion": true,
    }])
}

/// Whether the labels of an object have all that `matchLabels` (or a service's selector) asks for.
pub(super) fn has_labels(object: &Value, wanted: Option<&Value>) -> bool {
    let wanted = wanted.and_then(Value::as_object);
    wanted.is_none_or(|wanted| wanted.iter().all(|(name, value)| object["metadata"]["labels"].get(name) == Some(value)))
}

/// Whether a pod is there for good: neither over nor on its way out.
pub(super) fn is_active(pod: &Value) -> bool {
    !is_leaving(pod) && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// A status that is to be written, unless it stands there already.
pub(super) fn status(resource: &'static str, object: &Value, status: Value) -> Option<Action> {
    let there = &object["status"];
    let same = status.as_object().is_some_and(|wanted| wanted.iter().all(|(field, value)| there.get(field) == Some(value)));
    (!same).then(|| Action::Status {
        resource,
        namespace: namespace(object).to_owned(),
        name: name(object).to_owned(),
        status,
    })
}
