//! Get and list, from a snapshot.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::write::as_version;
use super::{Api, Target};
use crate::error::ApiError;
use crate::kinds::Kind;
use crate::selector::Selector;
use crate::store::{Read, Snapshot};

/// Which objects to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only those in this namespace.
    pub namespace: Option<String>,
    /// Only those with these labels; `kubectl`'s syntax.
    pub labels: String,
    /// Only those with these field values; `kubectl`'s syntax.
    pub fields: String,
}

/// Objects and the revision as of which they are all there are.
#[derive(Debug, Clone)]
pub struct List {
    /// Where a watch goes on.
    pub revision: u64,
    /// The objects.
    pub items: Vec<Value>,
}

/// What a list may show of the past (`resourceVersion` and `resourceVersionMatch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Match {
    /// The newest state.
    #[default]
    Newest,
    /// Any state not older than this revision.
    NotOlderThan(u64),
    /// The state at this revision.
    Exact(u64),
}

/// One page of a list.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    pub(crate) limit: Option<usize>,
    pub(crate) resume: Option<String>,
    pub(crate) at: Match,
}

/// One page of a list: objects as JSON.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Bytes>,
    /// Asks for the next page.
    pub(crate) resume: Option<String>,
    /// Number of objects on further pages.
    pub(crate) remaining: Option<usize>,
}

impl Api {
    /// All objects of a resource that are selected.
    ///
    /// # Errors
    /// 400 if a selector is malformed, 404 if there is no such resource.
    pub fn list(&self, resource: &str, options: &ListOptions) -> Result<List, ApiError> {
        let kind = self.kind(resource)?;
        let selector = Selector::parse(&kind, &options.labels, &options.fields)?;
        let query = Query { namespace: options.namespace.clone(), selector, ..Query::default() };
        let page = self.page(&kind, &query)?;
        let items = page.items.iter().map(|bytes| serde_json::from_slice(bytes));
        Ok(List { revision: page.revision, items: items.collect::<Result<_, _>>()? })
    }

    pub(crate) fn read_target(&self, target: Target<'_>) -> Result<Value, ApiError> {
        let mut object = self
            .store()
            .snapshot()?
            .read(&target.key())?
            .ok_or_else(|| ApiError::not_found(target.kind, target.name))?;
        as_version(target.kind, &mut object);
        Ok(object)
    }

    pub(crate) fn page(&self, kind: &Kind, query: &Query) -> Result<Page, ApiError> {
        let snapshot = self.store().snapshot()?;
        let (revision, after) = match &query.resume {
            Some(token) => {
                let (revision, after) = decode_token(token)?;
                (revision, Some(after))
            }
            None => (revision_at(query.at, &snapshot)?, None),
        };
        let prefix = kind.prefix(query.namespace.as_deref());
        if after.as_ref().is_some_and(|after| !after.starts_with(&prefix)) {
            return Err(ApiError::bad_request("continue key is not valid: it is of another list"));
        }
        let mut page = Page { revision, items: Vec::new(), resume: None, remaining: None };
        let mut last = String::new();
        let mut more = 0;
        let mut visit = |key: &str, bytes: &[u8]| -> Result<ControlFlow<()>, ApiError> {
            if !query.selector.is_empty() && !query.selector.matches(&serde_json::from_slice(bytes)?) {
                return Ok(ControlFlow::Continue(()));
            }
            if query.limit.is_some_and(|limit| page.items.len() >= limit) {
                more += 1;
                return Ok(if query.selector.is_empty() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                });
            }
            page.items.push(in_version(kind, bytes)?);
            key.clone_into(&mut last);
            Ok(ControlFlow::Continue(()))
        };
        let then = past(&snapshot, revision, &prefix, query.resume.is_some())?;
        scan_past(&snapshot, &prefix, after.as_deref(), then, &mut visit)?;
        if more > 0 {
            page.resume = Some(encode_token(revision, &last));
            page.remaining = query.selector.is_empty().then_some(more);
        }
        Ok(page)
    }
}

fn revision_at(at: Match, snapshot: &Snapshot) -> Result<u64, ApiError> {
    match at {
        Match::Newest => Ok(snapshot.revision),
        Match::NotOlderThan(asked) | Match::Exact(asked) if asked > snapshot.revision => {
            Err(ApiError::version_too_large(asked, snapshot.revision))
        }
        Match::NotOlderThan(_) => Ok(snapshot.revision),
        Match::Exact(asked) => Ok(asked),
    }
}

/// Is called with the key and the JSON of an object as it was.
type Visit<'a> = dyn FnMut(&str, &[u8]) -> Result<ControlFlow<()>, ApiError> + 'a;

type Past = BTreeMap<String, Option<Bytes>>;

/// How the objects differed at `revision`; empty if that is now.
fn past(snapshot: &Snapshot, revision: u64, prefix: &str, continued: bool) -> Result<Past, ApiError> {
    if revision >= snapshot.revision {
        return Ok(Past::new());
    }
    snapshot.differences(revision, prefix).map_err(|error| match error.code {
        410 if continued => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. \
             You must start a new list without the continue parameter.",
        ),
        _ => error,
    })
}

/// Scans the objects under `prefix` as they were: those of the snapshot, but for the differences `then`.
fn scan_past(
    snapshot: &Snapshot,
    prefix: &str,
    after: Option<&str>,
    mut then: Past,
    visit: &mut Visit<'_>,
) -> Result<(), ApiError> {
    if let Some(after) = after {
        then.retain(|key, _| key.as_str() > after);
    }
    let mut stopped = false;
    snapshot.scan(prefix, after, &mut |key, bytes| {
        while let Some(entry) = then.first_entry().filter(|entry| entry.key().as_str() < key) {
            let (key, bytes) = entry.remove_entry();
            if let Some(bytes) = bytes
                && visit(&key, &bytes)?.is_break()
            {
                stopped = true;
                return Ok(false);
            }
        }
        let flow = match then.remove(key) {
            Some(Some(bytes)) => visit(key, &bytes)?,
            Some(None) => ControlFlow::Continue(()),
            None => visit(key, bytes)?,
        };
        stopped = flow.is_break();
        Ok(!stopped)
    })?;
    for (key, bytes) in then {
        if stopped {
            break;
        }
        if let Some(bytes) = bytes {
            stopped = visit(&key, &bytes)?.is_break();
        }
    }
    Ok(())
}

/// The stored JSON in the version that is asked for.
pub(super) fn in_version(kind: &Kind, bytes: &[u8]) -> Result<Bytes, ApiError> {
    if kind.custom.is_none() {
        return Ok(Bytes::copy_from_slice(bytes));
    }
    let mut object = serde_json::from_slice(bytes)?;
    as_version(kind, &mut object);
    Ok(serde_json::to_vec(&object)?.into())
}

fn encode_token(revision: u64, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": 1, "rv": revision, "start": key}).to_string())
}

fn decode_token(token: &str) -> Result<(u64, String), ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let value = bytes.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).unwrap_or_default();
    match (value["rv"].as_u64(), value["start"].as_str()) {
        (Some(revision), Some(start)) => Ok((revision, start.to_owned())),
        _ => Err(ApiError::bad_request("continue key is not valid: it was not made by this server")),
    }
}
