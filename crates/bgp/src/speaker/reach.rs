//! Whether a peer can be reached, as BFD says.

use rustbgpd_wire::notification::cease_subcode;

use super::Shared;
use super::peer::Peer;
use crate::{Families, Moment};

impl Peer {
    /// BFD has lost the peer, and its BFD ends when BGP does.
    pub(super) fn lost(&mut self, shared: &mut Shared, now: Moment) {
        if self.session.is_some() {
            self.unreachable(shared, now);
        }
    }

    /// The peer cannot be reached.
    pub(super) fn unreachable(&mut self, shared: &mut Shared, now: Moment) {
        self.close_all(cease_subcode::BFD_DOWN, shared, now);
        self.sweep_all(Families::BOTH, shared);
        self.stale = None;
        // A session that comes up before BFD does would be watched by nobody (RFC 5882, section 4.1). But BFD may have been
        // given up by the peer, so it is not waited for without end.
        self.retry.at = (!self.config.passive).then(|| now + self.config.connect_retry);
    }

    /// BFD says that the peer can be reached.
    pub(super) fn reachable(&mut self, shared: &mut Shared, now: Moment) {
        if self.session.is_none() && self.held_down.is_none() {
            self.retry.soon(&self.config, now);
            self.tick(shared, now);
        }
    }
}
