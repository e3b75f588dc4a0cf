//! A write transaction: objects, their indexes and the history move together.

use std::sync::Arc;

use redb::{MultimapTable, ReadableMultimapTable, ReadableTable, Table, WriteTransaction};
use serde_json::Value;

use super::history::{Event, Verb};
use super::{
    COMPACTED, DEPENDENTS, HISTORY, META, OBJECTS, REVISION, Read, Record, UIDS, Visitor, read_from, scan_in,
};
use crate::error::ApiError;
use crate::object::{meta, meta_mut, owner_uids};
use crate::time;

/// Compaction runs when the history exceeds its length by this share, so that not every write pays for it.
const SLACK: u64 = 10;

/// Largest object, in bytes of JSON; patches can grow one beyond what fits into a request.
const MAX_OBJECT: usize = 3 * 1024 * 1024;

/// One write transaction; see [`super::Store::write`].
pub(crate) struct Txn<'t> {
    objects: Table<'t, &'static str, &'static [u8]>,
    history: Table<'t, u64, Record>,
    meta: Table<'t, &'static str, u64>,
    uids: Table<'t, &'static str, &'static str>,
    dependents: MultimapTable<'t, &'static str, &'static str>,
    revision: u64,
    events: Vec<Arc<Event>>,
    dry_run: bool,
    /// Time of the transaction, seconds since the Unix epoch.
    pub(crate) now: i64,
}

impl Read for Txn<'_> {
    fn read(&self, key: &str) -> Result<Option<Value>, ApiError> {
        read_from(&self.objects, key)
    }

    fn scan(&self, prefix: &str, after: Option<&str>, each: &mut Visitor<'_>) -> Result<(), ApiError> {
        scan_in(&self.objects, prefix, after, each)
    }
}

impl<'t> Txn<'t> {
    pub(super) fn new(txn: &'t WriteTransaction) -> Result<Self, ApiError> {
        let meta = txn.open_table(META)?;
        let revision = meta.get(REVISION)?.map_or(0, |v| v.value());
        Ok(Self {
            objects: txn.open_table(OBJECTS)?,
            history: txn.open_table(HISTORY)?,
            meta,
            uids: txn.open_table(UIDS)?,
            dependents: txn.open_multimap_table(DEPENDENTS)?,
            revision,
            events: Vec::new(),
            dry_run: false,
            now: time::now(),
        })
    }

    /// Makes the transaction one that changes nothing in the end.
    pub(crate) fn set_dry_run(&mut self) {
        self.dry_run = true;
    }

    pub(super) fn dry_run(&self) -> bool {
        self.dry_run
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The time of the transaction as a timestamp.
    pub(crate) fn timestamp(&self) -> String {
        time::format(self.now)
    }

    /// Stores `object`, which takes the next revision as its resource version; `before` is what is at `key`.
    pub(crate) fn put(
        &mut self,
        key: &str,
        before: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        self.stamp(object);
        let bytes = serde_json::to_vec(object)?;
        if bytes.len() > MAX_OBJECT {
            return Err(ApiError::too_large(MAX_OBJECT));
        }
        let old = before.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        self.objects.insert(key, bytes.as_slice())?;
        let uid = meta(object, "uid");
        if before.is_none() {
            self.uids.insert(uid, key)?;
        }
        if before.map(|b| &b["metadata"]["ownerReferences"]) != Some(&object["metadata"]["ownerReferences"]) {
            for owner in before.into_iter().flat_map(owner_uids) {
                self.dependents.remove(owner, key)?;
            }
            for owner in owner_uids(object) {
                self.dependents.insert(owner, key)?;
            }
        }
        let verb = if before.is_none() { Verb::Added } else { Verb::Modified };
        self.record(verb, key, bytes, old)
    }

    /// Removes `object`, which is at `key`.
    pub(crate) fn remove(&mut self, key: &str, mut object: Value) -> Result<Value, ApiError> {
        let old = serde_json::to_vec(&object)?;
        self.stamp(&mut object);
        self.objects.remove(key)?;
        self.uids.remove(meta(&object, "uid"))?;
        for owner in owner_uids(&object) {
            self.dependents.remove(owner, key)?;
        }
        self.record(Verb::Deleted, key, serde_json::to_vec(&object)?, old)?;
        Ok(object)
    }

    fn stamp(&mut self, object: &mut Value) {
        self.revision += 1;
        meta_mut(object).insert("resourceVersion".into(), self.revision.to_string().into());
    }

    fn record(&mut self, verb: Verb, key: &str, object: Vec<u8>, before: Vec<u8>) -> Result<(), ApiError> {
        self.history.insert(self.revision, (verb.code(), key, object.as_slice(), before.as_slice()))?;
        self.events.push(Arc::new(Event::new(self.revision, verb, key, object.into(), before.into())));
        Ok(())
    }

    /// Storage keys of the objects that name `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Result<Vec<String>, ApiError> {
        let keys = self.dependents.get(uid)?;
        keys.map(|key| Ok(key?.value().to_owned())).collect()
    }

    /// Storage key of the object with this UID.
    pub(crate) fn key_of(&self, uid: &str) -> Result<Option<String>, ApiError> {
        Ok(self.uids.get(uid)?.map(|key| key.value().to_owned()))
    }

    /// Whether an object with this UID exists.
    pub(crate) fn uid_exists(&self, uid: &str) -> Result<bool, ApiError> {
        Ok(self.uids.get(uid)?.is_some())
    }

    /// Drops the history up to and including `revision`.
    pub(super) fn compact(&mut self, revision: u64) -> Result<(), ApiError> {
        let upto = revision.min(self.revision);
        if self.meta.get(COMPACTED)?.is_some_and(|v| v.value() >= upto) {
            return Ok(());
        }
        self.history.retain_in(..=upto, |_, _| false)?;
        self.meta.insert(COMPACTED, upto)?;
        Ok(())
    }

    /// Writes the counter; returns the revision reached and what happened on the way to it.
    pub(super) fn finish(mut self, keep: u64) -> Result<(u64, Vec<Arc<Event>>), ApiError> {
        self.meta.insert(REVISION, self.revision)?;
        let compacted = self.meta.get(COMPACTED)?.map_or(0, |v| v.value());
        if self.revision - compacted > keep + keep / SLACK {
            self.compact(self.revision - keep)?;
        }
        Ok((self.revision, self.events))
    }
}
