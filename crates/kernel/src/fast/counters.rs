//! What the programs count.

use super::object::Object;
use crate::Result;
use crate::bpf::failed;

/// The names of `enum counter` in `bpf/fast_maps.h`, in its order.
const NAMES: [&str; 20] = [
    "hit",
    "unknown",
    "expired",
    "stale",
    "control",
    "unusual",
    "oversize",
    "last-hop",
    "moved",
    "unattended",
    "learned",
    "refreshed",
    "ended",
    "evicted",
    "unsettled",
    "special",
    "outside",
    "different",
    "overtaken",
    "failed",
];

/// Why packets took the kernel's path, by the names of the counters.
const MISSES: std::ops::Range<usize> = 1..10;
/// Why flows were not learned from packets on the kernel's path.
const REFUSALS: std::ops::Range<usize> = 14..19;

/// What packets and flows have met since the programs were loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    values: [u64; NAMES.len()],
}

impl Counters {
    /// Packets that the fast path has sent.
    pub fn hits(&self) -> u64 {
        self.of("hit")
    }

    /// Packets that took the kernel's path, by reason. Those of the node's own and of other nodes to each other are in no
    /// count.
    pub fn misses(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        MISSES.filter_map(|at| Some((*NAMES.get(at)?, *self.values.get(at)?)))
    }

    /// Packets on the kernel's path from which no flow was learned, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REFUSALS.filter_map(|at| Some((*NAMES.get(at)?, *self.values.get(at)?)))
    }

    /// Flows that are remembered, good or not.
    pub fn flows(&self) -> u64 {
        self.of("learned").saturating_sub(self.of("ended") + self.of("evicted"))
    }

    /// One of them by its name; 0 if there is none of the name.
    pub fn of(&self, name: &str) -> u64 {
        NAMES.iter().position(|known| *known == name).and_then(|at| self.values.get(at)).copied().unwrap_or(0)
    }

    /// What was counted since.
    pub fn since(&self, before: &Counters) -> Counters {
        let mut counters = self.clone();
        for (now, before) in counters.values.iter_mut().zip(before.values) {
            *now = now.saturating_sub(before);
        }
        counters
    }

    /// Those that are not 0, by name.
    pub fn counted(&self) -> Vec<(&'static str, u64)> {
        NAMES.into_iter().zip(self.values).filter(|(_, value)| *value != 0).collect()
    }
}

impl Object {
    pub(super) fn counters(&self) -> Result<Counters> {
        let mut counters = Counters::default();
        for (at, value) in counters.values.iter_mut().enumerate() {
            let each =
                self.counters.get(&(at as u32), 0).map_err(failed("read the counters of the fast path"))?;
            *value = each.iter().sum();
        }
        Ok(counters)
    }
}
