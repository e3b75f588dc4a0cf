//! The speaker: peers around a table.

mod advertise;
mod learn;
mod peer;
mod reach;
mod restart;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::Family;
use rustbgpd_wire::notification::cease_subcode;

use crate::adj_out::self_next_hop;
use crate::attributes::Attributes;
use crate::decision::Multipath;
use crate::intern::Interner;
use crate::jitter::Jitter;
use crate::rib::{Path, Rib, Source};
use crate::{
    BestPath, ConnectionId, Input, LocalRoute, Moment, Output, PeerName, PeerStatus, RibChange, SpeakerConfig,
};
use peer::Peer;
use session::Nameless;

/// A BGP speaker without clock, socket or runtime.
///
/// It is told what happened by [`Speaker::handle`], which answers with what is to be done, and wants to be told
/// [`Input::Tick`] at [`Speaker::deadline`].
#[derive(Debug)]
pub struct Speaker {
    shared: Shared,
    peers: BTreeMap<PeerName, Peer>,
    /// Whose each connection is.
    connections: BTreeMap<ConnectionId, PeerName>,
    /// Connections from an address that several peers share, until their OPEN says who they are.
    nameless: BTreeMap<ConnectionId, Nameless>,
}

/// What all peers have in common.
#[derive(Debug)]
struct Shared {
    config: SpeakerConfig,
    rib: Rib,
    interner: Interner,
    jitter: Jitter,
    outputs: Vec<Output>,
    /// Prefixes for which other paths are in use since this was last looked at.
    changed: Vec<IpNet>,
    /// Those of them of which the consumer of the table is not told yet.
    untold: BTreeSet<IpNet>,
    connections_made: u64,
    names: BTreeMap<Source, PeerName>,
    start: restart::Start,
}

impl Speaker {
    /// A speaker that starts now. `seed` spreads its timers; it may be any number, but should not be that of others.
    pub fn new(config: SpeakerConfig, seed: u64, now: Moment) -> Speaker {
        let multipath = Multipath { most: config.multipath, across_as: config.multipath_across_as };
        let shared = Shared {
            rib: Rib::new(config.router_id, multipath),
            interner: Interner::default(),
            jitter: Jitter::new(seed),
            outputs: Vec::new(),
            changed: Vec::new(),
            untold: BTreeSet::new(),
            connections_made: 0,
            names: BTreeMap::new(),
            start: restart::Start::new(&config, now),
            config,
        };
        Speaker { shared, peers: BTreeMap::new(), connections: BTreeMap::new(), nameless: BTreeMap::new() }
    }

    /// Takes note of what happened; what is to be done, in this order.
    pub fn handle(&mut self, now: Moment, input: Input) -> Vec<Output> {
        match input {
            Input::SetPeer(config) => self.set_peer(*config, now),
            Input::RemovePeer(name) => self.remove_peer(&name, cease_subcode::PEER_DECONFIGURED, now),
            Input::ResetPeer(name) => self.reset_peer(&name, now),
            Input::RefreshPeer(name, family) => {
                self.with_peer(&name, |peer, shared| peer.ask_again(family, shared, now));
            }
            Input::PeerUnreachable(name) => {
                self.with_peer(&name, |peer, shared| peer.unreachable(shared, now));
            }
            Input::PeerLost(name) => self.with_peer(&name, |peer, shared| peer.lost(shared, now)),
            Input::PeerReachable(name) => self.with_peer(&name, |peer, shared| peer.reachable(shared, now)),
            Input::Announce(prefix, route) => self.announce(prefix.trunc(), route),
            Input::Withdraw(prefix) => {
                let prefix = prefix.trunc();
                if self.shared.rib.remove(&prefix, Source::LOCAL) {
                    self.shared.changed.push(prefix);
                }
            }
            Input::Connected { connection, local } => {
                self.with_connection(connection, |peer, shared| {
                    peer.connected(connection, local, shared, now);
                });
            }
            Input::Accepted { connection, from, local } => self.accepted(connection, from, local, now),
            Input::Closed { connection, reason } => {
                self.nameless.remove(&connection);
                self.with_connection(connection, |peer, shared| peer.broke(connection, reason, shared, now));
            }
            Input::Received { connection, bytes } => self.received(connection, &bytes, now),
            Input::Drained { connection } => {
                self.with_connection(connection, |peer, _| peer.drained(connection));
            }
            Input::Tick => self.tick(now),
            Input::Stop => {
                let names: Vec<PeerName> = self.peers.keys().cloned().collect();
                let subcode = cease_subcode::ADMINISTRATIVE_SHUTDOWN;
                names.iter().for_each(|name| self.remove_peer(name, subcode, now));
            }
        }
        self.settle(now);
        std::mem::take(&mut self.shared.outputs)
    }

