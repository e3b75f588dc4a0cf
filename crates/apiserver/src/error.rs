//! The API's errors, each of which renders as a Kubernetes `Status` object.

use serde_json::{Value, json};

use crate::kinds::Kind;

/// A refused or failed request.
///
/// `Display` is the message meant for people, `to_status` the `metav1.Status` for the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason (`metav1.StatusReason`), for example `NotFound`.
    pub reason: &'static str,
    /// What went wrong, for people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

/// `metav1.StatusDetails`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group of the object.
    pub group: String,
    /// Resource (plural) or kind of the object, as the reason has it.
    pub kind: String,
    /// The single faults, for `Invalid`.
    pub causes: Vec<Cause>,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
}

/// `metav1.StatusCause`: one fault in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, for example `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong with the value.
    pub message: String,
    /// Path of the field, for example `spec.containers[0].name`.
    pub field: String,
}

impl Cause {
    /// The field must be given and is not.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", message, field: field.into() }
    }

    /// The value is of the right type but not acceptable.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {}: {why}", shown(value));
        Self { reason: "FieldValueInvalid", message, field: field.into() }
    }

    /// The value has the wrong JSON type.
    pub fn wrong_type(field: impl Into<String>, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: \"{}\": {why}", type_name(value));
        Self { reason: "FieldValueTypeInvalid", message, field: field.into() }
    }

    /// The value is none of an enumeration.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", "));
        Self { reason: "FieldValueNotSupported", message, field: field.into() }
    }

    /// The value may not appear twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", shown(value));
        Self { reason: "FieldValueDuplicate", message, field: field.into() }
    }

    /// The field may not be set, or not be changed.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", message: format!("Forbidden: {why}"), field: field.into() }
    }
}

/// The value as error messages show it, cut when long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The JSON type of `value` in the words of OpenAPI.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        let details = Details {
            name: name.into(),
            group: kind.group.clone(),
            kind: kind.plural.clone(),
            ..Details::default()
        };
        self.details = Some(Box::new(details));
        self
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no or wrong credentials.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: understood and refused.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", kind.group_resource());
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// 404: no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.group_resource())).about(kind, name)
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed(verb: &str) -> Self {
        let message = format!("the server does not allow the method {verb} on the requested resource");
        Self::new(405, "MethodNotAllowed", message)
    }

    /// 406: none of the accepted media types can be produced.
    pub fn not_acceptable(accept: &str) -> Self {
        let message = format!(
            "only the following media types are accepted: application/json; the request accepts {accept:?}"
        );
        Self::new(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.group_resource()))
            .about(kind, name)
    }

    /// 409: the object is not what the request takes it to be.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.group_resource());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// 409: the object's resource version has moved on.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 409: an apply wants fields of other managers.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Cause>) -> Self {
        let mut error = Self::new(409, "Conflict", message);
        error.details = Some(Box::new(Details { causes, ..Details::default() }));
        error
    }

    /// 410: the asked-for revision is no longer in the history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is too large.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity is too large: limit is {limit} bytes");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 413: the patch has too many operations.
    pub(crate) fn too_many_operations(message: String) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: the body is of a media type that cannot be read.
    pub fn unsupported_media_type(got: &str, supported: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {supported}; \
             got {got:?}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object breaks rules of its kind; `causes` says which.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = match kind.group.as_str() {
            "" => kind.kind.clone(),
            group => format!("{}.{group}", kind.kind),
        };
        let mut error = Self::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {list}"));
        let details = Details {
            name: name.into(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes,
            retry_after: None,
        };
        error.details = Some(Box::new(details));
        error
    }

    /// 422: a patch that is well-formed but cannot be applied.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        // Clients show the causes of an invalid request and not its message.
        let mut error = Self::new(422, "Invalid", message);
        let cause = Cause {
            reason: "UnexpectedServerResponse",
            message: error.message.clone(),
            field: String::new(),
        };
        error.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
        error
    }

    /// 500: the fault is the server's.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 504: a list asks for a revision that does not exist yet.
    pub fn version_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        };
        let mut error = Self::new(504, "Timeout", message);
        error.details =
            Some(Box::new(Details { causes: vec![cause], retry_after: Some(1), ..Details::default() }));
        error
    }

    /// The error as a `metav1.Status`.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !text.is_empty() {
                out.insert(key.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter();
            let causes = causes.map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}));
            out.insert("causes".into(), causes.collect());
        }
        if let Some(seconds) = self.retry_after {
            out.insert("retryAfterSeconds".into(), seconds.into());
        }
        out.into()
    }
}

macro_rules! internal_from {
    ($($error:ty),*) => {$(
        impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                Self::internal(format_args!("storage: {error}"))
            }
        }
    )*};
}

internal_from!(
    redb::CommitError,
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    serde_json::Error
);
