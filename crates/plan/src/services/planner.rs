//! The services' part of a plan, kept and changed service by service.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{EndpointSlice, Family, NetworkConfig, Node, ObjectName, PodRange, Service, ServiceAddresses};

use super::announce::{Announced, announced};
use super::balance::{Place, balance};
use super::health::{HealthCheck, HealthChecks, health_check};
use super::{Balancer, Frontend, Reach, ServicePlan, Settings, pickers};
use crate::Problem;

/// What a change of the cluster changes in the services' part of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceChange {
    /// What becomes of connections to these frontends now; `None` for those that are no more.
    pub frontends: BTreeMap<Frontend, Option<Balancer>>,
    /// The pods that may be sent back to themselves now, or not any more.
    pub hairpins: BTreeMap<IpAddr, bool>,
    /// Whether the settings are others, so that everything has to be compared.
    pub settings: bool,
    /// The addresses that BGP peers are told now, or not any more.
    pub announced: BTreeMap<IpAddr, bool>,
}

impl ServiceChange {
    /// Whether nothing changed for the kernel.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.hairpins.is_empty() && !self.settings
    }

    /// Takes in what changed later.
    pub fn extend(&mut self, later: ServiceChange) {
        self.frontends.extend(later.frontends);
        self.hairpins.extend(later.hairpins);
        self.settings |= later.settings;
        self.announced.extend(later.announced);
    }
}

/// Keeps the services' part of a plan. A change of one service costs that one and not the cluster.
#[derive(Debug, Default)]
pub(crate) struct ServicePlanner {
    services: BTreeMap<ObjectName, Arc<Service>>,
    /// By the name of their service.
    slices: BTreeMap<ObjectName, BTreeMap<Box<str>, Arc<EndpointSlice>>>,
    /// The service of each slice: the label may change.
    owners: BTreeMap<ObjectName, ObjectName>,
    local: Option<Node>,
    node_addresses: Vec<IpAddr>,
    /// What each service claims.
    claims: BTreeMap<ObjectName, Vec<Frontend>>,
    /// Who would have a frontend too that another service has. The first by kind of address and name has it, on every
    /// node the same.
    losers: BTreeMap<Frontend, BTreeSet<(Reach, ObjectName)>>,
    /// In how many balancers a pod of this node is.
    local_backends: BTreeMap<IpAddr, usize>,
    health_checks: HealthChecks,
    /// Which kinds of addresses BGP peers are told.
    announce: ServiceAddresses,
    announced: Announced,
    plan: ServicePlan,
}

impl ServicePlanner {
    pub(crate) fn plan(&self) -> &ServicePlan {
        &self.plan
    }

    pub(crate) fn into_plan(self) -> ServicePlan {
        self.plan
    }

    pub(crate) fn known(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub(crate) fn known_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.values().flat_map(BTreeMap::values)
    }

    pub(crate) fn service(&mut self, service: Service, change: &mut ServiceChange) {
        let name = service.name.clone();
        self.services.insert(name.clone(), Arc::new(service));
        self.replan(&name, change);
    }

    pub(crate) fn service_gone(&mut self, name: &ObjectName, change: &mut ServiceChange) {
        self.services.remove(name);
        self.replan(name, change);
    }

    pub(crate) fn slice(&mut self, slice: EndpointSlice, change: &mut ServiceChange) {
        let service = ObjectName::new(slice.name.namespace.clone(), slice.service.clone());
        let before = self.owners.insert(slice.name.clone(), service.clone());
        if let Some(before) = before.filter(|before| *before != service) {
            self.forget(&before, &slice.name);
            self.replan(&before, change);
        }
        self.slices.entry(service.clone()).or_default().insert(slice.name.name.clone(), Arc::new(slice));
        self.replan(&service, change);
    }

    pub(crate) fn slice_gone(&mut self, name: &ObjectName, change: &mut ServiceChange) {
        if let Some(service) = self.owners.remove(name) {
            self.forget(&service, name);
            self.replan(&service, change);
        }
    }

    /// Takes in where the plan is made for. `node_addresses` are those of this node that accept node ports.
    pub(crate) fn place(
        &mut self,
        network: &NetworkConfig,
        local: &Node,
        strays: impl Iterator<Item = IpNet>,
        node_addresses: Vec<IpAddr>,
        change: &mut ServiceChange,
    ) {
        let settings = Some(Settings {
            gateways: model::PerFamily {
                v4: local.pod_ranges.v4.as_ref().map(PodRange::gateway),
                v6: local.pod_ranges.v6.as_ref().map(PodRange::gateway),
            },
            pods: network.pod_ranges.iter().map(PodRange::net).chain(strays).collect(),
            service_ranges: network.service_ranges.clone(),
        });
        if self.plan.settings != settings {
            self.plan.settings = settings;
            change.settings = true;
        }
        let announce = network.bgp.announce;
        if self.local.as_ref() == Some(local)
            && self.node_addresses == node_addresses
            && self.announce == announce
        {
            return;
        }
        self.announce = announce;
        self.local = Some(local.clone());
        self.node_addresses = node_addresses;
        for name in self.services.keys().cloned().collect::<Vec<_>>() {
            self.replan(&name, change);
        }
        self.recount(change);
    }

