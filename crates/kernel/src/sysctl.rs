//! Kernel settings below /proc/sys.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::{Error, Result};

/// Below /proc/sys/net everyone sees the settings of the namespace of the thread that opens the file, so there is no
/// need for a way through /proc/thread-self.
fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Reads a setting; `None` if this kernel does not have it.
pub(crate) fn read(name: &str) -> Result<Option<String>> {
    let path = path(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { what: "read", path, source }),
    }
}

/// Writes a setting.
pub(crate) fn write(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    // No truncation: these files take a whole value at each write.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| Error::File { what: "write", path, source })
}
