//! Everything that reads bytes of a request, without storage or network, for fuzzing.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::http::negotiate;
use crate::http::resource::decode_patch;
use crate::http::route::{Parameters, Route, route};
use crate::kinds::{Kind, Registry, custom_kinds};
use crate::selector::Selector;
use crate::table::{Include, table};
use crate::{defaults, types, validate};

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut registry = Registry::builtin();
    registry.define(&json!({"spec": {
        "group": "fuzz.example.net", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
            "type": "object",
            "properties": {"spec": {"type": "object", "required": ["a"], "properties": {
                "a": {"type": "integer", "minimum": 1, "default": 2},
                "b": {"type": "string", "pattern": "^[a-z]+$", "enum": ["x", "y"]},
                "c": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
                "d": {"x-kubernetes-int-or-string": true},
                "e": {"type": "object", "additionalProperties": {"type": "string", "format": "cidr"}},
            }}},
        }}}],
    }}));
    registry
});

/// Takes a request's path (with its query), media type and body through all that happens before storage:
/// routing, selectors, decoding, patching of a sample object, types, defaults, validation, and the table of the
/// result. Panics are faults; so is a result that cannot be read back.
pub fn fuzz_body(path: &str, content_type: &str, body: &[u8]) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let Route::Resource(place) = route(&REGISTRY, path) else { return };
    let parameters = Parameters::parse(query);
    // Whether the selector parses or not, what there is to see is that it does no harm.
    let selector =
        Selector::parse(&place.kind, parameters.value("labelSelector"), parameters.value("fieldSelector"));
    let Ok(mut object) = decode(&place.kind, content_type, body) else { return };
    if types::check(&place.kind, &object).is_err() {
        return;
    }
    defaults::set(&place.kind, &mut object);
    let causes = validate::object(&place.kind, &object);
    let _ = validate::change(&place.kind, &sample(), &object);
    if place.kind.is("apiextensions.k8s.io", "customresourcedefinitions") && causes.is_empty() {
        for kind in custom_kinds(&object) {
            let mut instance = sample();
            defaults::set(&kind, &mut instance);
            let _ = validate::object(&kind, &instance);
            table(&kind, &[instance], json!({}), Include::Metadata, true);
        }
    }
    if let Ok(selector) = selector {
        selector.matches(&object);
    }
    let text = object.to_string();
    assert!(serde_json::from_str::<Value>(&text).is_ok(), "what would be stored cannot be read: {text}");
    table(&place.kind, &[object], json!({}), Include::Object, true);
}

fn decode(kind: &Kind, content_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    if content_type.contains("patch") {
        decode_patch(content_type, body, "fuzz", body.len().is_multiple_of(2))?.apply(kind, &sample())
    } else {
        negotiate::object(content_type, body)
    }
}

/// An object with a bit of everything that patches treat in a special way.
fn sample() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Sample",
        "metadata": {"name": "a", "namespace": "default", "labels": {"a": "b"}, "finalizers": ["x/y"],
            "managedFields": [{"manager": "other", "operation": "Apply", "fieldsV1": {"f:spec": {"f:a": {}}}}]},
        "spec": {"a": 1, "ports": [{"port": 80}], "template": {"spec": {"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "E", "value": "1"}], "ports": [{"containerPort": 80}]},
        ]}}, "containers": [{"name": "a", "image": "a:1"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_bodies_do_no_harm() {
        const BODIES: [&str; 4] = [
            r#"{"metadata":{"name":"a","labels":{"x":"1"}},"spec":{"a":1,"containers":[{"name":"a","$patch":"delete"}]}}"#,
            r#"[{"op":"copy","from":"/spec","path":"/spec/b"},{"op":"move","from":"/spec/b","path":"/metadata/x"}]"#,
            r#"{"spec":{"$setElementOrder/containers":[{"name":"b"}],"ports":[{"port":1},{"$patch":"replace"}]}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"template":{"spec":{"containers":[]}}}}"#,
        ];
        let paths = [
            "/api/v1/namespaces/default/pods/a?labelSelector=a+in+(b",
            "/apis/apps/v1/namespaces/default/deployments?fieldSelector=metadata.name%3Da",
            "/api/v1/namespaces/default/services/a",
            "/apis/fuzz.example.net/v1/namespaces/default/things/a",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        ];
        let kinds = [
            "application/json",
            "application/yaml",
            "application/merge-patch+json",
            "application/json-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        for (path, kind, body) in
            paths.iter().flat_map(|p| kinds.iter().flat_map(move |k| BODIES.iter().map(move |b| (p, k, b))))
        {
            fuzz_body(path, kind, body.as_bytes());
            for at in (0..body.len()).step_by(3) {
                let mut damaged = body.as_bytes().to_vec();
                damaged[at] = b"0{]\"x,"[at % 6];
                fuzz_body(path, kind, &damaged);
                fuzz_body(path, kind, &body.as_bytes()[..at]);
            }
        }
    }
}
