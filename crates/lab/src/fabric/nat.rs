//! What makes a NAT gateway of a router: an nftables table in its namespace.

use nft::{
    Batch, Chain, ChainType, Family, Hook, PortChoice, Rule, Socket, Table, Value, ct, meta, priority,
};

use crate::topology::Machine;
use crate::{Error, Result};

/// Packets that leave on the outside get the gateway's address there, and connections can only be opened from the
/// inside. Works in the namespace of the calling thread.
pub(super) fn masquerade(machine: &Machine) -> Result<()> {
    let Some(outside) = machine.interfaces.last() else { return Ok(()) };
    commit(&outside.link)
        .map_err(|error| Error::Nat { gateway: machine.name.clone(), why: error.to_string() })
}

fn commit(outside: &str) -> Result<(), nft::Error> {
    let outside = Value::ifname(outside)?;
    let table = Table::new(Family::Inet, "lab-nat");
    let source = Chain::base(&table, "postrouting", ChainType::Nat, Hook::Postrouting, priority::SRCNAT);
    let forward = Chain::base(&table, "forward", ChainType::Filter, Hook::Forward, priority::FILTER);
    let mut batch = Batch::new();
    batch.create_table(&table);
    batch.add_chain(&source);
    batch.add_rule(&Rule::new(&source).when(meta::oifname().is(outside)).masquerade(PortChoice::Keep));
    batch.add_chain(&forward);
    batch.add_rule(
        &Rule::new(&forward)
            .when(meta::iifname().is(outside))
            .when(ct::state().lacks(ct::ESTABLISHED))
            .when(ct::state().lacks(ct::RELATED))
            .drop(),
    );
    Socket::open()?.commit(batch)
}
