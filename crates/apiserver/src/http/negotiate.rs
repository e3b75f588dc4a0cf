//! Media types: in what form an answer is wanted, and what a body is.

use serde_json::Value;

use crate::error::ApiError;

/// In what form objects are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Plain,
    /// `as=Table;g=meta.k8s.io`.
    Table,
    /// `as=PartialObjectMetadata` or `as=PartialObjectMetadataList`.
    Partial,
    /// `as=APIGroupDiscoveryList;g=apidiscovery.k8s.io` in version `v2` or `v2beta1`.
    Discovery(&'static str),
}

/// Understands an `Accept` header: the first form that can be produced.
///
/// # Errors
/// 406 if none can.
pub(crate) fn accepted(accept: &str) -> Result<Form, ApiError> {
    if accept.trim().is_empty() {
        return Ok(Form::Plain);
    }
    accept.split(',').find_map(form).ok_or_else(|| ApiError::not_acceptable(accept))
}

fn form(range: &str) -> Option<Form> {
    let mut parts = range.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*" | "application/yaml") {
        return None;
    }
    let (mut kind, mut group, mut version) = ("", "", "");
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    match (kind, group, version) {
        ("", ..) => Some(Form::Plain),
        ("Table", "meta.k8s.io", "v1") => Some(Form::Table),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Form::Partial),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Form::Discovery("v2")),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Some(Form::Discovery("v2beta1")),
        _ => None,
    }
}

/// Reads a body that is an object: JSON, or YAML or the binary form if the media type says so.
///
/// # Errors
/// 400 for what does not parse (with line and column), 415 for other media types and for what is not read in the
/// binary form.
pub(crate) fn object(content_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    match essence(content_type).as_str() {
        "" | "application/json" => json(body),
        "application/yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => super::protobuf::object(body),
        other => Err(ApiError::unsupported_media_type(other, "application/json, application/yaml")),
    }
}

/// The media type without its parameters.
pub(crate) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the body of the request is not valid JSON: {error}")))
}

/// JSON is YAML, but not to every YAML reader in every detail, so it is tried first.
pub(crate) fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::bad_request(format!("the body of the request is not UTF-8: {error}")))?;
    serde_saphyr::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("the body of the request is not valid YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers_by_table() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                       application/json";
        for (accept, form) in [
            ("", Some(Form::Plain)),
            ("application/json, */*", Some(Form::Plain)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Plain)),
            (kubectl, Some(Form::Table)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Partial)),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                Some(Form::Discovery("v2")),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", None),
        ] {
            assert_eq!(accepted(accept).ok(), form, "{accept}");
        }
    }

    #[test]
    fn bodies_say_where_they_are_wrong() {
        let error = object("application/json", b"{\"a\": 1,\n x}").unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.contains("line 2 column"), "{}", error.message);
        assert_eq!(object("application/yaml", b"a: [1, 2]").unwrap(), serde_json::json!({"a": [1, 2]}));
        assert_eq!(object("application/yaml", b"a: [1,").unwrap_err().code, 400);
        assert_eq!(object("application/cbor", b"").unwrap_err().code, 415);
    }
}
