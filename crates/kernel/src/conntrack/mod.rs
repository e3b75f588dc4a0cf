//! The flows that the kernel keeps track of (linux/netfilter/nfnetlink_conntrack.h).

mod attributes;
mod decode;
mod follow;
mod request;

use std::io;

use model::flow::{Flow, TrackedFlow};
use model::{Family, Protocol};

use crate::netlink::{NLMSG_DONE, NLMSG_ERROR, NetlinkSocket, acknowledged, frames};
use crate::{Error, Result, sysctl};

pub use decode::{News, decode};
pub use follow::{Change, Follower};

use attributes::{CTA_FILTER, CTA_FILTER_ORIG_FLAGS, CTA_ID, CTA_PROTO_NUM, CTA_TUPLE_ORIG};
use attributes::{CTA_TUPLE_PROTO, CTA_ZONE, DELETE, FILTER_PROTOCOL, GENERIC, GET};
use decode::tracked;
use request::Writer;

/// Size of the socket's buffers in bytes.
const BUFFER: libc::c_int = 4 * 1024 * 1024;
/// How long an answer may take, in seconds.
const TIMEOUT: libc::time_t = 30;
/// How often a dump is repeated that was disturbed.
const DUMP_ATTEMPTS: u32 = 16;
/// How many flows are removed at once. Acknowledgements wait in the receive buffer, each in about 1 KiB of it.
const WINDOW: usize = 512;

// linux/netlink.h
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;

/// A blocking socket for the flows of the network namespace in which it was opened.
pub struct Conntrack {
    socket: NetlinkSocket,
    sequence: u32,
    received: Vec<u8>,
}

