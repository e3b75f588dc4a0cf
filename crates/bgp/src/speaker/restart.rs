//! Graceful restart (RFC 4724): the start of this speaker, and the absence of a peer.

use std::time::Duration;

use crate::{Families, Moment, SpeakerConfig};

/// How far this speaker is after its start.
#[derive(Debug)]
pub(super) struct Start {
    /// Until then the end of our routes is held back, after a restart, and so is what was learned, unless all peers have
    /// sent what they have (RFC 4724, section 4.1).
    held: Option<Moment>,
    /// Until then peers may still come back. None once [`crate::Output::Converged`] is told.
    converges: Option<Moment>,
}

/// What the progress of all peers comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The ends of our routes are still to be held back, and so is what was learned.
    pub(super) held: bool,
    /// By now [`crate::Output::Converged`] is to be told, once.
    pub(super) converged: bool,
}

/// How far a peer is with what it has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) established: bool,
    /// It has sent the end of each family, since this speaker started.
    pub(super) complete: bool,
}

impl Start {
    pub(super) fn new(config: &SpeakerConfig, now: Moment) -> Start {
        Start {
            held: config.restarting.then(|| now + config.deferral),
            converges: Some(now + config.convergence),
        }
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.held.into_iter().chain(self.converges).min()
    }

    /// Looks at how far all are.
    pub(super) fn settle(&mut self, peers: impl Iterator<Item = Progress>, now: Moment) -> Settled {
        if self.held.is_none() && self.converges.is_none() {
            return Settled::default();
        }
        let (mut any, mut all_complete) = (false, true);
        for peer in peers {
            any = true;
            all_complete &= peer.established && peer.complete;
        }
        let all = any && all_complete;
        self.held.take_if(|until| all || *until <= now);
        let converged = self.converges.take_if(|until| all || *until <= now).is_some();
        Settled { held: self.held.is_some(), converged }
    }

    /// Whether OPENs are still to have bits R and F set.
    pub(super) fn is_restarting(&self, config: &SpeakerConfig) -> bool {
        config.restarting && self.converges.is_some()
    }
}

/// Routes of a peer that are kept while it is away, or until it has sent them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) families: Families,
    /// When they go at the latest.
    pub(super) until: Moment,
}

impl Stale {
    /// The peer is away for at most `time`.
    pub(super) fn away(families: Families, time: Duration, now: Moment) -> Option<Stale> {
        (!families.is_empty()).then(|| Stale { families, until: now + time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn start(restarting: bool) -> Start {
        let mut config = SpeakerConfig::new(65000, [10, 0, 0, 1].into());
        config.restarting = restarting;
        Start::new(&config, at(0))
    }

    const DONE: Progress = Progress { established: true, complete: true };
    const BUSY: Progress = Progress { established: true, complete: false };
    const AWAY: Progress = Progress { established: false, complete: false };

    const HELD: Settled = Settled { held: true, converged: false };

    #[test]
    fn ends_are_held_for_seconds_and_only_after_a_restart() {
        assert_eq!(start(false).settle([BUSY].into_iter(), at(0)), Settled::default());
        let mut restarted = start(true);
        assert_eq!(restarted.settle([BUSY, DONE].into_iter(), at(1)), HELD);
        assert_eq!(restarted.settle([BUSY, DONE].into_iter(), at(3)), Settled::default());
        let mut restarted = start(true);
        let all = restarted.settle([DONE, DONE].into_iter(), at(1));
        assert_eq!(all, Settled { held: false, converged: true });
    }

    #[test]
    fn convergence_waits_for_every_peer_and_not_for_ever() {
        let mut start = start(true);
        assert!(!start.settle([].into_iter(), at(1)).converged);
        assert!(!start.settle([DONE, AWAY].into_iter(), at(59)).converged);
        assert!(start.settle([DONE, AWAY].into_iter(), at(60)).converged);
        assert_eq!(start.settle([DONE, DONE].into_iter(), at(61)), Settled::default());
        assert_eq!(start.deadline(), None);
    }
}
