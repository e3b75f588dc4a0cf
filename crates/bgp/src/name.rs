//! What a peer is called.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name under which a peer was configured. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct PeerName(Arc<str>);

impl PeerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PeerName {
    fn from(name: &str) -> PeerName {
        PeerName(name.into())
    }
}

impl From<String> for PeerName {
    fn from(name: String) -> PeerName {
        PeerName(name.into())
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
