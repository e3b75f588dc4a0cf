//! Requests to the kernel's routing and link tables (rtnetlink(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use model::Family;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{NLMSG_DONE, NLMSG_ERROR, NetlinkSocket, acknowledged, frames};
use crate::{Error, Result};

/// Acknowledgements are queued before the send returns, so what is sent at once is bounded by the receive buffer:
/// each takes at most about 1 KiB of it.
const WINDOW: usize = 512;
/// Bytes sent at once, below every default limit of a socket's send buffer.
const DATAGRAM: usize = 128 * 1024;
/// Size of the socket's buffers in bytes.
const BUFFER: libc::c_int = 4 * 1024 * 1024;
/// How long an answer may take, in seconds.
const TIMEOUT: libc::time_t = 30;
/// How often a dump is repeated that the kernel says was disturbed.
const DUMP_ATTEMPTS: u32 = 16;

/// A message to the kernel, with what it is for.
#[derive(Debug, Clone)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
    what: String,
}

impl Request {
    /// A message without further flags: a removal, or a change of a link. `what` follows "cannot" in errors.
    pub fn new(message: RouteNetlinkMessage, what: impl Into<String>) -> Request {
        Request { message, flags: 0, what: what.into() }
    }

    /// Makes something new, and fails with `EEXIST` if it is there.
    pub fn create(message: RouteNetlinkMessage, what: impl Into<String>) -> Request {
        Request { message, flags: NLM_F_CREATE | NLM_F_EXCL, what: what.into() }
    }

    /// Makes something, or puts it in the place of what is there under its key.
    pub fn replace(message: RouteNetlinkMessage, what: impl Into<String>) -> Request {
        Request { message, flags: NLM_F_CREATE | NLM_F_REPLACE, what: what.into() }
    }

