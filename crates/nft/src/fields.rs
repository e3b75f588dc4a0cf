//! Makers of [`Field`]s, one module per source, named as in nft's language.
//!
//! Header fields are read wherever they would be: in tables of families `inet` and `bridge` a rule must first ask for
//! the protocol (`meta::nfproto()`, `meta::protocol()`), and before ports for the transport (`meta::l4proto()`),
//! unless the caller of its chain has done so.

use crate::field::{Field, Source};
use crate::table::Family;
use crate::value::{Type, Value};

/// Packet metadata (`enum nft_meta_keys`).
pub mod meta {
    use super::*;

    pub(crate) const MARK: u32 = 3;
    pub(crate) const NFTRACE: u32 = 12;

    /// The Ethernet protocol number of the payload.
    pub fn protocol() -> Field {
        Field::meta(1, Type::EtherType)
    }

    /// The packet's mark.
    pub fn mark() -> Field {
        Field::meta(MARK, Type::Mark)
    }

    /// The index of the interface on which the packet arrived.
    pub fn iif() -> Field {
        Field::meta(4, Type::IfaceIndex)
    }

    /// The index of the interface by which the packet will leave.
    pub fn oif() -> Field {
        Field::meta(5, Type::IfaceIndex)
    }

    /// The name of the interface on which the packet arrived.
    pub fn iifname() -> Field {
        Field::meta(6, Type::Ifname)
    }

    /// The name of the interface by which the packet will leave.
    pub fn oifname() -> Field {
        Field::meta(7, Type::Ifname)
    }

    /// The packet's family, for tables of family `inet`; see [`IPV4`] and [`IPV6`].
    pub fn nfproto() -> Field {
        Field::meta(15, Type::NfProto)
    }

    /// The transport protocol, behind IPv6 extension headers too.
    pub fn l4proto() -> Field {
        Field::meta(16, Type::InetProto)
    }

    /// IPv4, as [`nfproto`] says it.
    pub const IPV4: Value = Value::from_array(Type::NfProto, [Family::Ip as u8]);
    /// IPv6, as [`nfproto`] says it.
    pub const IPV6: Value = Value::from_array(Type::NfProto, [Family::Ip6 as u8]);
}

/// The Ethernet header.
pub mod ether {
    use super::*;
    use crate::expr::PayloadBase::Link;

    /// Destination address.
    pub fn daddr() -> Field {
        Field::payload(Link, 0, Type::EtherAddr)
    }

    /// Source address.
    pub fn saddr() -> Field {
        Field::payload(Link, 6, Type::EtherAddr)
    }

    /// Protocol number of the payload.
    pub fn kind() -> Field {
        Field::payload(Link, 12, Type::EtherType)
    }

    /// IPv4.
    pub const IP: Value = Value::ether_type(0x0800);
    /// ARP.
    pub const ARP: Value = Value::ether_type(0x0806);
    /// IPv6.
    pub const IP6: Value = Value::ether_type(0x86dd);
}

/// The ARP header, with addresses of Ethernet and IPv4 (RFC 826).
pub mod arp {
    use super::*;
    use crate::expr::PayloadBase::Network;

    /// The operation: 1 request, 2 reply.
    pub fn operation() -> Field {
        Field::payload(Network, 6, Type::ArpOp)
    }

    /// The sender's MAC address.
    pub fn saddr_ether() -> Field {
        Field::payload(Network, 8, Type::EtherAddr)
    }

    /// The sender's IPv4 address.
    pub fn saddr_ip() -> Field {
        Field::payload(Network, 14, Type::Ipv4Addr)
    }

    /// The target's IPv4 address.
    pub fn daddr_ip() -> Field {
        Field::payload(Network, 24, Type::Ipv4Addr)
    }
}

/// The IPv4 header (RFC 791, section 3.1).
pub mod ip {
    use super::*;
    use crate::expr::PayloadBase::Network;

    /// The protocol.
    pub fn protocol() -> Field {
        Field::payload(Network, 9, Type::InetProto)
    }

    /// The source address.
    pub fn saddr() -> Field {
        Field::payload(Network, 12, Type::Ipv4Addr)
    }

    /// The destination address.
    pub fn daddr() -> Field {
        Field::payload(Network, 16, Type::Ipv4Addr)
    }
}

/// The IPv6 header (RFC 8200, section 3).
pub mod ip6 {
    use super::*;
    use crate::expr::PayloadBase::Network;

