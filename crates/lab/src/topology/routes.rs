//! The routes of every machine: towards each subnet over as few routers as possible.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::Family;

use super::{Machine, Role, Route, Subnet};

/// The routes of all machines, in their order.
pub(super) fn of_all(machines: &[Machine], subnets: &[Subnet]) -> Vec<Vec<Route>> {
    machines.iter().map(|machine| of(machine, machines, subnets)).collect()
}

fn of(machine: &Machine, machines: &[Machine], subnets: &[Subnet]) -> Vec<Route> {
    let hops = next_hops(machine, machines);
    let default = default_hop(machine, machines);
    let mut routes = Vec::new();
    for family in Family::BOTH {
        let gateway = |hop: Hop| hop.address(machines, family);
        let everywhere = default.and_then(gateway);
        routes.extend(everywhere.map(|gateway| Route { destination: all(family), gateway }));
        for (subnet, hop) in &hops {
            let prefix = subnets.get(*subnet).and_then(|subnet| subnet.prefixes.of(family));
            if let (Some(destination), Some(gateway)) = (prefix, gateway(*hop))
                && everywhere != Some(gateway)
            {
                routes.push(Route { destination: *destination, gateway });
            }
        }
    }
    routes
}

/// A forwarding machine and the interface by which it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop {
    machine: usize,
    interface: usize,
}

impl Hop {
    fn address(self, machines: &[Machine], family: Family) -> Option<IpAddr> {
        let interface = machines.get(self.machine)?.interfaces.get(self.interface)?;
        interface.addresses.of(family).map(IpNet::addr)
    }
}

/// The interfaces by which packets of others can be handed on in a subnet. A NAT gateway takes them from inside only.
fn forwarders(machines: &[Machine], subnet: usize) -> impl Iterator<Item = Hop> {
    machines.iter().enumerate().filter(|(_, machine)| machine.role.forwards()).filter_map(
        move |(index, machine)| {
            let interface = machine.interfaces.iter().position(|interface| interface.subnet == subnet)?;
            (machine.role == Role::Router || interface == 0).then_some(Hop { machine: index, interface })
        },
    )
}

/// Where a machine that does not forward sends what it knows no better way for: a NAT gateway, or else a router.
/// A NAT gateway itself does so on its outside.
fn default_hop(machine: &Machine, machines: &[Machine]) -> Option<Hop> {
    if machine.role == Role::Router {
        return None;
    }
    let subnet = machine.interfaces.last()?.subnet;
    let of_role = |role| {
        forwarders(machines, subnet).find(move |hop| {
            machines.get(hop.machine).is_some_and(|other| other.role == role && other.name != machine.name)
        })
    };
    of_role(Role::NatGateway).or_else(|| of_role(Role::Router))
}

/// The first hop towards every subnet that the machine is not in, by breadth-first search in the order of the file.
fn next_hops(machine: &Machine, machines: &[Machine]) -> BTreeMap<usize, Hop> {
    let own: Vec<usize> = machine.interfaces.iter().map(|interface| interface.subnet).collect();
    let mut hops: BTreeMap<usize, Option<Hop>> = own.iter().map(|subnet| (*subnet, None)).collect();
    let mut queue: VecDeque<usize> = own.into();
    while let Some(subnet) = queue.pop_front() {
        let first = hops.get(&subnet).copied().flatten();
        for hop in forwarders(machines, subnet) {
            let Some(forwarder) = machines.get(hop.machine).filter(|other| other.name != machine.name) else {
                continue;
            };
            for beyond in &forwarder.interfaces {
                hops.entry(beyond.subnet).or_insert_with(|| {
                    queue.push_back(beyond.subnet);
                    Some(first.unwrap_or(hop))
                });
            }
        }
    }
    hops.into_iter().filter_map(|(subnet, hop)| Some((subnet, hop?))).collect()
}

fn all(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(Ipv6Net::default()),
    }
}
