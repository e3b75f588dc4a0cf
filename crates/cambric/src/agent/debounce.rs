//! When a comparison that kernel events ask for is made.

use std::time::{Duration, Instant};

/// A comparison waits until nothing has been heard for this long, since events come in groups,
const QUIET: Duration = Duration::from_millis(20);
/// but no longer than this after the first event, however many follow.
const MOST: Duration = Duration::from_millis(50);
/// After a comparison the pause is this many times as long as the comparison took, so that a node on which something
/// changes all the time is not compared all the time.
const REST: u32 = 3;
/// The longest such pause.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// Collects events until it is time.
#[derive(Debug, Default)]
pub(crate) struct Debounce {
    first: Option<Instant>,
    last: Option<Instant>,
    not_before: Option<Instant>,
}

impl Debounce {
    /// An event was heard.
    pub(crate) fn note(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// Something does not bear waiting.
    pub(crate) fn at_once(&mut self, now: Instant) {
        let long_ago = now.checked_sub(MOST).unwrap_or(now);
        self.first = Some(long_ago);
        self.last = Some(long_ago);
        self.not_before = None;
    }

    /// A comparison that took this long has ended.
    pub(crate) fn rest(&mut self, now: Instant, took: Duration) {
        self.not_before = Some(now + (took * REST).min(LONGEST_REST));
    }

    /// A comparison begins: what was heard up to now is in it.
    pub(crate) fn clear(&mut self) {
        self.first = None;
        self.last = None;
    }

    /// When the comparison is due; `None` if nothing asks for one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let at = (first + MOST).min(last + QUIET);
        Some(self.not_before.map_or(at, |rested| at.max(rested)))
    }

    /// Whether it is due.
    pub(crate) fn due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stream_of_events_does_not_starve_the_comparison() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        let compared = (0..1000).map(|ms| start + ms * MS).find(|now| {
            debounce.note(*now);
            debounce.due(*now)
        });
        assert_eq!(compared, Some(start + MOST));
    }

    #[test]
    fn one_event_waits_for_quiet() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        assert_eq!(debounce.deadline(), None);
        debounce.note(start);
        assert_eq!(debounce.deadline(), Some(start + QUIET));
        debounce.clear();
        assert!(!debounce.due(start + 100 * MS));
    }

    #[test]
    fn long_comparisons_are_made_less_often_but_not_rarely() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        debounce.rest(start, 50 * MS);
        debounce.note(start);
        assert_eq!(debounce.deadline(), Some(start + 150 * MS));
        debounce.rest(start, Duration::from_secs(9));
        assert_eq!(debounce.deadline(), Some(start + LONGEST_REST));
        debounce.at_once(start);
        assert!(debounce.due(start));
    }
}
