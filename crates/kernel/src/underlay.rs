//! The node's own addresses, and the links that carry them.

use std::net::IpAddr;

use model::{Family, LinkName, PerFamily};

use crate::link::Links;
use crate::{Kernel, Result, address};

/// The link that has one of the node's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub link: LinkName,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// Where the node stands in the networks around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The links that have the node's underlay addresses. An address that no link has is left out.
    pub underlay: PerFamily<Underlay>,
    /// All addresses of the node by which others can reach it, sorted: those on links of ours and of pods, loopback
    /// and link-local ones are left out.
    pub addresses: Vec<IpAddr>,
}

impl Kernel {
    /// Says which links have the node's underlay addresses, and what addresses it has in all.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn surroundings(&mut self, underlay: &PerFamily<IpAddr>) -> Result<Surroundings> {
        let links = Links::read(&mut self.socket)?;
        let assigned = address::dump(&mut self.socket)?;
        let mut found = Surroundings::default();
        for (index, net) in assigned.iter().filter_map(address::parts) {
            let (Some(link), address) = (links.at(index), net.addr()) else { continue };
            let family = Family::of(&address);
            if underlay.of(family) == Some(&address) && found.underlay.of(family).is_none() {
                found.underlay.insert(family, Underlay { link: link.name.clone(), mtu: link.mtu });
            }
            if !link.ours && !link.pods && !address.is_loopback() && !is_link_local(&address) {
                found.addresses.push(address);
            }
        }
        found.addresses.sort_unstable();
        found.addresses.dedup();
        Ok(found)
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
