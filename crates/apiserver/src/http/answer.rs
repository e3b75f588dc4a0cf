//! Answers and how they are written.

use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::negotiate::Form;
use crate::api::{Page, Watcher};
use crate::error::ApiError;
use crate::kinds::Kind;
use crate::object::meta;
use crate::table::{Include, partial, table};

/// What a request gets.
pub(crate) enum Answer {
    /// An object of a kind that has columns.
    Object {
        code: u16,
        kind: Arc<Kind>,
        object: Value,
    },
    /// Any other JSON.
    Json {
        code: u16,
        value: Value,
    },
    Page {
        kind: Arc<Kind>,
        page: Page,
    },
    Watch(Box<Watch>),
    Text(&'static str),
    Bytes {
        media_type: &'static str,
        bytes: Vec<u8>,
    },
}

/// A watch that is about to be streamed.
pub(crate) struct Watch {
    pub(crate) watcher: Watcher,
    pub(crate) kind: Arc<Kind>,
    pub(crate) form: Form,
    pub(crate) include: Include,
    pub(crate) bookmarks: bool,
    /// Whether the end of the initial state is marked.
    pub(crate) mark_initial: bool,
    /// Seconds after which the watch ends.
    pub(crate) seconds: u64,
}

/// A body and its media type.
pub(crate) struct Rendered {
    pub(crate) code: u16,
    pub(crate) media_type: &'static str,
    pub(crate) body: Bytes,
}

const JSON: &str = "application/json";

impl Rendered {
    pub(crate) fn json(code: u16, value: &Value) -> Self {
        Self { code, media_type: JSON, body: value.to_string().into() }
    }

    pub(crate) fn error(error: &ApiError) -> Self {
        Self::json(error.code, &error.to_status())
    }
}

/// Writes an object in the form that is wanted.
pub(crate) fn object(code: u16, kind: &Kind, object: Value, form: Form, include: Include) -> Rendered {
    match form {
        Form::Table => {
            let metadata = json!({"resourceVersion": meta(&object, "resourceVersion")});
            Rendered::json(code, &table(kind, &[object], metadata, include, true))
        }
        Form::Partial => Rendered::json(code, &partial(&object)),
        Form::Plain | Form::Discovery(_) => Rendered::json(code, &object),
    }
}

/// Writes a page of a list in the form that is wanted.
pub(crate) fn page(kind: &Kind, page: Page, form: Form, include: Include) -> Result<Rendered, ApiError> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(resume) = page.resume {
        metadata["continue"] = resume.into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let values = || -> Result<Vec<Value>, ApiError> {
        page.items.iter().map(|bytes| Ok(serde_json::from_slice(bytes)?)).collect()
    };
    match form {
        Form::Table => Ok(Rendered::json(200, &table(kind, &values()?, metadata, include, true))),
        Form::Partial => {
            let items: Vec<Value> = values()?.iter().map(partial).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            Ok(Rendered::json(200, &list))
        }
        Form::Plain | Form::Discovery(_) => {
            let size = page.items.iter().map(|item| item.len() + 1).sum::<usize>();
            let head =
                json!({"kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": metadata});
            let head = head.to_string();
            // The stored JSON goes out as it is: what is listed most is also what there is most of.
            let mut body = Vec::with_capacity(size + head.len() + 16);
            body.extend_from_slice(&head.as_bytes()[..head.len() - 1]);
            body.extend_from_slice(b",\"items\":[");
            for (index, item) in page.items.iter().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(item);
            }
            body.extend_from_slice(b"]}");
            Ok(Rendered { code: 200, media_type: JSON, body: body.into() })
        }
    }
}

/// The media type of aggregated discovery, which clients compare with what they asked for.
pub(crate) fn discovery_type(version: &str) -> &'static str {
    match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    }
}
