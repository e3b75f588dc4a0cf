//! Hooks that see every write before it is stored.

use serde_json::Value;

use crate::error::ApiError;
use crate::kinds::Kind;
use crate::store::{Read, Txn};

/// What is about to happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The object is new.
    Create,
    /// The object changes.
    Update,
    /// The object goes away for good.
    Delete,
}

/// A hook that is called for each write, after defaults are set and before the object is validated and stored.
///
/// It runs inside the write transaction, one call at a time: it must be quick and must not call the
/// [`Api`](crate::Api). What it returns as an error is the answer to the request. A write that the hook let pass
/// may still be refused by validation; a hook with state of its own should rather look at what is stored.
pub trait Admission: Send + Sync + 'static {
    /// Looks at a write and may change the object.
    ///
    /// # Errors
    /// The answer to the request, if it is refused. Deletions cannot be refused; an error fails the request.
    fn admit(&self, request: &mut Request<'_, '_>) -> Result<(), ApiError>;
}

/// One write, as a hook sees it.
pub struct Request<'a, 't> {
    /// What is about to happen.
    pub operation: Operation,
    /// Kind of the object.
    pub kind: &'a Kind,
    /// The object as it is stored; `None` on creation.
    pub old: Option<&'a Value>,
    /// The object as it will be stored; on deletion, as it was. Changes have no effect on deletion.
    pub object: &'a mut Value,
    /// Whether nothing will be stored in the end.
    pub dry_run: bool,
    pub(crate) txn: &'a Txn<'t>,
}

impl Request<'_, '_> {
    /// Calls `each` with every stored object of a built-in resource (`group` is empty for the core group).
    ///
    /// # Errors
    /// 500 if the storage fails.
    pub fn for_each(&self, group: &str, plural: &str, mut each: impl FnMut(Value)) -> Result<(), ApiError> {
        self.txn.scan(&format!("{group}/{plural}/"), None, &mut |_, bytes| {
            each(serde_json::from_slice(bytes)?);
            Ok(true)
        })
    }
}
