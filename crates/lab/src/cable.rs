//! What happens to cables: they are cut and healed.

use clap::Args;

use crate::cli::Name;
use crate::paths::LabName;
use crate::state::State;
use crate::topology::{self, Machine, Topology};
use crate::{Error, Result, fabric};

/// `cambric lab cut` and `cambric lab heal`
#[derive(Debug, Args)]
pub struct Which {
    /// Which lab
    #[command(flatten)]
    lab: Name,
    /// The node, router, NAT gateway or outside host
    machine: String,
    /// Its interface
    #[arg(default_value = "eth0", value_name = "LINK")]
    link: String,
}

/// Cuts a cable, or heals one that was cut.
///
/// # Errors
/// [`Error::NoLab`]; [`Error::NoMember`] with the machines, or the machine's interfaces, that there are; what the kernel
/// says.
pub fn set(which: &Which, whole: bool) -> Result<()> {
    let Which { lab: Name { name: lab }, machine, link } = which;
    State::read(lab)?;
    let topology = topology::load(&lab.paths().topology())?;
    let machine = find(lab, &topology, machine)?;
    let interface = machine.interfaces.iter().find(|one| one.link == *link);
    let interface = interface.ok_or_else(|| Error::NoMember {
        lab: lab.clone(),
        name: format!("{} {link}", machine.name),
        known: machine.interfaces.iter().map(|one| format!("{} {}", machine.name, one.link)).collect(),
    })?;
    fabric::set_cable(lab, machine, interface, whole)
}

fn find<'t>(lab: &LabName, topology: &'t Topology, name: &str) -> Result<&'t Machine> {
    topology.machine(name).ok_or_else(|| Error::NoMember {
        lab: lab.clone(),
        name: name.to_owned(),
        known: topology.machines.iter().map(|machine| machine.name.clone()).collect(),
    })
}
