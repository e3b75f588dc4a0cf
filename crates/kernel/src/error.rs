//! What the kernel refused.

use std::io;
use std::path::PathBuf;

/// Something that the kernel did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("cannot {what}: {source}{}", extended(.detail))]
    Refused {
        /// What was asked for, as what follows "cannot".
        what: String,
        /// The error number that the kernel gave.
        source: io::Error,
        /// The kernel's own explanation (`NLMSGERR_ATTR_MSG`, linux/netlink.h), if it gave one.
        detail: Option<String>,
    },
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, as what follows "cannot".
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// What was tried: "open", "read" or the like.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// nftables could not be read or changed.
    #[error("cannot {what}: {source}")]
    Tables {
        /// What was to be done, as what follows "cannot".
        what: String,
        /// Why it failed.
        source: nft::Error,
    },
    /// A BPF program or map could not be loaded, read or changed.
    #[error("cannot {what}: {}", chain(.source.as_ref()))]
    Bpf {
        /// What was to be done, as what follows "cannot".
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There can be no fast path.
    #[error(
        "the fast path cannot be used, and packets take the kernel's path: {source}; it needs Linux 6.6 or newer with BPF, \
         BTF and connection tracking, and an agent that may load programs"
    )]
    FastPath {
        /// Why.
        source: Box<Error>,
    },
    /// There can be no IP in IP, or not all of it.
    #[error(
        "IP in IP cannot be used: {source}; it needs Linux 6.6 or newer with BPF, and an agent that may load programs and \
         mount a BPF file system"
    )]
    Tunnel {
        /// Why.
        source: Box<Error>,
    },
    /// An answer of the kernel that does not follow the protocol.
    #[error("cannot {what}: the kernel's answer is not understood: {why}")]
    Answer {
        /// What was asked for, as what follows "cannot".
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The kernel's tables changed under every attempt to read them.
    #[error("cannot {what}: it changed during each of {attempts} attempts to read it")]
    Unstable {
        /// What was asked for, as what follows "cannot".
        what: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Something that is not ours stands where an entry of ours should be.
    #[error("cannot {what}: {obstacle} is in the way and is not ours; {remedy}")]
    Foreign {
        /// What was to be done, as what follows "cannot".
        what: String,
        /// What stands there.
        obstacle: String,
        /// What the operator can do.
        remedy: String,
    },
    /// An entry that stands on another one that is not there.
    #[error("cannot {what}: {missing} is not there")]
    Missing {
        /// What was to be done, as what follows "cannot".
        what: String,
        /// What it needs.
        missing: String,
    },
}

/// What the kernel says, or why it could not be asked.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The error number of the kernel (`errno`), where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { source, .. } | Error::System { source, .. } | Error::File { source, .. } => {
                source.raw_os_error()
            }
            Error::Tables { source, .. } => source.errno(),
            Error::Bpf { source, .. } => errno(source.as_ref()),
            Error::Tunnel { source } | Error::FastPath { source } => source.errno(),
            Error::Answer { .. } | Error::Unstable { .. } | Error::Foreign { .. } | Error::Missing { .. } => {
                None
            }
        }
    }

    pub(crate) fn system(what: impl Into<String>) -> Error {
        Error::System { what: what.into(), source: io::Error::last_os_error() }
    }
}

/// The error number at the root of an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let root = std::iter::successors(Some(error), |error| error.source()).last()?;
    root.downcast_ref::<io::Error>()?.raw_os_error()
}

/// An error with all its causes, each once: some errors show their cause themselves.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn extended(detail: &Option<String>) -> String {
    match detail {
        Some(text) => format!("; the kernel says: {text}"),
        None => String::new(),
    }
}
