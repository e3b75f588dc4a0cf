//! Topologies, namespaces as nodes, the small kubelet, the checks.

pub mod error;
pub mod paths;
pub mod topology;

pub use error::{Error, Result};