    /// When [`Input::Tick`] is wanted next, if nothing else happens until then.
    pub fn deadline(&self) -> Option<Moment> {
        let peers = self.peers.values().filter_map(Peer::deadline);
        let nameless = self.nameless.values().map(Nameless::deadline);
        peers.chain(nameless).chain(self.shared.start.deadline()).min()
    }

    /// Every peer, for an operator, in the order of their names.
    pub fn status(&self, now: Moment) -> Vec<PeerStatus> {
        self.peers.values().map(|peer| peer.status(&self.shared, now)).collect()
    }

    /// The paths in use of every prefix.
    pub fn routes(&self) -> impl Iterator<Item = RibChange> {
        self.shared.rib.all_in_use().map(|(prefix, in_use)| self.rib_change(prefix, in_use))
    }

    fn announce(&mut self, prefix: IpNet, route: LocalRoute) {
        let next_hop = route.next_hop.unwrap_or_else(|| self_next_hop(Family::of_net(&prefix)));
        let attributes = Attributes {
            med: route.med,
            local_pref: route.local_pref,
            communities: route.communities.into(),
            large_communities: route.large_communities.into(),
            ..Attributes::new(next_hop)
        };
        let attributes = self.shared.interner.intern(attributes);
        if self.shared.rib.insert(prefix, Path { attributes, source: Source::LOCAL, stale: false }) {
            self.shared.changed.push(prefix);
        }
    }

    fn tick(&mut self, now: Moment) {
        let names: Vec<PeerName> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.with_peer(&name, |peer, shared| peer.tick(shared, now));
        }
        self.tick_nameless(now);
    }

    /// Lets a peer act, and keeps the book of connections after it.
    fn with_peer(&mut self, name: &PeerName, act: impl FnOnce(&mut Peer, &mut Shared)) {
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        let before = peer.connection_ids();
        act(peer, &mut self.shared);
        let after = peer.connection_ids();
        for gone in before.iter().filter(|id| !after.contains(id)) {
            self.connections.remove(gone);
        }
        for new in after.iter().filter(|id| !before.contains(id)) {
            self.connections.insert(*new, name.clone());
        }
    }

    fn with_connection(&mut self, connection: ConnectionId, act: impl FnOnce(&mut Peer, &mut Shared)) {
        if let Some(name) = self.connections.get(&connection).cloned() {
            self.with_peer(&name, act);
        }
    }

    /// Tells of what has changed: the consumer of the table, and the peers.
    fn settle(&mut self, now: Moment) {
        let progress = self.peers.values().map(Peer::progress);
        let restart::Settled { held, converged } = self.shared.start.settle(progress, now);
        self.shared.changed.sort_unstable();
        self.shared.changed.dedup();
        self.shared.outputs.reserve(self.shared.changed.len());
        for prefix in std::mem::take(&mut self.shared.changed) {
            let in_use = self.shared.rib.in_use(&prefix);
            for peer in self.peers.values_mut() {
                peer.route_changed(prefix, in_use, &self.shared);
            }
            // The kernel still has the routes of before, which are better than what the first peer alone would make of it.
            if held && in_use.first().is_none_or(|best| best.source != Source::LOCAL) {
                self.shared.untold.insert(prefix);
            } else {
                self.shared.untold.remove(&prefix);
                let change = self.rib_change(prefix, in_use);
                self.shared.outputs.push(Output::Rib(change));
            }
        }
        if !held {
            for prefix in std::mem::take(&mut self.shared.untold) {
                let change = self.rib_change(prefix, self.shared.rib.in_use(&prefix));
                self.shared.outputs.push(Output::Rib(change));
            }
        }
        self.shared.outputs.extend(converged.then_some(Output::Converged));
        for peer in self.peers.values_mut() {
            peer.write(held, &mut self.shared, now);
        }
    }

    fn rib_change(&self, prefix: IpNet, in_use: &[Path]) -> RibChange {
        let paths = in_use.iter().map(|path| BestPath {
            peer: self.name_of(path.source),
            attributes: std::sync::Arc::clone(&path.attributes),
            stale: path.stale,
        });
        RibChange { prefix, paths: paths.collect() }
    }

    fn name_of(&self, source: Source) -> Option<PeerName> {
        self.shared.names.get(&source).cloned()
    }

    /// The peers whose connections may come from an address.
    fn peers_at(&self, address: IpAddr) -> Vec<&Peer> {
        self.peers.values().filter(|peer| peer.config.roaming || peer.config.address == address).collect()
    }
}

#[cfg(test)]
mod tests;
