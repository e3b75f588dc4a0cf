//! GC: remove what belongs to no attachment.

use std::collections::BTreeSet;

use kernel::pod::{self, Guard};
use model::{AttachmentId, LinkName};

use crate::error::Error;
use crate::node;
use crate::request::Config;

/// Removes the addresses, links and set elements of attachments that are not in `valid`. What belongs to another
/// network of the same data directory stays, whatever `valid` says.
pub(crate) fn gc(config: &Config, valid: &BTreeSet<AttachmentId>) -> Result<(), Error> {
    let mut errors = Vec::new();
    let mut socket = node::socket()?;
    let mut guard = Guard::open()?;
    // An ADD reserves addresses before anything else. So whatever an ADD in another network has made by now has its
    // addresses in the stores when they are read next.
    let links = pod::host_links(&mut socket)?;
    let mut admitted = guard.admitted()?;
    let keep = kept(config, valid)?;

    for link in links.iter().filter(|link| !keep.contains(&link.name)) {
        errors.extend(pod::remove(&mut socket, link).err().map(Error::from));
    }
    let store = node::store(config);
    let store = store.lock()?;
    admitted.retain(|element| !keep.contains(element.link()));
    errors.extend(guard.remove(&admitted).err().map(Error::from));
    errors.extend(store.retain(valid).err().map(Error::from));
    Error::all(errors).map_or(Ok(()), Err)
}

fn kept(config: &Config, valid: &BTreeSet<AttachmentId>) -> Result<BTreeSet<LinkName>, Error> {
    let mut keep: BTreeSet<LinkName> = valid.iter().map(AttachmentId::host_link).collect();
    for sibling in node::store(config).siblings()? {
        let attachments = sibling.lock()?.attachments()?;
        keep.extend(attachments.iter().map(|attachment| attachment.id.host_link()));
    }
    Ok(keep)
}
