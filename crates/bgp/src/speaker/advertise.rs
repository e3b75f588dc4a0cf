//! What a peer is told.

use bytes::BytesMut;
use ipnet::IpNet;
use model::Family;

use super::Shared;
use super::peer::{Peer, Session};
use crate::connection::Connection;
use crate::import;
use crate::rib::Path;
use crate::{Families, Moment, Output, PeerConfig, wire};

/// With so many bytes on their way to a peer it is told no more until they are gone.
const ENOUGH: usize = 1 << 20;

impl Peer {
    pub(super) fn route_changed(&mut self, prefix: IpNet, in_use: &[Path], shared: &Shared) {
        if let Some(session) = &mut self.session {
            let towards = session.towards(&shared.config, &self.config);
            session.out.changed(prefix, in_use, &shared.rib, self.source, towards);
        }
    }

    /// Writes what is due, as far as the peer can take it.
    pub(super) fn write(&mut self, hold_ends: bool, shared: &mut Shared, now: Moment) {
        let Some(session) = self.session.as_mut().filter(|session| session.out.is_due(hold_ends)) else {
            return;
        };
        let Some(connection) = self.connections.iter_mut().find(|found| found.id == session.connection)
        else {
            return;
        };
        while session.out.is_due(hold_ends) && connection.unsent < ENOUGH {
            let towards = session.towards(&shared.config, &self.config);
            let four_octet_as = session.negotiated.four_octet_as;
            let bytes = session.out.write(
                &shared.rib,
                &mut shared.interner,
                self.source,
                towards,
                four_octet_as,
                hold_ends,
            );
            send(connection, bytes, shared, now);
        }
    }

    /// Asks the peer for its routes again.
    pub(super) fn ask_again(&mut self, family: Family, shared: &mut Shared, now: Moment) {
        let Some(session) =
            self.session.as_ref().filter(|session| session.negotiated.refresh && session.has(family))
        else {
            return;
        };
        if let Some(connection) = self.connections.iter_mut().find(|found| found.id == session.connection) {
            let mut out = BytesMut::new();
            wire::refresh(family, &mut out);
            send(connection, out.freeze(), shared, now);
        }
    }

    /// Takes over settings that need no new session.
    pub(super) fn reconfigure(&mut self, config: PeerConfig, shared: &mut Shared, now: Moment) {
        let import_changed = self.config.import != config.import;
        self.config = std::sync::Arc::new(config);
        if import_changed {
            let gone =
                shared.rib.remove_where(self.source, |prefix, _| !import::accepts(&self.config, prefix));
            shared.changed.extend(gone);
            let families =
                self.session.as_ref().map_or(Families::NONE, |session| session.negotiated.families);
            let can_refresh = self.session.as_ref().is_some_and(|session| session.negotiated.refresh);
            if can_refresh {
                families.iter().for_each(|family| self.ask_again(family, shared, now));
            } else if self.session.is_some() {
                // Without route refresh there is no other way to hear the rest.
                let subcode = rustbgpd_wire::notification::cease_subcode::OTHER_CONFIGURATION_CHANGE;
                self.close_all(subcode, shared, now);
            }
        }
        if let Some(session) = &mut self.session {
            session.out.all_changed(session.negotiated.families, false, &shared.rib);
        } else if self.held_down.is_none() {
            self.retry.soon(&self.config, now);
        }
    }
}

impl Session {
    /// The peer wants a family again.
    pub(super) fn send_again(
        &mut self,
        family: Family,
        shared: &mut Shared,
        now: Moment,
        connections: &mut [Connection],
    ) {
        if self.negotiated.enhanced_refresh {
            if let Some(connection) = connections.iter_mut().find(|found| found.id == self.connection) {
                let mut out = BytesMut::new();
                wire::refresh_begin(family, &mut out);
                send(connection, out.freeze(), shared, now);
            }
            self.out.owe_refresh_end(family);
        }
        self.out.all_changed(Families::only(family), true, &shared.rib);
    }
}

fn send(connection: &mut Connection, bytes: bytes::Bytes, shared: &mut Shared, now: Moment) {
    if !bytes.is_empty() {
        connection.sending(bytes.len(), now);
        shared.outputs.push(Output::Send { connection: connection.id, bytes });
    }
}
