//! Observe, compare, apply: the only crate with privileged I/O.
//!
//! Everything here blocks, and works in the network namespace of the calling thread.

mod error;
mod netlink;
pub mod netns;
pub mod rtnl;

pub use error::{Error, Result};
