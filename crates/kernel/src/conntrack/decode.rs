//! What the kernel says of flows.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use model::Family;
use model::flow::{Connection, Count, Counters, Flow, Phase, Status, TrackedFlow, Tuple};

use super::attributes::*;
use crate::netlink::{Frame, attributes, frames, u16_at, u32_at, u64_at};

/// What a message of the kernel's own accord says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum News {
    /// The flow has begun.
    Begun,
    /// Something of it is another now.
    Changed,
    /// It is known no more.
    Ended,
}

/// Decodes a datagram that came to somebody who listens to connection tracking. What is not understood is left out.
///
/// News of a flow say what has changed and not all there is: the state of a connection only where it is another, and
/// counters only at the end.
pub fn decode(datagram: &[u8]) -> impl Iterator<Item = (News, TrackedFlow)> {
    frames(datagram).filter_map(|frame| Some((news(&frame)?, tracked(frame.body.get(GENERIC..)?)?)))
}

fn news(frame: &Frame<'_>) -> Option<News> {
    const CREATE: u16 = libc::NLM_F_CREATE as u16;
    let [kind, subsystem] = frame.kind.to_le_bytes();
    match (i32::from(subsystem), kind) {
        (libc::NFNL_SUBSYS_CTNETLINK, NEW) if frame.flags & CREATE != 0 => Some(News::Begun),
        (libc::NFNL_SUBSYS_CTNETLINK, NEW) => Some(News::Changed),
        (libc::NFNL_SUBSYS_CTNETLINK, DELETE) => Some(News::Ended),
        _ => None,
    }
}

/// Decodes the attributes of a message; `None` if they do not tell of a flow.
pub(super) fn tracked(bytes: &[u8]) -> Option<TrackedFlow> {
    let [mut original, mut reply] = [None; 2];
    let [mut status, mut id] = [0; 2];
    let [mut sent, mut received] = [None; 2];
    let mut zone = 0;
    let (mut connection, mut begun) = (None, None);
    for (kind, value) in attributes(bytes) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_STATUS => status = u32::from_be(u32_at(value, 0)?),
            CTA_ID => id = u32::from_be(u32_at(value, 0)?),
            CTA_ZONE => zone = u16::from_be(u16_at(value, 0)?),
            CTA_PROTOINFO => connection = self::connection(value),
            CTA_COUNTERS_ORIG => sent = Some(count(value)?),
            CTA_COUNTERS_REPLY => received = Some(count(value)?),
            CTA_TIMESTAMP => begun = nested_u64(value, CTA_TIMESTAMP_START),
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    let family = |tuple: &Tuple| Family::of(&tuple.source.ip());
    (family(&original) == family(&reply)).then_some(())?;
    let flow = Flow { protocol, original, reply, status: Status(status), id, zone };
    let counters = sent.zip(received).map(|(sent, received)| Counters { sent, received });
    let begun = begun.and_then(|since| UNIX_EPOCH.checked_add(Duration::from_nanos(since)));
    Some(TrackedFlow { flow, connection, counters, begun })
}

fn tuple(bytes: &[u8]) -> Option<(u8, Tuple)> {
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
    let (source, destination) = (source?, destination?);
    (Family::of(&source) == Family::of(&destination)).then_some(())?;
    let mut protocol = None;
    let [mut from, mut to] = [0; 2];
    for (kind, value) in attributes(transport) {
        match kind {
            CTA_PROTO_NUM => protocol = Some(*value.first()?),
            CTA_PROTO_SRC_PORT => from = u16::from_be(u16_at(value, 0)?),
            CTA_PROTO_DST_PORT => to = u16::from_be(u16_at(value, 0)?),
            _ => {}
        }
    }
    let tuple =
        Tuple { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to), zone };
    Some((protocol?, tuple))
}

fn count(bytes: &[u8]) -> Option<Count> {
    let [packets, bytes] = [CTA_COUNTERS_PACKETS, CTA_COUNTERS_BYTES].map(|wanted| nested_u64(bytes, wanted));
    Some(Count { packets: packets?, bytes: bytes? })
}

fn nested_u64(bytes: &[u8], wanted: u16) -> Option<u64> {
    let (_, value) = attributes(bytes).find(|(kind, _)| *kind == wanted)?;
    u64_at(value, 0).map(u64::from_be)
}

/// `enum tcp_conntrack`, linux/netfilter/nf_conntrack_tcp.h; the names are those of `/proc/net/nf_conntrack`.
const TCP: [(&str, Phase); 10] = [
    ("NONE", Phase::Opening),
    ("SYN_SENT", Phase::Opening),
    ("SYN_RECV", Phase::Opening),
    ("ESTABLISHED", Phase::Established),
    ("FIN_WAIT", Phase::Closing),
    ("CLOSE_WAIT", Phase::Closing),
    ("LAST_ACK", Phase::Closing),
    ("TIME_WAIT", Phase::Closing),
    ("CLOSE", Phase::Reset),
    ("SYN_SENT2", Phase::Opening),
];

/// `enum sctp_conntrack`, linux/netfilter/nf_conntrack_sctp.h.
const SCTP: [(&str, Phase); 9] = [
    ("NONE", Phase::Opening),
    ("CLOSED", Phase::Reset),
    ("COOKIE_WAIT", Phase::Opening),
    ("COOKIE_ECHOED", Phase::Opening),
    ("ESTABLISHED", Phase::Established),
    ("SHUTDOWN_SENT", Phase::Closing),
    ("SHUTDOWN_RECD", Phase::Closing),
    ("SHUTDOWN_ACK_SENT", Phase::Closing),
    ("HEARTBEAT_SENT", Phase::Opening),
];

fn connection(bytes: &[u8]) -> Option<Connection> {
    let (protocol, value) = attributes(bytes).next()?;
    let (_, state) = attributes(value).find(|(kind, _)| *kind == CTA_PROTOINFO_STATE)?;
    let state = usize::from(*state.first()?);
    let (name, phase) = match protocol {
        CTA_PROTOINFO_TCP => *TCP.get(state)?,
        CTA_PROTOINFO_SCTP => *SCTP.get(state)?,
        _ => return None,
    };
    Some(Connection { name, phase })
}

#[cfg(test)]
mod tests;
