//! The configuration of the whole cluster's network.

use std::fmt;

use ipnet::IpNet;

use crate::{AsnError, BgpSettings, Family, PodRange, RangeError, RouteSource, TimerError};

/// The smallest MTU that every IPv6 link must have, in bytes (RFC 8200, section 5).
pub const MIN_MTU: u32 = 1280;

/// What a `ClusterNetwork` asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The ranges that the nodes' pod ranges are cut from. Traffic to them is never masqueraded.
    pub pod_ranges: Vec<PodRange>,
    /// The ranges of the services' cluster addresses.
    pub service_ranges: Vec<IpNet>,
    /// How packets between pods of different nodes cross the underlay.
    pub encapsulation: Encapsulation,
    /// The MTU of the pods' interfaces.
    pub mtu: Mtu,
    /// The prefixes in which a node's addresses accept node ports; if empty, its `InternalIP`s do.
    pub node_port_addresses: Vec<IpNet>,
    /// Where the routes to the pods of other nodes come from.
    pub route_source: RouteSource,
    /// What nodes say and believe in BGP. It is spoken if routes come from it, and with every `BgpPeer`.
    pub bgp: BgpSettings,
    /// Whether packets of established flows between pods go by the fast path.
    pub fast_path: bool,
}

/// How packets between nodes are carried.
///
/// It binds senders only. Every node accepts VXLAN, IP in IP and plain packets at any time, so a change loses none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encapsulation {
    /// How packets are sent.
    pub sending: Sending,
    /// The settings of the VXLAN devices, which are there in any case.
    pub vxlan: VxlanSettings,
}

/// How packets between nodes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// In VXLAN (RFC 7348).
    Vxlan(When),
    /// In IP in IP (RFC 2003 and RFC 2473), by programs on the uplink.
    Ipip(When),
    /// As they are, by routes over the underlay.
    Plain,
}

/// Between which nodes packets are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Between all nodes.
    Always,
    /// Between nodes of different subnets of the underlay. In one subnet packets are sent as they are.
    CrossSubnet,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            When::Always => "all nodes",
            When::CrossSubnet => "nodes of different subnets",
        })
    }
}

impl Default for Sending {
    fn default() -> Self {
        Sending::Vxlan(When::Always)
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VxlanSettings { vni, port } = self.vxlan;
        match self.sending {
            Sending::Vxlan(when) => {
                write!(f, "VXLAN between {when}, identifier {}, UDP port {}", vni.0, port.0)
            }
            Sending::Ipip(when) => write!(f, "IP in IP between {when}"),
            Sending::Plain => f.write_str("no encapsulation, routes between the nodes of a subnet"),
        }
    }
}

/// Settings of VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanSettings {
    /// The VXLAN network identifier.
    pub vni: Vni,
    /// The UDP destination port.
    pub port: VxlanPort,
}

impl Default for VxlanSettings {
    /// Identifier 4096 on the port assigned by IANA, 4789.
    fn default() -> Self {
        VxlanSettings { vni: Vni(4096), port: VxlanPort(4789) }
    }
}

/// A VXLAN network identifier: 1 to 2²⁴−1 (RFC 7348, section 5; 0 is left out because devices use it as "none").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vni(u32);

/// The UDP port that VXLAN packets are sent to, host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VxlanPort(u16);

impl Vni {
    /// The identifier as a number.
    pub fn value(self) -> u32 {
        self.0
    }
}

impl VxlanPort {
    /// The port as a number, host byte order.
    pub fn value(self) -> u16 {
        self.0
    }
}

/// Where the pods' MTU comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// The underlay's less the overhead of the encapsulation.
    Auto,
    /// As configured, in bytes of IP packet.
    Fixed(u32),
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mtu::Auto => f.write_str("auto"),
            Mtu::Fixed(mtu) => mtu.fmt(f),
        }
    }
}

