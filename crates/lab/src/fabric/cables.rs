//! Whether cables are whole, and cutting and healing them.

use std::collections::BTreeMap;

use kernel::rtnl::RouteSocket;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::{FIRST_INDEX, messages, open, within};
use crate::paths::{FABRIC, LabName};
use crate::topology::{Interface, Machine, Topology};
use crate::{Error, Result};

/// A cable from a machine to a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CableState {
    /// The machine.
    pub machine: String,
    /// The interface in the machine.
    pub link: String,
    /// The position in [`Topology::subnets`] of the subnet.
    pub subnet: usize,
    /// Why no packet passes; `None` if it is whole.
    pub broken: Option<String>,
}

/// A link as its kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    up: bool,
    carrier: bool,
    controller: Option<u32>,
}

/// The states of all cables of a lab.
///
/// # Errors
/// [`Error::Kernel`] if a machine or the fabric is gone.
pub fn cables(lab: &LabName, topology: &Topology) -> Result<Vec<CableState>> {
    let ports = links(&lab.fabric_namespace(), FABRIC)?;
    let mut states = Vec::new();
    for machine in &topology.machines {
        let own = links(&lab.namespace(&machine.name), &machine.name)?;
        for (position, interface) in machine.interfaces.iter().enumerate() {
            let subnet = topology.subnets.get(interface.subnet).map_or("", |subnet| &subnet.name);
            let port = ports.get(&port(machine, position));
            let bridge = FIRST_INDEX + interface.subnet as u32;
            states.push(CableState {
                machine: machine.name.clone(),
                link: interface.link.clone(),
                subnet: interface.subnet,
                broken: broken(own.get(&interface.link), port, bridge, subnet),
            });
        }
    }
    Ok(states)
}

/// Why no packet passes between an interface and the bridge of its subnet.
fn broken(own: Option<&Link>, port: Option<&Link>, bridge: u32, subnet: &str) -> Option<String> {
    let why = match (own, port) {
        (None, _) => "there is no such link".to_owned(),
        (Some(own), _) if !own.up => "the link is down".to_owned(),
        (_, None) => format!("the cable to {subnet} is gone"),
        (_, Some(port)) if !port.up => "the cable is cut".to_owned(),
        (_, Some(port)) if port.controller != Some(bridge) => {
            format!("the cable is not plugged into {subnet}")
        }
        (Some(own), _) if !own.carrier => "the link has no carrier".to_owned(),
        _ => return None,
    };
    Some(why)
}

/// Cuts the cable of a machine's interface, or heals it.
///
/// # Errors
/// [`Error::Kernel`] if the cable is gone.
pub fn set_cable(lab: &LabName, machine: &Machine, interface: &Interface, whole: bool) -> Result<()> {
    let position = machine.interfaces.iter().position(|one| one == interface).unwrap_or_default();
    within(&open(&lab.fabric_namespace())?, FABRIC, |socket| {
        socket.request(messages::up_or_down(&port(machine, position), whole)).map_err(Error::kernel(FABRIC))
    })
}

/// The name of the fabric's end of a cable.
pub(super) fn port(machine: &Machine, position: usize) -> String {
    format!("{}.{position}", machine.name)
}

fn links(namespace: &str, member: &str) -> Result<BTreeMap<String, Link>> {
    within(&open(namespace)?, member, |socket| list(socket).map_err(Error::kernel(member)))
}

fn list(socket: &mut RouteSocket) -> kernel::Result<BTreeMap<String, Link>> {
    let links = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "list the links")?;
    let named = |message: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewLink(message) = message else { return None };
        let (mut name, mut controller) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.clone()),
                LinkAttribute::Controller(index) => controller = Some(*index),
                _ => {}
            }
        }
        let has = |flag| message.header.flags.contains(flag);
        let link = Link { up: has(LinkFlags::Up), carrier: has(LinkFlags::LowerUp), controller };
        Some((name?, link))
    };
    Ok(links.into_iter().filter_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_first_is_said() {
        let whole = Link { up: true, carrier: true, controller: None };
        let port = Link { controller: Some(3), ..whole };
        let cut = Link { up: false, carrier: false, ..port };
        let dark = Link { carrier: false, ..whole };
        let down = Link { up: false, ..dark };
        for (own, port, words) in [
            (Some(whole), Some(port), None),
            (None, Some(port), Some("there is no such link")),
            (Some(down), Some(cut), Some("the link is down")),
            (Some(dark), Some(cut), Some("the cable is cut")),
            (Some(dark), None, Some("the cable to lan is gone")),
            (Some(whole), Some(Link { controller: None, ..port }), Some("the cable is not plugged into lan")),
            (
                Some(whole),
                Some(Link { controller: Some(4), ..port }),
                Some("the cable is not plugged into lan"),
            ),
            (Some(dark), Some(port), Some("the link has no carrier")),
        ] {
            assert_eq!(broken(own.as_ref(), port.as_ref(), 3, "lan").as_deref(), words);
        }
    }
}
