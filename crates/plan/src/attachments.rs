//! What a pod's interface adds to the plan of its node.

use std::net::IpAddr;

use model::{Attachment, Family, LinkName};

use crate::rules::{SetName, TableFamily, Value};
use crate::tables::{POD_ADDRESSES, POD_ADDRESSES6, POD_MACS};
use crate::{Entry, Member};

/// All that a pod's interface needs on its node.
pub(crate) fn attachment(attachment: &Attachment) -> Vec<Entry> {
    let port = Entry::Port { link: attachment.id.host_link(), bridge: LinkName::bridge() };
    std::iter::once(port).chain(source_guard(attachment)).collect()
}

/// The set elements that let the pod send from its own addresses.
///
/// The CNI plugin makes them when it attaches the pod; the agent restores them if they are lost. They are all [`Entry::Member`]s.
pub fn source_guard(attachment: &Attachment) -> Vec<Entry> {
    let Some(mac) = attachment.mac() else { return Vec::new() };
    let link = attachment.id.host_link();
    let member = |set: SetName, value: Value| {
        Entry::Member(Member {
            family: TableFamily::Bridge,
            set,
            key: [Value::Link(link.clone()), value].into(),
        })
    };
    let mut entries = vec![
        member(POD_MACS, Value::Mac(mac)),
        member(POD_ADDRESSES6, Value::Address(IpAddr::V6(mac.link_local()))),
    ];
    for address in &attachment.addresses {
        let set = match Family::of(address) {
            Family::V4 => POD_ADDRESSES,
            Family::V6 => POD_ADDRESSES6,
        };
        entries.push(member(set, Value::Address(*address)));
    }
    entries
}
