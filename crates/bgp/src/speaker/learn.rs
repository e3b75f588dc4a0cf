//! What a peer sends: routes, their end, and everything again.

use model::Family;
use rustbgpd_wire::notification::cease_subcode;
use rustbgpd_wire::{Message, RouteRefreshMessage, RouteRefreshSubtype, Safi, UpdateMessage};

use super::Shared;
use super::peer::Peer;
use crate::connection::{Effect, Keep};
use crate::import::{self, Via};
use crate::rib::{self, Path};
use crate::{ConnectionId, Families, Moment, notification, wire};

impl Peer {
    /// An UPDATE.
    pub(super) fn learn(
        &mut self,
        id: ConnectionId,
        message: &UpdateMessage,
        shared: &mut Shared,
        now: Moment,
    ) -> Vec<Effect> {
        let internal = self.config.asn == shared.config.asn;
        let Some(session) = self.session.as_ref().filter(|session| session.connection == id) else {
            // Too early: the state machine says so.
            return self.pass_on(id, Message::Update(message.clone()), shared, now);
        };
        self.counters.updates += 1;
        let update = match wire::decode(message, session.negotiated.four_octet_as, internal) {
            Ok(update) => update,
            Err(message) => {
                return self
                    .connection(id)
                    .map(|found| found.refuse(message, Keep::Notified))
                    .unwrap_or_default();
            }
        };
        if let Some(fault) = update.fault {
            self.counters.malformed += 1;
            self.last_error = Some(format!("malformed UPDATE: {fault}"));
        }
        let families = session.negotiated.families;
        let (local, remote) = (session.local, session.remote);
        for prefix in &update.withdrawn {
            self.withdrawn(prefix, shared);
        }
        for (attributes, mut prefixes) in update.announced {
            prefixes.retain(|prefix| families.contains(Family::of_net(prefix)));
            let via = Via { speaker: &shared.config, peer: &self.config, remote, local };
            let taken =
                import::attributes(attributes, via).map(|attributes| shared.interner.intern(attributes));
            for prefix in prefixes {
                match taken.as_ref().filter(|_| import::accepts(&self.config, &prefix)) {
                    Some(attributes) => {
                        if self.is_too_much(&prefix, shared) {
                            return self.too_much(id, shared, now);
                        }
                        let path = Path { attributes: attributes.clone(), source: self.source, stale: false };
                        if shared.rib.insert(prefix, path) {
                            shared.changed.push(prefix);
                        }
                    }
                    None => self.withdrawn(&prefix, shared),
                }
            }
        }
        if let Some(family) = update.end_of_rib {
            self.ended.insert(family);
            self.sweep(Families::only(family), shared);
        }
        if let Some(connection) = self.connection(id) {
            connection.alive(now);
        }
        Vec::new()
    }

    fn withdrawn(&self, prefix: &ipnet::IpNet, shared: &mut Shared) {
        if shared.rib.remove(prefix, self.source) {
            shared.changed.push(*prefix);
        }
    }

    fn is_too_much(&self, prefix: &ipnet::IpNet, shared: &Shared) -> bool {
        self.config.max_prefixes.is_some_and(|most| {
            shared.rib.counts(self.source)[rib::index(prefix)] >= most.count
                && !shared.rib.has(prefix, self.source)
        })
    }

    fn too_much(&mut self, id: ConnectionId, shared: &mut Shared, now: Moment) -> Vec<Effect> {
        self.held_down = self.config.max_prefixes.map(|most| now + most.hold_down);
        self.retry.at = None;
        let keeps = self.session.as_ref().is_some_and(|session| {
            session.negotiated.restart.as_ref().is_some_and(|restart| restart.notification)
        });
        for other in self.connection_ids().into_iter().filter(|other| *other != id) {
            let message = notification::cease(cease_subcode::CONNECTION_REJECTED);
            let effects =
                self.connection(other).map(|found| found.refuse(message, Keep::Never)).unwrap_or_default();
            self.apply(other, effects, shared, now);
        }
        let message = notification::final_cease(cease_subcode::MAX_PREFIXES, keeps);
        self.connection(id).map(|found| found.refuse(message, Keep::Never)).unwrap_or_default()
    }

    /// A ROUTE-REFRESH (RFC 2918), or the marks around the answer to one (RFC 7313).
    pub(super) fn refresh_asked(
        &mut self,
        id: ConnectionId,
        message: &RouteRefreshMessage,
        shared: &mut Shared,
        now: Moment,
    ) -> Vec<Effect> {
        let family = message
            .afi()
            .and_then(wire::family)
            .filter(|_| message.safi() == Some(Safi::Unicast) && message.orf.is_none());
        if let (Some(family), Some(session)) = (family, self.session.as_mut().filter(|s| s.connection == id))
            && session.has(family)
        {
            match message.subtype() {
                RouteRefreshSubtype::Normal => session.send_again(family, shared, now, &mut self.connections),
                RouteRefreshSubtype::BoRR => {
                    session.refreshing.insert(family);
                    let marked = shared.rib.mark_stale(self.source, Families::only(family));
                    shared.changed.extend(marked);
                }
                RouteRefreshSubtype::EoRR if session.refreshing.remove(family) => {
                    let of_family = |prefix: &ipnet::IpNet| Family::of_net(prefix) == family;
                    let gone = shared.rib.remove_where(self.source, |net, path| path.stale && of_family(net));
                    shared.changed.extend(gone);
                }
                _ => {}
            }
        }
        self.pass_on(id, Message::RouteRefresh(message.clone()), shared, now)
    }

    fn pass_on(
        &mut self,
        id: ConnectionId,
        message: Message,
        shared: &mut Shared,
        now: Moment,
    ) -> Vec<Effect> {
        self.connection(id).map(|found| found.other(message, now, &mut shared.jitter)).unwrap_or_default()
    }
}
