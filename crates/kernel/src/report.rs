//! What was done, and what could not be.

use std::collections::BTreeMap;
use std::fmt;

use plan::{Key, Origin};

use crate::Error;

/// How many steps are kept as such: a flushed table of 5,000 nodes is a count per kind and not 20,000 steps.
const FIRST: usize = 20;

/// What the steps call elements of the services' tables, which have no [`Key`]: there are too many to be named.
pub const SERVICE_ELEMENT: &str = "service-element";

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
    /// Why there is no IP in IP, where nothing is sent by it. If something is, it is among the failures.
    pub tunnel: Option<Error>,
    /// Why there is no fast path, though there should be. Everything takes the kernel's path then.
    pub fast_path: Option<Error>,
    /// What was done.
    pub steps: Steps,
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

/// What was done, step by step: the first ones as they are, all by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// How many, by kind of entry and verb.
    pub counts: BTreeMap<(&'static str, Verb), usize>,
    /// The first ones.
    pub first: Vec<Step>,
}

/// One entry that was made, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub verb: Verb,
    /// The entry.
    pub key: Key,
    /// The object that it comes from; `None` for something that nothing asks for any more.
    pub origin: Option<Origin>,
}

/// What was done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// It was not there, or (in [`Kernel::apply`](crate::Kernel::apply)) nobody has looked whether it was.
    Made,
    /// It was not as it should be and was changed where it is.
    Changed,
    /// It could not be changed into what it should be, so it was removed and made.
    Rebuilt,
    /// Nothing asks for it any more.
    Removed,
}

impl Report {
    /// Takes account of a step that was done.
    pub(crate) fn done(&mut self, verb: Verb, key: Key, origin: Option<&Origin>) {
        self.count(key.kind(), verb, 1);
        if self.steps.first.len() < FIRST {
            self.steps.first.push(Step { verb, key, origin: origin.cloned() });
        }
    }

    /// Takes account of so many elements of the services' tables, or such tables. There are too many to be named.
    pub(crate) fn done_for_services(&mut self, verb: Verb, count: usize) {
        if count > 0 {
            self.count(SERVICE_ELEMENT, verb, count);
        }
    }

    fn count(&mut self, kind: &'static str, verb: Verb, count: usize) {
        match verb {
            Verb::Made => self.made += count,
            Verb::Changed | Verb::Rebuilt => self.changed += count,
            Verb::Removed => self.removed += count,
        }
        *self.steps.counts.entry((kind, verb)).or_default() += count;
    }

    /// Takes account of so many flows that were removed.
    pub(crate) fn done_with_flows(&mut self, count: usize) {
        self.flows_removed += count;
        if count > 0 {
            *self.steps.counts.entry(("flow", Verb::Removed)).or_default() += count;
        }
    }

    /// Whether nothing was done and nothing failed.
    pub fn is_quiet(&self) -> bool {
        self.writes() == 0
            && self.flows_removed == 0
            && self.failures.is_empty()
            && self.services.is_none()
            && self.tunnel.is_none()
            && self.fast_path.is_none()
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
        self.steps.extend(later.steps);
        self.flows_removed += later.flows_removed;
        self.blocked = later.blocked;
        self.failures = later.failures;
        self.services = later.services;
        self.tunnel = later.tunnel;
        self.fast_path = later.fast_path;
        self.reconcile_needed = later.reconcile_needed;
    }
}

impl Steps {
    /// Takes in what was done later.
    pub fn extend(&mut self, later: Steps) {
        for (kind, count) in later.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        let room = FIRST.saturating_sub(self.first.len());
        self.first.extend(later.first.into_iter().take(room));
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many steps are only counted.
    pub fn only_counted(&self) -> usize {
        self.counts.values().sum::<usize>() - self.first.len()
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Made => "made",
            Verb::Changed => "changed",
            Verb::Rebuilt => "rebuilt",
            Verb::Removed => "removed",
        })
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, ((kind, verb), count)) in self.counts.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {kind} {verb}")?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use plan::TableFamily;

    use super::*;

    #[test]
    fn steps_are_counted_by_kind_and_verb() {
        let mut report = Report::default();
        assert_eq!(report.steps.to_string(), "none");
        let route = || Key::Route("10.244.2.0/24".parse().unwrap());
        for key in [route(), Key::Table(TableFamily::Ip6), route()] {
            report.done(Verb::Made, key, None);
        }
        report.done(Verb::Rebuilt, Key::Table(TableFamily::Ip), Some(&Origin::ClusterNetwork));
        assert_eq!(report.steps.to_string(), "2 route made, 1 table made, 1 table rebuilt");
        let mut later = Report::default();
        for _ in 0..100 {
            later.done(Verb::Removed, route(), None);
        }
        report.then(later);
        assert_eq!((report.steps.first.len(), report.steps.only_counted()), (FIRST, 104 - FIRST));
        assert_eq!((report.made, report.changed, report.removed), (3, 1, 100));
    }
}
