//! The kernel as the agent's worker sees it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use kernel::ipip::Counters;
use kernel::{FastPathState, Steps, Unplanned};
use model::{Attachment, Family, PerFamily};
use plan::services::ServicePlan;
use plan::{Change, Entries, Entry, Key, Underlay};

/// What was done to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What was made, changed or removed.
    pub(crate) done: Steps,
    /// What the kernel refused.
    pub(crate) failed: Vec<Failure>,
    /// Why the services could not be programmed; it is among the failures too.
    pub(crate) services_error: Option<String>,
    /// Why there is no IP in IP, where nothing is sent by it.
    pub(crate) tunnel_error: Option<String>,
    /// Why there is no fast path, though there should be.
    pub(crate) fast_path_error: Option<String>,
    /// Whether only a comparison leads to the plan now.
    pub(crate) reconcile_needed: bool,
}

impl Outcome {
    /// Takes in what was done later.
    pub(crate) fn extend(&mut self, later: Outcome) {
        self.done.extend(later.done);
        self.failed.extend(later.failed);
        self.services_error = later.services_error.or(self.services_error.take());
        self.tunnel_error = later.tunnel_error.or(self.tunnel_error.take());
        self.fast_path_error = later.fast_path_error.or(self.fast_path_error.take());
        self.reconcile_needed |= later.reconcile_needed;
    }
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
    /// The links that have the underlay addresses.
    pub(crate) underlay: PerFamily<Underlay>,
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
    /// Compares all with the plan and applies the difference, which has not all that is unplanned.
    fn reconcile(&mut self, entries: &Entries, services: &ServicePlan, unplanned: Unplanned) -> Outcome;
    /// The outer addresses that were heard within a time, by inner family.
    fn heard(&mut self, within: Duration) -> BTreeSet<(IpAddr, Family)>;
    /// How many packets met which fate in IP in IP, if there is any.
    fn tunnel_counters(&mut self) -> Option<Counters>;
    /// Has the fast path forget all flows, as somebody else may have changed what becomes of them.
    fn doubt_flows(&mut self);
    /// Has the fast path go on: nobody else says that something has changed.
    fn attend(&mut self);
    /// How the fast path fares, if there is one.
    fn fast_path(&mut self) -> Option<FastPathState>;
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
