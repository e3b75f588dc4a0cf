//! One peer: its connections, its session, and what is kept for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::Family;

use super::Shared;
use super::restart::{Progress, Stale};
use crate::adj_out::AdjOut;
use crate::connection::{Connection, Negotiated};
use crate::decision::{Origin, SourceKind};
use crate::export::Towards;
use crate::rib::Source;
use crate::{
    ConnectionId, Families, Moment, Output, PeerConfig, PeerStatus, SessionEvent, SessionState, SpeakerConfig,
};

/// The wait before the second attempt to connect; it doubles with every attempt that fails.
const FIRST_RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) config: Arc<PeerConfig>,
    pub(super) source: Source,
    /// All that there are; seldom more than one.
    pub(super) connections: Vec<Connection>,
    pub(super) session: Option<Session>,
    pub(super) retry: Retry,
    pub(super) stale: Option<Stale>,
    /// Until then the peer is left alone: it has sent too much.
    pub(super) held_down: Option<Moment>,
    /// The families whose end the peer has sent since this speaker started.
    pub(super) ended: Families,
    pub(super) counters: Counters,
    pub(super) last_error: Option<String>,
    /// From where somebody with its identifier has connected in vain.
    pub(super) translated: Option<IpAddr>,
    /// Since when the session is up, or down.
    pub(super) since: Moment,
}

/// A session that is up.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: ConnectionId,
    pub(super) since: Moment,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) negotiated: Negotiated,
    pub(super) out: AdjOut,
    /// Families of which the peer is sending everything again (RFC 7313).
    pub(super) refreshing: Families,
}

/// When to try to connect next.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) at: Option<Moment>,
    failures: u32,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) established: u64,
    pub(super) updates: u64,
    pub(super) malformed: u64,
}

impl Peer {
    pub(super) fn new(config: PeerConfig, shared: &mut Shared, now: Moment) -> Peer {
        let source = shared.rib.add_source(origin(&shared.config, &config, None));
        shared.names.insert(source, config.name.clone());
        Peer {
            retry: Retry { at: (!config.passive).then_some(now), failures: 0 },
            config: Arc::new(config),
            source,
            connections: Vec::new(),
            session: None,
            stale: None,
            held_down: None,
            ended: Families::NONE,
            counters: Counters::default(),
            last_error: None,
            translated: None,
            since: now,
        }
    }

    pub(super) fn connection_ids(&self) -> Vec<ConnectionId> {
        self.connections.iter().map(|connection| connection.id).collect()
    }

    pub(super) fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    pub(super) fn drained(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connection(id) {
            connection.drained();
        }
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        let connections = self.connections.iter().filter_map(Connection::deadline);
        let stale = self.stale.map(|stale| stale.until);
        connections.chain(self.retry.at).chain(stale).chain(self.held_down).min()
    }

    pub(super) fn tick(&mut self, shared: &mut Shared, now: Moment) {
        for id in self.connection_ids() {
            if let Some(connection) = self.connection(id) {
                let effects = connection.tick(now, &mut shared.jitter);
                self.apply(id, effects, shared, now);
            }
        }
        if self.stale.is_some_and(|stale| stale.until <= now) {
            self.sweep(Families::BOTH, shared);
        }
        if self.held_down.is_some_and(|until| until <= now) {
            self.held_down = None;
            self.retry.soon(&self.config, now);
        }
        if self.retry.at.is_some_and(|at| at <= now) {
            self.retry.at = None;
            self.connect(shared);
        }
    }

    fn connect(&mut self, shared: &mut Shared) {
        let trying = self.connections.iter().any(|connection| match connection.id {
            ConnectionId::Outgoing(_) => true,
            ConnectionId::Incoming(_) => connection.state() >= SessionState::OpenConfirm,
        });
        if trying || self.config.passive || self.held_down.is_some() {
            return;
        }
        shared.connections_made += 1;
        let id = ConnectionId::Outgoing(shared.connections_made);
        let restarting = shared.start.is_restarting(&shared.config);
        self.connections.push(Connection::new(
            id,
            self.config.address,
            &shared.config,
            &self.config,
            restarting,
        ));
        shared.outputs.push(Output::Connect {
            connection: id,
            peer: self.config.name.clone(),
            address: self.config.address,
        });
    }

