//! What the elements of a services' table come to, and what in them does not fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::Family;
use plan::SetName;
use plan::services::{
    self, AFFINITY, ALLOWED, BACKENDS, Backend, EXPOSED, Frontend, KEEP_SOURCE, OUTSIDE, OUTSIDE_BACKENDS,
    Picker, RESTRICTED, SERVICES, STICKY, Settings, Target, picker_of,
};

use super::maps::{Lead, Maps};
use super::{AddressKind, SeenFrontend, SeenServices};
use crate::{render, tables};

/// What a table says, as a snapshot shows it. `own` are the node's addresses.
pub(super) fn table(family: Family, snapshot: &nft::Snapshot, own: &BTreeSet<IpAddr>) -> SeenServices {
    if !snapshot.exists {
        let table = render::named(services::TABLE, family.into());
        return SeenServices { faults: vec![format!("{table} is missing")], ..SeenServices::default() };
    }
    let mut faults = frame(family, snapshot);
    let maps = Maps::read(family, snapshot, &mut faults);
    let frontends: BTreeSet<Frontend> = maps.services.keys().chain(maps.outside.keys()).copied().collect();
    faults.extend(strays(&maps, &frontends, family));
    SeenServices { frontends: frontends.into_iter().map(|each| seen(&each, &maps, own)).collect(), faults }
}

/// In what sets, chains and rules are not as they should be.
fn frame(family: Family, snapshot: &nft::Snapshot) -> Vec<String> {
    let pickers = snapshot.chains.iter().filter_map(|chain| picker_of(&chain.name));
    let mut wanted = render::render(&services::table(&Settings::default(), family, pickers));
    let sets: Vec<nft::Set> = snapshot.sets.iter().map(|(set, _)| set.clone()).collect();
    let mut faults = tables::differing_sets(&sets, &wanted);
    // The rules of one chain have addresses of this node in them, which nothing else in the table tells.
    let masquerade = |name: &str| name == services::MASQUERADE.0;
    let ours = |rule: &&nft::ListedRule| masquerade(&rule.chain) && rule.tag.is_some();
    let all = snapshot.rules.iter().filter(|rule| masquerade(&rule.chain)).count();
    let intact = all > 0 && snapshot.rules.iter().filter(ours).count() == all;
    if let Some((chain, _)) = wanted.chains.iter().find(|(chain, _)| masquerade(&chain.name) && !intact) {
        faults.push(format!("{chain} has other rules"));
    }
    wanted.chains.retain(|(chain, _)| !masquerade(&chain.name));
    let chains: Vec<nft::Chain> =
        snapshot.chains.iter().filter(|chain| !masquerade(&chain.name)).cloned().collect();
    faults.extend(tables::differing_chains(&chains, &snapshot.rules, &wanted));
    faults
}

/// What belongs to frontends that lead nowhere. Clients that stay with one of those are none of it: they are forgotten in
/// time.
fn strays(maps: &Maps, frontends: &BTreeSet<Frontend>, family: Family) -> Vec<String> {
    let table = render::named(services::TABLE, family.into());
    let named: [(SetName, Vec<Frontend>); 7] = [
        (BACKENDS, maps.backends.keys().copied().collect()),
        (OUTSIDE_BACKENDS, maps.outside_backends.keys().copied().collect()),
        (EXPOSED, maps.exposed.iter().copied().collect()),
        (KEEP_SOURCE, maps.keep_source.iter().copied().collect()),
        (RESTRICTED, maps.restricted.iter().copied().collect()),
        (ALLOWED, maps.allowed.keys().copied().collect()),
        (STICKY, maps.sticky.keys().copied().collect()),
    ];
    let mut faults = Vec::new();
    for (set, found) in named {
        let stray = found.into_iter().filter(|frontend| !frontends.contains(frontend));
        faults.extend(stray.map(|frontend| {
            format!("{set} in {table} has {frontend}, which {SERVICES} does not lead anywhere")
        }));
    }
    faults
}

/// One frontend, from all that the table has of it.
fn seen(frontend: &Frontend, maps: &Maps, own: &BTreeSet<IpAddr>) -> SeenFrontend {
    let mut faults = Vec::new();
    let affinity = affinity(frontend, maps, &mut faults);
    let sticky = affinity.is_some();
    let lead = maps.services.get(frontend);
    let outside_lead = maps.outside.get(frontend);
    if lead.is_none() {
        faults.push(format!("{SERVICES} has no element of it"));
    }
    let target = lead.and_then(|lead| {
        Leading { lead, map: SERVICES, backends: BACKENDS, sticky }
            .target(maps.backends.get(frontend), &mut faults)
    });
    let outside = outside_lead.and_then(|lead| {
        Leading { lead, map: OUTSIDE, backends: OUTSIDE_BACKENDS, sticky }
            .target(maps.outside_backends.get(frontend), &mut faults)
    });
    if outside_lead.is_none() && maps.outside_backends.contains_key(frontend) {
        faults.push(format!("{OUTSIDE_BACKENDS} has endpoints of it, but {OUTSIDE} does not lead to them"));
    }
    match (outside_lead.is_some(), maps.keep_source.contains(frontend)) {
        (true, false) => faults.push(format!("{OUTSIDE} has it, but {KEEP_SOURCE} does not")),
        (false, true) => faults.push(format!("{KEEP_SOURCE} has it, but {OUTSIDE} does not")),
        _ => {}
    }
    let kind = kind(&frontend.address, maps, own);
    if kind != AddressKind::Cluster && !maps.exposed.contains(frontend) {
        faults.push(format!(
            "{EXPOSED} does not have it, and no service range does: clients that are no pods get no answer"
        ));
    }
    let restricted = maps.restricted.contains(frontend);
    let allowed = maps.allowed.get(frontend);
    if allowed.is_some() && !restricted {
        faults
            .push(format!("{ALLOWED} has sources of it, but {RESTRICTED} does not have it: all may connect"));
    }
    let learned = maps.affinity.get(frontend).map_or(&[][..], Vec::as_slice);
    let targets = [&target, &outside];
    let known =
        |backend: &&Backend| targets.into_iter().flatten().any(|target| target.backends().contains(backend));
    let lost = learned.iter().filter(|backend| !known(backend)).count();
    if lost > 0 {
        let clients = several(lost, "client");
        faults.push(format!("{AFFINITY} keeps {clients} with endpoints that it does not have"));
    }
    SeenFrontend {
        frontend: *frontend,
        service: service(lead, outside_lead, &mut faults),
        kind,
        target,
        outside,
        affinity,
        clients: learned.len(),
        sources: restricted.then(|| allowed.cloned().unwrap_or_default()),
        faults,
    }
}

