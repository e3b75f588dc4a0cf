//! GoBGP, and how it sees the world.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, Wire, address, output, text, until_blocking};

pub struct GoBgp {
    namespace: String,
    peer: String,
    process: Process,
    dir: TempDir,
}

/// A route as it was received: the attributes by their type codes.
pub type Route = BTreeMap<u64, Value>;

impl GoBgp {
    /// Starts GoBGP at .2 and ::2 with us as its peer in `our_as`.
    pub fn start(wire: &Wire, v6: bool, local_as: u32, our_as: u32, more: &str) -> GoBgp {
        GoBgp::with_password(wire, v6, local_as, our_as, "", more)
    }

    /// The same with a password of TCP, if it is not empty.
    pub fn with_password(
        wire: &Wire,
        v6: bool,
        local_as: u32,
        our_as: u32,
        password: &str,
        more: &str,
    ) -> GoBgp {
        let dir = tempfile::tempdir().unwrap();
        let (local, peer) = (address(v6, 2), address(v6, 1).to_string());
        let families: String = ["ipv4-unicast", "ipv6-unicast"]
            .iter()
            .map(|family| {
                format!(
                    "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n\
                     [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n"
                )
            })
            .collect();
        let config = format!(
            "[global.config]\nas = {local_as}\nrouter-id = \"10.0.0.2\"\nlocal-address-list = [\"{local}\"]\n\
             [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{peer}\"\npeer-as = {our_as}\nauth-password = \"{password}\"\n\
             [neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\nhold-time = 9\n\
             [neighbors.transport.config]\nlocal-address = \"{local}\"\n{more}\n{families}"
        );
        std::fs::write(dir.path().join("gobgpd.toml"), config).unwrap();
        let process = gobgpd(wire, &dir, &peer, &[]);
        GoBgp { namespace: wire.them.clone(), peer, process, dir }
    }

    /// Ends it without letting it say good-bye.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, in recovery from a graceful restart. Of what it had announced it knows nothing.
    pub fn recover(&mut self, wire: &Wire) {
        self.process = gobgpd(wire, &self.dir, &self.peer, &["--graceful-restart"]);
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn announce(&self, prefixes: &[(&str, &str)]) {
        for (prefix, hop) in prefixes {
            let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
            let answer = self.ask(&["global", "rib", "add", "-a", family, prefix, "nexthop", hop]);
            assert_eq!(answer, "");
        }
    }

    pub fn withdraw(&self, prefix: &str) {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        assert_eq!(self.ask(&["global", "rib", "del", "-a", family, prefix]), "");
    }

    /// What it has received from us.
    pub fn routes(&self) -> BTreeMap<String, Route> {
        let mut routes = BTreeMap::new();
        for family in ["ipv4", "ipv6"] {
            let answer = self.ask(&["-j", "neighbor", &self.peer, "adj-in", "-a", family]);
            let table: Value = serde_json::from_str(&answer).unwrap_or_default();
            for (prefix, paths) in table.as_object().into_iter().flatten() {
                let attributes = paths[0]["attrs"].as_array().into_iter().flatten();
                let by_type =
                    attributes.map(|attribute| (attribute["type"].as_u64().unwrap(), attribute.clone()));
                routes.insert(prefix.clone(), by_type.collect());
            }
        }
        routes
    }

    pub fn ask(&self, words: &[&str]) -> String {
        ask(&self.namespace, words)
    }
}

fn gobgpd(wire: &Wire, dir: &TempDir, peer: &str, more: &[&str]) -> Process {
    let (file, log) = (dir.path().join("gobgpd.toml"), dir.path().join("log"));
    let args = ["-f", file.to_str().unwrap(), "-t", "toml", "--api-hosts", "127.0.0.1:50051"];
    let mut process = wire.start("/usr/bin/gobgpd", &[&args, more].concat(), &log);
    until_blocking(
        "GoBGP answers",
        || {
            assert!(process.runs(), "GoBGP: {}", std::fs::read_to_string(&log).unwrap());
            ask(&wire.them, &["neighbor"])
        },
        |answer| answer.contains(peer),
    );
    process
}

fn ask(namespace: &str, words: &[&str]) -> String {
    text(&output(Command::new("ip").args(["netns", "exec", namespace, "/usr/bin/gobgp"]).args(words)))
}
