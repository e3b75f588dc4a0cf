//! Connections of peers: how they come, what they carry, how they end.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use model::Family;
use rustbgpd_wire::notification::cease_subcode;
use rustbgpd_wire::{MAX_MESSAGE_LEN, Message, OpenMessage, decode_message, peek_message_length};

use super::peer::{Peer, Session};
use super::restart::Stale;
use super::{Shared, Speaker};
use crate::adj_out::AdjOut;
use crate::collision::{self, Ends, Other, Verdict};
use crate::connection::{self, Connection, Effect, End, Keep, Negotiated};
use crate::{
    ConnectionId, Export, Families, Import, Moment, Output, OwnAddresses, PeerConfig, PeerName, SessionState,
    notification,
};

/// How long a connection may take to say who it is.
const NAMELESS_PATIENCE: Duration = Duration::from_secs(30);

/// How many connections may be about to say who they are.
const MOST_NAMELESS: usize = 64;

/// How many there may be for another one to be heard that is from nobody's address.
const MOST_STRANGERS: usize = 8;

/// How many connections of one peer may be without an OPEN.
const MOST_IDLE: usize = 2;

/// A session younger than this and another connection belong to one start of the peer.
const YOUNG: Duration = Duration::from_secs(10);

/// A connection from an address that several peers have, or none.
#[derive(Debug)]
pub(super) struct Nameless {
    from: IpAddr,
    local: IpAddr,
    input: Vec<u8>,
    until: Moment,
}

impl Nameless {
    pub(super) fn deadline(&self) -> Moment {
        self.until
    }
}

impl Speaker {
    pub(super) fn set_peer(&mut self, config: PeerConfig, now: Moment) {
        let name = config.name.clone();
        let Some(old) = self.peers.get(&name).map(|peer| std::sync::Arc::clone(&peer.config)) else {
            let peer = Peer::new(config, &mut self.shared, now);
            self.peers.insert(name.clone(), peer);
            self.with_peer(&name, |peer, shared| peer.tick(shared, now));
            return;
        };
        if *old == config {
            return;
        }
        // What the OPEN says, or whose session it is, cannot change while it is up.
        let identity = |config: &PeerConfig| PeerConfig {
            import: Import::default(),
            export: Export::default(),
            max_prefixes: None,
            own_addresses: OwnAddresses::default(),
            connect_retry: Duration::ZERO,
            passive: false,
            ..config.clone()
        };
        if identity(&old) != identity(&config) {
            self.remove_peer(&name, cease_subcode::OTHER_CONFIGURATION_CHANGE, now);
            self.set_peer(config, now);
        } else {
            self.with_peer(&name, |peer, shared| peer.reconfigure(config, shared, now));
        }
    }

    pub(super) fn remove_peer(&mut self, name: &PeerName, subcode: u8, now: Moment) {
        self.with_peer(name, |peer, shared| {
            peer.close_all(subcode, shared, now);
            peer.sweep(Families::BOTH, shared);
        });
        if let Some(peer) = self.peers.remove(name) {
            self.shared.names.remove(&peer.source);
            self.shared.rib.remove_source(peer.source);
        }
    }

    pub(super) fn reset_peer(&mut self, name: &PeerName, now: Moment) {
        self.with_peer(name, |peer, shared| {
            peer.close_all(cease_subcode::ADMINISTRATIVE_RESET, shared, now);
            peer.held_down = None;
            peer.retry.soon(&peer.config, now);
            peer.tick(shared, now);
        });
    }

    pub(super) fn accepted(&mut self, id: ConnectionId, from: IpAddr, local: IpAddr, now: Moment) {
        let found = self.peers_at(from);
        if let [peer] = found.as_slice()
            && !peer.config.roaming
        {
            let name = peer.config.name.clone();
            return self.with_peer(&name, |peer, shared| peer.accept(id, from, local, shared, now));
        }
        let most = if found.is_empty() { MOST_STRANGERS } else { MOST_NAMELESS };
        if self.nameless.len() >= most {
            self.shared.outputs.push(Output::Close { connection: id });
            return;
        }
        let until = now + NAMELESS_PATIENCE;
        self.nameless.insert(id, Nameless { from, local, input: Vec::new(), until });
    }

