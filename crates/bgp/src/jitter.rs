//! Numbers that differ between speakers but not between two runs of one.

use std::time::Duration;

/// SplitMix64, seeded from outside. Spreads timers; nothing secret depends on it.
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    /// Between three quarters of `duration` and all of it (RFC 4271, section 10).
    pub(crate) fn shorten(&mut self, duration: Duration) -> Duration {
        let thousandths = 750 + self.next() % 251;
        duration.mul_f64(thousandths as f64 / 1000.0)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortens_by_at_most_a_quarter_and_not_always_alike() {
        let mut jitter = Jitter::new(1);
        let full = Duration::from_secs(100);
        let drawn: Vec<Duration> = (0..50).map(|_| jitter.shorten(full)).collect();
        assert!(drawn.iter().all(|duration| (Duration::from_secs(75)..=full).contains(duration)));
        assert!(drawn.iter().any(|duration| duration != &drawn[0]));
    }
}
