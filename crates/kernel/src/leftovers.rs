//! What services leave behind: flows in connection tracking, and clients that stay with an endpoint.

use std::net::IpAddr;

use model::flow::Flow;
use model::{Family, Protocol};
use plan::services::{self, Backend, Frontend, Leftovers, ServicePlan};

use crate::conntrack::Conntrack;
use crate::tables::unreadable;
use crate::{Error, Result, render};

/// How often affinities are listed again because one ran out before it was removed.
const ATTEMPTS: u32 = 16;

/// What was cleared away.
#[derive(Debug, Default)]
pub(crate) struct Cleared {
    pub(crate) affinities: usize,
    pub(crate) flows: usize,
}

/// Removes what a plan says is left behind.
pub(crate) fn clear(
    socket: &mut nft::Socket,
    conntrack: &mut Conntrack,
    plan: &ServicePlan,
    leftovers: &Leftovers,
) -> Result<Cleared> {
    let mut cleared = Cleared::default();
    // First the affinities, so that the next packet of a flow is not sent where the flow has been.
    for family in &leftovers.affinities {
        cleared.affinities += clear_affinities(socket, plan, *family)?;
    }
    for family in Family::BOTH {
        if leftovers.flows.iter().any(|frontend| frontend.family() == family) {
            cleared.flows += clear_flows(conntrack, plan, leftovers, family)?;
        }
    }
    Ok(cleared)
}

fn clear_flows(
    conntrack: &mut Conntrack,
    plan: &ServicePlan,
    leftovers: &Leftovers,
    family: Family,
) -> Result<usize> {
    let mut stale: Vec<Flow> = Vec::new();
    conntrack.flows(family, Protocol::Udp, &mut |flow| {
        let (to, answers) = (flow.original.destination, flow.reply.source);
        let frontend = Frontend { address: to.ip(), protocol: Protocol::Udp, port: to.port() };
        let answers = Backend { address: answers.ip(), port: answers.port() };
        if leftovers.flows.contains(&frontend) && plan.is_stale(&frontend, &answers) {
            stale.push(flow);
        }
    })?;
    conntrack.remove(&stale)
}

fn clear_affinities(socket: &mut nft::Socket, plan: &ServicePlan, family: Family) -> Result<usize> {
    let table = render::named(services::TABLE, family.into());
    let learned = services::sets(family).into_iter().find(|set| set.learned);
    let Some(set) = learned.map(|set| render::set(&table, &set)) else { return Ok(0) };
    let what = || format!("clear {set}");
    for _ in 0..ATTEMPTS {
        let elements = match socket.elements(&set) {
            Ok(elements) => elements,
            Err(error) if error.is_not_found() => return Ok(0),
            Err(source) => return Err(unreadable(what(), source)),
        };
        let gone: Vec<nft::Element> = elements
            .into_iter()
            .filter(|element| {
                affinity(&set, element)
                    .is_some_and(|(client, frontend, endpoint)| plan.forgets(&frontend, &client, &endpoint))
            })
            .map(|element| nft::Element::new(element.key))
            .collect();
        if gone.is_empty() {
            return Ok(0);
        }
        let mut batch = nft::Batch::new();
        batch.delete_elements(&set, &gone);
        match socket.commit(batch) {
            Ok(()) => return Ok(gone.len()),
            // One ran out in between, and then none is removed.
            Err(error) if error.is_not_found() => {}
            Err(source) => return Err(Error::Tables { what: what(), source }),
        }
    }
    Err(Error::Unstable { what: what(), attempts: ATTEMPTS })
}

/// The frontend that an element of a map leads from, if the map is one that does.
pub(crate) fn frontend(map: &nft::Set, key: &nft::Key) -> Option<Frontend> {
    let leads = map.data == Some(nft::MapData::Verdict);
    render::frontend(&key.values(&map.key).filter(|_| leads)?)
}

/// Which clients stay with which endpoint.
fn affinity(map: &nft::Set, element: &nft::Element) -> Option<(IpAddr, Frontend, Backend)> {
    let Some(nft::MapData::Values(types)) = &map.data else { return None };
    let key = element.key.values(&map.key)?;
    let [client, frontend @ ..] = key.as_slice() else { return None };
    let backend = render::backend(&element.value()?.values(types)?)?;
    Some((client.as_ip()?, render::frontend(frontend)?, backend))
}
