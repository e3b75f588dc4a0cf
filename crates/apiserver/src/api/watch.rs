//! Watches: first the state, if it is asked for, then what happens, as the history tells it.

use std::collections::VecDeque;
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::Api;
use super::read::{Query, in_version};
use super::write::as_version;
use crate::error::ApiError;
use crate::kinds::Kind;
use crate::object::meta_mut;
use crate::selector::Selector;
use crate::store::Event;
use crate::store::history::Verb;

/// Most events taken from the history at a time.
const BATCH: usize = 512;

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Only objects in this namespace.
    pub namespace: Option<String>,
    /// Only those with these labels; `kubectl`'s syntax.
    pub labels: String,
    /// Only those with these field values; `kubectl`'s syntax.
    pub fields: String,
    /// What happened after this revision; without it, the watch starts with what there is.
    pub since: Option<u64>,
}

/// What happened to an object that is watched. One that is no longer selected counts as deleted.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// It is new, or newly selected.
    Added(Value),
    /// It has changed.
    Modified(Value),
    /// It is gone; this is how it was last.
    Deleted(Value),
}

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchStart {
    /// With what there is.
    State,
    /// With what happened after this revision.
    After(u64),
}

/// One event of a watch, as JSON.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) verb: Verb,
    pub(crate) object: Bytes,
}

/// A watch in progress.
pub struct Watcher {
    api: Api,
    kind: Arc<Kind>,
    prefix: String,
    selector: Selector,
    revision: u64,
    revisions: watch::Receiver<u64>,
    pending: VecDeque<Change>,
}

impl Api {
    /// Begins a watch.
    ///
    /// # Errors
    /// 400 if a selector is malformed, 404 if there is no such resource, 410 if the history no longer reaches
    /// back to the start.
    pub fn watch(&self, resource: &str, options: &WatchOptions) -> Result<Watcher, ApiError> {
        let kind = self.kind(resource)?;
        let selector = Selector::parse(&kind, &options.labels, &options.fields)?;
        let start = options.since.map_or(WatchStart::State, WatchStart::After);
        self.watch_in(kind, options.namespace.clone(), selector, start)
    }

    pub(crate) fn watch_in(
        &self,
        kind: Arc<Kind>,
        namespace: Option<String>,
        selector: Selector,
        start: WatchStart,
    ) -> Result<Watcher, ApiError> {
        let revisions = self.store().revisions();
        let prefix = kind.prefix(namespace.as_deref());
        let (revision, pending) = match start {
            WatchStart::After(revision) => {
                // Whoever reads may have seen a change a moment before it is published to watches.
                let current = self.store().snapshot()?.revision;
                if revision > current {
                    // The client saw another life of this cluster; it has to start over.
                    let message = format!("too large resource version: {revision} ({current})");
                    return Err(ApiError::expired(message));
                }
                // Fails here and now if the history does not reach back.
                self.store().events_after(revision, 0)?;
                (revision, VecDeque::new())
            }
            WatchStart::State => {
                let query = Query { namespace, selector: selector.clone(), ..Query::default() };
                let page = self.page(&kind, &query)?;
                let changes = page.items.into_iter().map(|object| Change { verb: Verb::Added, object });
                (page.revision, changes.collect())
            }
        };
        Ok(Watcher { api: self.clone(), kind, prefix, selector, revision, revisions, pending })
    }
}

impl Watcher {
    /// The next event; waits until there is one. Cancelling loses nothing.
    ///
    /// # Errors
    /// 410 if the watch fell behind what the history keeps; it has to begin anew.
    pub async fn next(&mut self) -> Result<WatchEvent, ApiError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                let object = serde_json::from_slice(&change.object)?;
                return Ok(match change.verb {
                    Verb::Added => WatchEvent::Added(object),
                    Verb::Modified => WatchEvent::Modified(object),
                    Verb::Deleted => WatchEvent::Deleted(object),
                });
            }
            self.fill().await?;
        }
    }

    /// The events that are there; waits until there are some or, as an empty answer, until
    /// [`revision`](Self::revision) has moved. Cancelling loses nothing.
    pub(crate) async fn next_changes(&mut self) -> Result<VecDeque<Change>, ApiError> {
        if self.pending.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// The revision up to which everything has been reported.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What there was when the watch began.
    pub(crate) fn take_initial(&mut self) -> VecDeque<Change> {
        std::mem::take(&mut self.pending)
    }

    async fn fill(&mut self) -> Result<(), ApiError> {
        let waited_for = self.revision;
        // An error means that the store is gone, which it cannot be while this holds it.
        let _ = self.revisions.wait_for(|revision| *revision > waited_for).await;
        let events = self.api.store().events_after(self.revision, BATCH)?;
        for event in events {
            if event.key.starts_with(&self.prefix)
                && let Some(change) = self.change(&event)?
            {
                self.pending.push_back(change);
            }
            self.revision = event.revision;
        }
        Ok(())
    }

    /// What an event of the history is to this watch: an object that comes into or goes out of the selection is
    /// added or deleted.
    fn change(&self, event: &Event) -> Result<Option<Change>, ApiError> {
        let plain = |verb| Ok(Some(Change { verb, object: in_version(&self.kind, &event.object)? }));
        if self.selector.is_empty() {
            return plain(event.verb);
        }
        let is = event.verb != Verb::Deleted && self.selector.matches(event.value());
        let was = event.before().filter(|before| self.selector.matches(before));
        match (was, is) {
            (None, false) => Ok(None),
            (None, true) => plain(Verb::Added),
            (Some(_), true) => plain(Verb::Modified),
            (Some(_), false) if event.verb == Verb::Deleted => plain(Verb::Deleted),
            (Some(before), false) => {
                let mut object = before.clone();
                as_version(&self.kind, &mut object);
                meta_mut(&mut object).insert("resourceVersion".into(), event.revision.to_string().into());
                Ok(Some(Change { verb: Verb::Deleted, object: serde_json::to_vec(&object)?.into() }))
            }
        }
    }
}
