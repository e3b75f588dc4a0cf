//! DEL: detach a container.

use kernel::pod::{self, Guard};
use model::{Attachment, AttachmentId};

use crate::error::Error;
use crate::ipam::Locked;
use crate::node;
use crate::request::Config;

/// Removes all that an ADD made, whatever of it is there. Neither the container's namespace nor the agent is needed,
/// and what cannot be removed does not keep the rest.
pub(crate) fn del(config: &Config, id: &AttachmentId) -> Result<(), Error> {
    let mut errors = Vec::new();
    // Opened first, so that the process that `detach` leaves behind has it too and is the last to close it: the kernel
    // frees removed elements then, which takes longer than all the rest.
    let guard = Guard::open();
    errors.extend(detach(id).err());
    match node::store(config).lock() {
        Ok(store) => {
            // Elements go before addresses, so that what a crash leaves is found by its address again. The agent
            // holds the same lock when it compares the two.
            errors.extend(guard.map_err(Error::from).and_then(|guard| withdraw(guard, &store, id)).err());
            errors.extend(store.release(id).err().map(Error::from));
        }
        Err(error) => errors.push(error.into()),
    }
    Error::all(errors).map_or(Ok(()), Err)
}

fn detach(id: &AttachmentId) -> Result<(), Error> {
    pod::detach_early(&mut node::socket()?, id)?;
    Ok(())
}

fn withdraw(mut guard: Guard, store: &Locked<'_>, id: &AttachmentId) -> Result<(), Error> {
    let addresses = store.addresses(id)?;
    if addresses.is_empty() {
        // What was admitted can be told by the link only.
        let link = id.host_link();
        let mut found = guard.admitted()?;
        found.retain(|element| *element.link() == link);
        guard.remove(&found)?;
    } else {
        guard.withdraw(&Attachment { id: id.clone(), addresses })?;
    }
    Ok(())
}
