//! What makes a NAT gateway of a router: an nftables table in its namespace, and what is done to one that runs.

use ipnet::IpNet;
use kernel::conntrack::Conntrack;
use model::Family as IpFamily;
use nft::{
    Batch, Chain, ChainType, Family, Hook, PortChoice, Rule, Socket, Table, Value, ct, meta, priority,
};

use super::{FIRST_INDEX, all, messages, open, replace_routes, settle, sysctl, within};
use crate::paths::LabName;
use crate::topology::Machine;
use crate::{Error, Result};

/// Packets that leave on the outside get the gateway's address there, and connections can only be opened from the
/// inside. Works in the namespace of the calling thread.
pub(super) fn set_up(machine: &Machine) -> Result<()> {
    let Some(outside) = machine.outer() else { return Ok(()) };
    if let Some(seconds) = machine.nat.as_ref().and_then(|nat| nat.generic_timeout) {
        sysctl::write(&machine.name, &[("netfilter/nf_conntrack_generic_timeout", &seconds.to_string())])?;
    }
    // So that the second address of a subnet outlives the first (Documentation/networking/ip-sysctl.rst).
    let promote = format!("ipv4/conf/{}/promote_secondaries", outside.link);
    sysctl::write(&machine.name, &[(&promote, "1")])?;
    commit(&outside.link)
        .map_err(|error| Error::Nat { gateway: machine.name.clone(), why: error.to_string() })
}

fn commit(outside: &str) -> Result<(), nft::Error> {
    let outside = Value::ifname(outside)?;
    let table = Table::new(Family::Inet, "lab-nat");
    let source = Chain::base(&table, "postrouting", ChainType::Nat, Hook::Postrouting, priority::SRCNAT);
    let input = Chain::base(&table, "input", ChainType::Filter, Hook::Input, priority::FILTER);
    let forward = Chain::base(&table, "forward", ChainType::Filter, Hook::Forward, priority::FILTER);
    let mut batch = Batch::new();
    batch.create_table(&table);
    batch.add_chain(&source);
    batch.add_rule(&Rule::new(&source).when(meta::oifname().is(outside)).masquerade(PortChoice::Keep));
    // What the gateway takes for itself it remembers, and then lets nobody inside have a flow that looks the same. Neighbour
    // discovery is not tracked.
    for chain in [&input, &forward] {
        batch.add_chain(chain);
        batch.add_rule(
            &Rule::new(chain)
                .when(meta::iifname().is(outside))
                .when(ct::state().lacks(ct::ESTABLISHED | ct::RELATED | ct::UNTRACKED))
                .drop(),
        );
    }
    Socket::open()?.commit(batch)
}

/// Lets a gateway forget all flows, as one that was switched off and on again.
///
/// # Errors
/// [`Error::Kernel`] if the kernel keeps them.
pub fn flush(lab: &LabName, gateway: &Machine) -> Result<()> {
    let space = open(&lab.namespace(&gateway.name))?;
    within(&space, &gateway.name, |_| forget(gateway))
}

/// Works in the namespace of the calling thread.
fn forget(gateway: &Machine) -> Result<()> {
    let flushed = Conntrack::open().and_then(|mut flows| flows.flush());
    flushed.map_err(Error::kernel(gateway.name.as_str()))
}

/// Gives a gateway another outer address, as a provider does, in the place of all that it has of that family. It forgets
/// all flows.
///
/// # Errors
/// [`Error::Kernel`] if the kernel refuses.
pub fn readdress(lab: &LabName, gateway: &Machine, address: IpNet) -> Result<()> {
    let Some((position, outside)) = (0..).zip(&gateway.interfaces).last() else { return Ok(()) };
    let (index, family) = (FIRST_INDEX + position, IpFamily::of_net(&address));
    let space = open(&lab.namespace(&gateway.name))?;
    within(&space, &gateway.name, |socket| {
        let held =
            messages::addresses(socket, index, family).map_err(Error::kernel(gateway.name.as_str()))?;
        let mut requests: Vec<_> = (!held.contains(&address))
            .then(|| messages::address(index, &outside.link, &address))
            .into_iter()
            .collect();
        let old = held.iter().filter(|held| **held != address);
        requests.extend(old.map(|old| messages::no_address(index, &outside.link, old)));
        all(socket, &gateway.name, requests)?;
        settle(socket, &gateway.name, &[], &[address.addr()])
    })?;
    // Routes can go with the address by which their next hop was a neighbour.
    replace_routes(&lab.namespace(&gateway.name), &gateway.routes)?;
    within(&space, &gateway.name, |_| forget(gateway))
}
