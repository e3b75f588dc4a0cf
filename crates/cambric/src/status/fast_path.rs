//! `cambric status fastpath`: what the fast path takes, and why not more.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::table::{INDENT, aligned, wrapped};
use super::view::View;
use crate::agent::{FastPathStatus, Status};
use crate::clock::unix_now;
use crate::files::read_json;

/// Why packets took the kernel's path, and why no flow was learned from them.
const REASONS: [(&str, &str); 14] = [
    ("unknown", "their flow is not known"),
    ("expired", "their flow was to be validated, as every flow is every few seconds"),
    ("stale", "something had changed since their flow was learned"),
    ("control", "SYN, FIN or RST"),
    ("unusual", "neither TCP nor UDP, fragments, options, or an odd length"),
    ("oversize", "bigger than what the kernel's path has let through"),
    ("last-hop", "their time to live ends here"),
    ("moved", "other Ethernet addresses"),
    ("unattended", "the agent did not look after the fast path"),
    ("unsettled", "connection tracking does not have the flow established"),
    ("special", "masqueraded, or connection tracking looks into the flow"),
    ("outside", "not between pods of the cluster"),
    ("different", "the kernel's path changes something else of the packets"),
    ("overtaken", "something changed while the packet was on its way"),
];

/// Show what goes by the fast path, and why the rest does not.
///
/// The fast path sends packets of established flows between pods past the kernel's own path; ClusterNetwork's
/// spec.fastPath says whether there is one. Packets are those since it was put in force, as of the last comparison. The
/// exit code is 0 if the agent runs, and 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cambric status fastpath
  cambric status fastpath --json")]
pub(crate) struct FastPathOptions {
    #[command(flatten)]
    view: View,
}

pub(super) fn run(options: &FastPathOptions) -> Result<ExitCode> {
    let runs = options.view.agent().is_some();
    let status: Option<Status> = read_json(&options.view.run_dir().status())?;
    let (fast_path, compared) = status.map_or((None, None), |status| (status.fast_path, status.compared));
    if options.view.json {
        let json = serde_json::json!({"agentRuns": runs, "compared": compared, "fastPath": fast_path});
        crate::print(&format!("{json:#}\n"))?;
    } else {
        let now = unix_now().as_secs();
        let age = compared.map(|at| now.saturating_sub(at));
        crate::print(&render(runs, fast_path.as_ref(), age))?;
    }
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `age` is that of the numbers, in seconds.
fn render(runs: bool, fast_path: Option<&FastPathStatus>, age: Option<u64>) -> String {
    let mut lines = Vec::new();
    match fast_path {
        _ if !runs => lines.push("the agent does not run, so there is no fast path".to_owned()),
        None => lines.push("off: everything takes the kernel's path".to_owned()),
        Some(fast_path) => lines.extend(shown(fast_path, age)),
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn shown(fast_path: &FastPathStatus, age: Option<u64>) -> Vec<String> {
    let FastPathStatus { links, pods, flows, learned, evicted, hits, misses, refusals, failed } = fast_path;
    let mut lines = wrapped(&format!("on {}", links.join(", ")), "");
    lines.push(format!("{pods} addresses of pods on this node"));
    lines.push(format!("{flows} flows remembered, of {learned} learned; {evicted} made room for others"));
    lines.push(format!("{hits} packets sent, {failed} dropped"));
    lines.extend(reasons("packets that took the kernel's path:", misses));
    lines.extend(reasons("of these, packets from which no flow was learned:", refusals));
    lines.extend(age.map(|age| format!("as of {age} seconds ago")));
    lines
}

fn reasons(title: &str, counts: &BTreeMap<String, u64>) -> Vec<String> {
    let known = REASONS.iter().filter_map(|(name, why)| Some((*counts.get(*name)?, *name, *why)));
    let rows: Vec<Vec<String>> = known
        .filter(|(count, ..)| *count > 0)
        .map(|(count, name, why)| vec![count.to_string(), name.to_owned(), why.to_owned()])
        .collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let lines = aligned(&rows).into_iter().map(|line| format!("{INDENT}{line}"));
    std::iter::once(title.to_owned()).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use kernel::fast::Counters;

    use super::*;

    #[test]
    fn every_reason_has_an_explanation() {
        let counters = Counters::default();
        let names = counters.misses().chain(counters.refusals()).map(|(name, _)| name);
        assert_eq!(names.collect::<Vec<_>>(), REASONS.map(|(name, _)| name));
    }

    #[test]
    fn what_there_is_is_shown_with_its_reasons() {
        let status = FastPathStatus {
            links: vec!["eth0".to_owned(), "cbv0".to_owned()],
            pods: 2,
            flows: 7,
            learned: 9,
            evicted: 1,
            hits: 1000,
            misses: [("unknown".to_owned(), 12), ("stale".to_owned(), 0)].into(),
            ..FastPathStatus::default()
        };
        assert_eq!(
            render(true, Some(&status), Some(4)),
            "on eth0, cbv0\n\
             2 addresses of pods on this node\n\
             7 flows remembered, of 9 learned; 1 made room for others\n\
             1000 packets sent, 0 dropped\n\
             packets that took the kernel's path:\n  \
               12  unknown  their flow is not known\n\
             as of 4 seconds ago\n"
        );
        assert!(render(true, None, None).starts_with("off"));
        assert!(render(false, Some(&status), None).contains("no fast path"));
    }
}
