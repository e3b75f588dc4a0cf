//! What happened, revision by revision: in the database as far back as it is kept, and the last part of it
//! in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use hyper::body::Bytes;
use serde_json::Value;

use super::{Snapshot, Store, lock};
use crate::error::ApiError;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Added,
    Modified,
    Deleted,
}

impl Verb {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Added => 0,
            Self::Modified => 1,
            Self::Deleted => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self, ApiError> {
        match code {
            0 => Ok(Self::Added),
            1 => Ok(Self::Modified),
            2 => Ok(Self::Deleted),
            other => Err(ApiError::internal(format_args!("storage: history has an unknown verb {other}"))),
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) verb: Verb,
    /// Storage key.
    pub(crate) key: String,
    /// The object after the change (on deletion, as it was last) as JSON.
    pub(crate) object: Bytes,
    /// The object before the change as JSON, empty if there was none.
    before: Bytes,
    parsed: OnceLock<Value>,
    parsed_before: OnceLock<Value>,
}

impl Event {
    pub(super) fn new(revision: u64, verb: Verb, key: &str, object: Bytes, before: Bytes) -> Self {
        let (parsed, parsed_before) = (OnceLock::new(), OnceLock::new());
        Self { revision, verb, key: key.into(), object, before, parsed, parsed_before }
    }

    /// The object after the change; parsed once for all who ask.
    pub(crate) fn value(&self) -> &Value {
        self.parsed.get_or_init(|| serde_json::from_slice(&self.object).unwrap_or_default())
    }

    /// The object before the change.
    pub(crate) fn before(&self) -> Option<&Value> {
        let parse = || serde_json::from_slice(&self.before).unwrap_or_default();
        (!self.before.is_empty()).then(|| self.parsed_before.get_or_init(parse))
    }
}

/// The last events, without gaps.
#[derive(Debug)]
pub(super) struct Ring {
    size: usize,
    /// Revision after which the ring has everything.
    since: u64,
    events: VecDeque<Arc<Event>>,
}

impl Ring {
    pub(super) fn new(size: usize, since: u64) -> Self {
        Self { size, since, events: VecDeque::with_capacity(size) }
    }

    pub(super) fn push(&mut self, events: Vec<Arc<Event>>) {
        for event in events {
            if self.events.len() == self.size {
                self.pop();
            }
            self.events.push_back(event);
        }
    }

    /// Forgets everything up to and including `revision`.
    pub(super) fn forget(&mut self, revision: u64) {
        while self.events.front().is_some_and(|event| event.revision <= revision) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.since = event.revision;
        }
    }

    /// Up to `limit` events after `revision`; `None` if the ring does not reach back so far.
    fn after(&self, revision: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let skip = usize::try_from(revision.checked_sub(self.since)?).ok()?;
        Some(self.events.iter().skip(skip).take(limit).cloned().collect())
    }
}

impl Store {
    /// Up to `limit` events after `revision`, oldest first; 410 Gone if they are no longer held.
    pub(crate) fn events_after(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, ApiError> {
        let recent = lock(&self.ring).after(revision, limit);
        match recent {
            Some(events) => Ok(events),
            None => self.snapshot()?.events_after(revision, limit),
        }
    }
}

impl Snapshot {
    /// Up to `limit` events after `revision`, oldest first; 410 Gone if they are no longer held.
    pub(super) fn events_after(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, ApiError> {
        if revision < self.compacted {
            let compacted = self.compacted;
            return Err(ApiError::expired(format!("too old resource version: {revision} ({compacted})")));
        }
        let mut events = Vec::new();
        for entry in self.history.range(revision + 1..)?.take(limit) {
            let (revision, record) = entry?;
            let (verb, key, object, before) = record.value();
            let (object, before) = (Bytes::copy_from_slice(object), Bytes::copy_from_slice(before));
            events.push(Arc::new(Event::new(revision.value(), Verb::from_code(verb)?, key, object, before)));
        }
        Ok(events)
    }

    /// How the objects under `prefix` differed at `revision` from now: the JSON they had, `None` if they were
    /// not there.
    pub(crate) fn differences(
        &self,
        revision: u64,
        prefix: &str,
    ) -> Result<BTreeMap<String, Option<Bytes>>, ApiError> {
        let mut then = BTreeMap::new();
        for event in self.events_after(revision, usize::MAX)? {
            if event.key.starts_with(prefix) {
                let before = (!event.before.is_empty()).then(|| event.before.clone());
                then.entry(event.key.clone()).or_insert(before);
            }
        }
        Ok(then)
    }
}