    /// The next header, which may be an extension header.
    pub fn nexthdr() -> Field {
        Field::payload(Network, 6, Type::InetProto)
    }

    /// The source address.
    pub fn saddr() -> Field {
        Field::payload(Network, 8, Type::Ipv6Addr)
    }

    /// The destination address.
    pub fn daddr() -> Field {
        Field::payload(Network, 24, Type::Ipv6Addr)
    }
}

/// The source address of a packet of this family: IPv6 for [`Family::Ip6`], else IPv4.
pub fn saddr(family: Family) -> Field {
    if family == Family::Ip6 { ip6::saddr() } else { ip::saddr() }
}

/// The destination address of a packet of this family: IPv6 for [`Family::Ip6`], else IPv4.
pub fn daddr(family: Family) -> Field {
    if family == Family::Ip6 { ip6::daddr() } else { ip::daddr() }
}

/// The ports at the start of the transport header, of any protocol that has them there (TCP, UDP, SCTP).
pub mod th {
    use super::*;
    use crate::expr::PayloadBase::Transport;

    /// The source port.
    pub fn sport() -> Field {
        Field::payload(Transport, 0, Type::InetService)
    }

    /// The destination port.
    pub fn dport() -> Field {
        Field::payload(Transport, 2, Type::InetService)
    }
}

/// The TCP header (RFC 9293, section 3.1).
pub mod tcp {
    use super::*;
    use crate::expr::PayloadBase::Transport;

    /// The flags.
    pub fn flags() -> Field {
        Field::payload(Transport, 13, Type::TcpFlag)
    }

    /// No more data.
    pub const FIN: Value = Value::from_array(Type::TcpFlag, [0x01]);
    /// Opening.
    pub const SYN: Value = Value::from_array(Type::TcpFlag, [0x02]);
    /// Reset.
    pub const RST: Value = Value::from_array(Type::TcpFlag, [0x04]);
    /// Acknowledgement.
    pub const ACK: Value = Value::from_array(Type::TcpFlag, [0x10]);
}

/// ICMP message types (RFC 792, RFC 4443).
pub mod icmp {
    use super::*;
    use crate::expr::PayloadBase::Transport;

    /// The type of an ICMP message.
    pub fn kind() -> Field {
        Field::payload(Transport, 0, Type::IcmpType)
    }

    /// The type of an ICMPv6 message.
    pub fn kind6() -> Field {
        Field::payload(Transport, 0, Type::Icmpv6Type)
    }

    /// The target address of a neighbour solicitation or advertisement (RFC 4861, sections 4.3 and 4.4).
    pub fn target6() -> Field {
        Field::payload(Transport, 8, Type::Ipv6Addr)
    }

    /// An ICMP message type, by number.
    pub const fn message(number: u8) -> Value {
        Value::from_array(Type::IcmpType, [number])
    }

    /// An ICMPv6 message type, by number.
    pub const fn message6(number: u8) -> Value {
        Value::from_array(Type::Icmpv6Type, [number])
    }
}

/// Connection tracking (`enum nft_ct_keys`, `linux/netfilter/nf_conntrack_common.h`).
pub mod ct {
    use super::*;

    pub(crate) const MARK: u32 = 3;
    const ORIGINAL: Option<u8> = Some(0);

    /// The state, as bits.
    pub fn state() -> Field {
        Field::ct(0, None, Type::CtState)
    }

    /// Which way the packet goes: [`TO_SERVER`] or [`TO_CLIENT`].
    pub fn direction() -> Field {
        Field::ct(1, None, Type::CtDir)
    }

    /// The status, as bits.
    pub fn status() -> Field {
        Field::ct(2, None, Type::CtStatus)
    }

    /// The connection's mark.
    pub fn mark() -> Field {
        Field::ct(MARK, None, Type::Mark)
    }

    /// The source address of the connection's first packet, before translation.
    pub fn original_saddr(family: Family) -> Field {
        match family {
            Family::Ip6 => Field::ct(21, ORIGINAL, Type::Ipv6Addr),
            _ => Field::ct(19, ORIGINAL, Type::Ipv4Addr),
        }
    }

    /// The destination address of the connection's first packet, before translation.
    pub fn original_daddr(family: Family) -> Field {
        match family {
            Family::Ip6 => Field::ct(22, ORIGINAL, Type::Ipv6Addr),
            _ => Field::ct(20, ORIGINAL, Type::Ipv4Addr),
        }
    }

