//! The numbers by which flows are told to be out of date.

use super::layout::{FIRST, FIRST_SERVICE};
use crate::Result;
use crate::clock::monotonic;

/// Which slots are taken. Without a free one a pod or a node does without the fast path.
#[derive(Debug, Default)]
pub(super) struct Slots {
    used: u32,
    free: Vec<u32>,
    last: u64,
}

impl Slots {
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let slot = FIRST + self.used;
            (slot < FIRST_SERVICE).then(|| {
                self.used += 1;
                slot
            })
        })
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// A number that no slot has had: the time, which the CNI plugin writes as well.
    pub(super) fn number(&mut self) -> Result<u64> {
        self.last = monotonic()?.max(self.last + 1);
        Ok(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_once_and_numbers_never_twice() {
        let mut slots = Slots::default();
        let taken: Vec<u32> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken.len() as u32, FIRST_SERVICE - FIRST);
        assert_eq!((taken.first(), taken.last()), (Some(&FIRST), Some(&(FIRST_SERVICE - 1))));
        slots.give_back(7);
        assert_eq!((slots.take(), slots.take()), (Some(7), None));
        let numbers: Vec<u64> = (0..100).map(|_| slots.number().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