/// The service that the elements name.
fn service(lead: Option<&Lead>, outside: Option<&Lead>, faults: &mut Vec<String>) -> String {
    let mut names = BTreeSet::new();
    for (map, lead) in [(SERVICES, lead), (OUTSIDE, outside)] {
        match lead.map(|lead| &lead.service) {
            Some(Some(service)) => drop(names.insert(service.as_str())),
            Some(None) => faults.push(format!("its element in {map} has no comment that names the service")),
            None => {}
        }
    }
    if names.len() > 1 {
        let names: Vec<&str> = names.iter().copied().collect();
        faults.push(format!("its elements name several services: {}", names.join(", ")));
    }
    names.first().copied().unwrap_or_default().to_owned()
}

fn kind(address: &IpAddr, maps: &Maps, own: &BTreeSet<IpAddr>) -> AddressKind {
    if maps.service_ranges.iter().any(|range| range.contains(address)) {
        AddressKind::Cluster
    } else if own.contains(address) {
        AddressKind::Node
    } else if maps.service_ranges.is_empty() {
        AddressKind::Unknown
    } else {
        AddressKind::External
    }
}

/// For how many seconds clients stay.
fn affinity(frontend: &Frontend, maps: &Maps, faults: &mut Vec<String>) -> Option<u32> {
    let Lead { verdict, .. } = maps.sticky.get(frontend)?;
    match chain_of(verdict).and_then(picker_of) {
        Some(Picker::Learn(seconds)) => Some(seconds),
        _ => {
            faults.push(format!("{STICKY} says {verdict}, which keeps no client"));
            None
        }
    }
}

fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn chain_of(verdict: &nft::Verdict) -> Option<&str> {
    match verdict {
        nft::Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

/// Where an element leads, and what it leads with.
struct Leading<'a> {
    lead: &'a Lead,
    map: SetName,
    backends: SetName,
    /// Whether the frontend's clients stay.
    sticky: bool,
}

impl Leading<'_> {
    fn target(&self, numbered: Option<&BTreeMap<u32, Backend>>, faults: &mut Vec<String>) -> Option<Target> {
        let Leading { lead: Lead { verdict, .. }, map, backends, sticky } = self;
        let have = numbered.map_or(0, BTreeMap::len);
        let chain = chain_of(verdict);
        for (end, target) in [(services::REFUSE, Target::Refuse), (services::DROP, Target::Drop)] {
            if chain == Some(&*end.0) {
                if have > 0 {
                    let have = several(have, "endpoint");
                    faults.push(format!("{map} says {verdict}, but {backends} has {have}"));
                }
                return Some(target);
            }
        }
        let Some((count, stays)) = chain.and_then(picker_of).and_then(|picker| self.draws(picker)) else {
            faults.push(format!("{map} says {verdict}, which leads to no endpoint"));
            return None;
        };
        match (stays, sticky) {
            (true, false) => faults.push(format!("{map} says {verdict}, but {STICKY} keeps no client")),
            (false, true) => faults.push(format!("{STICKY} keeps clients, but {map} says {verdict}")),
            _ => {}
        }
        let drawn = numbered.map_or(0, |numbered| numbered.range(..count).count());
        if drawn < count as usize {
            faults.push(format!("{map} says {verdict}, but {backends} has only {drawn} of these endpoints"));
        }
        if drawn < have {
            let more = several(have - drawn, "endpoint");
            faults.push(format!("{map} says {verdict}, but {backends} has {more} beyond that"));
        }
        let found: Vec<Backend> = numbered
            .into_iter()
            .flat_map(|numbered| numbered.range(..count))
            .map(|(_, each)| *each)
            .collect();
        (!found.is_empty()).then(|| Target::Backends(found.into()))
    }

    /// Of how many endpoints a picker draws, and whether clients stay; `None` if it is for another map.
    fn draws(&self, picker: Picker) -> Option<(u32, bool)> {
        match (picker, self.map) {
            (Picker::Pick(count), SERVICES) | (Picker::PickOutside(count), OUTSIDE) => Some((count, false)),
            (Picker::Stick(count), SERVICES) | (Picker::StickOutside(count), OUTSIDE) => Some((count, true)),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
