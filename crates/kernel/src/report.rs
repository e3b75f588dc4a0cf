//! What was done, and what could not be.

use std::fmt;

use plan::{Key, Origin};

use crate::Error;

/// What a change of the kernel's state came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Entries that were not there and now are.
    pub made: usize,
    /// Entries that were there and were not as they should be.
    pub changed: usize,
    /// Entries that were there and now are not.
    pub removed: usize,
    /// Flows that connection tracking would have kept on leading to where they should no more.
    pub flows_removed: usize,
    /// Entries that were left out because the link or table under them is among the failures.
    pub blocked: usize,
    /// What could not be done. It does not keep the rest from being done.
    pub failures: Vec<Failure>,
    /// Why the services could not be programmed. They come into force together or not at all.
    pub services: Option<Error>,
    /// Whether something under the entries was gone or has to change, so that only
    /// [`Kernel::reconcile`](crate::Kernel::reconcile) leads to the plan.
    pub reconcile_needed: bool,
}

/// An entry that could not be made, changed or removed.
#[derive(Debug)]
pub struct Failure {
    /// The entry.
    pub key: Key,
    /// The object that it comes from, if it is wanted at all.
    pub origin: Option<Origin>,
    /// Why.
    pub error: Error,
}

impl Report {
    /// Whether nothing was done and nothing failed.
    pub fn is_quiet(&self) -> bool {
        self.writes() == 0
            && self.flows_removed == 0
            && self.failures.is_empty()
            && self.services.is_none()
            && self.blocked == 0
    }

    /// How many entries were made, changed or removed.
    pub fn writes(&self) -> usize {
        self.made + self.changed + self.removed
    }

    /// Takes in what came after: the work adds up, and of the failures the last ones stand.
    pub(crate) fn then(&mut self, later: Report) {
        self.made += later.made;
        self.changed += later.changed;
        self.removed += later.removed;
        self.flows_removed += later.flows_removed;
        self.blocked = later.blocked;
        self.failures = later.failures;
        self.services = later.services;
        self.reconcile_needed = later.reconcile_needed;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} made, {} changed, {} removed", self.made, self.changed, self.removed)?;
        if self.flows_removed > 0 {
            write!(f, ", {} flows removed", self.flows_removed)?;
        }
        if self.blocked > 0 {
            write!(f, ", {} blocked", self.blocked)?;
        }
        if !self.failures.is_empty() {
            write!(f, ", {} failed", self.failures.len())?;
        }
        if let Some(error) = &self.services {
            write!(f, ", services failed: {error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}
