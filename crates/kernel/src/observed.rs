//! What a namespace holds of ours.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use model::Family;
use netlink_packet_route::route::RouteMessage;
use plan::ipip::Table;
use plan::{Entries, Entry, Key, Link, TableFamily};

use crate::link::{LinkKind, LinkState, Links, Way};
use crate::rtnl::RouteSocket;
use crate::tables::{Condition, Tables};
use crate::tunnel::Tunnel;
use crate::{Result, address, neighbour, route, sysctl};

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Something that a plan could have put there.
    Entry(Entry),
    /// Something of ours that no plan makes, in words.
    Other(String),
    /// Something that is not ours and has taken the place.
    Foreign,
}

/// All that is ours in a namespace, and the links it stands on.
#[derive(Debug, Default)]
pub struct Observed {
    /// What stands under the keys of plans, but for links and tables.
    pub entries: BTreeMap<Key, Found>,
    /// All links, ours and others.
    pub links: Links,
    /// Our tables, and whether they are as they should be.
    pub tables: BTreeMap<TableFamily, Condition>,
    /// Whether the tunnel's entries of a plan are none of our business.
    pub(crate) no_tunnel: bool,
    /// Routes of ours that no key of a plan can name.
    pub(crate) strays: Vec<RouteMessage>,
    /// Routes of ours under whose key another one stands.
    pub(crate) doubles: Vec<RouteMessage>,
}

impl Observed {
    /// Reads it. The plan says which settings are of interest and what the tables should hold.
    pub(crate) fn read(
        socket: &mut RouteSocket,
        tables: &mut Tables,
        tunnel: &mut Tunnel,
        plan: &Entries,
    ) -> Result<Observed> {
        let mut observed = Observed { links: Links::read(socket)?, ..Observed::default() };
        tables.observe(plan, &mut observed)?;
        for key in plan.keys() {
            if let Key::Sysctl(path) = key
                && let Some(value) = sysctl::read(path)?
            {
                let entry = Entry::Sysctl { path: path.clone(), value };
                observed.entries.insert(key.clone(), Found::Entry(entry));
            }
        }
        observed.take_ports();
        for message in address::dump(socket)? {
            observed.entries.extend(address::decode(&message, &observed.links));
        }
        let tunnels: Vec<LinkState> = observed
            .links
            .iter()
            .filter(|link| link.ours && matches!(link.kind, LinkKind::Vxlan { .. }))
            .cloned()
            .collect();
        for link in &tunnels {
            for message in neighbour::forwarding_of(socket, &link.name, link.index)? {
                observed.take_neighbour(neighbour::decode(&message, &observed.links));
            }
        }
        observed.no_tunnel = tunnel.is_left_alone();
        if !observed.no_tunnel {
            observed.take_tunnel(tunnel.observe());
        }
        for family in Family::BOTH {
            for message in neighbour::all(socket, family)? {
                observed.take_neighbour(neighbour::decode(&message, &observed.links));
            }
            observed.take_routes(route::dump(socket, family)?, plan);
        }
        Ok(observed)
    }

    fn take_tunnel(&mut self, table: Table) {
        let routes =
            table.routes.into_iter().map(|(destination, route)| Entry::TunnelRoute { destination, route });
        let entries = table.locals.into_iter().map(Entry::TunnelLocal);
        let entries = entries.chain(table.nodes.into_iter().map(Entry::TunnelNode));
        let entries = entries.chain(routes).chain(table.uplinks.into_iter().map(Entry::TunnelUplink));
        self.entries.extend(entries.map(|entry| (entry.key(), Found::Entry(entry))));
    }

    fn take_ports(&mut self) {
        for link in self.links.iter().filter(|link| link.pods) {
            let name = link.name.clone();
            let found = match link.bridge.and_then(|index| self.links.at(index)) {
                Some(bridge) if link.up && link.hairpin => {
                    Found::Entry(Entry::Port { link: name.clone(), bridge: bridge.name.clone() })
                }
                Some(_) => Found::Other(format!("bridge port {name} is down or not in hairpin mode")),
                None => Found::Other(format!("{name} is no bridge port")),
            };
            self.entries.insert(Key::Port(name), found);
        }
    }

    fn take_routes(&mut self, messages: Vec<RouteMessage>, plan: &Entries) {
        let mut several = BTreeSet::new();
        for message in &messages {
            if let Some((key, found)) = route::decode(message, &self.links) {
                match self.entries.entry(key) {
                    btree_map::Entry::Vacant(vacant) => drop(vacant.insert(found)),
                    // IPv4 can have several routes to one destination; then the planned one counts, if it is there.
                    btree_map::Entry::Occupied(mut occupied) => {
                        several.insert(occupied.key().clone());
                        if is_planned(&found, occupied.key(), plan) {
                            occupied.insert(found);
                        }
                    }
                }
            }
        }
        let mut kept = BTreeSet::new();
        for message in messages {
            match route::decode(&message, &self.links) {
                None => self.strays.push(message),
                Some((key, found)) => {
                    if several.contains(&key) && (self.entries.get(&key) != Some(&found) || !kept.insert(key))
                    {
                        self.doubles.push(message);
                    }
                }
            }
        }
    }

    /// One Ethernet address can have several forwarding entries; then none of them is the planned one.
    fn take_neighbour(&mut self, decoded: Option<(Key, Found)>) {
        let Some((key, found)) = decoded else { return };
        let several = self.entries.contains_key(&key);
        let found =
            if several { Found::Other("several entries for one Ethernet address".to_owned()) } else { found };
        self.entries.insert(key, found);
    }

    /// What it takes to have a link of the plan.
    pub(crate) fn way_to(&self, wanted: &Link) -> LinkNeed {
        match self.links.named(wanted.name()) {
            None => LinkNeed::Make,
            Some(state) if !state.ours => LinkNeed::Foreign,
            Some(state) => match state.way_to(wanted) {
                Way::Nothing => LinkNeed::Nothing,
                Way::InPlace => LinkNeed::Adjust,
                Way::Anew => LinkNeed::Anew,
            },
        }
    }
}

fn is_planned(found: &Found, key: &Key, plan: &Entries) -> bool {
    matches!(found, Found::Entry(entry) if plan.get(key).is_some_and(|planned| planned.entry == *entry))
}

/// What it takes to have a link of the plan.
#[derive(Debug)]
pub(crate) enum LinkNeed {
    Nothing,
    Make,
    Adjust,
    Anew,
    Foreign,
}
