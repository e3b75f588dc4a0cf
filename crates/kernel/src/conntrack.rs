//! The flows that the kernel keeps track of (linux/netfilter/nfnetlink_conntrack.h).

use std::io;
use std::net::{IpAddr, SocketAddr};

use model::{Family, Protocol};

use crate::netlink::{
    HEADER, NLMSG_DONE, NLMSG_ERROR, NetlinkSocket, acknowledged, attributes, frames, u16_at, u32_at,
};
use crate::{Error, Result};

/// Size of the socket's buffers in bytes.
const BUFFER: libc::c_int = 4 * 1024 * 1024;
/// How long an answer may take, in seconds.
const TIMEOUT: libc::time_t = 30;
/// How often a dump is repeated that was disturbed.
const DUMP_ATTEMPTS: u32 = 16;
/// How many flows are removed at once. Acknowledgements wait in the receive buffer, each in about 1 KiB of it.
const WINDOW: usize = 512;

// Types of messages (`enum cntl_msg_types`).
const GET: u8 = 1;
const DELETE: u8 = 2;
// linux/netlink.h
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;
// `enum ctattr_type`
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
// `enum ctattr_tuple`
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
// `enum ctattr_ip`
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
// `enum ctattr_l4proto`
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
// `enum ctattr_filter`, and the flag for the transport protocol (net/netfilter/nf_internals.h)
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_PROTOCOL: u32 = 1 << 3;