    /// Plans nothing any more: the node or the network is unknown.
    pub(crate) fn displace(&mut self, change: &mut ServiceChange) {
        change.settings |= self.plan.settings.take().is_some();
        self.local = None;
        for name in self.services.keys().cloned().collect::<Vec<_>>() {
            self.replan(&name, change);
        }
        self.recount(change);
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let conflicts = self.losers.iter().flat_map(|(frontend, losers)| {
            let winner = self.plan.frontends.get(frontend).map(|balancer| balancer.service.service.clone());
            losers.iter().filter_map(move |(_, loser)| {
                Some(Problem::FrontendConflict {
                    frontend: *frontend,
                    winner: winner.clone()?,
                    loser: loser.clone(),
                })
            })
        });
        conflicts.chain(self.health_checks.problems())
    }

    /// Takes in that a node of the cluster has come, or has gone: what is its own address is not a service's.
    pub(crate) fn node(&mut self, node: &Node, comes: bool, change: &mut ServiceChange) {
        self.announced.node(node, comes, &mut self.plan.announced, &mut change.announced);
    }

    fn forget(&mut self, service: &ObjectName, slice: &ObjectName) {
        if let btree_map::Entry::Occupied(mut slices) = self.slices.entry(service.clone()) {
            slices.get_mut().remove(&slice.name);
            if slices.get().is_empty() {
                slices.remove();
            }
        }
    }

    fn balanced(&self, name: &ObjectName) -> Vec<(Frontend, Balancer)> {
        let (Some(node), Some(service)) = (&self.local, self.services.get(name)) else { return Vec::new() };
        let place = Place { node, node_addresses: &self.node_addresses };
        balance(place, service, self.slices_of(name))
    }

    fn health_check(&self, name: &ObjectName) -> Option<(u16, HealthCheck)> {
        let (node, service) = (self.local.as_ref()?, self.services.get(name)?);
        health_check(node, service, self.slices_of(name))
    }

    fn announced_of(&self, name: &ObjectName) -> BTreeSet<IpAddr> {
        match (&self.local, self.services.get(name)) {
            (Some(node), Some(service)) => announced(node, self.announce, service, self.slices_of(name)),
            _ => BTreeSet::new(),
        }
    }

