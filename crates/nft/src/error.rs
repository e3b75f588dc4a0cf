//! What can go wrong, told so that it can be acted on.

use std::fmt;
use std::io;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on the netlink socket failed.
    #[error("netlink socket: {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a batch; nothing of it is in force.
    #[error("nftables batch refused, nothing changed: {0}")]
    Rejected(Rejected),
    /// The rule set changed since the generation that the batch was computed from; nothing of it is in force.
    /// Observe again, compute again.
    #[error("nftables batch is stale, nothing changed: the rule set is no longer at generation {expected}")]
    Stale {
        /// The generation that the batch was computed from.
        expected: u32,
    },
    /// The kernel refused a dump or lookup.
    #[error("nftables: {what}: {failure}")]
    Request {
        /// What was asked for, such as `list the elements of set pods in table ip cambric`.
        what: String,
        /// The kernel's answer.
        failure: Failure,
    },
    /// The rule set kept changing while it was read.
    #[error("nftables: {what}: the rule set changed during each of {attempts} attempts")]
    Unsettled {
        /// What was asked for.
        what: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// An object was described in a way that cannot be put to the kernel; nothing was sent.
    #[error("nftables: {object}: {reason}")]
    Invalid {
        /// The object, such as `rule 3 of chain pre in table ip cambric`.
        object: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// The kernel sent something that does not parse.
    #[error("nftables: malformed answer from the kernel: {what}")]
    Malformed {
        /// What did not parse.
        what: &'static str,
    },
}

impl Error {
    /// The `errno` of the first refusal, or of the socket.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Socket { source, .. } => source.raw_os_error(),
            Error::Rejected(rejected) => rejected.failures.first().map(|failure| failure.errno),
            Error::Stale { .. } => Some(libc::ERESTART),
            Error::Request { failure, .. } => Some(failure.errno),
            Error::Unsettled { .. } => Some(libc::EINTR),
            Error::Invalid { .. } | Error::Malformed { .. } => None,
        }
    }

    /// Whether the error is that an object does not exist (`ENOENT`).
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }

    pub(crate) fn invalid(object: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Invalid { object: object.into(), reason: reason.into() }
    }
}

/// The refusals of a batch, in the order of its operations; the first is usually the cause of the others.
#[derive(Debug)]
pub struct Rejected {
    /// The first refusals; at least one, at most 64.
    pub failures: Vec<Failure>,
    /// How many there were beyond these.
    pub others: usize,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.failures.first() {
            first.fmt(f)?;
        }
        match self.others + self.failures.len().saturating_sub(1) {
            0 => Ok(()),
            1 => write!(f, " (and one further refusal)"),
            n => write!(f, " (and {n} further refusals)"),
        }
    }
}

/// One refusal by the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The operation's position in the batch, counted from 0 in the order of the calls that built it; a call that
    /// adds many elements can count for several. `None` if the batch as a whole was refused.
    pub index: Option<usize>,
    /// The operation and its object, such as `delete set pods in table ip cambric`; empty for a request whose
    /// error already names it.
    pub operation: String,
    /// The kernel's error number, positive.
    pub errno: i32,
    /// The kernel's own explanation (extended acknowledgement), if it gave one.
    pub message: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.operation.is_empty() {
            write!(f, "{}: ", self.operation)?;
        }
        io::Error::from_raw_os_error(self.errno).fmt(f)?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}
