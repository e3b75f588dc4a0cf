//! Bytes to packets.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{
    ArpPacketSlice, LaxIpPayloadSlice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice,
    TransportSlice,
};
use model::MacAddr;

use super::packet::{Arp, Ethernet, Icmp, Ip, Network, Packet, Payload, Tcp, TcpFlags, Udp, Vxlan};

/// Tunnels in tunnels are read to this depth; what is deeper stays unread, so that no packet can exhaust the stack.
const DEEPEST: usize = 8;

/// The length in bytes of a VXLAN header (RFC 7348, section 5).
const VXLAN_HEADER: usize = 8;
/// The flag that says that the identifier is valid.
const VXLAN_VALID: u8 = 0x08;

// IANA protocol numbers
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;

/// Which UDP packets are tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnels {
    /// The destination port of VXLAN, host byte order.
    pub vxlan_port: u16,
}

impl Default for Tunnels {
    /// The port assigned by IANA, 4789.
    fn default() -> Tunnels {
        Tunnels { vxlan_port: 4789 }
    }
}

/// Decodes a frame from its Ethernet header on. It takes any bytes: what cannot be read becomes [`Packet::fault`].
pub fn decode(frame: &[u8], tunnels: &Tunnels) -> Packet {
    ethernet(frame, tunnels, 0)
}

/// Decodes a packet that begins with its IPv4 or IPv6 header.
pub fn decode_ip(packet: &[u8], tunnels: &Tunnels) -> Packet {
    bare_ip(packet, tunnels, 0)
}

fn ethernet(frame: &[u8], tunnels: &Tunnels, depth: usize) -> Packet {
    match LaxSlicedPacket::from_ethernet(frame) {
        Ok(sliced) => packet(&sliced, tunnels, depth),
        Err(error) => unread(error.to_string()),
    }
}

fn bare_ip(bytes: &[u8], tunnels: &Tunnels, depth: usize) -> Packet {
    match LaxSlicedPacket::from_ip(bytes) {
        Ok(sliced) => packet(&sliced, tunnels, depth),
        Err(error) => unread(error.to_string()),
    }
}

fn unread(fault: String) -> Packet {
    Packet { ethernet: None, vlans: Vec::new(), network: Network::Other, fault: Some(fault) }
}

fn packet(sliced: &LaxSlicedPacket<'_>, tunnels: &Tunnels, depth: usize) -> Packet {
    let ethernet = match &sliced.link {
        Some(LinkSlice::Ethernet2(header)) => Some(Ethernet {
            source: MacAddr(header.source()),
            destination: MacAddr(header.destination()),
            ether_type: header.ether_type().0,
        }),
        _ => None,
    };
    let vlan = |ext: &LaxLinkExtSlice<'_>| match ext {
        LaxLinkExtSlice::Vlan(tag) => Some(tag.vlan_identifier().value()),
        _ => None,
    };
    let network = match &sliced.net {
        Some(LaxNetSlice::Ipv4(slice)) => {
            let header = slice.header();
            let addresses = (header.source_addr().into(), header.destination_addr().into());
            ip(addresses, header.ttl(), slice.payload(), sliced.transport.as_ref(), tunnels, depth)
        }
        Some(LaxNetSlice::Ipv6(slice)) => {
            let header = slice.header();
            let addresses = (header.source_addr().into(), header.destination_addr().into());
            ip(addresses, header.hop_limit(), slice.payload(), sliced.transport.as_ref(), tunnels, depth)
        }
        Some(LaxNetSlice::Arp(slice)) => arp(slice).map_or(Network::Other, Network::Arp),
        None => Network::Other,
    };
    let fault = sliced.stop_err.as_ref().map(|(error, layer)| format!("{layer}: {error}"));
    Packet { ethernet, vlans: sliced.link_exts.iter().filter_map(vlan).collect(), network, fault }
}

