//! The namespaces of pods.

use std::path::{Path, PathBuf};

use kernel::netns::{self, NetNs};
use kernel::rtnl::{Request, RouteSocket};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};

use crate::fabric::namespace_path;
use crate::paths::LabName;
use crate::{Error, Result};

/// The index of the loopback interface: the first of every namespace.
const LOOPBACK: u32 = 1;

/// The file of a pod's namespace.
pub(super) fn path(lab: &LabName, node: &str, uid: &str) -> PathBuf {
    namespace_path(&format!("{}{uid}", lab.pod_namespace_prefix(node)))
}

/// The UIDs of the pods of a node that have a namespace.
pub(super) fn uids(lab: &LabName, node: &str) -> Vec<String> {
    let prefix = lab.pod_namespace_prefix(node);
    let entries = std::fs::read_dir(netns::NAMED).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect()
}

/// Makes a pod's namespace, with the loopback interface up.
pub(super) fn create(path: &Path) -> Result<NetNs> {
    let failed = |source| Error::Kernel { member: path.display().to_string(), source: Box::new(source) };
    let namespace = netns::create_named(path).map_err(failed)?;
    netns::run_in(&namespace, || {
        let mut message = LinkMessage::default();
        message.header.index = LOOPBACK;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        RouteSocket::open()?.request(Request::new(RouteNetlinkMessage::SetLink(message), "bring lo up"))
    })
    .and_then(|done| done)
    .map_err(failed)?;
    Ok(namespace)
}

/// The namespace; `None` if there is none.
pub(super) fn open(path: &Path) -> Option<NetNs> {
    NetNs::open(path).ok()
}

/// Takes the namespace away. One that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<()> {
    netns::remove_named(path)
        .map_err(|source| Error::Kernel { member: path.display().to_string(), source: Box::new(source) })
}