    pub(super) fn received(&mut self, id: ConnectionId, bytes: &[u8], now: Moment) {
        if let Some(nameless) = self.nameless.get_mut(&id) {
            nameless.input.extend_from_slice(bytes);
            self.ask_name(id, now);
        } else {
            self.with_connection(id, |peer, shared| peer.received(id, bytes, shared, now));
        }
    }

    /// Looks whether a connection has said by now whose it is.
    fn ask_name(&mut self, id: ConnectionId, now: Moment) {
        let Some(nameless) = self.nameless.get(&id) else {
            return;
        };
        let len = match peek_message_length(&nameless.input, MAX_MESSAGE_LEN) {
            Ok(None) => return,
            Ok(Some(len)) if nameless.input.len() < usize::from(len) => return,
            Ok(Some(len)) => usize::from(len),
            Err(_) => 0,
        };
        let mut first = bytes::Bytes::copy_from_slice(&nameless.input[..len]);
        let router_id = match decode_message(&mut first, MAX_MESSAGE_LEN) {
            Ok(Message::Open(open)) => Some(open.bgp_identifier),
            _ => None,
        };
        let Some(nameless) = self.nameless.remove(&id) else {
            return;
        };
        // A peer whose identifier is not known beforehand is one that has the address for itself.
        let whose = |wanted: Option<Ipv4Addr>| {
            let mut peers = self.peers_at(nameless.from).into_iter();
            peers.find(|peer| peer.config.router_id == wanted).map(|peer| peer.config.name.clone())
        };
        let name = router_id.and_then(|id| whose(Some(id)).or_else(|| whose(None)));
        match name {
            Some(name) => self.with_peer(&name, |peer, shared| {
                peer.accept(id, nameless.from, nameless.local, shared, now);
                peer.received(id, &nameless.input, shared, now);
            }),
            None => {
                self.note_translated(router_id, nameless.from);
                self.shared.outputs.push(Output::Close { connection: id });
            }
        }
    }

    /// A stranger with the identifier of a peer is most likely the peer, and its address was translated on the way.
    fn note_translated(&mut self, router_id: Option<Ipv4Addr>, from: IpAddr) {
        let mut named = self.peers.values_mut().filter(|peer| peer.config.router_id.is_some());
        if let Some(peer) = named.find(|peer| peer.config.router_id == router_id) {
            peer.translated = Some(from);
        }
    }

    pub(super) fn tick_nameless(&mut self, now: Moment) {
        let late: Vec<ConnectionId> =
            self.nameless.iter().filter(|(_, nameless)| nameless.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.nameless.remove(&id);
            self.shared.outputs.push(Output::Close { connection: id });
        }
    }
}

impl Peer {
    fn accept(&mut self, id: ConnectionId, from: IpAddr, local: IpAddr, shared: &mut Shared, now: Moment) {
        if self.held_down.is_some() {
            let bytes = notification::encoded(notification::cease(cease_subcode::CONNECTION_REJECTED));
            shared.outputs.push(Output::Send { connection: id, bytes });
            shared.outputs.push(Output::Close { connection: id });
            return;
        }
        self.make_room(shared, now);
        let restarting = shared.start.is_restarting(&shared.config);
        let connection = Connection::new(id, from, &shared.config, &self.config, restarting);
        self.connections.push(connection);
        self.connected(id, local, shared, now);
    }

    /// Lets go of the oldest of too many connections that have come to nothing yet.
    fn make_room(&mut self, shared: &mut Shared, now: Moment) {
        let is_idle = |connection: &&Connection| {
            matches!(connection.id, ConnectionId::Incoming(_))
                && connection.state() < SessionState::OpenConfirm
        };
        let idle: Vec<ConnectionId> = self.connections.iter().filter(is_idle).map(|found| found.id).collect();
        if idle.len() >= MOST_IDLE {
            let effects = self.refuse(idle[0], notification::cease(cease_subcode::CONNECTION_REJECTED));
            self.apply(idle[0], effects, shared, now);
        }
    }

    pub(super) fn connected(&mut self, id: ConnectionId, local: IpAddr, shared: &mut Shared, now: Moment) {
        if let Some(connection) = self.connection(id) {
            let effects = connection.connected(local, now, &mut shared.jitter);
            self.apply(id, effects, shared, now);
        }
    }

    /// The transport says that a connection is gone, or never came.
    pub(super) fn broke(&mut self, id: ConnectionId, reason: String, shared: &mut Shared, now: Moment) {
        self.apply(id, vec![Effect::Closed(End { reason, keep: Keep::Broken, gone: true })], shared, now);
    }

