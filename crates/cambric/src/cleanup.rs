//! `cambric cleanup`: nothing of ours stays on the node.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::agent::remove_from_kernel;
use crate::files::remove;
use crate::lock::{AgentLock, Locked};
use crate::paths::{self, RunDir};

/// Remove all that Cambric has made on this node.
///
/// Removes the CNI configuration first, so that no more pods are attached; then, from the kernel, all links, routes,
/// neighbours, forwarding entries, nftables tables and BPF programs that are Cambric's; then the agent's files. Nothing
/// else is touched. Kernel settings such as ip_forward stay, since others may rely on them by now.
///
/// Pods that still run on this node lose their network. The addresses that the CNI plugin has given out are kept
/// unless --addresses is given: a pod that is deleted later then still gives back its own. It is refused while an
/// agent runs on this node, which would make everything again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cambric cleanup
  cambric cleanup --addresses")]
pub(crate) struct CleanupOptions {
    /// The agent's run directory
    #[arg(long, value_name = "DIR", default_value = paths::RUN_DIR)]
    run_dir: PathBuf,
    /// Directory of the container runtime's CNI configurations
    #[arg(long, value_name = "DIR", default_value = paths::CNI_CONF_DIR)]
    cni_conf_dir: PathBuf,
    /// Directory of the CNI plugin's addresses
    #[arg(long, value_name = "DIR", default_value = paths::CNI_DATA_DIR)]
    cni_data_dir: PathBuf,
    /// Also forget which addresses were given out; only when no pod runs here any more
    #[arg(long)]
    addresses: bool,
}

/// Goes on past errors, so that one does not keep the rest from being removed.
pub(crate) fn run(options: &CleanupOptions) -> Result<()> {
    let run_dir = RunDir(options.run_dir.clone());
    // Held to the end: an agent that is started meanwhile must wait its turn.
    let lock = if options.run_dir.exists() {
        match AgentLock::take(&run_dir.lock())? {
            Locked::Ours(lock) => Some(lock),
            Locked::Theirs(pid) => {
                bail!(
                    "an agent runs on this node with process id {pid} and would make everything again; end it first"
                )
            }
        }
    } else {
        None
    };
    let mut errors = Vec::new();
    let mut forget = |path: PathBuf| match remove(&path) {
        Ok(true) => println!("removed {}", path.display()),
        Ok(false) => {}
        Err(error) => errors.push(format!("cannot remove {}: {error}", path.display())),
    };
    forget(paths::conflist(&options.cni_conf_dir));
    let kernel = remove_from_kernel(&run_dir);
    let status = [run_dir.status(), run_dir.routes(), run_dir.bgp(), run_dir.bgp_boot()];
    for path in [run_dir.node_file(), run_dir.state()].into_iter().chain(status).chain([run_dir.lock()]) {
        forget(path);
    }
    match kernel {
        Ok((removed, failures)) => {
            println!(
                "removed {removed} entries from the kernel: links, routes, tables and programs, with all that was on them"
            );
            errors.extend(failures);
        }
        Err(error) => errors.push(format!("{error:#}")),
    }
    drop(lock);
    for (directory, whole) in [(options.run_dir.clone(), false), (addresses(options), options.addresses)] {
        let removed = if whole { fs::remove_dir_all(&directory) } else { fs::remove_dir(&directory) };
        match removed {
            Ok(()) => println!("removed {}", directory.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                println!("kept {}, in which there are files", directory.display());
            }
            Err(error) => errors.push(format!("cannot remove {}: {error}", directory.display())),
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!("{}", errors.join("\n"))).context("not everything could be removed")
}

fn addresses(options: &CleanupOptions) -> PathBuf {
    options.cni_data_dir.join(paths::NETWORK)
}
