//! Where the agent runs: a namespace with an underlay of one link, and a directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use kernel::netns::{self, NetNs};

/// A namespace and a directory, gone when dropped.
pub(crate) struct Place {
    pub(crate) namespace: NetNs,
    pub(crate) directory: tempfile::TempDir,
    name: String,
    path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let name = format!("agent-{}", std::process::id());
        let path = Path::new(netns::NAMED).join(&name);
        let namespace = netns::create_named(&path).unwrap();
        let place = Place { namespace, directory: tempfile::tempdir().unwrap(), name, path };
        place.underlay();
        place
    }

    /// A link with the addresses of the first node and a wire to nowhere.
    fn underlay(&self) {
        for command in [
            "link set lo up",
            "link add eth0 type veth peer name wire",
            "link set wire up",
            "link set eth0 up",
            "address add 172.16.0.1/16 dev eth0",
            "address add 2001:db8::1/64 dev eth0 nodad",
        ] {
            let output =
                Command::new("ip").args(["-n", &self.name]).args(command.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.path);
        // What the last agent has mounted for its programs.
        for start in std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            let pins = start.path().join("--run-dir/bpf");
            if pins.exists() {
                let _ = Command::new("umount").arg("--lazy").arg(pins).status();
            }
        }
    }
}