fn ip(
    (source, destination): (IpAddr, IpAddr),
    hop_limit: u8,
    carried: &LaxIpPayloadSlice<'_>,
    transport: Option<&TransportSlice<'_>>,
    tunnels: &Tunnels,
    depth: usize,
) -> Network {
    let protocol = carried.ip_number.0;
    let payload = match (transport, protocol) {
        _ if carried.fragmented => Payload::Other,
        (None, IPV4_IN_IP | IPV6_IN_IP) if depth < DEEPEST && !carried.payload.is_empty() => {
            Payload::Ip(Box::new(bare_ip(carried.payload, tunnels, depth + 1)))
        }
        (Some(transport), _) => self::transport(transport, tunnels, depth),
        (None, _) => Payload::Other,
    };
    let (fragment, length) = (carried.fragmented, carried.payload.len());
    Network::Ip(Ip { source, destination, hop_limit, protocol, fragment, length, payload })
}

fn transport(slice: &TransportSlice<'_>, tunnels: &Tunnels, depth: usize) -> Payload {
    match slice {
        TransportSlice::Tcp(tcp) => Payload::Tcp(Tcp {
            source_port: tcp.source_port(),
            destination_port: tcp.destination_port(),
            sequence: tcp.sequence_number(),
            acknowledgement: tcp.acknowledgment_number(),
            flags: TcpFlags {
                syn: tcp.syn(),
                fin: tcp.fin(),
                rst: tcp.rst(),
                psh: tcp.psh(),
                ack: tcp.ack(),
            },
            length: tcp.payload().len(),
        }),
        TransportSlice::Udp(slice) => {
            let udp = Udp {
                source_port: slice.source_port(),
                destination_port: slice.destination_port(),
                length: slice.payload().len(),
            };
            match vxlan(udp, slice.payload(), tunnels, depth) {
                Some(vxlan) => Payload::Vxlan(Box::new(vxlan)),
                None => Payload::Udp(udp),
            }
        }
        TransportSlice::Icmpv4(icmp) => Payload::Icmp(self::icmp(
            icmp.type_u8(),
            icmp.code_u8(),
            icmp.bytes5to8(),
            [0, 8],
            icmp.payload(),
        )),
        TransportSlice::Icmpv6(icmp) => {
            let bytes = icmp.bytes5to8();
            Payload::Icmp(self::icmp(icmp.type_u8(), icmp.code_u8(), bytes, [128, 129], icmp.payload()))
        }
        TransportSlice::Igmp(_) => Payload::Other,
    }
}

fn icmp(kind: u8, code: u8, [a, b, c, d]: [u8; 4], echoes: [u8; 2], payload: &[u8]) -> Icmp {
    let echo = echoes.contains(&kind).then(|| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
    Icmp { kind, code, echo, length: payload.len() }
}

/// Reads a UDP payload as VXLAN, if it is. As Linux does (`vxlan_rcv`, drivers/net/vxlan/vxlan_core.c), with no reserved
/// bit set: any socket may have the port as its own and be sent something else.
fn vxlan(udp: Udp, payload: &[u8], tunnels: &Tunnels, depth: usize) -> Option<Vxlan> {
    if udp.destination_port != tunnels.vxlan_port || depth >= DEEPEST {
        return None;
    }
    let (header, frame) = payload.split_at_checked(VXLAN_HEADER)?;
    let &[VXLAN_VALID, 0, 0, 0, a, b, c, 0] = header else { return None };
    let vni = u32::from_be_bytes([0, a, b, c]);
    Some(Vxlan { udp, vni, inner: ethernet(frame, tunnels, depth + 1) })
}

fn arp(slice: &ArpPacketSlice<'_>) -> Option<Arp> {
    let mac = |bytes: &[u8]| Some(MacAddr(bytes.try_into().ok()?));
    let address = |bytes: &[u8]| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)));
    Some(Arp {
        operation: slice.operation().0,
        sender: (mac(slice.sender_hw_addr())?, address(slice.sender_protocol_addr())?),
        target: (mac(slice.target_hw_addr())?, address(slice.target_protocol_addr())?),
    })
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
