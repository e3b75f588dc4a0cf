//! IP in IP: what the programs on a node's uplink go by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use model::{Family, LinkName};

/// Everything the programs know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// What becomes of packets that leave by the uplink, by destination; the longest prefix counts. What is not in
    /// it leaves as it is.
    pub routes: BTreeMap<IpNet, Route>,
    /// The outer addresses of all other nodes. Packets from elsewhere are dropped.
    pub nodes: BTreeSet<IpAddr>,
    /// The outer addresses at which this node takes packets. Those to other addresses are let through unopened.
    pub locals: BTreeSet<IpAddr>,
    /// The links that carry the programs.
    pub uplinks: BTreeSet<LinkName>,
}

/// How packets get to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The addresses of the outer header.
    pub outer: Outer,
    /// Where the wrapped packet goes first.
    pub next_hop: NextHop,
    /// Unless the destination was heard within this time, by packets of the same inner family, packets to it are
    /// dropped.
    ///
    /// It is for a destination behind a NAT gateway. Protocols 4 and 41 have no ports: what the outside sends before
    /// the inside did, or after the gateway has forgotten the inside, the gateway records as a flow to itself, and
    /// drops what the inside sends for as long as that goes on. The inside keeps its flows open with keepalives, one
    /// for each protocol, so the time has to be longer than the pause between them. A node that is not in
    /// [`Table::nodes`] is never heard.
    pub hold: Option<Duration>,
}

/// Where a wrapped packet goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// To the next hop of the kernel's route by which the packet came to the uplink. That costs nothing, and is right
    /// if it is a next hop to the other node too.
    Kept,
    /// To the next hop that the kernel's routes have for the other node's outer address.
    ///
    /// It takes one more look-up per packet, and the next hop of the packet's own route can be anything that has an
    /// Ethernet address. There may be no other way for IPv6 pods over routers for IPv4 only.
    Asked,
}

/// The addresses of an outer header: both of one family, which need not be that of the packets inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outer {
    /// Over IPv4.
    V4 {
        /// This node.
        source: Ipv4Addr,
        /// The other node.
        destination: Ipv4Addr,
    },
    /// Over IPv6.
    V6 {
        /// This node.
        source: Ipv6Addr,
        /// The other node.
        destination: Ipv6Addr,
    },
}

impl Outer {
    /// The addresses of an outer header; `None` if they are not of one family.
    pub fn new(source: IpAddr, destination: IpAddr) -> Option<Outer> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Outer::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Outer::V6 { source, destination }),
            _ => None,
        }
    }

    /// This node.
    pub fn source(&self) -> IpAddr {
        match *self {
            Outer::V4 { source, .. } => source.into(),
            Outer::V6 { source, .. } => source.into(),
        }
    }

    /// The other node.
    pub fn destination(&self) -> IpAddr {
        match *self {
            Outer::V4 { destination, .. } => destination.into(),
            Outer::V6 { destination, .. } => destination.into(),
        }
    }

    /// Their family.
    pub fn family(&self) -> Family {
        match self {
            Outer::V4 { .. } => Family::V4,
            Outer::V6 { .. } => Family::V6,
        }
    }

    /// The length of the outer header in bytes: what the MTU of a route is less than the uplink's.
    pub fn overhead(&self) -> u32 {
        Outer::overhead_of(self.family())
    }

    /// The length of an outer header of a family in bytes (RFC 791, section 3.1; RFC 8200, section 3).
    pub fn overhead_of(family: Family) -> u32 {
        match family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_addresses_are_of_one_family() {
        let [four, six]: [IpAddr; 2] = ["172.16.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(Outer::new(four, six), None);
        assert_eq!(Outer::new(six, four), None);
        for (address, family, overhead) in [(four, Family::V4, 20), (six, Family::V6, 40)] {
            let outer = Outer::new(address, address).unwrap();
            assert_eq!((outer.source(), outer.destination()), (address, address));
            assert_eq!((outer.family(), outer.overhead()), (family, overhead));
        }
    }
}