    pub(super) fn progress(&self) -> Progress {
        let families = self.session.as_ref().map_or(Families::NONE, |session| session.negotiated.families);
        Progress {
            established: self.session.is_some(),
            complete: families.iter().all(|family| self.ended.contains(family)),
        }
    }

    /// What is known of the peer as a source of routes.
    pub(super) fn set_origin(&self, shared: &mut Shared) {
        let negotiated = self.session.as_ref().map(|session| &session.negotiated);
        let origin = origin(&shared.config, &self.config, negotiated);
        shared.rib.set_origin(self.source, origin);
    }

    pub(super) fn tell(&mut self, down: Option<String>, shared: &mut Shared) {
        if down.is_some() {
            self.last_error.clone_from(&down);
        }
        shared.outputs.push(Output::Session(SessionEvent { peer: self.config.name.clone(), down }));
    }

    pub(super) fn status(&self, shared: &Shared, now: Moment) -> PeerStatus {
        let furthest = self.connections.iter().map(Connection::state).max();
        let state = match furthest {
            _ if self.held_down.is_some() => SessionState::Idle,
            Some(state) => state,
            None => SessionState::Active,
        };
        let session = self.session.as_ref();
        PeerStatus {
            name: self.config.name.clone(),
            address: self.config.address,
            remote: session.map(|session| session.remote),
            asn: self.config.asn,
            state,
            for_time: now.since(self.since),
            router_id: session.map(|session| session.negotiated.router_id),
            families: session.map_or(Families::NONE, |session| session.negotiated.families),
            hold_time: session.map(|session| session.negotiated.hold_time),
            received: shared.rib.counts(self.source),
            advertised: session.map_or([0; 2], |session| session.out.counts()),
            without_next_hop: session.map_or(0, |session| session.out.without_next_hop()),
            stale: self.stale.is_some(),
            established: self.counters.established,
            updates: self.counters.updates,
            malformed_updates: self.counters.malformed,
            translated: self.translated.filter(|_| session.is_none()),
            last_error: self.last_error.clone(),
        }
    }
}

impl Session {
    pub(super) fn towards<'a>(&self, speaker: &'a SpeakerConfig, peer: &'a PeerConfig) -> Towards<'a> {
        let Negotiated { families, v4_over_v6, .. } = self.negotiated;
        Towards { speaker, peer, local: self.local, families, v4_over_v6 }
    }

    /// Whether a family is exchanged.
    pub(super) fn has(&self, family: Family) -> bool {
        self.negotiated.families.contains(family)
    }
}

impl Retry {
    /// An attempt, or the session, has come to nothing.
    pub(super) fn failed(&mut self, config: &PeerConfig, jitter: &mut crate::jitter::Jitter, now: Moment) {
        let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        let wait = jitter.shorten(doubled.min(config.connect_retry.max(FIRST_RETRY)));
        self.at = (!config.passive).then(|| now + wait);
    }

    /// There is a reason to believe that an attempt will do.
    pub(super) fn soon(&mut self, config: &PeerConfig, now: Moment) {
        self.failures = 0;
        self.at = (!config.passive).then_some(now);
    }

    /// The session is up.
    pub(super) fn done(&mut self) {
        *self = Retry { at: None, failures: 0 };
    }
}

fn origin(speaker: &SpeakerConfig, peer: &PeerConfig, negotiated: Option<&Negotiated>) -> Origin {
    let kind = if peer.asn == speaker.asn {
        SourceKind::Internal { client: peer.reflector_client }
    } else {
        SourceKind::External
    };
    let router_id = negotiated.map(|negotiated| negotiated.router_id).or(peer.router_id);
    Origin { kind, router_id: router_id.unwrap_or([0; 4].into()), address: peer.address }
}
