//! Connection tracking.

use kernel::counters::Tracking;

use crate::doctor::finding::{Check, Finding, Remark, Verdict};
use crate::doctor::observation::Observation;

/// From so many hundredths on the table is nearly full.
const NEARLY_FULL: u64 = 80;
/// Fewer failures than this since the start are an accident.
const SOME: u64 = 100;
/// So many packets without a flow are worth a word.
const MANY_INVALID: u64 = 1_000;

pub(super) fn tracking(seen: &Observation, verdict: &mut Verdict) {
    let Some(Tracking { flows, most, dropped, forgotten, insert_failed, invalid }) = seen.tracking else {
        return;
    };
    let mut find = |place: &str, what: String, hurts: &str, cure: String| {
        verdict.find(Finding {
            check: Check::ConnectionTracking,
            place: place.to_owned(),
            what,
            hurts: hurts.to_owned(),
            cure,
        });
    };
    let bigger = format!(
        "sysctl -w net/netfilter/nf_conntrack_max={}; and see with conntrack -L whose flows they are",
        most.saturating_mul(2)
    );
    if most > 0 && flows.saturating_mul(100) >= most.saturating_mul(NEARLY_FULL) {
        find(
            "net/netfilter/nf_conntrack_count",
            format!("is {flows} of {most}: the table of flows is nearly full"),
            "When it is full, new connections of pods and services are dropped, and old ones forgotten.",
            bigger,
        );
    } else if dropped + forgotten >= SOME {
        find(
            "/proc/net/stat/nf_conntrack",
            format!(
                "since the start {dropped} packets were dropped for want of room, and {forgotten} flows forgotten early"
            ),
            "Connections of pods and services were refused a place in the table of flows, or lost it.",
            bigger,
        );
    }
    if insert_failed >= SOME {
        find(
            "/proc/net/stat/nf_conntrack",
            format!("since the start {insert_failed} flows could not be taken in (insert_failed), as their place was taken"),
            "The first packet of each was dropped: DNS requests that are sent in pairs wait for five seconds, and so do \
             connections that share a masqueraded port.",
            "see whether the number grows; have resolvers send requests one by one (options single-request-reopen), or \
             run a DNS cache on each node"
                .to_owned(),
        );
    }
    if invalid >= MANY_INVALID {
        let text = format!(
            "{invalid} packets since the start belong to no flow that is known (invalid): answers that took another way, \
             or came too late. They pass untranslated"
        );
        verdict.remarks.push(Remark::new(Check::ConnectionTracking, text));
    }
}
