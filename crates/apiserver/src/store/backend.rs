//! The file under the database.

use std::fs::File;
use std::io;
use std::ops::Bound;

use redb::BackendError;
use redb::StorageBackend;
use redb::backends::FileBackend;

/// How far an acknowledged write has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Into the kernel's page cache: survives the death of the process at any point, not that of the machine.
    ///
    /// The database orders its writes so that a valid state is in the file after each of them, and the kernel
    /// keeps that order for whoever reads the file later; only a crash of the kernel can reorder them.
    #[default]
    Process,
    /// Onto the disk: survives loss of power.
    Disk,
}

/// A file whose `sync_data` is left out when [`Durability::Process`] is enough.
#[derive(Debug)]
pub(super) struct Backend {
    file: FileBackend,
    durability: Durability,
}

impl Backend {
    pub(super) fn new(file: File, durability: Durability) -> Result<Self, redb::DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, durability })
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        match self.durability {
            Durability::Process => Ok(()),
            Durability::Disk => self.file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
