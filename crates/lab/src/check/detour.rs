//! Routes for a while: the way by which a host outside comes to a service's addresses leads through a node.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, NodeName};

use super::view::View;
use crate::Result;
use crate::fabric;
use crate::topology::{Machine, Role, Route};

/// Routes of routers and outside hosts. They are removed when this is dropped.
#[derive(Debug)]
pub(super) struct Detour<'v> {
    view: &'v View,
    routes: Vec<(&'v Machine, Route)>,
}

impl<'v> Detour<'v> {
    /// Leads packets to these addresses through a node, as a network's administrator or BGP would.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] with the machine that does not take a route. What was made until then is removed.
    pub(super) fn through(view: &'v View, node: &NodeName, addresses: &[IpAddr]) -> Result<Detour<'v>> {
        let mut detour = Detour { view, routes: Vec::new() };
        let Some(target) = view.topology.machine(node.as_str()) else { return Ok(detour) };
        let roles = |machine: &&Machine| matches!(machine.role, Role::Router | Role::Outside);
        for machine in view.topology.machines.iter().filter(roles) {
            let routes: Vec<Route> = addresses
                .iter()
                .filter_map(|address| {
                    let node = *target.addresses().of(Family::of(address))?;
                    Some(Route { destination: IpNet::from(*address), gateway: next_hop(machine, node)? })
                })
                .collect();
            // What an earlier check left because it was killed may lead elsewhere.
            detour.routes.extend(routes.iter().map(|route| (machine, *route)));
            fabric::replace_routes(&view.lab.namespace(&machine.name), &routes)?;
        }
        Ok(detour)
    }

    /// Removes the routes.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] with the first machine that keeps one; the others are removed all the same.
    pub(super) fn end(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let mut result = Ok(());
        for (machine, route) in self.routes.drain(..) {
            result = result.and(fabric::remove_route(&self.view.lab.namespace(&machine.name), &route));
        }
        result
    }
}

impl Drop for Detour<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a route of the check stays");
        }
    }
}

/// Where a machine sends packets for an address: to itself, if it is in one of its subnets.
fn next_hop(machine: &Machine, address: IpAddr) -> Option<IpAddr> {
    let mut nets = machine.interfaces.iter().flat_map(|interface| interface.addresses.iter());
    if nets.any(|net| net.contains(&address)) {
        return Some(address);
    }
    let fits = |route: &&Route| route.destination.contains(&address);
    let best = machine.routes.iter().filter(fits).max_by_key(|route| route.destination.prefix_len());
    best.map(|route| route.gateway)
}
