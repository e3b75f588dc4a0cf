//! A topology as what is drawn below the cluster. No I/O.

use ipnet::IpNet;
use web::picture::{Cable, Ground, Kind, Machine, Subnet, machine_id};

use crate::fabric::CableState;
use crate::paths::LabName;
use crate::topology::{self, Role, Topology};

/// The ground of a lab whose cables are in these states.
pub(super) fn ground(lab: &LabName, topology: &Topology, states: &[CableState]) -> Ground {
    let subnets: Vec<Subnet> = topology.subnets.iter().map(subnet).collect();
    let machines: Vec<Machine> = topology.machines.iter().map(machine).collect();
    let cables = states.iter().filter_map(|state| {
        let machine = machines.iter().find(|machine| machine.name == state.machine)?;
        let cable = Cable::new(machine, &state.link, subnets.get(state.subnet)?);
        Some(Cable { broken: state.broken.clone(), ..cable })
    });
    Ground { title: format!("lab {lab}"), cables: cables.collect(), machines, subnets }
}

fn subnet(subnet: &topology::Subnet) -> Subnet {
    Subnet {
        id: format!("subnet/{}", subnet.name),
        name: subnet.name.clone(),
        prefixes: subnet.prefixes.iter().copied().collect(),
    }
}

fn machine(machine: &topology::Machine) -> Machine {
    let kind = match machine.role {
        Role::Node => Kind::Node,
        Role::Router => Kind::Router,
        Role::NatGateway => Kind::Gateway,
        Role::Outside => Kind::Outside,
    };
    let addresses = machine.interfaces.iter().flat_map(|interface| interface.addresses.iter());
    Machine {
        id: machine_id(kind, &machine.name),
        kind,
        name: machine.name.clone(),
        addresses: addresses.map(IpNet::addr).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPOLOGY: &str = include_str!("../../../../examples/labs/vxlan.yaml");

    #[test]
    fn a_topology_is_drawn_with_its_broken_cable() {
        let topology = topology::parse(TOPOLOGY).unwrap();
        let states: Vec<CableState> = topology
            .machines
            .iter()
            .flat_map(|machine| machine.interfaces.iter().map(move |interface| (machine, interface)))
            .map(|(machine, interface)| CableState {
                machine: machine.name.clone(),
                link: interface.link.clone(),
                subnet: interface.subnet,
                broken: (machine.name == "node-2").then(|| "cut".to_owned()),
            })
            .collect();
        let ground = ground(&LabName::new("demo").unwrap(), &topology, &states);
        assert_eq!(ground.title, "lab demo");
        let names: Vec<&str> = ground.subnets.iter().map(|subnet| subnet.name.as_str()).collect();
        assert_eq!(names, topology.subnets.iter().map(|subnet| subnet.name.as_str()).collect::<Vec<_>>());
        assert_eq!(ground.cables.len(), states.len());
        let broken: Vec<&str> =
            ground.cables.iter().filter(|cable| cable.broken.is_some()).map(|cable| &*cable.id).collect();
        assert_eq!(broken, ["cable/node-2/eth0"]);
        let kinds: Vec<(&str, Kind)> =
            ground.machines.iter().map(|machine| (&*machine.id, machine.kind)).collect();
        assert!(kinds.contains(&("node/node-1", Kind::Node)), "{kinds:?}");
        assert!(kinds.contains(&("outside/client", Kind::Outside)), "{kinds:?}");
    }
}
