//! What the plugin needs of the node: the node file, sockets, and the pod's namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

use kernel::pod::PodNs;
use kernel::rtnl::RouteSocket;
use model::NodeFile;

use crate::error::{Error, code};
use crate::ipam::Store;
use crate::request::{Config, Target};

/// Reads what the agent says of the node.
pub(crate) fn file(config: &Config) -> Result<NodeFile, Error> {
    let path = config.node_file.display();
    let text = fs::read(&config.node_file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            code::TRY_AGAIN,
            "the agent is not ready",
            format!("{path} does not exist; the agent writes it when the node has a pod range (nodeFile)"),
        ),
        _ => Error::new(code::IO, "cannot read the node file", format!("{path}: {error} (nodeFile)")),
    })?;
    let file: NodeFile = serde_json::from_slice(&text).map_err(|error| {
        let why = format!("{path}: {error}; the agent writes it anew when it starts");
        Error::new(code::DECODE, "the node file is damaged", why)
    })?;
    if file.pod_ranges.is_empty() {
        let why = format!("{path}: podRanges is empty; give the Node a spec.podCIDR");
        return Err(Error::new(code::TRY_AGAIN, "the node has no pod range", why));
    }
    Ok(file)
}

/// The BPF file system in which the agent pins what there is to be told of pods: it is beside the node file.
pub(crate) fn pins(config: &Config) -> PathBuf {
    config.node_file.with_file_name("bpf")
}

/// The addresses of the network.
pub(crate) fn store(config: &Config) -> Store {
    Store::new(&config.data_dir, &config.name)
}

/// A socket in the node's namespace, which is the one that the plugin is called in.
pub(crate) fn socket() -> Result<RouteSocket, Error> {
    Ok(RouteSocket::open()?)
}

/// The container's namespace.
pub(crate) fn pod(target: &Target) -> Result<PodNs, Error> {
    PodNs::open(&target.netns).map_err(|error| match error.errno() {
        Some(libc::ENOENT) => Error::new(
            code::UNKNOWN_CONTAINER,
            "the container's network namespace does not exist",
            format!("CNI_NETNS: {error}"),
        ),
        Some(libc::EINVAL | libc::ENOTTY) => Error::new(
            code::INVALID_ENVIRONMENT,
            "invalid environment variable CNI_NETNS",
            format!("CNI_NETNS: {error}"),
        ),
        _ => error.into(),
    })
}
