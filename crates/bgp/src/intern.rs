//! One copy of each set of attributes.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::Attributes;

/// Hands out shared attributes, so that the many prefixes with the same ones cost a pointer each.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    /// With their hashes, so that growing does not read them all again.
    known: HashTable<(u64, Arc<Attributes>)>,
    hasher: RandomState,
    sweep_at: usize,
}

/// Below so many sets a sweep is not worth its while.
const SWEEP_FLOOR: usize = 1024;

impl Interner {
    pub(crate) fn intern(&mut self, attributes: Attributes) -> Arc<Attributes> {
        let hash = self.hasher.hash_one(&attributes);
        if let Some((_, shared)) = self.known.find(hash, |(_, known)| **known == attributes) {
            return Arc::clone(shared);
        }
        if self.known.len() >= self.sweep_at.max(SWEEP_FLOOR) {
            // Twice what is in use: so a sweep costs each set that came since only a constant.
            self.known.retain(|(_, shared)| Arc::strong_count(shared) > 1);
            self.sweep_at = 2 * self.known.len();
        }
        let shared = Arc::new(attributes);
        self.known.insert_unique(hash, (hash, Arc::clone(&shared)), |(hash, _)| *hash);
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_med(med: u32) -> Attributes {
        Attributes { med: Some(med), ..Attributes::new("192.0.2.1".parse().unwrap()) }
    }

    #[test]
    fn equal_attributes_are_one_and_unused_ones_go() {
        let mut interner = Interner::default();
        let first = interner.intern(with_med(7));
        assert!(Arc::ptr_eq(&first, &interner.intern(with_med(7))));
        for med in 0..100_000 {
            interner.intern(with_med(med));
        }
        assert!(interner.known.len() <= SWEEP_FLOOR, "{} sets are kept", interner.known.len());
        assert!(Arc::ptr_eq(&first, &interner.intern(with_med(7))));
    }
}