    pub(super) fn received(&mut self, id: ConnectionId, bytes: &[u8], shared: &mut Shared, now: Moment) {
        if let Some(connection) = self.connection(id) {
            connection.push(bytes);
        }
        while let Some(connection) = self.connection(id) {
            let effects = match connection.message() {
                Ok(None) => break,
                Ok(Some(Message::Open(open))) => self.opened(id, open, shared, now),
                Ok(Some(Message::Update(update))) => self.learn(id, &update, shared, now),
                Ok(Some(Message::RouteRefresh(refresh))) => self.refresh_asked(id, &refresh, shared, now),
                Ok(Some(message)) => connection.other(message, now, &mut shared.jitter),
                Err(error) => connection.undecodable(error, now, &mut shared.jitter),
            };
            self.apply(id, effects, shared, now);
        }
    }

    /// An OPEN: first it is seen whether another connection with the peer is in its way.
    fn opened(
        &mut self,
        id: ConnectionId,
        open: OpenMessage,
        shared: &mut Shared,
        now: Moment,
    ) -> Vec<Effect> {
        if self.config.router_id.is_some_and(|wanted| wanted != open.bgp_identifier) {
            return self.refuse(id, not_the_peer());
        }
        let ends = Ends {
            local: (shared.config.router_id, shared.config.asn),
            remote: (open.bgp_identifier, open.four_byte_as()),
        };
        for other in self.others(id, now) {
            let (Other::Confirming(other_id) | Other::Established { connection: other_id, .. }) = other;
            match collision::resolve(id, connection::is_restarting(&open), other, ends) {
                Verdict::CloseNew => {
                    // Should the peer have lost the session without our knowing, the answer will say so.
                    let probe = self.connection(other_id).map(Connection::probe).unwrap_or_default();
                    self.apply(other_id, probe, shared, now);
                    return self.refuse(id, connection::collided());
                }
                Verdict::CloseOther => {
                    let effects = self.refuse(other_id, connection::collided());
                    self.apply(other_id, effects, shared, now);
                }
                Verdict::Restarted => {
                    let reason = "peer has restarted".to_owned();
                    let end = End { reason, keep: Keep::Broken, gone: false };
                    self.apply(other_id, vec![Effect::Closed(end)], shared, now);
                }
            }
        }
        match self.connection(id) {
            Some(connection) => connection.opened(open, now, &mut shared.jitter),
            None => Vec::new(),
        }
    }

    fn others(&self, id: ConnectionId, now: Moment) -> Vec<Other> {
        let others = self.connections.iter().filter(|connection| connection.id != id);
        others
            .filter_map(|connection| match connection.state() {
                SessionState::OpenConfirm => Some(Other::Confirming(connection.id)),
                SessionState::Established => {
                    let session = self.session.as_ref();
                    let may_be_left = session.is_some_and(|session| {
                        session.negotiated.restart.is_some() && now.since(session.since) >= YOUNG
                    });
                    Some(Other::Established { connection: connection.id, may_be_left })
                }
                _ => None,
            })
            .collect()
    }

    fn refuse(&mut self, id: ConnectionId, message: rustbgpd_wire::NotificationMessage) -> Vec<Effect> {
        self.connection(id).map(|connection| connection.refuse(message, Keep::Notified)).unwrap_or_default()
    }

    /// Does what follows from a connection's step.
    pub(super) fn apply(&mut self, id: ConnectionId, effects: Vec<Effect>, shared: &mut Shared, now: Moment) {
        for effect in effects {
            match effect {
                Effect::Send(bytes) => {
                    if let Some(connection) = self.connection(id) {
                        connection.sending(bytes.len(), now);
                        shared.outputs.push(Output::Send { connection: id, bytes });
                    }
                }
                Effect::Established(negotiated) => self.established(id, *negotiated, shared, now),
                Effect::Closed(end) => self.ended(id, end, shared, now),
            }
        }
    }

