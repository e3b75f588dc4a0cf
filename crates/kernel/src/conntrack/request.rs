//! What the kernel is asked.

use std::net::{IpAddr, SocketAddr};

use model::Family;
use model::flow::Tuple;

use super::attributes::*;
use crate::netlink::HEADER;

/// A datagram in the making.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// Begins a message; without a family it is about both.
    pub(super) fn message(
        &mut self,
        kind: u8,
        flags: u16,
        sequence: u32,
        family: Option<Family>,
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
            Some(Family::V4) => libc::AF_INET,
            Some(Family::V6) => libc::AF_INET6,
            None => libc::AF_UNSPEC,
        };
        self.0.extend([family as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
        body(self);
        let length = (self.0.len() - start) as u32;
        self.put(start, &length.to_ne_bytes());
    }

    pub(super) fn tuple(&mut self, kind: u16, protocol: u8, tuple: &Tuple) {
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
                writer.attribute(CTA_PROTO_NUM, &[protocol]);
                writer.attribute(CTA_PROTO_SRC_PORT, &tuple.source.port().to_be_bytes());
                writer.attribute(CTA_PROTO_DST_PORT, &tuple.destination.port().to_be_bytes());
            });
            if tuple.zone != 0 {
                writer.attribute(CTA_TUPLE_ZONE, &tuple.zone.to_be_bytes());
            }
        });
    }

    pub(super) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        body(self);
        let length = (self.0.len() - start) as u16;
        self.put(start, &length.to_ne_bytes());
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
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
