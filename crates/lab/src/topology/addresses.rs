//! Addresses of machines, given or chosen.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Family, PerFamily};

use super::Role;

/// The addresses of one subnet that are in use.
#[derive(Debug)]
pub(super) struct Allocator {
    prefixes: PerFamily<IpNet>,
    used: BTreeSet<IpAddr>,
}

impl Allocator {
    pub(super) fn new(prefixes: &PerFamily<IpNet>) -> Allocator {
        Allocator { prefixes: prefixes.clone(), used: BTreeSet::new() }
    }

    /// Takes a certain address; false if it is in use.
    pub(super) fn take(&mut self, address: IpAddr) -> bool {
        self.used.insert(address)
    }

    /// Takes the first free address from where those of the role begin, or from the subnet's beginning if there is
    /// none.
    pub(super) fn next(&mut self, role: Role, family: Family) -> Option<IpNet> {
        let net = *self.prefixes.of(family)?;
        // There are at most MAX_MACHINES × MAX_SUBNETS addresses in use, so the search is short.
        let from = |start| {
            (start..).map_while(|offset| host(&net, offset)).find(|address| !self.used.contains(address))
        };
        let address = from(first_offset(role, family)).or_else(|| from(1))?;
        self.used.insert(address);
        Some(within(address, &net))
    }
}

/// Where the addresses of a role begin in a subnet, so that one sees from an address whose it is: `.1`, `.11`, `.101`
/// and, in the digits of IPv6, the same.
fn first_offset(role: Role, family: Family) -> u32 {
    match (role, family) {
        (Role::Router | Role::NatGateway, _) => 1,
        (Role::Node, Family::V4) => 11,
        (Role::Node, Family::V6) => 0x11,
        (Role::Outside, Family::V4) => 101,
        (Role::Outside, Family::V6) => 0x101,
    }
}

/// The address at an offset in a prefix, if a host can have it.
fn host(net: &IpNet, offset: u32) -> Option<IpAddr> {
    let address = match net {
        IpNet::V4(net) => IpAddr::V4(u32::from(net.network()).checked_add(offset)?.into()),
        IpNet::V6(net) => IpAddr::V6(u128::from(net.network()).checked_add(offset.into())?.into()),
    };
    usable(net, &address).then_some(address)
}

/// Whether a host can have the address: not the prefix's first (RFC 4291, section 2.6.1, in IPv6), and not IPv4's
/// broadcast address.
pub(crate) fn usable(net: &IpNet, address: &IpAddr) -> bool {
    let broadcast = matches!(net, IpNet::V4(_)) && *address == net.broadcast();
    net.contains(address) && *address != net.network() && !broadcast
}

/// An address with the length of the prefix it is in.
pub(super) fn within(address: IpAddr, net: &IpNet) -> IpNet {
    match address {
        IpAddr::V4(address) => Ipv4Net::new(address, net.prefix_len()).map(IpNet::V4),
        IpAddr::V6(address) => Ipv6Net::new(address, net.prefix_len()).map(IpNet::V6),
    }
    .unwrap_or(*net)
}
