//! `cambric status`: the node and the cluster at a glance.

mod bgp;
mod cluster;
mod fast_path;
mod node;
mod routes;
mod services;
mod table;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use lab::paths::LabName;

use crate::agent::{BgpStatus, Status};
use crate::clock::unix_now;
use crate::files::read_json;
use view::View;

/// Show how this node's network stands, and the cluster's.
///
/// On a node it shows what the agent last found: what is in force and what is wrong, and how the other nodes are reached.
/// The exit code is 0 if the agent runs and is ready, and 1 if not. With --kubeconfig or --lab, as kubectl's plugin, and
/// where no agent has run, it shows what the Kubernetes API holds of all nodes, a line each; the exit code is 0 if all are
/// ready and their networks set up.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  cambric status
  cambric status --json
  cambric status --kubeconfig ~/.kube/config
  cambric status --lab demo
  cambric status services
  cambric status routes
  cambric status bgp
  cambric status fastpath"
)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    view: View,
    /// Show all nodes of the cluster of this kubeconfig
    #[arg(long, value_name = "FILE", conflicts_with = "lab")]
    kubeconfig: Option<PathBuf>,
    /// Show all nodes of this lab
    #[arg(long, value_name = "LAB")]
    lab: Option<LabName>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What is shown in place of the whole.
#[derive(Debug, Subcommand)]
enum Part {
    Services(services::ServicesOptions),
    Routes(routes::RoutesOptions),
    Bgp(bgp::BgpOptions),
    #[command(name = "fastpath")]
    FastPath(fast_path::FastPathOptions),
}

pub(crate) fn run(options: &StatusOptions) -> Result<ExitCode> {
    match &options.part {
        Some(Part::Services(options)) => return services::run(options),
        Some(Part::Routes(options)) => return routes::run(options),
        Some(Part::Bgp(options)) => return bgp::run(options),
        Some(Part::FastPath(options)) => return fast_path::run(options),
        None => {}
    }
    let agent = options.view.agent();
    let status: Option<Status> = read_json(&options.view.run_dir().status())?;
    let named = options.kubeconfig.is_some() || options.lab.is_some() || crate::shell::is_plugin();
    let off_node = agent.is_none() && status.is_none() && std::env::var_os("KUBECONFIG").is_some();
    if named || off_node {
        return whole(options);
    }
    let bgp: Option<BgpStatus> = read_json(&options.view.run_dir().bgp())?;
    if options.view.json {
        let json = serde_json::json!({"agent": agent, "status": status, "bgp": bgp});
        crate::print(&format!("{json:#}\n"))?;
    } else {
        let now = unix_now().as_secs();
        let seen = node::Seen { agent: agent.as_deref(), status: status.as_ref(), bgp: bgp.as_ref(), now };
        crate::print(&node::render(&seen))?;
    }
    let ready = agent.is_some() && status.is_some_and(|status| status.not_ready.is_none());
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The whole cluster.
fn whole(options: &StatusOptions) -> Result<ExitCode> {
    let kubeconfig = match &options.lab {
        Some(lab) => {
            lab::state::State::read(lab)?;
            Some(lab.paths().kubeconfig())
        }
        None => options.kubeconfig.clone(),
    };
    let overview = cluster::ask(kubeconfig.as_deref())?;
    crate::print(&match options.view.json {
        true => format!("{:#}\n", cluster::json(&overview)),
        false => cluster::render(&overview),
    })?;
    Ok(if cluster::is_well(&overview) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|argument| argument.get_env() == Some("CAMBRIC_RUN_DIR".as_ref())));
    }
}
