//! `cambric doctor`: what is wrong with this node's network, why it hurts, and what mends it.
//!
//! [`gather`] looks at everything and judges nothing, [`check`] judges and looks at nothing. Nothing is changed.

mod check;
mod finding;
mod gather;
mod observation;
mod render;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use self::render::Colour;
use crate::paths;
use crate::terminal::in_colour;

/// The exit code if there is no finding because something could not be looked at.
const UNKNOWN: u8 = 2;

/// Find out what is wrong with this node's network.
///
/// Looks at the kernel's settings, the uplink, the way to other nodes, connection tracking, what other networks have left,
/// the agent, and whether kernel and plan agree. For each finding it says what is so, why it hurts, and what mends it. It
/// changes nothing.
///
/// To see what big packets and checksums meet on the way, it sends a few packets to other nodes of the cluster: at most 16
/// nodes, and 18 packets to each; --no-probe leaves that out.
///
/// The exit code is 0 if there is no finding, 1 if there are findings, and 2 if there is none because something could not
/// be looked at.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cambric doctor
  cambric doctor --no-probe --json
  cambric lab exec node-1 -- cambric doctor")]
pub(crate) struct DoctorOptions {
    /// The agent's run directory
    #[arg(long, value_name = "DIR", env = paths::RUN_DIR_VARIABLE, default_value = paths::RUN_DIR)]
    run_dir: PathBuf,
    /// Directory of the container runtime's CNI configurations
    #[arg(long, value_name = "DIR", env = paths::CNI_CONF_DIR_VARIABLE, default_value = paths::CNI_CONF_DIR)]
    cni_conf_dir: PathBuf,
    /// Directory of the CNI plugin's addresses
    #[arg(long, value_name = "DIR", env = paths::CNI_DATA_DIR_VARIABLE, default_value = paths::CNI_DATA_DIR)]
    cni_data_dir: PathBuf,
    /// Kubeconfig for the API [default: KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Send no packets to other nodes
    #[arg(long)]
    no_probe: bool,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &DoctorOptions) -> anyhow::Result<ExitCode> {
    let seen = match gather::observe(options) {
        Ok(seen) => seen,
        Err(error) => {
            eprintln!("cambric: {error:#}");
            return Ok(ExitCode::from(UNKNOWN));
        }
    };
    let verdict = check::judge(&seen);
    if options.json {
        crate::print(&format!("{}\n", serde_json::to_string_pretty(&verdict)?))?;
    } else {
        let colour = if in_colour(&io::stdout()) { Colour::Yes } else { Colour::No };
        crate::print(&render::text(&verdict, colour))?;
    }
    Ok(ExitCode::from(verdict.exit_code()))
}