    /// The transport protocol of the connection.
    pub fn original_protocol() -> Field {
        Field::ct(10, ORIGINAL, Type::InetProto)
    }

    /// The destination port of the connection's first packet, before translation.
    pub fn original_dport() -> Field {
        Field::ct(12, ORIGINAL, Type::InetService)
    }

    const fn state_bit(bits: u32) -> Value {
        Value::from_array(Type::CtState, bits.to_ne_bytes())
    }

    const fn status_bit(bits: u32) -> Value {
        Value::from_array(Type::CtStatus, bits.to_ne_bytes())
    }

    /// State: belongs to no connection that can be.
    pub const INVALID: Value = state_bit(0x01);
    /// State: packets have been seen both ways.
    pub const ESTABLISHED: Value = state_bit(0x02);
    /// State: new, but expected by another connection.
    pub const RELATED: Value = state_bit(0x04);
    /// State: the first packet of a connection.
    pub const NEW: Value = state_bit(0x08);
    /// State: exempt from tracking.
    pub const UNTRACKED: Value = state_bit(0x40);
    /// Status: an answer has been seen.
    pub const SEEN_REPLY: Value = status_bit(0x02);
    /// Status: the source is translated.
    pub const SNAT: Value = status_bit(0x10);
    /// Status: the destination is translated.
    pub const DNAT: Value = status_bit(0x20);
    /// Direction: that of the first packet.
    pub const TO_SERVER: Value = Value::from_array(Type::CtDir, [0]);
    /// Direction: that of the answers.
    pub const TO_CLIENT: Value = Value::from_array(Type::CtDir, [1]);
}

/// Looks into the routing table (`enum nft_fib_flags`).
pub mod fib {
    use super::*;

    /// By source address.
    pub const SADDR: u32 = 1 << 0;
    /// By destination address.
    pub const DADDR: u32 = 1 << 1;
    /// With the packet's mark.
    pub const MARK: u32 = 1 << 2;
    /// Only routes of the interface on which the packet arrived.
    pub const IIF: u32 = 1 << 3;
    /// Only routes of the interface by which the packet leaves.
    pub const OIF: u32 = 1 << 4;

    /// What kind of address it is, such as [`LOCAL`]. `flags` has one of [`SADDR`] and [`DADDR`].
    pub fn address_type(flags: u32) -> Field {
        Field::new(Source::Fib { result: 3, flags }, Type::FibAddrType)
    }

    /// The index of the interface to which the route leads; 0 if there is none. `flags` has one of [`SADDR`] and
    /// [`DADDR`].
    pub fn oif(flags: u32) -> Field {
        Field::new(Source::Fib { result: 1, flags }, Type::IfaceIndex)
    }

    const fn address(number: u32) -> Value {
        Value::from_array(Type::FibAddrType, number.to_ne_bytes())
    }

    /// An address of another host (`RTN_UNICAST`).
    pub const UNICAST: Value = address(1);
    /// An address of this host (`RTN_LOCAL`).
    pub const LOCAL: Value = address(2);
    /// A broadcast address (`RTN_BROADCAST`).
    pub const BROADCAST: Value = address(3);
    /// A multicast address (`RTN_MULTICAST`).
    pub const MULTICAST: Value = address(5);
}

/// Numbers drawn, from 0 to `modulus` - 1. The modulus must not be 0.
pub mod numgen {
    use super::*;

    /// At random.
    pub fn random(modulus: u32) -> Field {
        Field::new(Source::Numgen { random: true, modulus, offset: 0 }, Type::Index)
    }

    /// In turn.
    pub fn incremental(modulus: u32) -> Field {
        Field::new(Source::Numgen { random: false, modulus, offset: 0 }, Type::Index)
    }
}

/// Numbers computed from the packet, from 0 to `modulus` - 1. The modulus must be more than 1.
pub mod hash {
    use super::*;

    /// The Jenkins hash of some fields: same fields, same number, on each host with the same seed.
    pub fn jhash(of: impl Into<Vec<Field>>, modulus: u32, seed: u32) -> Field {
        Field::new(Source::Jhash { of: of.into(), modulus, seed }, Type::Index)
    }

    /// The kernel's hash of the flow, the same in both directions.
    pub fn symhash(modulus: u32) -> Field {
        Field::new(Source::Symhash { modulus }, Type::Index)
    }
}
