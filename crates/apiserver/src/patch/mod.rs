//! Changing objects by patches. Pure: a value and a patch go in, a value comes out.

pub(crate) mod apply;
pub(crate) mod json;
mod lists;
pub(crate) mod merge;
pub(crate) mod strategic;

use serde_json::Value;

use crate::error::ApiError;
use crate::kinds::Kind;

/// A change of an object, by its media type.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// `application/merge-patch+json`, RFC 7386.
    Merge(Value),
    /// `application/json-patch+json`, RFC 6902.
    Json(Value),
    /// `application/strategic-merge-patch+json`: merges lists of built-in kinds by their keys.
    Strategic(Value),
    /// `application/apply-patch+yaml`: the fields one manager wants.
    Apply {
        /// The wanted fields.
        object: Value,
        /// Who wants them.
        manager: String,
        /// Whether to take fields over from other managers.
        force: bool,
    },
}

impl Patch {
    /// What `object` becomes.
    ///
    /// # Errors
    /// 400 for a malformed patch, 409 for fields of another manager, 415 for a strategic merge patch of a
    /// custom resource, 422 for a patch that does not fit the object.
    pub fn apply(&self, kind: &Kind, object: &Value) -> Result<Value, ApiError> {
        match self {
            Self::Merge(patch) => {
                let mut object = object.clone();
                merge::merge(&mut object, patch);
                Ok(object)
            }
            Self::Json(patch) => json::apply(object, patch),
            Self::Strategic(_) if kind.custom.is_some() => Err(ApiError::unsupported_media_type(
                "application/strategic-merge-patch+json",
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
            Self::Strategic(patch) => strategic::apply(object, patch),
            Self::Apply { object: wanted, manager, force } => {
                apply::apply(kind, object, wanted, manager, *force)
            }
        }
    }
}
