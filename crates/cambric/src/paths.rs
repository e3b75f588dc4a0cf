//! Where things are on a node.

use std::path::{Path, PathBuf};

/// The agent's own files.
pub(crate) const RUN_DIR: &str = "/run/cambric";
/// Where container runtimes look for CNI configurations.
pub(crate) const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// Where the CNI plugin keeps addresses.
pub(crate) const CNI_DATA_DIR: &str = "/var/lib/cni/networks";
/// What names these directories where they are not given: `cambric lab exec` sets it.
pub(crate) const RUN_DIR_VARIABLE: &str = "CAMBRIC_RUN_DIR";
pub(crate) const CNI_CONF_DIR_VARIABLE: &str = "CAMBRIC_CNI_CONF_DIR";
pub(crate) const CNI_DATA_DIR_VARIABLE: &str = "CAMBRIC_CNI_DATA_DIR";
/// The name of our network, which is a directory under the CNI plugin's.
pub(crate) const NETWORK: &str = "cambric";

/// Files in the run directory.
#[derive(Debug, Clone)]
pub(crate) struct RunDir(pub(crate) PathBuf);

impl RunDir {
    /// What the CNI plugin needs to know.
    pub(crate) fn node_file(&self) -> PathBuf {
        self.0.join("node.json")
    }

    /// The last state of the cluster, for a start without the API.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// What BGP has told of the other nodes, for the next start.
    pub(crate) fn contacts(&self) -> PathBuf {
        self.0.join("contacts.json")
    }

    /// What `cambric status` shows.
    pub(crate) fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// The BPF file system in which programs and maps are pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        self.0.join("bpf")
    }

    /// What `cambric status routes` shows.
    pub(crate) fn routes(&self) -> PathBuf {
        self.0.join("routes.json")
    }

    /// What `cambric status bgp` shows.
    pub(crate) fn bgp(&self) -> PathBuf {
        self.0.join("bgp.json")
    }

    /// The boot in which BGP was last spoken.
    pub(crate) fn bgp_boot(&self) -> PathBuf {
        self.0.join("bgp-boot")
    }

    /// The token of the live page.
    pub(crate) fn ui_token(&self) -> PathBuf {
        self.0.join("ui-token")
    }

    /// Held by the agent while it runs; its process id is in it.
    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("agent.lock")
    }
}

/// The CNI configuration that the agent writes.
pub(crate) fn conflist(cni_conf_dir: &Path) -> PathBuf {
    cni_conf_dir.join("10-cambric.conflist")
}
