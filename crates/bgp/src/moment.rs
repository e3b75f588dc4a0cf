//! The time as the core knows it.

use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a clock that never goes back; only distances between two of them mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(Duration);

impl Moment {
    /// The moment this long after the clock's start.
    pub fn after_start(duration: Duration) -> Moment {
        Moment(duration)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(duration))
    }
}
