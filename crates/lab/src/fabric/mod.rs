//! The hardware of a lab: machines as network namespaces, subnets as bridges in one more namespace, and cables
//! between them.
//!
//! Nothing is ever made in the root namespace: a cable is a veth pair that is made with one end in the machine's
//! namespace and the other in the fabric's. So there is no way from a lab to the machine's own network.

mod cables;
mod messages;
mod nat;
mod routes;
mod sysctl;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use kernel::netns::{self, NetNs};
use kernel::rtnl::{Request, RouteSocket};
use kernel::settled::{self, News};

use crate::paths::{FABRIC, LabName};
use crate::topology::{Machine, Role, Route, Topology};
use crate::{Error, Result};
pub use cables::{CableState, cables, set_cable};
use messages::{End, LOOPBACK};
pub use nat::{flush, readdress};
pub(crate) use routes::Learned;
pub use routes::{BGP, Found, FoundHop, routes};

/// The file of a named namespace.
pub fn namespace_path(name: &str) -> PathBuf {
    Path::new(netns::NAMED).join(name)
}

/// The names of all namespaces that a lab of this topology has before its first pod.
pub fn namespaces(lab: &LabName, topology: &Topology) -> Vec<String> {
    let machines = topology.machines.iter().map(|machine| lab.namespace(&machine.name));
    std::iter::once(lab.fabric_namespace()).chain(machines).collect()
}

/// Makes the whole fabric. `before` is told the name of every namespace before it is made, and may stop the work.
///
/// # Errors
/// [`Error::Kernel`] with the machine or subnet that could not be made, [`Error::NamespaceTaken`] for a namespace that
/// is there already, and whatever `before` says. What was made until then is left for the caller to remove.
pub fn build(lab: &LabName, topology: &Topology, mut before: impl FnMut(&str) -> Result<()>) -> Result<()> {
    before(&lab.fabric_namespace())?;
    let fabric = Fabric::new(lab, topology)?;
    let mut ports = FIRST_INDEX + topology.subnets.len() as u32;
    for machine in &topology.machines {
        before(&lab.namespace(&machine.name))?;
        fabric.connect(lab, topology, machine, ports)?;
        ports += machine.interfaces.len() as u32;
    }
    Ok(())
}

/// Gives a machine routes, in the place of those to the same destinations.
///
/// # Errors
/// [`Error::Kernel`] for the first route that is refused.
pub fn replace_routes(namespace: &str, routes: &[Route]) -> Result<()> {
    within(&open(namespace)?, namespace, |socket| {
        all(socket, namespace, routes.iter().map(messages::replaced_route).collect())
    })
}

/// Takes a route from a machine, if it is there.
///
/// # Errors
/// [`Error::Kernel`] if the kernel keeps it.
pub fn remove_route(namespace: &str, route: &Route) -> Result<()> {
    within(&open(namespace)?, namespace, |socket| match socket.request(messages::no_route(route)) {
        // No such process: that is how the kernel says that there is no such route.
        Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
        result => result.map_err(Error::kernel(namespace)),
    })
}

/// The index of the first link of a namespace after the loopback interface. Links are made with known indices, so
/// that nothing has to be looked up.
const FIRST_INDEX: u32 = LOOPBACK + 1;

/// The namespace of the bridges.
struct Fabric {
    namespace: NetNs,
}

impl Fabric {
    fn new(lab: &LabName, topology: &Topology) -> Result<Fabric> {
        let namespace = create(&lab.fabric_namespace())?;
        let bridges = topology.subnets.iter().zip(FIRST_INDEX..);
        let requests =
            bridges.map(|(subnet, index)| messages::bridge(index, &subnet.name, subnet.mtu)).collect();
        within(&namespace, FABRIC, |socket| {
            sysctl::write(FABRIC, sysctl::FABRIC)?;
            all(socket, FABRIC, requests)
        })?;
        Ok(Fabric { namespace })
    }

