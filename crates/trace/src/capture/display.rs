//! Packets as one line of text, close to what tcpdump prints.

use std::fmt;
use std::net::IpAddr;

use super::packet::{Arp, Icmp, Ip, Network, Packet, Payload, Tcp, TcpFlags, Udp};

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vlan in &self.vlans {
            write!(f, "vlan {vlan}, ")?;
        }
        match &self.network {
            Network::Arp(arp) => arp.fmt(f)?,
            Network::Ip(ip) => ip.fmt(f)?,
            Network::Other => match &self.ethernet {
                Some(ethernet) => write!(
                    f,
                    "{} > {}, ethertype {:#06x}",
                    ethernet.source, ethernet.destination, ethernet.ether_type
                )?,
                None => f.write_str("nothing known")?,
            },
        }
        match &self.fault {
            Some(fault) => write!(f, " [{fault}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Arp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((sender_mac, sender), (_, target)) = (self.sender, self.target);
        match self.operation {
            1 => write!(f, "ARP, Request who-has {target} tell {sender}"),
            2 => write!(f, "ARP, Reply {sender} is-at {sender_mac}"),
            other => write!(f, "ARP, operation {other} from {sender} to {target}"),
        }
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.source.is_ipv4() { "IP " } else { "IP6 " })?;
        match self.ports() {
            Some((from, to)) => write!(f, "{}.{from} > {}.{to}: ", self.source, self.destination)?,
            None => write!(f, "{} > {}: ", self.source, self.destination)?,
        }
        match &self.payload {
            Payload::Tcp(tcp) => tcp.fmt(f),
            Payload::Udp(udp) => udp.fmt(f),
            Payload::Icmp(icmp) => icmp.describe(matches!(self.source, IpAddr::V6(_)), f),
            Payload::Vxlan(vxlan) => write!(f, "VXLAN, vni {}: {}", vxlan.vni, vxlan.inner),
            Payload::Ip(inner) => inner.fmt(f),
            Payload::Other if self.fragment => write!(f, "fragment, length {}", self.length),
            Payload::Other => write!(f, "protocol {}, length {}", self.protocol, self.length),
        }
    }
}

impl fmt::Display for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags [{}], seq {}, length {}", self.flags, self.sequence, self.length)
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.syn, "S"), (self.fin, "F"), (self.rst, "R"), (self.psh, "P"), (self.ack, ".")];
        letters.iter().filter(|(set, _)| *set).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl fmt::Display for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UDP, length {}", self.length)
    }
}

impl Icmp {
    fn describe(&self, v6: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if v6 { "ICMP6, " } else { "ICMP " })?;
        let name = if v6 { icmp6_name(self.kind) } else { icmp_name(self.kind) };
        match name {
            Some(name) => f.write_str(name)?,
            None => write!(f, "type {} code {}", self.kind, self.code)?,
        }
        if let Some((id, sequence)) = self.echo {
            write!(f, ", id {id}, seq {sequence}")?;
        }
        write!(f, ", length {}", self.length)
    }
}

/// Types of RFC 792.
fn icmp_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "echo reply",
        3 => "unreachable",
        5 => "redirect",
        8 => "echo request",
        11 => "time exceeded",
        _ => return None,
    })
}

/// Types of RFC 4443 and RFC 4861, and of RFC 3810.
fn icmp6_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        1 => "unreachable",
        2 => "packet too big",
        3 => "time exceeded",
        128 => "echo request",
        129 => "echo reply",
        133 => "router solicitation",
        134 => "router advertisement",
        135 => "neighbor solicitation",
        136 => "neighbor advertisement",
        137 => "redirect",
        143 => "multicast listener report v2",
        _ => return None,
    })
}
