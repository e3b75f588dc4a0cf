//! The programs on the uplink, and what is pinned where.
//!
//! ```text
//! DIRECTORY/ingress-INDEX     the link of the program to the uplink with this index
//! DIRECTORY/egress-INDEX
//! DIRECTORY/maps-VERSION/     the maps
//! ```

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use model::LinkName;

use super::object::Hook;
use super::{Ipip, layout};
use crate::bpf::{bpffs, failed};
use crate::link::{self, Links};
use crate::rtnl::RouteSocket;
use crate::{Error, Result};

const MAPS_PREFIX: &str = "maps-";

/// Where the maps of this version are pinned.
pub(super) fn maps(directory: &Path) -> PathBuf {
    directory.join(format!("{MAPS_PREFIX}{}", layout::VERSION))
}

/// Takes the programs off whatever uplink they are on, and all that is pinned in a directory away, with the directory
/// itself. A directory that is not there is no error; what is not ours in it stays.
///
/// # Errors
/// If something of ours stays.
pub fn remove(directory: &Path) -> Result<()> {
    for name in names(directory)? {
        if Hook::BOTH.iter().any(|hook| name.starts_with(&prefix(*hook))) {
            bpffs::detach(&directory.join(&name))?;
        }
    }
    remove_maps(directory, None)?;
    bpffs::remove_empty(directory)
}

impl Ipip {
    /// The links that have both programs of this object.
    pub(super) fn uplinks(&mut self) -> Result<BTreeSet<LinkName>> {
        let links = Links::read(&mut RouteSocket::open()?)?;
        let mut uplinks = BTreeSet::new();
        for index in pinned_indexes(&self.directory)? {
            if let Some(link) = links.at(index).map(|link| link.name.clone())
                && self.missing(&link)?.is_empty()
            {
                uplinks.insert(link);
            }
        }
        Ok(uplinks)
    }

    /// The hooks of a link at which the program is not this object's.
    fn missing(&mut self, uplink: &LinkName) -> Result<Vec<Hook>> {
        let mut missing = Vec::new();
        for hook in Hook::BOTH {
            let what = || format!("see what is on {uplink} for {}", hook.name());
            let (_, there) =
                SchedClassifier::query_tcx(&uplink.to_string(), hook.into()).map_err(failed(what()))?;
            let own = self.object.program(hook)?.info().map_err(failed("look at a program of IP in IP"))?;
            if !there.iter().any(|program| program.id() == own.id()) {
                missing.push(hook);
            }
        }
        Ok(missing)
    }

    /// Puts the programs on a link where they are not.
    pub(super) fn attach(&mut self, uplink: &LinkName) -> Result<()> {
        let index = index(uplink)?;
        for hook in self.missing(uplink)? {
            self.attach_at(hook, uplink, index)?;
        }
        Ok(())
    }

    /// Takes the programs off a link. One that is not there has none.
    pub(super) fn detach(&mut self, uplink: &LinkName) -> Result<()> {
        let Some(state) = link::read(&mut RouteSocket::open()?, uplink)? else { return Ok(()) };
        detach_at(&self.directory, state.index)
    }

    /// Takes away what is left of others: programs on links that are no uplinks any more, and maps of another version.
    pub(super) fn detach_others(&mut self, uplinks: &BTreeSet<LinkName>) -> Result<()> {
        let links = Links::read(&mut RouteSocket::open()?)?;
        for index in pinned_indexes(&self.directory)? {
            if !links.at(index).is_some_and(|link| uplinks.contains(&link.name)) {
                detach_at(&self.directory, index)?;
            }
        }
        remove_maps(&self.directory, Some(&maps(&self.directory)))
    }

    fn attach_at(&mut self, hook: Hook, uplink: &LinkName, index: u32) -> Result<()> {
        let pin = self.directory.join(format!("{}{index}", prefix(hook)));
        let what = format!("attach the IP in IP program to {uplink} for {}", hook.name());
        let program = self.object.program(hook)?;
        if let Some(link) = pinned(&pin, &what)? {
            match program.attach_to_link(link) {
                Ok(id) => {
                    // The pin keeps it attached, not the descriptor.
                    return program.take_link(id).map(drop).map_err(failed(what));
                }
                // The uplink that it was attached to is gone, and this one has its index.
                Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                    if io_error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => return Err(failed(what)(error)),
            }
        }
        bpffs::unpin(&pin)?;
        let order = match hook {
            // Other programs on the uplink see what is inside, as they would without encapsulation.
            Hook::Ingress => LinkOrder::first(),
            Hook::Egress => LinkOrder::last(),
        };
        let attached =
            program.attach_with_options(&uplink.to_string(), hook.into(), TcAttachOptions::TcxOrder(order));
        let link = attached.and_then(|id| program.take_link(id)).map_err(failed(what.clone()))?;
        let link = FdLink::try_from(link).map_err(failed(what.clone()))?;
        link.pin(&pin).map(drop).map_err(failed(what))
    }
}

impl From<Hook> for TcAttachType {
    fn from(hook: Hook) -> TcAttachType {
        match hook {
            Hook::Ingress => TcAttachType::Ingress,
            Hook::Egress => TcAttachType::Egress,
        }
    }
}

fn prefix(hook: Hook) -> String {
    format!("{}-", hook.name())
}

/// The indexes of the links that have programs, whosever.
fn pinned_indexes(directory: &Path) -> Result<BTreeSet<u32>> {
    let names = names(directory)?;
    let index =
        |name: &String| Hook::BOTH.iter().find_map(|hook| name.strip_prefix(&prefix(*hook))?.parse().ok());
    Ok(names.iter().filter_map(index).collect())
}

fn detach_at(directory: &Path, index: u32) -> Result<()> {
    Hook::BOTH.iter().try_for_each(|hook| bpffs::detach(&directory.join(format!("{}{index}", prefix(*hook)))))
}

/// An uplink's index in the namespace of the calling thread.
fn index(uplink: &LinkName) -> Result<u32> {
    let what = || format!("use {uplink} for IP in IP");
    let Some(state) = link::read(&mut RouteSocket::open()?, uplink)? else {
        return Err(Error::Missing { what: what(), missing: format!("the link {uplink}") });
    };
    if state.mac.is_none() {
        return Err(Error::Missing { what: what(), missing: "its Ethernet header".to_owned() });
    }
    Ok(state.index)
}

/// The link that is pinned; `None` if none is, or something that is no link of a tc program.
fn pinned(pin: &Path, what: &str) -> Result<Option<SchedClassifierLink>> {
    match PinnedLink::from_pin(pin).and_then(|link| SchedClassifierLink::try_from(FdLink::from(link))) {
        Ok(link) => Ok(Some(link)),
        Err(LinkError::InvalidLink | LinkError::UnknownLinkType(_)) => Ok(None),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(what)(error)),
    }
}

/// Takes pinned maps away, all or all but those in one directory.
fn remove_maps(directory: &Path, keep: Option<&Path>) -> Result<()> {
    for name in names(directory)? {
        let path = directory.join(&name);
        if name.starts_with(MAPS_PREFIX) && keep != Some(&path) {
            for map in names(&path)? {
                bpffs::unpin(&path.join(map))?;
            }
            bpffs::remove_empty(&path)?;
        }
    }
    Ok(())
}

/// What is in a directory. One that is not there is empty; ours are all of plain letters.
fn names(directory: &Path) -> Result<Vec<String>> {
    let file = |source| Error::File { what: "read", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(file)?,
    };
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    Ok(names.map_err(file)?.iter().filter_map(|name| OsStr::to_str(name)).map(str::to_owned).collect())
}