    fn established(&mut self, id: ConnectionId, negotiated: Negotiated, shared: &mut Shared, now: Moment) {
        let Some((local, remote)) = self.connection(id).and_then(|found| Some((found.local?, found.remote)))
        else {
            return;
        };
        // Whatever else was under way with this peer is of no more use.
        for other in self.connection_ids().into_iter().filter(|other| *other != id) {
            let effects = self.refuse(other, connection::collided());
            self.apply(other, effects, shared, now);
        }
        // What the peer has not kept itself, we do not keep for it (RFC 4724, section 4.2).
        if let Some(stale) = self.stale {
            let preserved = negotiated.restart.as_ref().map_or(Families::NONE, |restart| restart.preserved);
            self.sweep(stale.families.iter().filter(|family| !preserved.contains(*family)).collect(), shared);
        }
        if let Some(stale) = &mut self.stale {
            stale.until = now + shared.config.stale_time;
        }
        let mut out = AdjOut::new(negotiated.families);
        out.all_changed(negotiated.families, false, &shared.rib);
        self.session = Some(Session {
            connection: id,
            since: now,
            local,
            remote,
            negotiated,
            out,
            refreshing: Families::NONE,
        });
        self.set_origin(shared);
        self.retry.done();
        self.counters.established += 1;
        self.since = now;
        self.tell(None, shared);
    }

    fn ended(&mut self, id: ConnectionId, end: End, shared: &mut Shared, now: Moment) {
        let Some(position) = self.connections.iter().position(|connection| connection.id == id) else {
            return;
        };
        self.connections.remove(position);
        if !end.gone {
            shared.outputs.push(Output::Close { connection: id });
        }
        let carried = self.session.take_if(|session| session.connection == id);
        match carried {
            Some(session) => self.down(session, end, shared, now),
            None if self.connections.is_empty() => self.last_error = Some(end.reason),
            None => {}
        }
        if self.session.is_none() && self.held_down.is_none() && self.retry.at.is_none() {
            self.retry.failed(&self.config, &mut shared.jitter, now);
        }
    }

    fn down(&mut self, session: Session, end: End, shared: &mut Shared, now: Moment) {
        self.since = now;
        let restart = session.negotiated.restart.filter(|restart| match end.keep {
            Keep::Broken => true,
            Keep::Notified => restart.notification,
            Keep::Never => false,
        });
        let kept = restart.as_ref().map_or(Families::NONE, |restart| restart.families);
        let lost: Families = Families::BOTH.iter().filter(|family| !kept.contains(*family)).collect();
        self.sweep_all(lost, shared);
        // What was stale before and has not been sent again since is gone for good (RFC 4724, section 4.2).
        self.sweep(kept, shared);
        let marked = shared.rib.mark_stale(self.source, kept);
        shared.changed.extend(marked);
        self.stale = restart.and_then(|restart| Stale::away(kept, restart.time, now));
        self.tell(Some(end.reason), shared);
    }

    /// Ends everything with the peer, which is to forget our routes as we forget its.
    pub(super) fn close_all(&mut self, subcode: u8, shared: &mut Shared, now: Moment) {
        let keeps = self
            .session
            .as_ref()
            .and_then(|session| session.negotiated.restart.as_ref())
            .is_some_and(|restart| restart.notification);
        for id in self.connection_ids() {
            let message = notification::final_cease(subcode, keeps);
            let effects =
                self.connection(id).map(|found| found.refuse(message, Keep::Never)).unwrap_or_default();
            self.apply(id, effects, shared, now);
        }
    }

    /// Removes what is stale.
    pub(super) fn sweep(&mut self, families: Families, shared: &mut Shared) {
        let Some(mut stale) = self.stale else {
            return;
        };
        let changed = shared.rib.remove_where(self.source, |prefix, path| {
            path.stale && families.contains(Family::of_net(prefix))
        });
        shared.changed.extend(changed);
        families.iter().for_each(|family| {
            stale.families.remove(family);
        });
        self.stale = Some(stale).filter(|stale| !stale.families.is_empty());
    }

    /// Removes all that the peer has sent.
    pub(super) fn sweep_all(&mut self, families: Families, shared: &mut Shared) {
        let changed =
            shared.rib.remove_where(self.source, |prefix, _| families.contains(Family::of_net(prefix)));
        shared.changed.extend(changed);
    }
}

fn not_the_peer() -> rustbgpd_wire::NotificationMessage {
    use rustbgpd_wire::notification::open_subcode;
    let code = rustbgpd_wire::NotificationCode::OpenMessage;
    rustbgpd_wire::NotificationMessage::new(code, open_subcode::BAD_BGP_IDENTIFIER, bytes::Bytes::new())
}