/// A `ClusterNetwork` that cannot be put into force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No pod range at all.
    #[error("spec.podRanges is empty; name at least one range, for instance 10.244.0.0/16")]
    NoPodRange,
    /// A pod range that cannot be used.
    #[error("spec.podRanges[{index}]: {source}")]
    PodRange {
        /// The position in the list.
        index: usize,
        /// What is wrong with it.
        source: RangeError,
    },
    /// A service range that is no prefix.
    #[error(
        "spec.serviceRanges[{index}]: \"{value}\" is not an address prefix; it would look like 10.96.0.0/12"
    )]
    ServiceRange {
        /// The position in the list.
        index: usize,
        /// What stands there.
        value: String,
    },
    /// A prefix of node port addresses that is none.
    #[error(
        "spec.nodePortAddresses[{index}]: \"{value}\" is not an address prefix; it would look like 192.0.2.0/24, or \
         leave the list out to use the nodes' InternalIPs"
    )]
    NodePortAddresses {
        /// The position in the list.
        index: usize,
        /// What stands there.
        value: String,
    },
    /// Two ranges that share addresses.
    #[error("spec: {first} and {second} overlap; pod and service ranges must be apart from each other")]
    Overlap {
        /// One range.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// A condition for an encapsulation that there is none of.
    #[error(
        "spec.encapsulation.when: \"crossSubnet\" makes no sense with protocol none, which encapsulates nothing between \
         any nodes; leave it out, or use protocol vxlan or ipip to encapsulate between subnets only"
    )]
    NothingToEncapsulate,
    /// A VXLAN identifier out of range.
    #[error("spec.encapsulation.vni: {0} is out of range; use 1 to 16777215")]
    Vni(u64),
    /// A port out of range.
    #[error("spec.encapsulation.port: {0} is out of range; use 1 to 65535")]
    Port(u64),
    /// An MTU that is too small or too big.
    #[error("spec.mtu: \"{value}\" cannot be used; use auto or a number from {least} to 65535")]
    Mtu {
        /// What stands there.
        value: String,
        /// The smallest that would do, in bytes.
        least: u32,
    },
    /// A number that no autonomous system can have.
    #[error("spec.bgp.asn: {0}")]
    Asn(#[from] AsnError),
    /// A time of BGP or BFD.
    #[error("spec.bgp.{0}")]
    Timer(#[from] TimerError),
}

impl Vni {
    /// Takes a number as VXLAN identifier.
    ///
    /// # Errors
    /// [`NetworkError::Vni`] if it is 0 or does not fit 24 bits.
    pub fn new(value: u64) -> Result<Vni, NetworkError> {
        match u32::try_from(value) {
            Ok(vni @ 1..=0x00ff_ffff) => Ok(Vni(vni)),
            _ => Err(NetworkError::Vni(value)),
        }
    }
}

impl VxlanPort {
    /// Takes a number as UDP port.
    ///
    /// # Errors
    /// [`NetworkError::Port`] if it is 0 or does not fit 16 bits.
    pub fn new(value: u64) -> Result<VxlanPort, NetworkError> {
        match u16::try_from(value) {
            Ok(port @ 1..) => Ok(VxlanPort(port)),
            _ => Err(NetworkError::Port(value)),
        }
    }
}

impl Mtu {
    /// Parses `auto` or a number of bytes.
    ///
    /// # Errors
    /// [`NetworkError::Mtu`] if it is neither, or less than IPv4 (576) or, with `ipv6`, IPv6 (1280) needs.
    pub fn parse(text: &str, ipv6: bool) -> Result<Mtu, NetworkError> {
        let least = if ipv6 { MIN_MTU } else { 576 };
        match (text, text.parse()) {
            ("auto", _) => Ok(Mtu::Auto),
            (_, Ok(mtu)) if (least..=65_535).contains(&mtu) => Ok(Mtu::Fixed(mtu)),
            _ => Err(NetworkError::Mtu { value: text.to_owned(), least }),
        }
    }
}

impl NetworkConfig {
    /// Checks the parts of a network's configuration against each other.
    ///
    /// `mtu` is `auto` or a number of bytes.
    ///
    /// # Errors
    /// [`NetworkError`] for the first field that cannot be used.
    pub fn parse(
        pod_ranges: &[String],
        service_ranges: &[String],
        encapsulation: Encapsulation,
        mtu: &str,
    ) -> Result<NetworkConfig, NetworkError> {
        if pod_ranges.is_empty() {
            return Err(NetworkError::NoPodRange);
        }
        let pod_ranges = pod_ranges
            .iter()
            .enumerate()
            .map(|(index, text)| text.parse().map_err(|source| NetworkError::PodRange { index, source }))
            .collect::<Result<Vec<PodRange>, _>>()?;
        let service_ranges = service_ranges
            .iter()
            .enumerate()
            .map(|(index, text)| match text.parse::<IpNet>() {
                Ok(net) => Ok(net.trunc()),
                Err(_) => Err(NetworkError::ServiceRange { index, value: text.clone() }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let all: Vec<IpNet> =
            pod_ranges.iter().map(PodRange::net).chain(service_ranges.iter().copied()).collect();
        for (index, first) in all.iter().enumerate() {
            if let Some(second) = all[index + 1..].iter().find(|second| overlap(first, second)) {
                return Err(NetworkError::Overlap { first: *first, second: *second });
            }
        }
        let ipv6 = pod_ranges.iter().any(|range| range.family() == Family::V6);
        let mtu = Mtu::parse(mtu, ipv6)?;
        Ok(NetworkConfig {
            pod_ranges,
            service_ranges,
            encapsulation,
            mtu,
            node_port_addresses: Vec::new(),
            route_source: RouteSource::default(),
            bgp: BgpSettings::default(),
            fast_path: false,
        })
    }

    /// The configuration with these prefixes for node ports.
    ///
    /// # Errors
    /// [`NetworkError::NodePortAddresses`] for the first that is no prefix.
    pub fn with_node_port_addresses(self, prefixes: &[String]) -> Result<NetworkConfig, NetworkError> {
        let prefix = |(index, text): (usize, &String)| match text.parse::<IpNet>() {
            Ok(net) => Ok(net.trunc()),
            Err(_) => Err(NetworkError::NodePortAddresses { index, value: text.clone() }),
        };
        let node_port_addresses = prefixes.iter().enumerate().map(prefix).collect::<Result<_, _>>()?;
        Ok(NetworkConfig { node_port_addresses, ..self })
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pods: &[&str], services: &[&str], mtu: &str) -> Result<NetworkConfig, NetworkError> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        NetworkConfig::parse(&texts(pods), &texts(services), Encapsulation::default(), mtu)
    }

    #[test]
    fn a_dual_stack_network() {
        let network = parse(&["10.244.0.0/16", "fd00:10:244::/56"], &["10.96.0.0/12"], "auto").unwrap();
        assert_eq!(network.pod_ranges.len(), 2);
        assert_eq!(network.mtu, Mtu::Auto);
    }

    #[test]
    fn errors_name_field_value_and_what_would_be_right() {
        for (result, expected) in [
            (parse(&[], &[], "auto"), "spec.podRanges is empty"),
            (parse(&["10.244.0.0"], &[], "auto"), "spec.podRanges[0]: pod range \"10.244.0.0\""),
            (parse(&["10.0.0.0/8"], &["10.96.0.0/12"], "auto"), "10.0.0.0/8 and 10.96.0.0/12 overlap"),
            (parse(&["10.0.0.0/8"], &["fd00::/129"], "auto"), "spec.serviceRanges[0]: \"fd00::/129\""),
            (
                parse(&["fd00::/64"], &[], "1279"),
                "spec.mtu: \"1279\" cannot be used; use auto or a number from 1280",
            ),
            (parse(&["10.0.0.0/8"], &[], "big"), "spec.mtu: \"big\""),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let network = parse(&["10.0.0.0/8"], &[], "auto").unwrap();
        let error = network.with_node_port_addresses(&["primary".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("spec.nodePortAddresses[0]: \"primary\""), "{error}");
        assert!(Vni::new(0).is_err() && Vni::new(1 << 24).is_err() && Vni::new((1 << 24) - 1).is_ok());
        assert!(VxlanPort::new(0).is_err() && VxlanPort::new(65_536).is_err());
    }
}
