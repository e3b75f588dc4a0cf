//! OpenAPI documents, as small as clients put up with: they have no schemas, so clients leave validation to
//! the server, and they say that every write can be a dry run.

use serde_json::{Value, json};

use crate::kinds::{Kind, Registry};

/// Media type of the binary form of OpenAPI v2 (gnostic's `openapi.v2.Document`). Clients ask for it with an `@`
/// before the last version, which is not a legal character in the answer.
pub(crate) const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2` as JSON.
pub(crate) fn v2(registry: &Registry) -> Value {
    let paths = stored(registry).map(|kind| {
        let patch = json!({
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": group_version_kind(kind),
            "parameters": [{"name": "dryRun", "in": "query", "type": "string"}],
            "responses": {"200": {"description": "OK"}},
        });
        (path(kind), json!({"patch": patch}))
    });
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": paths.collect::<serde_json::Map<_, _>>()})
}

/// `/openapi/v3`: no group has a document.
pub(crate) fn v3() -> Value {
    json!({"paths": {}})
}

fn stored(registry: &Registry) -> impl Iterator<Item = &Kind> {
    registry.iter().map(AsRef::as_ref).filter(|kind| !kind.virtual_review)
}

fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn path(kind: &Kind) -> String {
    let root = if kind.group.is_empty() { "api" } else { "apis" };
    let namespace = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
    format!("/{root}/{}/{namespace}{}/{{name}}", kind.api_version(), kind.plural)
}

/// `/openapi/v2` in its binary form.
pub(crate) fn v2_protobuf(registry: &Registry) -> Vec<u8> {
    let mut paths = Message::default();
    for kind in stored(registry) {
        // paths.path = 2 (NamedPathItem: name = 1, value = 2); PathItem.patch = 8.
        let item = Message::default().message(8, patch_operation(kind));
        paths = paths.message(2, Message::default().text(1, &path(kind)).message(2, item));
    }
    let info = Message::default().text(1, "Kubernetes").text(2, "v1.32.0");
    // Document: swagger = 1, info = 2, paths = 8.
    Message::default().text(1, "2.0").message(2, info).message(8, paths).0
}

fn patch_operation(kind: &Kind) -> Message {
    // Parameter.nonBodyParameter = 2, NonBodyParameter.queryParameterSubSchema = 3;
    // QueryParameterSubSchema: in = 2, name = 4, type = 6.
    let query = Message::default().text(2, "query").text(4, "dryRun").text(6, "string");
    let parameter = Message::default().message(2, Message::default().message(3, query));
    // ParametersItem.parameter = 1.
    let parameters = Message::default().message(1, parameter);
    // The response code's description: Responses.responseCode = 1 (NamedResponseValue: name = 1, value = 2);
    // ResponseValue.response = 1; Response.description = 1.
    let response = Message::default().message(1, Message::default().text(1, "OK"));
    let responses = Message::default().message(1, Message::default().text(1, "200").message(2, response));
    // NamedAny: name = 1, value = 2; Any.yaml = 2. JSON is YAML.
    let extension = |name: &str, value: &str| {
        Message::default().text(1, name).message(2, Message::default().text(2, value))
    };
    let identity = group_version_kind(kind).to_string();
    // Operation: parameters = 8, responses = 9, vendorExtension = 13.
    Message::default()
        .message(8, parameters)
        .message(9, responses)
        .message(13, extension("x-kubernetes-action", "patch"))
        .message(13, extension("x-kubernetes-group-version-kind", &identity))
}

/// A protobuf message in the making; all its fields are length-delimited (wire type 2).
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(self, field: u8, text: &str) -> Self {
        self.field(field, text.as_bytes())
    }

    fn message(self, field: u8, message: Self) -> Self {
        self.field(field, &message.0)
    }

    fn field(mut self, field: u8, bytes: &[u8]) -> Self {
        self.0.push(field << 3 | 2);
        let mut length = bytes.len();
        while length >= 0x80 {
            // Varint: seven bits at a time, the lowest first.
            self.0.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        self.0.push(length as u8);
        self.0.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_length_delimited() {
        assert_eq!(Message::default().text(1, "ab").0, [0x0a, 2, b'a', b'b']);
        let long = Message::default().text(2, &"x".repeat(300)).0;
        assert_eq!(long[..3], [0x12, 0xac, 0x02]);
    }

    #[test]
    fn every_kind_has_a_path() {
        let document = v2(&Registry::builtin());
        let pods = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(pods["parameters"][0]["name"], "dryRun");
        assert!(
            document["paths"]["/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"].is_object()
        );
    }
}
