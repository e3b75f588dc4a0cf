//! Files that others read: written whole, by rename.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// Makes a file have this content, so that a reader sees the old or the new and nothing between. Says whether it
/// was written: a file that is right already is left alone.
pub(crate) fn publish(path: &Path, content: &[u8], mode: u32) -> Result<bool> {
    if fs::read(path).is_ok_and(|current| current == content) {
        return Ok(false);
    }
    replace(path, mode, |file| file.write_all(content))?;
    Ok(true)
}

/// Makes a file have the content that is written by `write`; a reader sees the old or the new here too.
pub(crate) fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A reader of the directory (a container runtime takes what ends in .conflist) must not take this one.
    let new = directory.join(format!(".{name}.new"));
    let replace = || -> io::Result<()> {
        remove(&new)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        let mut buffer = BufWriter::new(file);
        write(&mut buffer)?;
        let file = buffer.into_inner().map_err(IntoInnerError::into_error)?;
        // The mode at creation is subject to the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads what was written as JSON; `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(json) => {
            serde_json::from_slice(&json).with_context(|| format!("{} cannot be used", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Makes a directory, with those above it, that only its owner can use.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Removes a file; says whether there was one.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conflist");
        assert!(publish(&path, b"one", 0o644).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(!publish(&path, b"one", 0o644).unwrap());
        assert!(publish(&path, b"two", 0o644).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".a.new"), "half").unwrap();
        assert!(publish(&dir.path().join("a"), b"whole", 0o600).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_to_its_end_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(publish(&path, b"old", 0o600).unwrap());
        let half = |file: &mut BufWriter<File>| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::InvalidData.into())
        };
        assert!(replace(&path, 0o600, half).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn errors_name_the_file() {
        let error = publish(Path::new("/nonexistent/a"), b"", 0o600).unwrap_err().to_string();
        assert_eq!(error, "cannot write /nonexistent/a");
    }
}
