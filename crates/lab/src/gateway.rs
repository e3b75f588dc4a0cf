//! What happens to NAT gateways in the course of time: they are switched off and on, and get other addresses.

use std::net::IpAddr;

use clap::Subcommand;
use ipnet::IpNet;
use model::Family;

use crate::cli::Name;
use crate::paths::LabName;
use crate::state::State;
use crate::topology::{self, Machine, Role, Topology};
use crate::{Error, Result, fabric};

/// `cambric lab gateway`
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Let a gateway forget all flows, as if it had been switched off and on again
    #[command(after_help = "Example:\n  cambric lab gateway flush gw-1")]
    Flush {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// The NAT gateway
        gateway: String,
    },
    /// Give a gateway another outer address, as a provider does; it forgets all flows, and nobody is told
    #[command(after_help = "Example:\n  cambric lab gateway readdress gw-1 203.0.113.77")]
    Readdress {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// The NAT gateway
        gateway: String,
        /// The address, of the subnet on its outside
        address: IpAddr,
    },
}

/// Runs a command.
///
/// # Errors
/// [`Error::NoLab`]; [`Error::NoMember`] with the gateways that there are; [`Error::Other`] for an address that the
/// gateway cannot have; what the kernel says.
pub fn run(command: &GatewayCommand) -> Result<()> {
    match command {
        GatewayCommand::Flush { lab, gateway } => {
            let topology = load(&lab.name)?;
            fabric::flush(&lab.name, find(&lab.name, &topology, gateway)?)
        }
        GatewayCommand::Readdress { lab, gateway, address } => {
            let topology = load(&lab.name)?;
            let gateway = find(&lab.name, &topology, gateway)?;
            fabric::readdress(&lab.name, gateway, outer(&topology, gateway, *address)?)
        }
    }
}

fn load(lab: &LabName) -> Result<Topology> {
    State::read(lab)?;
    topology::load(&lab.paths().topology())
}

fn find<'t>(lab: &LabName, topology: &'t Topology, name: &str) -> Result<&'t Machine> {
    topology.of_role(Role::NatGateway).find(|gateway| gateway.name == name).ok_or_else(|| Error::NoMember {
        lab: lab.clone(),
        name: name.to_owned(),
        known: topology.of_role(Role::NatGateway).map(|gateway| gateway.name.clone()).collect(),
    })
}

/// The address with the length of the prefix of the gateway's outer subnet.
fn outer(topology: &Topology, gateway: &Machine, address: IpAddr) -> Result<IpNet> {
    let fail = |why: String| Error::Other(format!("NAT gateway {}: address {address} {why}", gateway.name));
    let subnet = gateway.outer().map(|outer| outer.subnet);
    let prefix = subnet
        .and_then(|subnet| topology.subnets.get(subnet)?.prefixes.of(Family::of(&address)))
        .filter(|prefix| prefix.contains(&address) && topology::usable(prefix, &address));
    let Some(prefix) = prefix else {
        let prefixes = subnet.and_then(|subnet| topology.subnets.get(subnet)).into_iter();
        let prefixes: Vec<String> =
            prefixes.flat_map(|subnet| subnet.prefixes.iter()).map(ToString::to_string).collect();
        return Err(fail(format!("is not one of its outer subnet; use one of {}", prefixes.join(" or "))));
    };
    let has = |machine: &&Machine| {
        let mut own = machine.interfaces.iter().filter(|one| Some(one.subnet) == subnet);
        machine.name != gateway.name && own.any(|one| one.addresses.iter().any(|net| net.addr() == address))
    };
    if let Some(other) = topology.machines.iter().find(has) {
        return Err(fail(format!("is that of {}; use one that nobody has", other.name)));
    }
    IpNet::new(address, prefix.prefix_len()).map_err(|error| fail(error.to_string()))
}
