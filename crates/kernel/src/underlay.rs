//! The links that carry the node's own addresses.

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

impl Kernel {
    /// Says which links have the node's addresses, and how big their packets can be. An address that no link has is
    /// left out.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn underlay(&mut self, addresses: &PerFamily<IpAddr>) -> Result<PerFamily<Underlay>> {
        let links = Links::read(&mut self.socket)?;
        let assigned = address::dump(&mut self.socket)?;
        let mut found = PerFamily::default();
        for wanted in addresses.iter() {
            let holder = assigned
                .iter()
                .filter_map(address::parts)
                .find(|(_, net)| net.addr() == *wanted)
                .and_then(|(index, _)| links.at(index));
            if let Some(link) = holder {
                found.insert(Family::of(wanted), Underlay { link: link.name.clone(), mtu: link.mtu });
            }
        }
        Ok(found)
    }
}