/// What is known of a flow (`enum ip_conntrack_status`, linux/netfilter/nf_conntrack_common.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// Whether packets have gone both ways.
    pub fn answered(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Whether the destination is rewritten.
    pub fn destination_rewritten(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

/// Where the packets of one direction come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Who sends them.
    pub source: SocketAddr,
    /// Whom they are for.
    pub destination: SocketAddr,
    /// The zone, if it is that of this direction alone; else 0.
    pub zone: u16,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Packets as whoever began it sends them.
    pub original: Tuple,
    /// Answers, as they are before they are translated back: their source is who really answers.
    pub reply: Tuple,
    /// What is known of it.
    pub status: Status,
    /// Tells it from a later flow of the same addresses and ports.
    pub id: u32,
    /// The zone of both directions; else 0.
    pub zone: u16,
}

impl Flow {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(&self.original.source.ip())
    }

    /// Decodes the attributes of a message; `None` if it has none of ours.
    fn parse(bytes: &[u8]) -> Option<Flow> {
        let [mut original, mut reply] = [None; 2];
        let [mut status, mut id] = [0; 2];
        let mut zone = 0;
        for (kind, value) in attributes(bytes) {
            match kind {
                CTA_TUPLE_ORIG => original = tuple(value),
                CTA_TUPLE_REPLY => reply = tuple(value),
                CTA_STATUS => status = u32::from_be(u32_at(value, 0)?),
                CTA_ID => id = u32::from_be(u32_at(value, 0)?),
                CTA_ZONE => zone = u16::from_be(u16_at(value, 0)?),
                _ => {}
            }
        }
        let ((protocol, original), (_, reply)) = (original?, reply?);
        Some(Flow { protocol, original, reply, status: Status(status), id, zone })
    }
}

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
        let what = format!("list the {protocol} flows");
        for _ in 0..DUMP_ATTEMPTS {
            if self.flows_once(family, protocol, &what, each)? {
                return Ok(());
            }
        }
        Err(Error::Unstable { what, attempts: DUMP_ATTEMPTS })
    }

    /// One attempt; whether it was undisturbed.
    fn flows_once(
        &mut self,
        family: Family,
        protocol: Protocol,
        what: &str,
        each: &mut dyn FnMut(Flow),
    ) -> Result<bool> {
        let failed = |source| Error::System { what: what.to_owned(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Writer::default();
        request.message(GET, REQUEST | DUMP, self.sequence, family, |writer| {
            // Kernels before 5.8 do not know the filter, pass over it, and list all protocols.
            writer.nested(CTA_FILTER, |writer| {
                writer.attribute(CTA_FILTER_ORIG_FLAGS, &FILTER_PROTOCOL.to_ne_bytes());
            });
            writer.nested(CTA_TUPLE_ORIG, |writer| {
                writer.nested(CTA_TUPLE_PROTO, |writer| {
                    writer.attribute(CTA_PROTO_NUM, &[protocol.number()]);
                });
            });
        });
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
                    _ => {
                        let flow = frame.body.get(GENERIC..).and_then(Flow::parse);
                        flow.into_iter().filter(|flow| flow.protocol == protocol).for_each(&mut *each);
                    }
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
        // Without a tuple all flows are meant, and by a message of version 0 those of all families.
        request.message(DELETE, REQUEST | ACK, self.sequence, Family::V4, |_| {});
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
            request.message(DELETE, REQUEST | ACK, self.sequence, flow.family(), |writer| {
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

/// Decodes a tuple of a protocol that services can have.
fn tuple(bytes: &[u8]) -> Option<(Protocol, Tuple)> {
    let [mut addresses, mut transport] = [&[][..]; 2];
    let mut zone = 0;
    for (kind, value) in attributes(bytes) {
        match kind {
            CTA_TUPLE_IP => addresses = value,
            CTA_TUPLE_PROTO => transport = value,
            CTA_TUPLE_ZONE => zone = u16::from_be(u16_at(value, 0)?),
            _ => {}
        }
    }
    let [mut source, mut destination] = [None; 2];
    for (kind, value) in attributes(addresses) {
        match kind {
            CTA_IP_V4_SRC => source = Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
            CTA_IP_V4_DST => destination = Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
            CTA_IP_V6_SRC => source = Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
            CTA_IP_V6_DST => destination = Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
            _ => {}
        }
    }
    let mut protocol = None;
    let [mut from, mut to] = [0; 2];
    for (kind, value) in attributes(transport) {
        match kind {
            CTA_PROTO_NUM => protocol = Protocol::from_number(*value.first()?),
            CTA_PROTO_SRC_PORT => from = u16::from_be(u16_at(value, 0)?),
            CTA_PROTO_DST_PORT => to = u16::from_be(u16_at(value, 0)?),
            _ => {}
        }
    }
    let tuple = Tuple {
        source: SocketAddr::new(source?, from),
        destination: SocketAddr::new(destination?, to),
        zone,
    };
    Some((protocol?, tuple))
}

/// Length of `struct nfgenmsg` in bytes (linux/netfilter/nfnetlink.h).
const GENERIC: usize = 4;

/// A datagram in the making.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn message(
        &mut self,
        kind: u8,
        flags: u16,
        sequence: u32,
        family: Family,
        body: impl FnOnce(&mut Writer),
    ) {
        let start = self.0.len();
        let kind = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | u16::from(kind);
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]);
        debug_assert_eq!(self.0.len(), start + HEADER);
        let family = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        };
        self.0.extend([family as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
        body(self);
        let length = (self.0.len() - start) as u32;
        self.put(start, &length.to_ne_bytes());
    }

    fn tuple(&mut self, kind: u16, protocol: Protocol, tuple: &Tuple) {
        self.nested(kind, |writer| {
            writer.nested(CTA_TUPLE_IP, |writer| {
                let kinds = match tuple.source {
                    SocketAddr::V4(_) => [CTA_IP_V4_SRC, CTA_IP_V4_DST],
                    SocketAddr::V6(_) => [CTA_IP_V6_SRC, CTA_IP_V6_DST],
                };
                for (kind, end) in kinds.into_iter().zip([tuple.source, tuple.destination]) {
                    match end.ip() {
                        IpAddr::V4(address) => writer.attribute(kind, &address.octets()),
                        IpAddr::V6(address) => writer.attribute(kind, &address.octets()),
                    }
                }
            });
            writer.nested(CTA_TUPLE_PROTO, |writer| {
                writer.attribute(CTA_PROTO_NUM, &[protocol.number()]);
                writer.attribute(CTA_PROTO_SRC_PORT, &tuple.source.port().to_be_bytes());
                writer.attribute(CTA_PROTO_DST_PORT, &tuple.destination.port().to_be_bytes());
            });
            if tuple.zone != 0 {
                writer.attribute(CTA_TUPLE_ZONE, &tuple.zone.to_be_bytes());
            }
        });
    }

    fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        body(self);
        let length = (self.0.len() - start) as u16;
        self.put(start, &length.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(space) = self.0.get_mut(at..at + bytes.len()) {
            space.copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tuple_of(source: &str, destination: &str, zone: u16) -> Tuple {
        Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), zone }
    }

    #[test]
    fn flows_are_decoded_as_they_are_encoded() {
        for [client, service, endpoint] in [
            ["10.0.0.1:4000", "10.96.0.10:53", "10.0.0.2:5353"],
            ["[fd00::1]:4000", "[fd00:96::a]:53", "[fd00::2]:5353"],
        ] {
            let flow = Flow {
                protocol: Protocol::Udp,
                original: tuple_of(client, service, 3),
                reply: tuple_of(endpoint, client, 0),
                status: Status(0x2a),
                id: 0x0102_0304,
                zone: 7,
            };
            let mut writer = Writer::default();
            writer.message(GET, 0, 1, flow.family(), |writer| {
                writer.tuple(CTA_TUPLE_ORIG, flow.protocol, &flow.original);
                writer.tuple(CTA_TUPLE_REPLY, flow.protocol, &flow.reply);
                writer.attribute(CTA_STATUS, &flow.status.0.to_be_bytes());
                writer.attribute(CTA_ID, &flow.id.to_be_bytes());
                writer.attribute(CTA_ZONE, &flow.zone.to_be_bytes());
            });
            let found: Vec<_> = frames(&writer.0).map(|frame| Flow::parse(&frame.body[GENERIC..])).collect();
            assert!(flow.status.destination_rewritten() && flow.status.answered());
            assert_eq!(found, [Some(flow)]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_flow_or_none(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if let Some(flow) = Flow::parse(&bytes) {
                prop_assert!(Protocol::ALL.contains(&flow.protocol));
            }
        }
    }
}
