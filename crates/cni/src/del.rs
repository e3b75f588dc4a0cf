//! DEL: detach a container.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use kernel::pod::{Guard, Removal};
use kernel::rtnl::RouteSocket;
use model::{Attachment, AttachmentId, LinkName};

use crate::error::Error;
use crate::ipam::Departures;
use crate::node;
use crate::request::Config;

/// A nice value (sched(7)), half way to the most urgent.
const URGENT: libc::c_int = -10;

/// Removes all that an ADD made, whatever of it is there. Neither the container's namespace nor the agent is needed,
/// and what cannot be removed does not keep the rest.
///
/// The kernel makes each removal of a link wait, and all others that are called meanwhile wait behind it. So of several
/// DELs one does the work of all that wait by then.
pub(crate) fn del(config: &Config, id: &AttachmentId) -> Result<(), Error> {
    let store = node::store(config);
    // Who is not announced does the work on its own, and finds out then what is wrong with the store.
    let announcement = store.announce(id).unwrap_or_default();
    let store = match store.lock() {
        Ok(_) if announcement.is_done() => return Ok(()),
        Ok(store) => store,
        Err(error) => {
            let errors = [Some(error.into()), detach(id, &[]).err().map(Error::from)];
            return finish(errors.into_iter().flatten().collect());
        }
    };
    hurry();
    let mut errors = Vec::new();
    let departures = store.departures().map_err(|error| errors.push(error.into())).ok();
    // The process that stays behind when a link is removed must keep neither the lock nor the word that was given.
    let shed: Vec<BorrowedFd<'_>> = [store.as_fd()].into_iter().chain(announcement.descriptor()).collect();
    let done = departures.as_ref().is_some_and(|departures| together(departures, id, &shed).unwrap_or(false));
    if !done {
        errors.extend(alone(departures.as_ref(), id, &shed));
    }
    errors.extend(store.tidy().err().map(Error::from));
    finish(errors)
}

/// Has this process go before ordinary ones for the rest of its short life, if it may.
///
/// All others wait for who has the store's lock, and that one mostly for the kernel. When many are called at once it
/// would stand in line behind all that are just starting, each time that the kernel has let it go on.
fn hurry() {
    // SAFETY: the call takes no pointers; 0 is this process.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, URGENT) };
}

/// Removes all attachments that were announced; whether this one is among those that are gone.
fn together(departures: &Departures<'_>, id: &AttachmentId, shed: &[BorrowedFd<'_>]) -> Result<bool, Error> {
    let mut going = departures.announced();
    if going.len() < 2 || !going.iter().any(|attachment| attachment.id == *id) {
        return Ok(false);
    }
    let mut socket = node::socket()?;
    let names = going.iter().map(|attachment| attachment.id.host_link()).collect();
    let links = Removal::of_all(&mut socket, &names)?;
    let mut guard = Guard::open()?;
    let mut here: BTreeSet<LinkName> = links.names().cloned().collect();
    if here.len() < going.len() {
        // Links go with the pods' namespaces too.
        here.extend(guard.admitted()?.iter().map(|element| element.link().clone()));
    }
    // What is not in this namespace may be in another: nothing says that they do not share a data directory.
    here.retain(|name| !links.spares(name));
    going.retain(|attachment| here.contains(&attachment.id.host_link()));
    guard.withdraw(&going)?;
    let shed: Vec<BorrowedFd<'_>> = shed.iter().copied().chain([guard.as_fd()]).collect();
    links.carry_out(&mut socket, &shed)?;
    let mut done = false;
    for attachment in &going {
        // The others try again what fails here, and say what it is.
        let finished = departures.finish(&attachment.id).is_ok();
        done |= finished && attachment.id == *id;
    }
    // The kernel closes it only when it has freed the elements, and removes no link meanwhile. They have been on their
    // way while the links went, and before the lock is free nobody else can have begun to remove a link.
    drop(guard);
    Ok(done)
}

/// Removes one attachment, as far as that is possible.
fn alone(departures: Option<&Departures<'_>>, id: &AttachmentId, shed: &[BorrowedFd<'_>]) -> Vec<Error> {
    let Some(departures) = departures else {
        return detach(id, shed).err().map(Error::from).into_iter().collect();
    };
    // The process that `detach` leaves behind has the socket too and is the last to close it: the kernel frees removed
    // elements then, which takes longer than all the rest.
    let (guard, withdrawn) = match Guard::open() {
        Ok(mut guard) => {
            let withdrawn = withdraw(&mut guard, departures, id);
            (Some(guard), withdrawn)
        }
        Err(error) => (None, Err(error)),
    };
    let detached = detach(id, shed);
    drop(guard);
    // What bears the name may not be ours; else an address is nobody's only when its link is gone. It goes last, so
    // that what a crash leaves is found by its address again. The agent holds the same lock when it compares the two.
    let released = match detached {
        Ok(()) | Err(kernel::Error::Foreign { .. }) => departures.finish(id),
        Err(_) => Ok(()),
    };
    let errors =
        [withdrawn.err().map(Error::from), detached.err().map(Error::from), released.err().map(Error::from)];
    errors.into_iter().flatten().collect()
}

fn withdraw(guard: &mut Guard, departures: &Departures<'_>, id: &AttachmentId) -> kernel::Result<()> {
    let addresses = departures.addresses(id);
    if addresses.is_empty() {
        // What was admitted can be told by the link only.
        let link = id.host_link();
        let mut found = guard.admitted()?;
        found.retain(|element| *element.link() == link);
        guard.remove(&found)
    } else {
        guard.withdraw(&[Attachment { id: id.clone(), addresses }])
    }
}

fn detach(id: &AttachmentId, shed: &[BorrowedFd<'_>]) -> kernel::Result<()> {
    let mut socket = RouteSocket::open()?;
    Removal::of(&mut socket, id)?.carry_out(&mut socket, shed)
}

fn finish(errors: Vec<Error>) -> Result<(), Error> {
    Error::all(errors).map_or(Ok(()), Err)
}