    /// Makes a machine and plugs its cables in. Its ports have the indices from `ports` on.
    fn connect(&self, lab: &LabName, topology: &Topology, machine: &Machine, ports: u32) -> Result<()> {
        let name = &machine.name;
        let namespace = create(&lab.namespace(name))?;
        let mut cables = vec![messages::up(LOOPBACK, "lo")];
        let mut plugs = Vec::new();
        let mut interfaces = Vec::new();
        for (index, interface) in machine.interfaces.iter().enumerate() {
            let position = index as u32;
            let near = End { index: FIRST_INDEX + position, name: &interface.link };
            let far = End { index: ports + position, name: &cables::port(machine, index) };
            let mtu = topology.subnets.get(interface.subnet).map_or(1500, |subnet| subnet.mtu);
            cables.push(messages::cable(&near, &far, &self.namespace, mtu));
            plugs.push(messages::plug(&far, FIRST_INDEX + interface.subnet as u32));
            let addresses = interface.addresses.iter();
            interfaces.extend(addresses.map(|address| messages::address(near.index, near.name, address)));
            interfaces.push(messages::up(near.index, near.name));
        }
        within(&namespace, name, |socket| {
            sysctl::write(name, sysctl::machine(machine.role))?;
            all(socket, name, cables)?;
            for interface in &machine.interfaces {
                sysctl::no_duplicate_detection(name, &interface.link)?;
            }
            within(&self.namespace, FABRIC, |socket| all(socket, name, plugs))?;
            interfaces.extend(machine.routes.iter().map(messages::route));
            all(socket, name, interfaces)?;
            self.settle(socket, machine)?;
            match machine.role {
                Role::NatGateway => nat::set_up(machine),
                _ => Ok(()),
            }
        })
    }

    /// Waits until a machine and its subnets reach each other. `socket` is in the machine's namespace.
    fn settle(&self, socket: &mut RouteSocket, machine: &Machine) -> Result<()> {
        let links: Vec<&str> = machine.interfaces.iter().map(|interface| interface.link.as_str()).collect();
        let ports: Vec<String> = (0..links.len()).map(|position| cables::port(machine, position)).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let addresses: Vec<IpAddr> = machine
            .interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter())
            .map(IpNet::addr)
            .collect();
        settle(socket, &machine.name, &links, &addresses)?;
        within(&self.namespace, FABRIC, |socket| settle(socket, FABRIC, &ports, &[]))
    }
}

fn open(namespace: &str) -> Result<NetNs> {
    NetNs::open(namespace_path(namespace)).map_err(Error::kernel(namespace))
}

fn create(name: &str) -> Result<NetNs> {
    netns::create_named(namespace_path(name)).map_err(|error| match error.errno() {
        Some(libc::EEXIST) => Error::NamespaceTaken(name.to_owned()),
        _ => Error::kernel(name)(error),
    })
}

/// Does something in a namespace with a socket there.
fn within<T>(namespace: &NetNs, member: &str, work: impl FnOnce(&mut RouteSocket) -> Result<T>) -> Result<T> {
    let _stay = namespace.enter().map_err(Error::kernel(member))?;
    let mut socket = RouteSocket::open().map_err(Error::kernel(member))?;
    work(&mut socket)
}

/// Waits until links pass packets and addresses are in use. Works in the namespace of the calling thread, which is the
/// member's.
fn settle(socket: &mut RouteSocket, member: &str, links: &[&str], addresses: &[IpAddr]) -> Result<()> {
    News::open()
        .and_then(|news| settled::wait(socket, &news, links, addresses, settled::LIMIT))
        .map_err(Error::kernel(member))
}

/// Sends requests and gives the first refusal.
fn all(socket: &mut RouteSocket, member: &str, requests: Vec<Request>) -> Result<()> {
    for result in socket.batch(&requests) {
        result.map_err(Error::kernel(member))?;
    }
    Ok(())
}
