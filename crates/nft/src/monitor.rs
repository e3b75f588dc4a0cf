//! Notifications of changes.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::attr::{Message, Messages, read_str, read_u32, read_u64, table};
use crate::decode;
use crate::error::Error;
use crate::netlink::{NetlinkSocket, Received};
use crate::table::{Family, Table};
use crate::uapi::*;

/// Room for notifications that have not been read yet.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Hears of each change to the rule set of one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct Monitor {
    netlink: NetlinkSocket,
}

/// A change, or the loss of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was added or changed.
    Added(Change),
    /// Something was deleted.
    Deleted(Change),
    /// The end of a commit: all its changes have been told.
    Generation {
        /// The number of the new generation.
        id: u32,
        /// The socket that made it ([`crate::Socket::port_id`]).
        port_id: u32,
        /// The thread that made it (`gettid`).
        thread_id: u32,
        /// The name of that thread; it is the process's unless changed.
        thread: String,
    },
    /// More changed than the receive buffer takes, and some notifications are lost: list what is in force.
    Overrun,
}

/// What was added or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table.
    pub table: Table,
    /// What in it.
    pub object: Object,
    /// The socket that made the change ([`crate::Socket::port_id`]); 0 if the kernel did, such as when a time limit
    /// passed.
    pub port_id: u32,
}

/// A kind of object, and its name in its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The table itself.
    Table,
    /// A chain.
    Chain(String),
    /// A rule.
    Rule {
        /// The chain that holds it.
        chain: String,
        /// Its handle.
        handle: u64,
    },
    /// A set or map.
    Set(String),
    /// Elements of this set or map.
    Elements(String),
}

impl Monitor {
    /// Starts to listen in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`]; listening takes CAP_NET_ADMIN.
    pub fn open() -> Result<Monitor, Error> {
        let netlink = NetlinkSocket::open()?;
        netlink.reserve_receive(BUFFER_BYTES)?;
        netlink.join_group(NFNLGRP_NFTABLES)?;
        Ok(Monitor { netlink })
    }

    /// The events that wait, without waiting for one: call it when the descriptor is readable, until it returns none.
    pub fn read(&mut self) -> Result<Vec<Event>, Error> {
        match self.netlink.receive()? {
            Received::Datagram(datagram) => decode_events(datagram),
            Received::Empty => Ok(Vec::new()),
            Received::Overrun => Ok(vec![Event::Overrun]),
        }
    }

    /// Waits until there is something to read, or until the time limit has passed; says which.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        let mut poll = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = timeout
            .map_or(-1, |timeout| libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX));
        // SAFETY: the pointer is to one pollfd.
        match unsafe { libc::poll(&raw mut poll, 1, timeout) } {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                source => Err(Error::Socket { what: "poll", source }),
            },
            ready => Ok(ready > 0),
        }
    }
}

/// For `poll` and the like.
impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.netlink.as_raw_fd()
    }
}

/// The events of a datagram; messages of other kinds, and those about tables of families that this crate does not
/// handle, are skipped.
///
/// # Errors
/// [`Error::Malformed`].
pub fn decode_events(datagram: &[u8]) -> Result<Vec<Event>, Error> {
    let events = Messages::new(datagram).map(|message| event(&message?));
    events.filter_map(Result::transpose).collect()
}

fn event(message: &Message<'_>) -> Result<Option<Event>, Error> {
    let Some(kind) = message.nft_type() else { return Ok(None) };
    let (family, attrs) = message.nfgen()?;
    let attrs = table::<4>(attrs)?;
    if kind == NFT_MSG_NEWGEN {
        let number = |ty: u16| attrs[usize::from(ty)].and_then(read_u32).unwrap_or(0);
        return Ok(Some(Event::Generation {
            id: decode::generation(message)?,
            port_id: message.port_id,
            thread_id: number(NFTA_GEN_PROC_PID),
            thread: attrs[usize::from(NFTA_GEN_PROC_NAME)].map(read_str).unwrap_or_default(),
        }));
    }
    let Some(family) = Family::from_number(family) else { return Ok(None) };
    let name = |ty: u16| {
        attrs[usize::from(ty)].map(read_str).ok_or(Error::Malformed { what: "notification without name" })
    };
    let object = match kind {
        NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE => Object::Table,
        NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => Object::Chain(name(NFTA_CHAIN_NAME)?),
        NFT_MSG_NEWRULE | NFT_MSG_DELRULE => Object::Rule {
            chain: name(NFTA_RULE_CHAIN)?,
            handle: attrs[usize::from(NFTA_RULE_HANDLE)]
                .and_then(read_u64)
                .ok_or(Error::Malformed { what: "notification of a rule without handle" })?,
        },
        NFT_MSG_NEWSET | NFT_MSG_DELSET => Object::Set(name(NFTA_SET_NAME)?),
        NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => Object::Elements(name(NFTA_SET_ELEM_LIST_SET)?),
        _ => return Ok(None),
    };
    // The name of the table is the first attribute of each kind of message.
    let table = Table { family, name: name(NFTA_TABLE_NAME)? };
    let change = Change { table, object, port_id: message.port_id };
    let deleted = matches!(
        kind,
        NFT_MSG_DELTABLE | NFT_MSG_DELCHAIN | NFT_MSG_DELRULE | NFT_MSG_DELSET | NFT_MSG_DELSETELEM
    );
    Ok(Some(if deleted { Event::Deleted(change) } else { Event::Added(change) }))
}
