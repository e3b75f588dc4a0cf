//! A packet, header by header, from the outside in.

use std::net::IpAddr;

use model::MacAddr;

/// A packet from its Ethernet header inwards; in IP-in-IP the inner one begins with its IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The Ethernet header; `None` for a packet directly inside another IP packet.
    pub ethernet: Option<Ethernet>,
    /// The VLAN identifiers between the Ethernet header and the network header (IEEE 802.1Q), outermost first.
    pub vlans: Vec<u16>,
    /// What the frame carries.
    pub network: Network,
    /// What could not be read, and why; what stands before it was read.
    pub fault: Option<String>,
}

/// An Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// Sender.
    pub source: MacAddr,
    /// Receiver.
    pub destination: MacAddr,
    /// The Ethernet type in the header itself, host byte order (with a VLAN tag that of the tag).
    pub ether_type: u16,
}

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Address resolution (RFC 826).
    Arp(Arp),
    /// IPv4 or IPv6.
    Ip(Ip),
    /// Something else, or nothing that could be read.
    Other,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// 1 for a request, 2 for a reply, host byte order.
    pub operation: u16,
    /// Who sends it.
    pub sender: (MacAddr, IpAddr),
    /// Whom it is about.
    pub target: (MacAddr, IpAddr),
}

/// An IPv4 or IPv6 header and what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same family.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// The transport protocol past any extension headers (IANA protocol numbers).
    pub protocol: u8,
    /// Whether it is a fragment. Of a fragment the transport header is not read.
    pub fragment: bool,
    /// The length in bytes of what follows the IP headers, as far as it was captured.
    pub length: usize,
    /// What it carries.
    pub payload: Payload,
}

/// What an IP packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP or ICMPv6.
    Icmp(Icmp),
    /// A frame in VXLAN.
    Vxlan(Box<Vxlan>),
    /// An IP packet in an IP packet: protocol 4 (RFC 2003) or 41 (RFC 2473).
    Ip(Box<Packet>),
    /// Another protocol, a fragment, or nothing that could be read.
    Other,
}

/// A TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
    /// Sequence number, host byte order.
    pub sequence: u32,
    /// Acknowledgement number, host byte order; it counts only with [`TcpFlags::ack`].
    pub acknowledgement: u32,
    /// The flags.
    pub flags: TcpFlags,
    /// The length of the payload in bytes.
    pub length: usize,
}

/// The flags of a TCP header that say what a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags {
    /// Opens.
    pub syn: bool,
    /// Closes.
    pub fin: bool,
    /// Aborts.
    pub rst: bool,
    /// Pushes.
    pub psh: bool,
    /// Acknowledges.
    pub ack: bool,
}

/// A UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
    /// The length of the payload in bytes.
    pub length: usize,
}

/// An ICMP (RFC 792) or ICMPv6 (RFC 4443) header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// Identifier and sequence number of an echo request or reply, host byte order.
    pub echo: Option<(u16, u16)>,
    /// The length in bytes of what follows the header.
    pub length: usize,
}

/// A frame in VXLAN (RFC 7348).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// The UDP header in front of it.
    pub udp: Udp,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The frame inside.
    pub inner: Packet,
}

/// How a packet is carried by the one around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// In VXLAN with this identifier.
    Vxlan(u32),
    /// Directly in IP.
    Ip,
}

impl Packet {
    /// The outermost IP header, if the packet is IP.
    pub fn ip(&self) -> Option<&Ip> {
        match &self.network {
            Network::Ip(ip) => Some(ip),
            Network::Arp(_) | Network::Other => None,
        }
    }

    /// The packet directly inside this one, and how it is carried.
    pub fn inner(&self) -> Option<(Encapsulation, &Packet)> {
        match &self.ip()?.payload {
            Payload::Vxlan(vxlan) => Some((Encapsulation::Vxlan(vxlan.vni), &vxlan.inner)),
            Payload::Ip(inner) => Some((Encapsulation::Ip, inner)),
            _ => None,
        }
    }

    /// The packet inside all tunnels; this one if it is in none.
    pub fn innermost(&self) -> &Packet {
        let mut packet = self;
        while let Some((_, inner)) = packet.inner() {
            packet = inner;
        }
        packet
    }
}

impl Ip {
    /// Source and destination port, host byte order, of TCP and UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match &self.payload {
            Payload::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
            Payload::Udp(udp) => Some((udp.source_port, udp.destination_port)),
            Payload::Vxlan(vxlan) => Some((vxlan.udp.source_port, vxlan.udp.destination_port)),
            _ => None,
        }
    }
}
