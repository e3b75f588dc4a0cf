//! The decision what is a finding. Pure: an observation in, a verdict out.

mod agent;
mod books;
mod others;
mod ranges;
mod settings;
mod tracking;
mod underlay;
mod wire;

#[cfg(test)]
mod tests;

pub(super) use settings::of_interest as settings_of_interest;

use super::finding::{Finding, Verdict};
use super::observation::Observation;

/// Judges what was seen.
pub(crate) fn judge(seen: &Observation) -> Verdict {
    let mut verdict = Verdict {
        node: seen.local.name.to_string(),
        unchecked: seen.unchecked.clone(),
        remarks: seen.remarks.clone(),
        findings: Vec::new(),
    };
    for check in [
        agent::agent,
        agent::bgp,
        agent::clock,
        settings::bridge_netfilter,
        settings::forwarding,
        settings::source_validation,
        underlay::uplink,
        wire::path_mtu,
        wire::checksums,
        tracking::tracking,
        ranges::ranges,
        others::networks,
        others::configurations,
        others::kube_proxy,
        books::drift,
        books::addresses,
    ] {
        check(seen, &mut verdict);
    }
    verdict
}

impl Verdict {
    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }
}
