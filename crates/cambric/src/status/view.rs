//! What all that the agent has written down is asked for with.

use std::path::PathBuf;

use clap::Args;

use crate::lock::AgentLock;
use crate::paths::{self, RunDir};

/// Where the agent's files are, and how they are shown.
#[derive(Debug, Args)]
pub(crate) struct View {
    /// The agent's run directory
    #[arg(long, value_name = "DIR", env = paths::RUN_DIR_VARIABLE, default_value = paths::RUN_DIR)]
    run_dir: PathBuf,
    /// As JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

impl View {
    pub(super) fn run_dir(&self) -> RunDir {
        RunDir(self.run_dir.clone())
    }

    /// The process id of the agent, if it runs.
    pub(super) fn agent(&self) -> Option<String> {
        AgentLock::holder(&self.run_dir().lock())
    }
}