impl Conntrack {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel has no netfilter or the process no descriptor left.
    pub fn open() -> Result<Conntrack> {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            socket
                .set(libc::SOL_NETLINK, option, 1)
                .map_err(|source| Error::System { what: "set up a netlink socket".into(), source })?;
        }
        socket.set_buffers(BUFFER, BUFFER)?;
        socket.set_timeout(TIMEOUT)?;
        Ok(Conntrack { socket, sequence: 0, received: Vec::new() })
    }

    /// Tells of all flows of a family and a protocol, one by one. There may be a million, so nobody keeps them here.
    ///
    /// A flow can be told of twice, as a listing that was disturbed is begun again.
    ///
    /// # Errors
    /// [`Error::Refused`] if the kernel keeps no track of flows, [`Error::Unstable`] if each attempt was disturbed.
    pub fn flows(&mut self, family: Family, protocol: Protocol, each: &mut dyn FnMut(Flow)) -> Result<()> {
        let number = protocol.number();
        let mut wanted = |tracked: TrackedFlow| {
            // Kernels before 5.8 do not know the filter, pass over it, and list all protocols.
            if tracked.flow.protocol == number {
                each(tracked.flow);
            }
        };
        self.listed(&format!("list the {protocol} flows"), Some(family), &mut wanted, |writer| {
            writer.nested(CTA_FILTER, |writer| {
                writer.attribute(CTA_FILTER_ORIG_FLAGS, &FILTER_PROTOCOL.to_ne_bytes());
            });
            writer.nested(CTA_TUPLE_ORIG, |writer| {
                writer.nested(CTA_TUPLE_PROTO, |writer| writer.attribute(CTA_PROTO_NUM, &[number]));
            });
        })
    }

    /// Tells of all flows there are, and of what is kept about each, one by one.
    ///
    /// A flow can be told of twice, as by [`Conntrack::flows`].
    ///
    /// # Errors
    /// As [`Conntrack::flows`].
    pub fn all(&mut self, each: &mut dyn FnMut(TrackedFlow)) -> Result<()> {
        self.listed("list the flows", None, each, |_| {})
    }

    fn listed(
        &mut self,
        what: &str,
        family: Option<Family>,
        each: &mut dyn FnMut(TrackedFlow),
        filter: impl Fn(&mut Writer),
    ) -> Result<()> {
        for _ in 0..DUMP_ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let mut request = Writer::default();
            request.message(GET, REQUEST | DUMP, self.sequence, family, &filter);
            if self.listed_once(&request, what, each)? {
                return Ok(());
            }
        }
        Err(Error::Unstable { what: what.to_owned(), attempts: DUMP_ATTEMPTS })
    }

    /// One attempt; whether it was undisturbed.
    fn listed_once(
        &mut self,
        request: &Writer,
        what: &str,
        each: &mut dyn FnMut(TrackedFlow),
    ) -> Result<bool> {
        let failed = |source| Error::System { what: what.to_owned(), source };
        self.socket.send(&request.0).map_err(failed)?;
        let mut undisturbed = true;
        loop {
            let received = match self.socket.receive(&mut self.received, 0) {
                Ok(received) => received,
                // Something is lost. The rest is read all the same: no other listing begins before this one ends.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    undisturbed = false;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            for frame in frames(received).filter(|frame| frame.sequence == self.sequence) {
                undisturbed &= frame.flags & DUMP_INTERRUPTED == 0;
                match frame.kind {
                    NLMSG_ERROR => acknowledged(&frame, what)?,
                    NLMSG_DONE => {
                        acknowledged(&frame, what)?;
                        return Ok(undisturbed);
                    }
                    _ => frame.body.get(GENERIC..).and_then(tracked).into_iter().for_each(&mut *each),
                }
            }
        }
    }

    /// Removes flows, and returns how many of them were still there. A newer flow with the same addresses and ports
    /// stays.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the kernel says of the first that it does not remove; the others are removed.
    pub fn remove(&mut self, flows: &[Flow]) -> Result<usize> {
        let mut removed = 0;
        let mut refused = Ok(());
        for window in flows.chunks(WINDOW) {
            removed += self.remove_window(window, &mut refused)?;
        }
        refused.map(|()| removed)
    }

    /// Removes all flows of all families and protocols.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the kernel says.
    pub fn flush(&mut self) -> Result<()> {
        let what = "remove all flows";
        let failed = |source| Error::System { what: what.to_owned(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Writer::default();
        // Without a tuple all flows are meant, and without a family those of all families.
        request.message(DELETE, REQUEST | ACK, self.sequence, None, |_| {});
        self.socket.send(&request.0).map_err(failed)?;
        loop {
            let received = self.socket.receive(&mut self.received, 0).map_err(failed)?;
            let mut ours = frames(received).filter(|frame| frame.sequence == self.sequence);
            if let Some(frame) = ours.find(|frame| frame.kind == NLMSG_ERROR) {
                return acknowledged(&frame, what);
            }
        }
    }

    fn remove_window(&mut self, flows: &[Flow], refused: &mut Result<()>) -> Result<usize> {
        let what = "remove a flow";
        let failed = |source| Error::System { what: what.to_owned(), source };
        let first = self.sequence.wrapping_add(1);
        let mut request = Writer::default();
        for flow in flows {
            self.sequence = self.sequence.wrapping_add(1);
            // Without the original tuple the kernel would remove all flows.
            request.message(DELETE, REQUEST | ACK, self.sequence, Some(flow.family()), |writer| {
                writer.tuple(CTA_TUPLE_ORIG, flow.protocol, &flow.original);
                writer.attribute(CTA_ID, &flow.id.to_be_bytes());
                if flow.zone != 0 {
                    writer.attribute(CTA_ZONE, &flow.zone.to_be_bytes());
                }
            });
        }
        self.socket.send(&request.0).map_err(failed)?;
        let (mut open, mut removed, mut overrun) = (flows.len(), 0, false);
        while open > 0 {
            // What is not there when the send has returned will never be.
            let received = match self.socket.receive(&mut self.received, libc::MSG_DONTWAIT) {
                Ok(received) => received,
                // Acknowledgements are lost, not what they are about.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    overrun = true;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && overrun => break,
                Err(error) => return Err(failed(error)),
            };
            for frame in frames(received) {
                if frame.kind != NLMSG_ERROR || frame.sequence.wrapping_sub(first) as usize >= flows.len() {
                    continue;
                }
                open -= 1;
                match acknowledged(&frame, what) {
                    Ok(()) => removed += 1,
                    Err(error) if error.errno() == Some(libc::ENOENT) => {}
                    Err(error) if refused.is_ok() => *refused = Err(error),
                    Err(_) => {}
                }
            }
        }
        Ok(removed)
    }
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Whether the kernel counts what goes through flows that begin, in the namespace of the calling thread
/// (`net.netfilter.nf_conntrack_acct`). Flows that have begun while it did not are never counted.
///
/// # Errors
/// [`Error::File`] if the setting is there and cannot be read.
pub fn counts() -> Result<bool> {
    Ok(sysctl::read("net/netfilter/nf_conntrack_acct")?.as_deref() == Some("1"))
}
