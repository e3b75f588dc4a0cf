//! The one binary.
//!
//! `cambric agent` runs on every node; the other commands are for the container runtime and for operators.

mod agent;
mod cleanup;
mod clock;
mod doctor;
mod files;
mod flows;
mod install;
mod journey;
mod lock;
mod logging;
mod paths;
mod probe;
mod shell;
mod status;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// A Kubernetes pod network that explains itself.
#[derive(Debug, Parser)]
#[command(name = "cambric", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::AgentOptions),
    Status(status::StatusOptions),
    Trace(journey::TraceOptions),
    Flows(flows::FlowsOptions),
    Doctor(doctor::DoctorOptions),
    Cleanup(cleanup::CleanupOptions),
    InstallCni(install::InstallOptions),
    #[command(subcommand)]
    Lab(lab::cli::LabCommand),
    /// Print the definitions of the resources ClusterNetwork, BgpPeer and Probe.
    ///
    /// Apply them before the first agent starts, and again with every upgrade.
    #[command(after_help = "Example:
  cambric crd | kubectl apply -f -")]
    Crd,
    /// Act as the CNI plugin, once.
    ///
    /// A container runtime does this with CNI_COMMAND and the rest of the CNI specification's environment, and the
    /// configuration on standard input; with CNI_COMMAND set, no command needs to be named.
    #[command(after_help = "Example:
  CNI_COMMAND=VERSION cambric cni < /dev/null")]
    Cni,
    /// Print completions for a shell.
    #[command(after_help = "Example:
  cambric completions bash > /usr/share/bash-completion/completions/cambric")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual, or write one page for each command into a directory.
    #[command(after_help = "Examples:
  cambric man | man -l -
  cambric man /usr/local/share/man/man1")]
    Man {
        /// Where to write the pages
        directory: Option<std::path::PathBuf>,
    },
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    // A container runtime calls plugins without arguments.
    if std::env::var_os("CNI_COMMAND").is_some() {
        return cni::main();
    }
    match run(shell::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cambric: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Agent(options) => {
            logging::start(options.log_format, &options.log_level)?;
            agent::run(options)?;
        }
        Command::Status(options) => return status::run(&options),
        Command::Doctor(options) => return doctor::run(&options),
        Command::Cleanup(options) => cleanup::run(&options)?,
        Command::InstallCni(options) => install::run(&options)?,
        Command::Trace(options) => return journey::run(&options),
        Command::Flows(options) => return flows::run(&options),
        Command::Lab(command) => return Ok(lab::cli::run(command)?),
        Command::Crd => print(&crd()?)?,
        Command::Cni => return Ok(cni::main()),
        Command::Completions { shell } => print(&shell::completions(shell))?,
        Command::Man { directory: None } => print(&shell::manual()?)?,
        Command::Man { directory: Some(directory) } => shell::write_manual(&directory)?,
        Command::Version => print(concat!("cambric ", env!("CARGO_PKG_VERSION"), "\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The definitions as YAML.
fn crd() -> Result<String> {
    let yaml = |crd| serde_saphyr::to_string(&crd).context("cannot encode a resource's definition");
    Ok(kube_source::crds().into_iter().map(yaml).collect::<Result<Vec<_>>>()?.join("---\n"))
}

/// Prints to standard output; a reader that has gone away is no error.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manifest_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crd.yaml");
        let manifest = std::fs::read_to_string(path).unwrap();
        assert_eq!(manifest, crd().unwrap(), "run cambric crd > deploy/crd.yaml");
    }
}
