//! Graceful restart (RFC 4724): the start of this speaker, and the absence of a peer.

use std::time::Duration;

use crate::{Families, Moment, Output, SpeakerConfig};

/// How far this speaker is after its start.
#[derive(Debug)]
pub(super) struct Start {
    /// Until then the end of our routes is held back, after a restart, unless all peers have sent what they have.
    ends_held: Option<Moment>,
    /// Until then peers may still come back. None once [`Output::Converged`] is told.
    converges: Option<Moment>,
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
            ends_held: config.restarting.then(|| now + config.deferral),
            converges: Some(now + config.convergence),
        }
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.ends_held.into_iter().chain(self.converges).min()
    }

    /// Looks at how far all are. Whether the ends of our routes are still to be held back.
    pub(super) fn settle(
        &mut self,
        peers: impl Iterator<Item = Progress>,
        now: Moment,
        outputs: &mut Vec<Output>,
    ) -> bool {
        if self.ends_held.is_none() && self.converges.is_none() {
            return false;
        }
        let (mut any, mut all_complete) = (false, true);
        for peer in peers {
            any = true;
            all_complete &= peer.established && peer.complete;
        }
        let all = any && all_complete;
        if self.ends_held.is_some_and(|until| all || until <= now) {
            self.ends_held = None;
        }
        if self.converges.is_some_and(|until| all || until <= now) {
            self.converges = None;
            outputs.push(Output::Converged);
        }
        self.ends_held.is_some()
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

    #[test]
    fn ends_are_held_for_seconds_and_only_after_a_restart() {
        let mut outputs = Vec::new();
        assert!(!start(false).settle([BUSY].into_iter(), at(0), &mut outputs));
        let mut restarted = start(true);
        assert!(restarted.settle([BUSY, DONE].into_iter(), at(1), &mut outputs));
        assert!(!restarted.settle([BUSY, DONE].into_iter(), at(3), &mut outputs));
        assert!(outputs.is_empty());
        let mut restarted = start(true);
        assert!(!restarted.settle([DONE, DONE].into_iter(), at(1), &mut outputs));
        assert_eq!(outputs, [Output::Converged]);
    }

    #[test]
    fn convergence_waits_for_every_peer_and_not_for_ever() {
        let mut outputs = Vec::new();
        let mut start = start(true);
        start.settle([].into_iter(), at(1), &mut outputs);
        start.settle([DONE, AWAY].into_iter(), at(59), &mut outputs);
        assert!(outputs.is_empty());
        start.settle([DONE, AWAY].into_iter(), at(60), &mut outputs);
        start.settle([DONE, DONE].into_iter(), at(61), &mut outputs);
        assert_eq!((outputs.len(), start.deadline()), (1, None));
    }
}
