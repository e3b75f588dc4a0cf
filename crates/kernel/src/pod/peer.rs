//! The namespace that a pod's interface is in, found from the node's end.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::Interface;
use crate::netns::NetNs;
use crate::rtnl::RouteSocket;
use crate::{Error, Result};

/// The namespace that the other end of a veth pair is in, if it is among those that a directory names, as container
/// runtimes name those of pods. `node` is a socket in the namespace that `interface` is in. The kernel tells one namespace
/// from another, so a name that was given anew does not mislead.
///
/// # Errors
/// [`Error::File`] if the directory cannot be read; else what the kernel says.
pub fn namespace_of(
    node: &mut RouteSocket,
    interface: &Interface,
    directory: &Path,
) -> Result<Option<NetNs>> {
    let Some(wanted) = interface.peer_namespace else { return Ok(None) };
    let failed = |source| Error::File { what: "read", path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        // One that has gone meanwhile is not the one, nor is a file that is no namespace.
        let Ok(namespace) = entry.map_err(failed).and_then(|entry| NetNs::open(entry.path())) else {
            continue;
        };
        if number(node, &namespace)? == Some(wanted) {
            return Ok(Some(namespace));
        }
    }
    Ok(None)
}

/// The number that the socket's namespace knows another by (`RTM_GETNSID`, linux/net_namespace.h); `None` if it has given
/// it none.
fn number(node: &mut RouteSocket, namespace: &NetNs) -> Result<Option<i32>> {
    let what = format!("look up network namespace {}", namespace.path().display());
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(namespace.as_fd().as_raw_fd().cast_unsigned())];
    match node.query(&RouteNetlinkMessage::GetNsId(message), &what)? {
        RouteNetlinkMessage::NewNsId(answer) => Ok(answer.attributes.iter().find_map(|attribute| {
            match attribute {
                // NETNSA_NSID_NOT_ASSIGNED
                NsidAttribute::Id(-1) => None,
                NsidAttribute::Id(number) => Some(*number),
                _ => None,
            }
        })),
        _ => Ok(None),
    }
}
