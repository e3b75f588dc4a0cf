//! Networks behind NAT gateways.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, PerFamily};

use super::source;
use super::{Interface, Machine, Role, Topology, TopologyError};

/// The longest time that a gateway can be told to remember a flow, in seconds: half a year.
const LONGEST_TIMEOUT: u64 = 180 * 24 * 3600;

/// How a NAT gateway translates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// For how many seconds a flow without ports, as one of IP in IP, is remembered without a packet
    /// (`nf_conntrack_generic_timeout`, Documentation/networking/nf_conntrack-sysctl.rst); none for the kernel's 600.
    pub generic_timeout: Option<u32>,
    /// Whether the nodes on the inside have the gateway's outer addresses as `ExternalIP`s.
    pub external: bool,
}

pub(super) fn check(gateway: &source::NatGateway) -> Result<Nat, TopologyError> {
    let seconds = |timeout: &serde_saphyr::Spanned<u64>| match u32::try_from(timeout.value) {
        Ok(seconds @ 1..) if timeout.value <= LONGEST_TIMEOUT => Ok(seconds),
        _ => {
            let (name, value) = (&gateway.name.value, timeout.value);
            let message = format!(
                "NAT gateway {name}: genericTimeout {value} cannot be used; use 1 to {LONGEST_TIMEOUT} seconds"
            );
            Err(TopologyError::at(timeout, message))
        }
    };
    let generic_timeout = gateway.generic_timeout.as_ref().map(seconds).transpose()?;
    Ok(Nat { generic_timeout, external: gateway.external_ips })
}

/// Whether a subnet is on the inside of a gateway, and not seen from anywhere else.
pub(super) fn hides(file: &source::File, subnet: &str) -> bool {
    let is_it = |text: &source::Text| text.value == subnet;
    let gateways = &file.nat_gateways;
    gateways.iter().any(|gateway| is_it(&gateway.inside))
        && !gateways.iter().any(|gateway| is_it(&gateway.outside))
        && !file.routers.iter().any(|router| router.subnets.value.iter().any(is_it))
}

impl Machine {
    /// A NAT gateway's interface on the outside.
    pub fn outer(&self) -> Option<&Interface> {
        self.interfaces.last().filter(|_| self.role == Role::NatGateway)
    }
}

impl Topology {
    /// The gateway behind which a machine is.
    pub fn gateway_of(&self, machine: &Machine) -> Option<&Machine> {
        let subnet = machine.interfaces.first()?.subnet;
        let inside = |gateway: &&Machine| gateway.interfaces.first().is_some_and(|one| one.subnet == subnet);
        self.of_role(Role::NatGateway).find(|gateway| inside(gateway) && gateway.name != machine.name)
    }

    /// The addresses that are told to be a node's on the outside: its gateway's.
    pub fn external(&self, node: &Machine) -> PerFamily<IpAddr> {
        let gateway =
            self.gateway_of(node).filter(|gateway| gateway.nat.as_ref().is_some_and(|nat| nat.external));
        let outer = gateway.and_then(Machine::outer);
        let of = |family| outer.and_then(|outer| outer.addresses.of(family)).map(IpNet::addr);
        PerFamily { v4: of(Family::V4), v6: of(Family::V6) }
    }
}
