//! The kernel as the agent's worker sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use model::{Attachment, PerFamily};
use plan::{Change, Entry, Key, NodePlan};

/// How many steps are kept in words: a flushed table of 5,000 nodes is a line per kind and not 20,000.
const IN_WORDS: usize = 20;

/// What was done to the kernel, or was to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What was made, changed or removed.
    pub(crate) done: Done,
    /// What the kernel refused.
    pub(crate) failed: Vec<Failure>,
    /// Whether only a comparison leads to the plan now.
    pub(crate) reconcile_needed: bool,
}

/// Steps: the first ones in words, the others by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// How many of which kind and action.
    pub(crate) counts: BTreeMap<(&'static str, &'static str), usize>,
    /// The first ones.
    pub(crate) first: Vec<Step>,
}

impl Done {
    /// Counts a step, and keeps it if it is one of the first. Of the others the words are not even made.
    pub(crate) fn add(
        &mut self,
        kind: &'static str,
        action: &'static str,
        words: impl FnOnce() -> (String, String),
    ) {
        *self.counts.entry((kind, action)).or_default() += 1;
        if self.first.len() < IN_WORDS {
            let (entry, origin) = words();
            self.first.push(Step { kind, action, entry, origin });
        }
    }

    /// Whether nothing was done.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many steps are only counted.
    pub(crate) fn unnamed(&self) -> usize {
        self.counts.values().sum::<usize>() - self.first.len()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, ((kind, action), count)) in self.counts.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {kind} {action}")?;
        }
        Ok(())
    }
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The kind of the entry, in one word, as `route`.
    pub(crate) kind: &'static str,
    /// What was done, as `added`.
    pub(crate) action: &'static str,
    /// The entry, in the words of the tool that shows it.
    pub(crate) entry: String,
    /// The object that it comes from; empty for something that nothing asks for any more.
    pub(crate) origin: String,
}

/// One thing that could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the kernel says.
    pub(crate) error: String,
    /// The object that asks for it.
    pub(crate) origin: String,
}

/// The node's own addresses, and the links that carry them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The MTU in bytes of the links that have the underlay addresses.
    pub(crate) mtu: PerFamily<u32>,
    /// Which underlay address is on no link, in words.
    pub(crate) missing: Option<String>,
    /// All addresses by which others can reach the node.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What is done while the pods' interfaces stay as they are; or cannot be known, and why.
pub(crate) type AttachmentWork<'a> = dyn FnMut(&mut dyn Machine, Result<Vec<Attachment>, String>) + 'a;

/// What the worker asks of a kernel. Tests put a pretended one in its place.
pub(crate) trait Machine {
    /// Applies a change of the plan.
    fn apply(&mut self, change: &Change) -> Outcome;
    /// Compares all with the plan and applies the difference.
    fn reconcile(&mut self, plan: &NodePlan) -> Outcome;
    /// Has the services' tables listed at the next comparison, as somebody else may have changed them.
    fn doubt_services(&mut self);
    /// Looks up the node's addresses, of which these are of the underlay.
    fn surroundings(&mut self, underlay: &PerFamily<IpAddr>) -> Result<Surroundings, Failure>;
    /// Hands over the pods' interfaces. They stay as they are for as long as `work` does.
    fn with_attachments(&mut self, work: &mut AttachmentWork<'_>);
}

/// Hears of changes in the kernel.
pub(crate) trait Ear {
    /// Waits until something contradicts what is planned under its key, somebody wakes us, or the time is up.
    fn wait(&mut self, timeout: Duration, planned: &dyn Fn(&Key) -> Option<Entry>) -> Heard;
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing, or the worker was woken.
    Nothing,
    /// Something that can concern the plan has changed. Keys are of entries that are known not to be as planned, and
    /// that can be put right one by one.
    Change(Vec<Key>),
    /// The same, and somebody else has changed the services' tables.
    Services(Vec<Key>),
    /// There were more events than fit: anything can have changed.
    Overrun,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_by_kind_and_action() {
        let mut done = Done::default();
        assert_eq!(done.to_string(), "none");
        for kind in ["route", "link", "route"] {
            done.add(kind, "added", || (String::new(), String::new()));
        }
        assert_eq!(done.to_string(), "1 link added, 2 route added");
        for _ in 0..100 {
            done.add("route", "added", || (String::new(), String::new()));
        }
        assert_eq!((done.first.len(), done.unnamed()), (IN_WORDS, 103 - IN_WORDS));
    }
}
