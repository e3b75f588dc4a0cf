//! What the plugin tells the runtime when something is not done (CNI spec 1.1.0, section 5, "Error").

use std::fmt;

use serde::Serialize;

use crate::version::Version;

/// Numbers of errors: those below 100 are the spec's.
pub mod code {
    /// The configuration's `cniVersion` is not supported, or has no such command.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The container, or its network namespace, does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or cannot be used; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The configuration is no JSON.
    pub const DECODE: u32 = 6;
    /// A field of the configuration cannot be used.
    pub const INVALID_CONFIG: u32 = 7;
    /// It may work later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail, and pods that are there may be cut off.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// The interface is in the container already.
    pub const INTERFACE_EXISTS: u32 = 100;
    /// The kernel refused something.
    pub const KERNEL: u32 = 101;
    /// CHECK found something missing or changed.
    pub const CHECK_FAILED: u32 = 102;
}

/// An error as the runtime gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Error {
    /// See [`code`].
    pub code: u32,
    /// What is wrong, in a few words.
    pub msg: String,
    /// The object, the value, and what would be right.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error with a number, a few words and the whole story.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Error {
        Error { code, msg: msg.into(), details: details.into() }
    }

    /// The error as the spec's JSON object.
    pub fn to_json(&self, version: Version) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Object<'a> {
            cni_version: &'a str,
            #[serde(flatten)]
            error: &'a Error,
        }
        let object = Object { cni_version: version.as_str(), error: self };
        // Strings and a number always make an object.
        serde_json::to_string(&object).unwrap_or_default()
    }

    /// One error of several; `None` if there are none. The code is the first one's.
    pub fn all(errors: Vec<Error>) -> Option<Error> {
        let text = errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ");
        match <[Error; 1]>::try_from(errors) {
            Ok([only]) => Some(only),
            Err(several) => {
                let first = several.first()?;
                Some(Error::new(first.code, format!("{} things failed", several.len()), text))
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.details.as_str() {
            "" => f.write_str(&self.msg),
            details => write!(f, "{}: {details}", self.msg),
        }
    }
}

impl std::error::Error for Error {}

impl From<kernel::Error> for Error {
    fn from(error: kernel::Error) -> Error {
        Error::new(code::KERNEL, "the kernel refused", error.to_string())
    }
}

impl From<crate::ipam::Error> for Error {
    fn from(error: crate::ipam::Error) -> Error {
        let (code, msg) = match error {
            crate::ipam::Error::Exhausted { .. } => (code::TRY_AGAIN, "no free address"),
            crate::ipam::Error::NoRange => (code::TRY_AGAIN, "no pod range"),
            crate::ipam::Error::File { .. } => (code::IO, "cannot use the address store"),
        };
        Error::new(code, msg, error.to_string())
    }
}
