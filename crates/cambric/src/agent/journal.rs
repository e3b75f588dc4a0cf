//! What is done to the kernel, in the log.

use super::machine::{Done, Outcome, Step};
use super::metrics::{Kind, Metrics};
use super::words::FRONTEND;

/// How many failures at once get a line each.
const LINES: usize = 20;

/// Why something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The agent has just started: what an earlier run has left is brought up to date.
    Start,
    /// The cluster has changed.
    Change,
    /// The kernel was not as planned.
    Drift,
}

/// Something was done, or was to be.
pub(crate) fn done(outcome: &Outcome, why: Why, metrics: &Metrics) {
    let done = &outcome.done;
    match why {
        Why::Start => tracing::info!(entries = %done, "compared the kernel with the plan for the first time"),
        // Endpoints come and go all the time, in a big cluster many a second.
        Why::Change if done.counts.keys().all(|(kind, _)| *kind == FRONTEND) => {}
        Why::Change => tracing::info!(entries = %done, "applied a change of the cluster"),
        Why::Drift => repairs(done, metrics),
    }
    if why != Why::Drift {
        for Step { kind, action, entry, origin } in &done.first {
            tracing::debug!(kind, entry, origin, "{action}");
        }
    }
    failures(outcome);
}

fn repairs(done: &Done, metrics: &Metrics) {
    for ((kind, _), count) in &done.counts {
        metrics.repairs.get_or_create(&Kind { kind: (*kind).to_owned() }).inc_by(*count as u64);
    }
    for Step { kind, action, entry, origin } in &done.first {
        tracing::info!(kind, entry, origin, "repaired: {action}");
    }
    if done.unnamed() > 0 {
        tracing::info!(entries = %done, "repaired in all");
    }
}

fn failures(outcome: &Outcome) {
    for failure in outcome.failed.iter().take(LINES) {
        tracing::error!(origin = failure.origin, error = failure.error, "refused by the kernel");
    }
    if outcome.failed.len() > LINES {
        tracing::error!(count = outcome.failed.len() - LINES, "more was refused by the kernel");
    }
}
