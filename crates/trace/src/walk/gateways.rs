//! NAT gateways between nodes: what becomes of packets of IP in IP there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{Family, Node, NodeName, PerFamily};

use super::{Loss, World};

/// The NAT gateway of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// The site.
    pub site: Box<str>,
    /// Its addresses on the outside.
    pub outer: PerFamily<IpAddr>,
    /// Whom it remembers: by the node outside and the family inside the tunnel, the node inside that has it.
    pub remembers: BTreeMap<(NodeName, Family), NodeName>,
}

/// A packet beyond all gateways.
pub(super) struct Crossed<'w> {
    /// The node that it comes to.
    pub(super) node: &'w NodeName,
    /// The site whose gateway has changed it, if any has.
    pub(super) site: Option<&'w str>,
    /// Its outer addresses now.
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

impl World {
    /// The node that has an underlay address, as far as a node knows: in its own site, or outside of all.
    pub(super) fn owner(&self, from: &NodeName, address: &IpAddr) -> Option<&NodeName> {
        let site = self.nodes.get(from).and_then(|(node, _)| node.site.as_deref());
        let has_it = |node: &Node| node.addresses.iter().any(|own| own == address);
        let near = |node: &Node| node.site.as_deref() == site;
        let all = || self.nodes.iter().filter(|(_, (node, _))| has_it(node));
        let found = all().find(|(_, (node, _))| near(node));
        found.or_else(|| all().find(|(_, (node, _))| node.site.is_none())).map(|(name, _)| name)
    }

    /// What becomes of a packet of IP in IP that a node sends.
    pub(super) fn cross(
        &self,
        from: &NodeName,
        (source, destination): (IpAddr, IpAddr),
        inner: Family,
    ) -> Result<Crossed<'_>, Loss> {
        let family = Family::of(&destination);
        let site = |name: &NodeName| self.nodes.get(name).and_then(|(node, _)| node.site.as_deref());
        let own = site(from);
        let to = self.owner(from, &destination);
        if let Some(node) = to.filter(|node| site(node) == own) {
            return Ok(Crossed { node, site: None, source, destination });
        }
        let nowhere = Loss::NoSuchNode(destination);
        if let (Some(own), Some(outside)) = (own, to) {
            let gateway =
                self.gateways.iter().find(|gateway| *gateway.site == *own).ok_or(nowhere.clone())?;
            if let Some(other) = gateway.remembers.get(&(outside.clone(), inner)).filter(|node| *node != from)
            {
                return Err(Loss::Remembered { site: own.into(), node: other.clone() });
            }
            let source = *gateway.outer.of(family).ok_or(nowhere)?;
            return Ok(Crossed { node: outside, site: Some(&gateway.site), source, destination });
        }
        let gateway = self.gateways.iter().find(|gateway| gateway.outer.of(family) == Some(&destination));
        let gateway = gateway.filter(|_| own.is_none()).ok_or(nowhere.clone())?;
        let node = gateway.remembers.get(&(from.clone(), inner));
        let node = node.ok_or_else(|| Loss::NotAsked { site: gateway.site.clone() })?;
        let address = self.nodes.get(node).and_then(|(node, _)| node.addresses.of(family));
        Ok(Crossed { node, site: Some(&gateway.site), source, destination: *address.ok_or(nowhere)? })
    }
}
