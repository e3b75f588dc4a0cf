//! What is done to the kernel, in the log.

use std::collections::BTreeMap;

use super::machine::{Outcome, Step};
use super::metrics::{Kind, Metrics};

/// How many repairs and failures of one comparison get a line each. A flushed table of 5,000 nodes is a line per
/// kind and not 20,000.
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
    let entries = summary(&outcome.done);
    match why {
        Why::Start => tracing::info!(entries, "compared the kernel with the plan for the first time"),
        Why::Change if !outcome.done.is_empty() => tracing::info!(entries, "applied a change of the cluster"),
        Why::Change => {}
        Why::Drift => repairs(&outcome.done, metrics),
    }
    if why != Why::Drift {
        for step in &outcome.done {
            tracing::debug!(kind = step.kind, entry = step.entry, origin = step.origin, "{}", step.action);
        }
    }
    failures(outcome);
}

fn repairs(steps: &[Step], metrics: &Metrics) {
    for step in steps {
        metrics.repairs.get_or_create(&Kind { kind: step.kind.to_owned() }).inc();
    }
    for Step { kind, action, entry, origin } in steps.iter().take(LINES) {
        tracing::info!(kind, entry, origin, "repaired: {action}");
    }
    if let Some(more) = steps.get(LINES..).filter(|more| !more.is_empty()) {
        tracing::info!(entries = summary(more), "repaired more");
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

/// How many of which kind.
fn summary(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "none".to_owned();
    }
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for step in steps {
        *counts.entry((step.kind, step.action)).or_default() += 1;
    }
    let texts: Vec<String> =
        counts.into_iter().map(|((kind, action), count)| format!("{count} {kind} {action}")).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_by_kind_and_action() {
        let step = |kind, action| Step { kind, action, entry: String::new(), origin: String::new() };
        let steps = [step("route", "added"), step("link", "added"), step("route", "added")];
        assert_eq!(summary(&steps), "1 link added, 2 route added");
        assert_eq!(summary(&[]), "none");
    }
}