    fn slices_of(&self, name: &ObjectName) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices.get(name).into_iter().flat_map(BTreeMap::values).map(Arc::as_ref)
    }

    fn replan(&mut self, name: &ObjectName, change: &mut ServiceChange) {
        let check = self.health_check(name);
        self.health_checks.replace(name, check, &mut self.plan.health_checks);
        let addresses = self.announced_of(name);
        self.announced.replace(name, addresses, &mut self.plan.announced, &mut change.announced);
        let mut wanted: BTreeMap<Frontend, Balancer> = BTreeMap::new();
        for (frontend, balancer) in self.balanced(name) {
            wanted.entry(frontend).or_insert(balancer);
        }
        let claimed = wanted.keys().copied().collect::<Vec<_>>();
        for frontend in self.claims.remove(name).unwrap_or_default() {
            if !wanted.contains_key(&frontend) {
                self.release(&frontend, name, change);
            }
        }
        for (frontend, balancer) in wanted {
            self.claim(frontend, name, balancer, change);
        }
        if !claimed.is_empty() {
            self.claims.insert(name.clone(), claimed);
        }
    }

    fn claim(
        &mut self,
        frontend: Frontend,
        name: &ObjectName,
        balancer: Balancer,
        change: &mut ServiceChange,
    ) {
        let rank = |balancer: &Balancer| (balancer.reach, balancer.service.service.clone());
        let own = rank(&balancer);
        match self.plan.frontends.get(&frontend).map(rank) {
            // The same service, perhaps with another kind of address.
            Some((_, holder)) if holder == *name => {}
            Some(holder) if holder < own => {
                let losers = self.losers.entry(frontend).or_default();
                losers.retain(|(_, loser)| loser != name);
                losers.insert(own);
                return;
            }
            Some(holder) => {
                self.losers.entry(frontend).or_default().insert(holder);
            }
            None => {}
        }
        self.set(frontend, Some(balancer), change);
    }

    fn release(&mut self, frontend: &Frontend, name: &ObjectName, change: &mut ServiceChange) {
        let holds =
            self.plan.frontends.get(frontend).is_some_and(|balancer| balancer.service.service == *name);
        let mut next = None;
        if let btree_map::Entry::Occupied(mut losers) = self.losers.entry(*frontend) {
            if holds {
                next = losers.get_mut().pop_first();
            } else {
                losers.get_mut().retain(|(_, loser)| loser != name);
            }
            if losers.get().is_empty() {
                losers.remove();
            }
        }
        if holds {
            let heir = next.and_then(|(_, next)| {
                self.balanced(&next)
                    .into_iter()
                    .find(|(each, _)| each == frontend)
                    .map(|(_, balancer)| balancer)
            });
            self.set(*frontend, heir, change);
        }
    }

    fn set(&mut self, frontend: Frontend, balancer: Option<Balancer>, change: &mut ServiceChange) {
        if self.plan.frontends.get(&frontend) == balancer.as_ref() {
            return;
        }
        let before = match &balancer {
            Some(balancer) => self.plan.frontends.insert(frontend, balancer.clone()),
            None => self.plan.frontends.remove(&frontend),
        };
        // First what is new, so that what is in both is not gone in between.
        if let Some(balancer) = &balancer {
            self.count(frontend.family(), balancer, change);
        }
        if let Some(before) = before {
            self.discount(frontend.family(), &before, change);
        }
        change.frontends.insert(frontend, balancer);
    }

    fn count(&mut self, family: Family, balancer: &Balancer, change: &mut ServiceChange) {
        for picker in pickers(balancer) {
            *self.plan.pickers.entry((family, picker)).or_default() += 1;
        }
        for address in self.own_pods(balancer) {
            let count = self.local_backends.entry(address).or_default();
            *count += 1;
            if *count == 1 {
                self.plan.hairpins.insert(address);
                change.hairpins.insert(address, true);
            }
        }
    }

    fn discount(&mut self, family: Family, balancer: &Balancer, change: &mut ServiceChange) {
        for picker in pickers(balancer) {
            if let btree_map::Entry::Occupied(mut count) = self.plan.pickers.entry((family, picker)) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        for address in self.own_pods(balancer) {
            if let btree_map::Entry::Occupied(mut count) = self.local_backends.entry(address) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    self.plan.hairpins.remove(&address);
                    change.hairpins.insert(address, false);
                }
            }
        }
    }

    /// Counts the pods of this node among the endpoints anew: its ranges may be others than when they were counted.
    fn recount(&mut self, change: &mut ServiceChange) {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for balancer in self.plan.frontends.values() {
            for address in self.own_pods(balancer) {
                *counts.entry(address).or_default() += 1;
            }
        }
        let now: BTreeSet<IpAddr> = counts.keys().copied().collect();
        let before = std::mem::replace(&mut self.plan.hairpins, now);
        for address in before.symmetric_difference(&self.plan.hairpins) {
            change.hairpins.insert(*address, self.plan.hairpins.contains(address));
        }
        self.local_backends = counts;
    }

    /// The pods of this node among the endpoints.
    fn own_pods(&self, balancer: &Balancer) -> Vec<IpAddr> {
        let own = |address: &IpAddr| {
            self.local
                .as_ref()
                .and_then(|node| node.pod_ranges.of(Family::of(address)))
                .is_some_and(|range| range.holds_pod(address))
        };
        balancer.target.backends().iter().map(|backend| backend.address).filter(own).collect()
    }
}

/// The addresses of a node that accept node ports: those in the prefixes of the configuration, or its `InternalIP`s.
pub(crate) fn node_port_addresses(network: &NetworkConfig, node: &Node, own: &[IpAddr]) -> Vec<IpAddr> {
    if network.node_port_addresses.is_empty() {
        return node.addresses.iter().copied().collect();
    }
    let chosen = |address: &&IpAddr| network.node_port_addresses.iter().any(|net| net.contains(*address));
    own.iter().filter(chosen).copied().collect()
}

/// The pod ranges of nodes that are outside of the cluster's.
pub(crate) fn strays<'a>(
    network: &'a NetworkConfig,
    nodes: impl Iterator<Item = &'a Node>,
) -> impl Iterator<Item = IpNet> {
    let ranges = nodes.flat_map(|node| node.pod_ranges.iter()).map(PodRange::net);
    ranges.filter(|range| !network.pod_ranges.iter().any(|known| known.net().contains(range)))
}
