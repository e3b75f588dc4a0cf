//! What can go wrong with a lab, in words for the one who runs it.

use std::io;
use std::path::{Path, PathBuf};

use crate::paths::{LABS_DIR, LabName, LabNameError};
use crate::topology::TopologyError;

/// Why a lab could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no lab can have.
    #[error(transparent)]
    Name(#[from] LabNameError),
    /// A topology that cannot be used.
    #[error("{}:{error}", .file.display())]
    Topology {
        /// The file.
        file: PathBuf,
        /// What is wrong, beginning with line and column.
        error: TopologyError,
    },
    /// Not run as root.
    #[error(
        "cambric lab needs root, for it makes network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN); run it with sudo"
    )]
    NotRoot,
    /// The lab is there already.
    #[error(
        "lab \"{0}\" is already up; take it down first (cambric lab down --name {0}) or choose another --name"
    )]
    Exists(LabName),
    /// The lab is not there.
    #[error("there is no lab \"{name}\"; {}", known(.labs))]
    NoLab {
        /// The name that was asked for.
        name: LabName,
        /// The names of the labs that are there.
        labs: Vec<LabName>,
    },
    /// A lab without the node, router, gateway, host or pod.
    #[error("lab \"{lab}\" has no \"{name}\"; it has {}", .known.join(", "))]
    NoMember {
        /// The lab.
        lab: LabName,
        /// What was asked for.
        name: String,
        /// What is there.
        known: Vec<String>,
    },
    /// A name that several pods have.
    #[error("there are several pods \"{name}\"; say which: {}", .known.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// What it may stand for.
        known: Vec<String>,
    },
    /// A namespace that the lab did not make has a name that it needs.
    #[error(
        "network namespace \"{0}\" is there already and is not of this lab; remove it (ip netns delete {0}) or choose \
         another --name"
    )]
    NamespaceTaken(String),
    /// A file or directory.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried, as what follows "cannot".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A system call.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, as what follows "cannot".
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The record of what a lab has made cannot be read.
    #[error("{}: not the state of a lab: {why}; \"cambric lab down\" removes the lab nevertheless", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel.
    #[error("{member}: {source}")]
    Kernel {
        /// The machine or subnet of the topology.
        member: String,
        /// What the kernel said.
        source: Box<kernel::Error>,
    },
    /// The address translation of a NAT gateway.
    #[error("NAT gateway {gateway}: {why}")]
    Nat {
        /// The gateway.
        gateway: String,
        /// What the kernel said.
        why: String,
    },
    /// No CNI plugin beside the executable.
    #[error(
        "there is no CNI plugin at {}; build it (cargo build -p cni) or name it with --plugin", .0.display()
    )]
    NoPlugin(PathBuf),
    /// A process of the lab ended while the lab came up.
    #[error("the {process} ended before the lab was ready; the end of its log:\n{log}")]
    Ended {
        /// What it was.
        process: String,
        /// The last lines of its log.
        log: String,
    },
    /// A process of the lab took too long.
    #[error("the {process} was not ready within {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// What it was.
        process: String,
        /// How long was waited, in seconds.
        seconds: u64,
        /// The last lines of its log.
        log: String,
    },
    /// A program that was to be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// SIGINT, SIGTERM or SIGHUP.
    #[error("stopped by {}", signal_name(*.0))]
    Interrupted(i32),
    /// Several things that went wrong while a lab was taken down.
    #[error("{}", listed(.0))]
    Several(Vec<Error>),
    /// What another part of the lab says.
    #[error("{0}")]
    Other(String),
}

/// A lab, or why there is none.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>, source: io::Error) -> Error {
        Error::Io { what, path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::System { what: what.into(), source: source.into() }
    }

    pub(crate) fn kernel(member: impl Into<String>) -> impl FnOnce(kernel::Error) -> Error {
        let member = member.into();
        move |source| Error::Kernel { member, source: Box::new(source) }
    }
}

/// One error as it is, several as a list.
pub(crate) fn collected(mut errors: Vec<Error>) -> Result<()> {
    match (errors.pop(), errors.is_empty()) {
        (None, _) => Ok(()),
        (Some(only), true) => Err(only),
        (Some(last), false) => {
            errors.push(last);
            Err(Error::Several(errors))
        }
    }
}

fn known(labs: &[LabName]) -> String {
    match labs {
        [] => format!("no lab is up (there is nothing under {LABS_DIR}); start one with: cambric lab up"),
        labs => {
            let names: Vec<&str> = labs.iter().map(LabName::as_str).collect();
            format!("up are: {}", names.join(", "))
        }
    }
}

fn listed(errors: &[Error]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGINT => "Ctrl-C (SIGINT)".to_owned(),
        libc::SIGTERM => "SIGTERM".to_owned(),
        libc::SIGHUP => "SIGHUP".to_owned(),
        other => format!("signal {other}"),
    }
}
