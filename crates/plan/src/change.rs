//! What a change of the cluster changes in a plan.

use std::collections::BTreeMap;

use crate::services::ServiceChange;
use crate::{Key, Planned};

/// The difference between two plans: by key, the new entry, or `None` where there is none any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The keys that changed. Entries are made in key order and removed in the reverse of it.
    pub keys: BTreeMap<Key, Option<Planned>>,
    /// What changed of the services.
    pub services: ServiceChange,
}

impl Change {
    /// Whether nothing changed for the kernel.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.services.is_empty()
    }

    /// Takes in what changed later.
    pub fn extend(&mut self, later: Change) {
        self.keys.extend(later.keys);
        self.services.extend(later.services);
    }
}
