//! Whether the kernel, the plan and the plugin's files tell the same.

use std::collections::BTreeSet;

use model::LinkName;

use crate::doctor::finding::{Check, Finding, Verdict};
use crate::doctor::observation::Observation;

/// So many of a kind are named; the others are counted.
const NAMED: usize = 10;

pub(super) fn drift(seen: &Observation, verdict: &mut Verdict) {
    let hurts = "Packets do not go as the cluster asks for, and nobody has put it right.";
    let cure = "see why the agent does not: cambric status, and its log; if it does not run, start it";
    for deviation in seen.drift.iter().take(NAMED) {
        verdict.find(Finding {
            check: Check::Drift,
            place: deviation.place.clone(),
            what: deviation.what.clone(),
            hurts: hurts.to_owned(),
            cure: cure.to_owned(),
        });
    }
    if let Some(more) = seen.drift.len().checked_sub(NAMED).filter(|more| *more > 0) {
        verdict.find(Finding {
            check: Check::Drift,
            place: "kernel".to_owned(),
            what: format!("has {more} more deviations from the plan"),
            hurts: hurts.to_owned(),
            cure: cure.to_owned(),
        });
    }
}

pub(super) fn addresses(seen: &Observation, verdict: &mut Verdict) {
    let links: BTreeSet<&LinkName> =
        seen.links.iter().filter(|link| link.pods).map(|link| &link.name).collect();
    let leaked: Vec<_> = seen.attachments.iter().filter(|one| !links.contains(&one.id.host_link())).collect();
    for attachment in leaked.iter().take(NAMED) {
        let listed: Vec<String> = attachment.addresses.iter().map(ToString::to_string).collect();
        let files: Vec<String> = listed.iter().map(|address| format!("{}/{address}", seen.store)).collect();
        verdict.find(Finding {
            check: Check::Addresses,
            place: seen.store.clone(),
            what: format!(
                "has {} for {}, which has no link on this node",
                listed.join(" and "),
                attachment.id
            ),
            hurts: "No pod can get these addresses. When all of a range are gone so, pods do not start."
                .to_owned(),
            cure: format!("see that the pod is gone (crictl pods), then: rm {}", files.join(" ")),
        });
    }
    if let Some(more) = leaked.len().checked_sub(NAMED).filter(|more| *more > 0) {
        verdict.find(Finding {
            check: Check::Addresses,
            place: seen.store.clone(),
            what: format!("has addresses for {more} more interfaces that have no link on this node"),
            hurts: "No pod can get these addresses.".to_owned(),
            cure:
                "restart the container runtime, which has the plugin clear up (CNI GC), or remove their files"
                    .to_owned(),
        });
    }
    let known: BTreeSet<LinkName> =
        seen.attachments.iter().map(|attachment| attachment.id.host_link()).collect();
    for link in links.into_iter().filter(|link| !known.contains(link)) {
        verdict.find(Finding {
            check: Check::Addresses,
            place: format!("link {link}"),
            what: format!("is a pod's, and no file in {} has an address for it", seen.store),
            hurts: "The pod's addresses can be given to another pod, and what it sends is dropped, as it may not use them."
                .to_owned(),
            cure: "delete the pod, so that it is made anew; bridge link show and crictl pods help to find it".to_owned(),
        });
    }
}