    /// What the message is for, as what follows "cannot" in errors.
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// A blocking rtnetlink socket. It stays in the network namespace in which it was opened.
pub struct RouteSocket {
    socket: NetlinkSocket,
    sequence: u32,
    received: Vec<u8>,
}

impl RouteSocket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel has no rtnetlink or the process no descriptor left.
    pub fn open() -> Result<RouteSocket> {
        let socket = NetlinkSocket::open(libc::NETLINK_ROUTE)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            socket
                .set(libc::SOL_NETLINK, option, 1)
                .map_err(|source| Error::System { what: "set up a netlink socket".into(), source })?;
        }
        socket.set_buffers(BUFFER, BUFFER)?;
        socket.set_timeout(TIMEOUT)?;
        Ok(RouteSocket { socket, sequence: 0, received: Vec::new() })
    }

    /// Sends one message and waits for its acknowledgement.
    ///
    /// # Errors
    /// [`Error::Refused`] with the kernel's error number and explanation.
    pub fn request(&mut self, request: Request) -> Result<()> {
        self.batch(std::slice::from_ref(&request)).pop().unwrap_or(Ok(()))
    }

    /// Sends many messages in few datagrams. The results are in the order of the messages; one that is refused
    /// does not keep the others from being done.
    pub fn batch(&mut self, requests: &[Request]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut datagram = Vec::new();
        let mut rest = requests;
        while !rest.is_empty() {
            datagram.clear();
            let first = self.sequence.wrapping_add(1);
            let mut count = 0;
            for request in rest.iter().take(WINDOW) {
                self.sequence = self.sequence.wrapping_add(1);
                emit(&request.message, request.flags | NLM_F_ACK, self.sequence, &mut datagram);
                count += 1;
                if datagram.len() >= DATAGRAM {
                    break;
                }
            }
            let (now, later) = rest.split_at(count);
            results.extend(self.exchange(&datagram, now, first));
            rest = later;
        }
        results
    }

    /// Sends a datagram with `requests` and collects the acknowledgements, whose sequence numbers begin at `first`.
    fn exchange(&mut self, datagram: &[u8], requests: &[Request], first: u32) -> Vec<Result<()>> {
        let mut results: Vec<Option<Result<()>>> = requests.iter().map(|_| None).collect();
        let mut open = requests.len();
        let outcome = self.socket.send(datagram).and_then(|()| {
            while open > 0 {
                for frame in frames(self.socket.receive(&mut self.received, 0)?) {
                    let index = frame.sequence.wrapping_sub(first) as usize;
                    // Answers to something that was given up earlier have other sequence numbers.
                    let (Some(slot), Some(request)) = (results.get_mut(index), requests.get(index)) else {
                        continue;
                    };
                    if frame.kind == NLMSG_ERROR && slot.is_none() {
                        *slot = Some(acknowledged(&frame, &request.what));
                        open -= 1;
                    }
                }
            }
            Ok(())
        });
        let lost = |source: &io::Error, what: &str| {
            let source =
                source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
            Err(Error::System { what: what.to_owned(), source })
        };
        results
            .into_iter()
            .zip(requests)
            .map(|(result, request)| match (result, &outcome) {
                (Some(result), _) => result,
                (None, Err(source)) => lost(source, &request.what),
                (None, Ok(())) => Ok(()),
            })
            .collect()
    }

    /// Reads a whole table. `what` follows "cannot" in errors.
    ///
    /// A dump that was disturbed by a change is repeated, so the answer is one consistent state. Messages that
    /// cannot be decoded, as those of kinds of links unknown here, are left out.
    ///
    /// # Errors
    /// [`Error::Refused`] if the kernel does not understand the filter, [`Error::Unstable`] if the table changed
    /// during each attempt.
    pub fn dump(&mut self, message: &RouteNetlinkMessage, what: &str) -> Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            let consistent = self.dump_once(message, what, &mut |kind, body| {
                found.extend(RouteNetlinkMessage::parse_with_param(body, kind));
            })?;
            if consistent {
                return Ok(found);
            }
        }
        Err(Error::Unstable { what: what.to_owned(), attempts: DUMP_ATTEMPTS })
    }

    /// One dump; whether it is consistent.
    fn dump_once(
        &mut self,
        message: &RouteNetlinkMessage,
        what: &str,
        each: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<bool> {
        let failed = |source| Error::System { what: what.to_owned(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        emit(message, NLM_F_DUMP, self.sequence, &mut datagram);
        self.socket.send(&datagram).map_err(failed)?;
        let mut consistent = true;
        loop {
            let received = self.socket.receive(&mut self.received, 0).map_err(failed)?;
            for frame in frames(received).filter(|frame| frame.sequence == self.sequence) {
                consistent &= frame.flags & NLM_F_DUMP_INTR == 0;
                match frame.kind {
                    NLMSG_ERROR => acknowledged(&frame, what)?,
                    NLMSG_DONE => {
                        acknowledged(&frame, what)?;
                        return Ok(consistent);
                    }
                    kind => each(kind, frame.body),
                }
            }
        }
    }

    /// Reads one object: the first message of the answer. `what` follows "cannot" in errors.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such object, [`Error::Answer`] if it cannot be decoded.
    pub fn query(&mut self, message: &RouteNetlinkMessage, what: &str) -> Result<RouteNetlinkMessage> {
        let failed = |source| Error::System { what: what.to_owned(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        emit(message, 0, self.sequence, &mut datagram);
        self.socket.send(&datagram).map_err(failed)?;
        loop {
            let received = self.socket.receive(&mut self.received, 0).map_err(failed)?;
            for frame in frames(received).filter(|frame| frame.sequence == self.sequence) {
                if frame.kind == NLMSG_ERROR {
                    acknowledged(&frame, what)?;
                    continue;
                }
                return RouteNetlinkMessage::parse_with_param(frame.body, frame.kind)
                    .map_err(|error| Error::Answer { what: what.to_owned(), why: error.to_string() });
            }
        }
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::fmt::Debug for RouteSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteSocket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Appends a message to a datagram.
fn emit(message: &RouteNetlinkMessage, flags: u16, sequence: u32, datagram: &mut Vec<u8>) {
    let mut header = NetlinkHeader::default();
    header.flags = flags | NLM_F_REQUEST;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message.clone()));
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(space) = datagram.get_mut(start..) {
        message.serialize(space);
    }
}

/// The family as routes have it.
pub fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The next hop that is among the attributes of a route, or of one of its next hops (`RTA_GATEWAY`, `RTA_VIA`,
/// linux/rtnetlink.h).
pub fn next_hop(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip_address(gateway),
        // The next hop of an IPv4 route is of the other family (RFC 8950).
        RouteAttribute::Via(RouteVia::Inet6(via)) => Some(IpAddr::V6(*via)),
        RouteAttribute::Via(RouteVia::Inet(via)) => Some(IpAddr::V4(*via)),
        _ => None,
    })
}

/// The address in an attribute of a route; `None` if it is of a family that is not IP.
pub fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
