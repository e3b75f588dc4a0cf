//! Reading the fields of objects as JSON.

use serde_json::{Map, Value, json};

/// The string in a field, or `""`.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of a list, or none.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A number of things, or 0.
pub(super) fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// `metadata.name`.
pub(super) fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

/// `metadata.namespace`.
pub(super) fn namespace(object: &Value) -> &str {
    text(&object["metadata"]["namespace"])
}

/// `metadata.uid`.
pub(super) fn uid(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

/// Whether the object's deletion has begun.
pub(super) fn is_deleting(object: &Value) -> bool {
    !text(&object["metadata"]["deletionTimestamp"]).is_empty()
}

/// The UID of the object's controller, or `""`.
pub(super) fn controller(object: &Value) -> &str {
    let owners = list(&object["metadata"]["ownerReferences"]);
    owners.iter().find(|owner| owner["controller"] == true).map_or("", |owner| text(&owner["uid"]))
}

/// A reference to the object as owner and controller of another.
pub(super) fn owner_reference(object: &Value, api_version: &str, kind: &str) -> Value {
    json!([{"apiVersion": api_version, "kind": kind, "name": name(object), "uid": uid(object),
        "controller": true, "blockOwnerDeletion": true}])
}

/// Whether a pod or node has the condition with the status `True`.
pub(super) fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = list(&object["status"]["conditions"]);
    conditions.iter().any(|one| one["type"] == condition && one["status"] == "True")
}

/// Whether the pod has ended for good.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

/// Whether a pod counts for who wants it: it has not ended and is not going to.
pub(super) fn is_active(pod: &Value) -> bool {
    !has_ended(pod) && !is_deleting(pod)
}

/// Whether the labels have all of the pairs; no pairs select everything.
pub(super) fn has_labels(object: &Value, pairs: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    pairs.as_object().is_none_or(|pairs| pairs.iter().all(|(key, value)| labels[key.as_str()] == *value))
}

/// A hash of a template that is the same for equal templates, in the alphabet of generated names.
pub(super) fn template_hash(template: &Value) -> String {
    // FNV-1a, 64 bit. Keys are in order, so equal objects have equal texts.
    let text = without_nulls(template).to_string();
    let mut hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    let mut name = String::new();
    for _ in 0..10 {
        name.push(char::from(alphabet[(hash % 27) as usize]));
        hash /= 27;
    }
    name
}

/// The value without members that are null, and with keys in order.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().filter(|(_, value)| !value.is_null()).collect();
            pairs.sort_by_key(|(key, _)| key.as_str());
            let pairs = pairs.into_iter().map(|(key, value)| (key.clone(), without_nulls(value)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// A pod from a template, without a name.
pub(super) fn pod_of(template: &Value, owner: &Value, kind: &str) -> Value {
    let mut pod = json!({"metadata": {}, "spec": template["spec"]});
    for field in ["labels", "annotations"] {
        if template["metadata"][field].is_object() {
            pod["metadata"][field] = template["metadata"][field].clone();
        }
    }
    pod["metadata"]["generateName"] = format!("{}-", name(owner)).into();
    pod["metadata"]["ownerReferences"] = owner_reference(owner, "apps/v1", kind);
    pod
}

/// A write that a controller wants.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    /// A new object.
    Create { resource: &'static str, namespace: String, object: Value },
    /// A JSON merge patch (RFC 7386).
    Patch { resource: &'static str, namespace: String, name: String, patch: Value },
    /// A JSON merge patch of the status.
    Status { resource: &'static str, namespace: String, name: String, patch: Value },
    /// A pod's assignment to a node.
    Bind { namespace: String, name: String, node: String },
    /// A deletion of the object with the UID; `now` does without a grace period.
    Delete { resource: &'static str, namespace: String, name: String, uid: String, now: bool },
}

impl Write {
    pub(super) fn patch(resource: &'static str, object: &Value, patch: Value) -> Self {
        Self::Patch { resource, namespace: namespace(object).into(), name: name(object).into(), patch }
    }

    /// A new status, if it differs in any of its members.
    pub(super) fn status(resource: &'static str, object: &Value, status: Value) -> Option<Self> {
        let differs = status.as_object().is_some_and(|new| {
            new.iter().any(|(key, value)| {
                let old = &object["status"][key.as_str()];
                old != value && !(old.is_null() && *value == 0)
            })
        });
        let (namespace, name) = (namespace(object).into(), name(object).into());
        differs.then(|| Self::Status { resource, namespace, name, patch: json!({"status": status}) })
    }

    pub(super) fn delete(resource: &'static str, object: &Value) -> Self {
        let (namespace, name, uid) = (namespace(object).into(), name(object).into(), uid(object).into());
        Self::Delete { resource, namespace, name, uid, now: false }
    }
}
