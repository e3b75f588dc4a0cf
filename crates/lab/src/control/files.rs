//! The files by which others find the API.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use apiserver::Server;

use crate::paths::{LabName, NODE_API_PORT};
use crate::topology::Topology;
use crate::{Error, Result};

/// Writes a kubeconfig for the root namespace and one for each node.
pub(super) fn write_kubeconfigs(lab: &LabName, topology: &Topology, server: &Server, root_port: u16) -> Result<()> {
    let paths = lab.paths();
    let config = |port: u16| server.kubeconfig(&format!("https://127.0.0.1:{port}"));
    for node in topology.nodes() {
        write(&paths.node(&node.name).kubeconfig(), config(NODE_API_PORT).as_bytes())?;
    }
    write(&paths.kubeconfig(), config(root_port).as_bytes())
}

/// The port that an earlier start has chosen.
pub(super) fn read_port(path: &Path) -> Result<Option<u16>> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(port) => Ok(Some(port)),
            Err(_) => Err(Error::State {
                path: path.to_owned(),
                why: format!("\"{}\" is not a TCP port (1 to 65535)", text.trim()),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file that only its owner can read, by rename, so that nobody ever reads a part of it.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |source| Error::Io { what: "write", path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
