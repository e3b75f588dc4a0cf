//! Durable objects on redb: a snapshot to read, a transaction to write, one revision counter.
//!
//! Every change of an object takes the next revision, which becomes the object's resource version, and leaves
//! a record in the history (see [`history`]). A transaction's changes become visible together or not at all.

mod backend;
pub(crate) mod history;
mod txn;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{
    Database, MultimapTableDefinition, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
};
use serde_json::Value;
use tokio::sync::watch;

pub use self::backend::Durability;
pub(crate) use self::history::Event;
use self::history::Ring;
pub(crate) use self::txn::Txn;
use crate::error::ApiError;

/// Verb, key, object, the object before (empty if there was none).
type Record = (u8, &'static str, &'static [u8], &'static [u8]);

/// Is called with the key and the JSON of an object; goes on as long as it returns true.
pub(crate) type Visitor<'a> = dyn FnMut(&str, &[u8]) -> Result<bool, ApiError> + 'a;

/// Storage key to object (JSON).
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Revision to what happened in it.
const HISTORY: TableDefinition<'_, u64, Record> = TableDefinition::new("history");
/// Counters by name.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// UID to storage key.
const UIDS: TableDefinition<'_, &str, &str> = TableDefinition::new("uids");
/// UID of an owner to the storage keys of its dependents.
const DEPENDENTS: MultimapTableDefinition<'_, &str, &str> = MultimapTableDefinition::new("dependents");

/// The last revision given out.
const REVISION: &str = "revision";
/// The history holds what came after this revision.
const COMPACTED: &str = "compacted";

/// How many of the last events are kept in memory.
const RING: usize = 8192;

/// The database.
#[derive(Debug)]
pub(crate) struct Store {
    db: Database,
    /// Held from the first read of a write transaction until its events are published, so that events are
    /// published in the order of their revisions.
    writer: Mutex<()>,
    ring: Mutex<Ring>,
    revision: watch::Sender<u64>,
    /// Number of revisions kept in the history.
    history: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a lock guards is replaced in one step, so a panic elsewhere leaves nothing half-done behind it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens or makes the database in the file at `path`; it keeps the last `history` revisions.
    pub(crate) fn open(path: &Path, durability: Durability, history: u64) -> Result<Self, ApiError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| ApiError::internal(format_args!("storage: cannot open {}: {e}", path.display())))?;
        let db = Database::builder().create_with_backend(backend::Backend::new(file, durability)?)?;
        let txn = db.begin_write()?;
        txn.open_table(OBJECTS)?;
        txn.open_table(HISTORY)?;
        txn.open_table(UIDS)?;
        txn.open_multimap_table(DEPENDENTS)?;
        let revision = txn.open_table(META)?.get(REVISION)?.map_or(0, |v| v.value());
        txn.commit()?;
        Ok(Self {
            db,
            writer: Mutex::new(()),
            ring: Mutex::new(Ring::new(RING, revision)),
            revision: watch::Sender::new(revision),
            history,
        })
    }

    /// A consistent view of everything as of now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, ApiError> {
        let txn = self.db.begin_read()?;
        let meta = txn.open_table(META)?;
        let counter = |name| -> Result<u64, ApiError> { Ok(meta.get(name)?.map_or(0, |v| v.value())) };
        Ok(Snapshot {
            revision: counter(REVISION)?,
            compacted: counter(COMPACTED)?,
            objects: txn.open_table(OBJECTS)?,
            history: txn.open_table(HISTORY)?,
        })
    }

    /// Runs `work` as one transaction: if it succeeds, all its changes are durable when this returns and are
    /// published to watchers, else none happened. Transactions run one after the other; `work` must not
    /// start another.
    pub(crate) fn write<R>(
        &self,
        work: impl FnOnce(&mut Txn<'_>) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        let _writer = lock(&self.writer);
        let db_txn = self.db.begin_write()?;
        let mut txn = Txn::new(&db_txn)?;
        let done = work(&mut txn);
        let keep = done.is_ok() && !txn.is_empty() && !txn.dry_run();
        if !keep {
            drop(txn);
            db_txn.abort()?;
            return done;
        }
        let (revision, events) = txn.finish(self.history)?;
        db_txn.commit()?;
        lock(&self.ring).push(events);
        self.revision.send_replace(revision);
        done
    }

    /// Forgets the history up to and including `revision`; watches and lists that need it get 410 Gone.
    pub(crate) fn compact(&self, revision: u64) -> Result<(), ApiError> {
        let _writer = lock(&self.writer);
        let db_txn = self.db.begin_write()?;
        let mut txn = Txn::new(&db_txn)?;
        txn.compact(revision)?;
        drop(txn);
        db_txn.commit()?;
        lock(&self.ring).forget(revision);
        Ok(())
    }

    /// Reports each new revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

/// A consistent view of the objects and the history at one revision.
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) compacted: u64,
    objects: ReadOnlyTable<&'static str, &'static [u8]>,
    history: ReadOnlyTable<u64, Record>,
}

/// Reading objects by key, from a snapshot or inside a transaction.
pub(crate) trait Read {
    /// The object at `key`.
    fn read(&self, key: &str) -> Result<Option<Value>, ApiError>;

    /// Calls `each` with the key and the JSON of every object whose key starts with `prefix` and comes after
    /// `after`, in order, until it returns false.
    fn scan(&self, prefix: &str, after: Option<&str>, each: &mut Visitor<'_>) -> Result<(), ApiError>;

    /// Whether there is an object whose key starts with `prefix`.
    fn any(&self, prefix: &str) -> Result<bool, ApiError> {
        let mut found = false;
        self.scan(prefix, None, &mut |_, _| {
            found = true;
            Ok(false)
        })?;
        Ok(found)
    }
}

fn read_from(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<Value>, ApiError> {
    Ok(match table.get(key)? {
        Some(bytes) => Some(serde_json::from_slice(bytes.value())?),
        None => None,
    })
}

fn scan_in(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    prefix: &str,
    after: Option<&str>,
    each: &mut Visitor<'_>,
) -> Result<(), ApiError> {
    let start = after.filter(|after| *after > prefix).unwrap_or(prefix);
    for entry in table.range::<&str>(start..)? {
        let (key, bytes) = entry?;
        let key = key.value();
        if !key.starts_with(prefix) {
            break;
        }
        if Some(key) != after && !each(key, bytes.value())? {
            break;
        }
    }
    Ok(())
}

impl Read for Snapshot {
    fn read(&self, key: &str) -> Result<Option<Value>, ApiError> {
        read_from(&self.objects, key)
    }

    fn scan(&self, prefix: &str, after: Option<&str>, each: &mut Visitor<'_>) -> Result<(), ApiError> {
        scan_in(&self.objects, prefix, after, each)
    }
}
