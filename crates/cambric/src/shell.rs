//! The command line as shells, manuals and kubectl know it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::Cli;

/// What kubectl calls its plugins (https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/).
const PLUGIN: &str = "kubectl-cambric";

/// Whether kubectl has called us as its plugin, by a link of that name.
pub(crate) fn is_plugin() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == PLUGIN))
}

/// Parses the arguments; ends the process if they are no command. Usage lines say how we were called.
pub(crate) fn parse() -> Cli {
    let command = Cli::command();
    let command = if is_plugin() { command.bin_name("kubectl cambric") } else { command };
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The completions for a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cambric", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The manual's first page, which lists the commands.
pub(crate) fn manual() -> Result<String> {
    let mut out = Vec::new();
    Man::new(Cli::command()).render(&mut out).context("cannot make the manual")?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Writes a page of the manual for each command.
pub(crate) fn write_manual(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("cannot write the manual to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            assert!(text.contains("trace") && text.contains("kubeconfig"), "{shell}");
        }
    }

    #[test]
    fn the_manual_has_a_page_for_each_command() {
        assert!(manual().unwrap().contains("cambric\\-trace"));
        let directory = tempfile::tempdir().unwrap();
        write_manual(directory.path()).unwrap();
        for page in ["cambric.1", "cambric-trace.1", "cambric-lab-up.1"] {
            assert!(directory.path().join(page).exists(), "{page}");
        }
    }
}
