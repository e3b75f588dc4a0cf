//! The agent, its BGP sessions, and the API that it lives by.

use crate::agent::{SessionStatus, nowhere};
use crate::doctor::finding::{Check, Finding, Verdict};
use crate::doctor::observation::Observation;

/// Leases and tokens allow for about so much, in seconds.
const TOLERATED: i64 = 30;

pub(super) fn agent(seen: &Observation, verdict: &mut Verdict) {
    let mut find = |what: String, hurts: &str, cure: &str| {
        verdict.find(Finding {
            check: Check::Agent,
            place: "agent".to_owned(),
            what,
            hurts: hurts.to_owned(),
            cure: cure.to_owned(),
        });
    };
    if seen.agent.pid.is_none() {
        find(
            "does not run on this node".to_owned(),
            "What it made stays, but new pods, nodes and services are not seen to, and nothing is repaired.",
            "kubectl -n cambric-system get pods -l app.kubernetes.io/name=cambric -o wide, and its log (kubectl logs)",
        );
    }
    let Some(status) = &seen.agent.status else { return };
    if let Some(why) = &status.not_ready {
        find(
            format!("is not ready: {why}"),
            "Pods of this node have no network, or not as planned.",
            "mend what it names; curl localhost:9469/readyz says when it is ready",
        );
    }
    // What is a finding of its own is not told twice.
    let known: Vec<String> = seen
        .local
        .addresses
        .iter()
        .filter(|address| seen.underlay.iter().all(|underlay| underlay.net.addr() != **address))
        .map(nowhere)
        .collect();
    for problem in status.problems.iter().filter(|problem| !known.contains(problem)) {
        find(
            format!("has a problem: {problem}"),
            "Part of the network is not as the cluster asks for.",
            "mend what it names; cambric status shows whether it is gone",
        );
    }
}

pub(super) fn bgp(seen: &Observation, verdict: &mut Verdict) {
    let sessions = seen.agent.bgp.iter().flat_map(|bgp| &bgp.sessions);
    // Without an agent there are no sessions, and that is told.
    for session in sessions.filter(|session| seen.agent.pid.is_some() && !session.is_up()) {
        let SessionStatus { name, address, asn, state, last_error, translated, .. } = session;
        let why = last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let (why, cure) = match translated {
            Some(from) => (
                format!("; it connects from {from}"),
                format!(
                    "a NAT gateway is before it: kubectl label {name} {}=SITE, the same for all nodes behind that gateway \
                     (docs/nat.md)",
                    model::SITE_LABEL
                ),
            ),
            None => (
                why,
                "see that it runs, that TCP port 179 is open between the two, and that AS numbers, password and timers \
                 of both sides fit; cambric status bgp shows what the session says"
                    .to_owned(),
            ),
        };
        verdict.find(Finding {
            check: Check::Bgp,
            place: format!("session with {name}"),
            what: format!("is {}, not established, to {address} of AS {asn}{why}", words(state)),
            hurts: "Routes of this peer are not known here, and it does not know ours: pods behind it are out of reach, or \
                    reached by a detour."
                .to_owned(),
            cure,
        });
    }
}

/// A state as the status file has it.
fn words(state: &impl serde::Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(text)) => text,
        _ => "in an unknown state".to_owned(),
    }
}

pub(super) fn clock(seen: &Observation, verdict: &mut Verdict) {
    if let Some(error) = &seen.certificate_error {
        verdict.find(Finding {
            check: Check::Clock,
            place: "certificate of the API".to_owned(),
            what: error.clone(),
            hurts: "The agent cannot ask the API, so what changes in the cluster does not reach this node.".to_owned(),
            cure: "set the clock (timedatectl set-ntp true; date shows it), or renew the certificate (kubeadm certs renew)"
                .to_owned(),
        });
    }
    let Some(ahead) = seen.clock_ahead.filter(|ahead| ahead.abs() > TOLERATED) else { return };
    let which = if ahead > 0 { "behind" } else { "ahead of" };
    verdict.find(Finding {
        check: Check::Clock,
        place: "clock of this node".to_owned(),
        what: format!("is {} s {which} the API server's", ahead.abs()),
        hurts: "Certificates and tokens are refused as expired or not valid yet, leases expire early, and logs of two nodes \
                cannot be compared."
            .to_owned(),
        cure: "timedatectl set-ntp true, on this node or on the API server's; chronyc tracking shows which is wrong"
            .to_owned(),
    });
}
