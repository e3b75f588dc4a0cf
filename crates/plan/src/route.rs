//! Routes: where packets to a destination go, and who said so.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{LinkName, RouteSource};

/// The routing protocol number of routes of ours that are known from the Node objects (`rtm_protocol`,
/// linux/rtnetlink.h). Numbers from 5 up are free for daemons, and ours are in neither the kernel's list nor iproute2's.
const KUBERNETES: u8 = 203;
/// The routing protocol number of routes of ours that BGP peers have told.
const BGP: u8 = 204;

/// A unicast route in the main table, with the protocol number of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub destination: IpNet,
    /// Where packets to it go: at least one, in order, none twice. Of several the kernel takes one for each flow.
    pub hops: Vec<Hop>,
    /// The source address that the node itself uses to get there.
    pub source: Option<IpAddr>,
    /// The largest packet that fits, in bytes (`RTAX_MTU`); `None` for the link's MTU.
    pub mtu: Option<u32>,
    /// Where we know it from.
    pub learned: RouteSource,
}

/// One of the ways that a route leads. The address is taken as reachable on the link without a route to it
/// (`RTNH_F_ONLINK`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The next hop. An IPv4 route can have an IPv6 one (RFC 8950).
    pub via: IpAddr,
    /// The outgoing link.
    pub link: LinkName,
}

/// The protocol number of routes that are known from `source`.
pub fn route_protocol(source: RouteSource) -> u8 {
    match source {
        RouteSource::Kubernetes => KUBERNETES,
        RouteSource::Bgp => BGP,
    }
}

/// Where routes of a protocol number are known from; `None` if the number is not ours.
pub fn route_source(protocol: u8) -> Option<RouteSource> {
    match protocol {
        KUBERNETES => Some(RouteSource::Kubernetes),
        BGP => Some(RouteSource::Bgp),
        _ => None,
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "via {} dev {}", self.via, self.link)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        for (number, hop) in self.hops.iter().enumerate() {
            write!(f, "{}{hop}", if number == 0 { " " } else { " and " })?;
        }
        self.source.map_or(Ok(()), |source| write!(f, " src {source}"))?;
        self.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_a_number_of_its_own_and_no_other_number_is_ours() {
        for source in [RouteSource::Kubernetes, RouteSource::Bgp] {
            assert_eq!(route_source(route_protocol(source)), Some(source));
        }
        assert_eq!((0..=255).filter_map(route_source).count(), 2);
    }
}
