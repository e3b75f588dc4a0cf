//! A look at what is not ours, and at what the kernel has counted: for whoever wants to know what is wrong with a node.
//! Nothing is changed.

use std::net::IpAddr;

use ipnet::IpNet;
use model::LinkName;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteType};

use crate::link::Links;
use crate::tables::unreadable;
use crate::{Kernel, Result, address, route, sysctl};

/// Reads a kernel setting, named by its path below `/proc/sys`, in the namespace of the calling thread; `None` if this
/// kernel does not have it.
///
/// # Errors
/// [`Error::File`] if it is there and cannot be read.
pub fn setting(path: &str) -> Result<Option<String>> {
    sysctl::read(path)
}

impl Kernel {
    /// All links of the namespace, ours and others.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn links(&mut self) -> Result<Links> {
        Links::read(&mut self.socket)
    }

    /// The addresses of all links, each with its prefix length.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn addresses(&mut self) -> Result<Vec<(LinkName, IpNet)>> {
        let links = Links::read(&mut self.socket)?;
        let assigned = address::dump(&mut self.socket)?;
        let named = |(index, net)| links.at(index).map(|link| (link.name.clone(), net));
        Ok(assigned.iter().filter_map(address::parts).filter_map(named).collect())
    }

    /// The link by which the node itself reaches an address; `None` if it has no way there.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn link_to(&mut self, address: IpAddr) -> Result<Option<LinkName>> {
        let what = format!("look up the way to {address}");
        let found = match route::look_up(&mut self.socket, address, RouteFlags::empty(), &what) {
            Ok(found) => found,
            Err(error) if error.errno().is_some_and(is_no_way) => return Ok(None),
            Err(error) => return Err(error),
        };
        // An unreachable route of IPv6 is an answer, and leads to loopback.
        if !matches!(found.header.kind, RouteType::Unicast | RouteType::Local) {
            return Ok(None);
        }
        let index = found.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let links = Links::read(&mut self.socket)?;
        Ok(index.and_then(|index| links.at(index)).map(|link| link.name.clone()))
    }

    /// The nftables chains of the families `ip`, `ip6`, `inet` and `bridge`, each with its table as `nft` writes it.
    /// Chains of `iptables-nft` are among them, those of `iptables-legacy` are not.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn chains(&mut self) -> Result<Vec<(String, String)>> {
        let tables = self.tables.socket.tables().map_err(|source| unreadable("list the tables", source))?;
        let mut found = Vec::new();
        for table in tables {
            let chains = self.tables.socket.chains(&table);
            let chains =
                chains.map_err(|source| unreadable(format!("list the chains of {table}"), source))?;
            let name = format!("{} {}", table.family, table.name);
            found.extend(chains.into_iter().map(|chain| (name.clone(), chain.name)));
        }
        Ok(found)
    }
}

/// What the kernel says to whoever asks for a way that there is not: no route, or one that forbids it.
fn is_no_way(errno: i32) -> bool {
    [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL].contains(&errno)
}
