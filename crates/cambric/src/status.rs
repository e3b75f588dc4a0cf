//! `cambric status`: the node at a glance.

mod bgp;
mod routes;
mod services;
mod table;
mod view;

use std::fmt::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::agent::Status;
use crate::files::read_json;
use view::View;

/// Show how this node's network stands.
///
/// Shows what the agent last found: what is in force, what is planned, and what is wrong. The exit code is 0 if the
/// agent runs and is ready, and 1 if not.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  cambric status
  cambric status --json
  cambric status services
  cambric status routes
  cambric status bgp"
)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    view: View,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What is shown in place of the whole.
#[derive(Debug, Subcommand)]
enum Part {
    Services(services::ServicesOptions),
    Routes(routes::RoutesOptions),
    Bgp(bgp::BgpOptions),
}

pub(crate) fn run(options: &StatusOptions) -> Result<ExitCode> {
    match &options.part {
        Some(Part::Services(options)) => return services::run(options),
        Some(Part::Routes(options)) => return routes::run(options),
        Some(Part::Bgp(options)) => return bgp::run(options),
        None => {}
    }
    let holder = options.view.agent();
    let status: Option<Status> = read_json(&options.view.run_dir().status())?;
    if options.view.json {
        let json = serde_json::json!({"agent": holder, "status": status});
        println!("{json:#}");
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        print!("{}", render(holder.as_deref(), status.as_ref(), now));
    }
    let ready = holder.is_some() && status.is_some_and(|status| status.not_ready.is_none());
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `now` is in seconds since 1970.
fn render(agent: Option<&str>, status: Option<&Status>, now: u64) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    match agent {
        Some(pid) => line("agent", &format!("runs with process id {pid}")),
        None => line("agent", "does not run; what it left in the kernel stays, but nothing is repaired"),
    }
    let Some(status) = status else {
        line("status", "unknown: no agent has run here since the last boot or cleanup");
        return text;
    };
    line("node", &status.node);
    line("ready", status.not_ready.as_deref().map_or("yes".to_owned(), |why| format!("no: {why}")).as_str());
    line("network", status.network.as_deref().unwrap_or("none is known"));
    line("addresses", &listed(&status.addresses));
    line("pod ranges", &listed(&status.pod_ranges));
    line("cluster", &format!("{} nodes", status.nodes));
    line("pods", &format!("{} interfaces on this node", status.attachments));
    line("services", &format!("{} addresses and ports, {} endpoints", status.services, status.endpoints));
    let entries: Vec<String> = status.entries.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    line("planned", &listed(&entries));
    let packets: Vec<String> = status.tunnel.iter().map(|(fate, count)| format!("{count} {fate}")).collect();
    line("IP in IP", &listed(&packets));
    match status.compared {
        Some(at) => line("compared", &format!("{} seconds ago", now.saturating_sub(at))),
        None => line("compared", "never"),
    }
    match &status.problems[..] {
        [] => line("problems", "none"),
        problems => problems.iter().for_each(|problem| line("problem", problem)),
    }
    text
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_that_reads_the_agents_files_finds_them_by_the_environment() {
        let command = StatusOptions::augment_args(clap::Command::new("status"));
        let parts = command.get_subcommands().chain([&command]);
        let arguments = parts.flat_map(clap::Command::get_arguments);
        let found: Vec<_> = arguments.filter(|argument| argument.get_id() == "run_dir").collect();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|argument| argument.get_env() == Some("CAMBRIC_RUN_DIR".as_ref())));
    }

    #[test]
    fn a_node_at_a_glance() {
        let status = Status {
            node: "a".to_owned(),
            addresses: vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()],
            nodes: 3,
            services: 2,
            endpoints: 5,
            entries: [("route".to_owned(), 4)].into(),
            tunnel: [("decapsulated".to_owned(), 8), ("refused".to_owned(), 1)].into(),
            problems: vec!["Node b has no InternalIP".to_owned()],
            compared: Some(90),
            ..Status::default()
        };
        let text = render(Some("7"), Some(&status), 100);
        for expected in [
            "agent       runs with process id 7",
            "ready       yes",
            "addresses   192.0.2.1, 2001:db8::1",
            "pod ranges  none",
            "services    2 addresses and ports, 5 endpoints",
            "planned     4 route",
            "IP in IP    8 decapsulated, 1 refused",
            "compared    10 seconds ago",
            "problem     Node b has no InternalIP",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(render(None, None, 0).contains("does not run"));
    }
}
