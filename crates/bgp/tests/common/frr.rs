//! FRR's bgpd, and how it sees the world.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, Wire, address, output, text, until_blocking};

pub struct Frr {
    dir: TempDir,
    peer: String,
    args: Vec<String>,
    bgpd: Process,
    _zebra: Process,
}

impl Frr {
    /// Starts bgpd at .4 and ::4 with us as its peer in `our_as`; `more` is said of us as its neighbour.
    pub fn start(wire: &Wire, v6: bool, local_as: u32, our_as: u32, more: &[&str], networks: &[&str]) -> Frr {
        let (dir, zebra) = zebra(wire);
        let (local, peer) = (address(v6, 4), address(v6, 1).to_string());
        let neighbour: String = more.iter().map(|line| format!(" neighbor {peer} {line}\n")).collect();
        let family = |name: &str, is_v6: bool| {
            let of_family = networks.iter().filter(|network| network.contains(':') == is_v6);
            let networks: String = of_family.map(|network| format!("  network {network}\n")).collect();
            format!(
                " address-family {name} unicast\n{networks}  neighbor {peer} activate\n exit-address-family\n"
            )
        };
        let config = format!(
            "frr defaults traditional\nrouter bgp {local_as}\n bgp router-id 10.0.0.4\n\
             no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n\
             bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n neighbor {peer} remote-as {our_as}\n neighbor {peer} timers 3 9\n\
             neighbor {peer} timers connect 1\n neighbor {peer} update-source {local}\n{neighbour}{}{}",
            family("ipv4", false),
            family("ipv6", true),
        );
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (file, pid) = (path("bgpd.conf"), path("bgpd.pid"));
        std::fs::write(&file, config).unwrap();
        let own = ["-f", &file, "-i", &pid, "-l", &local.to_string()].map(str::to_owned);
        let args = [&common(&dir)[..], &own].concat();
        let bgpd = bgpd(wire, &dir, &peer, &args);
        Frr { dir, peer, args, bgpd, _zebra: zebra }
    }

    /// Ends bgpd without letting it say good-bye.
    pub fn kill(&mut self) {
        self.bgpd.kill();
    }

    /// Starts bgpd again.
    pub fn restart(&mut self, wire: &Wire) {
        self.bgpd = bgpd(wire, &self.dir, &self.peer, &self.args);
    }

    /// What it has from us and uses, by prefix.
    pub fn routes(&self) -> BTreeMap<String, Value> {
        let mut routes = BTreeMap::new();
        for family in ["ipv4", "ipv6"] {
            let list = self.ask(&format!("show bgp {family} unicast json"));
            let list: Value = serde_json::from_str(&list).unwrap_or_default();
            for prefix in list["routes"].as_object().into_iter().flatten().map(|(prefix, _)| prefix) {
                let detail = self.ask(&format!("show bgp {family} unicast {prefix} json"));
                let detail: Value = serde_json::from_str(&detail).unwrap_or_default();
                let from_us = |path: &&Value| path["peer"]["peerId"] == self.peer.as_str();
                if let Some(path) = detail["paths"].as_array().and_then(|paths| paths.iter().find(from_us)) {
                    routes.insert(prefix.clone(), path.clone());
                }
            }
        }
        routes
    }

    /// Asks us for everything again.
    pub fn refresh(&self) {
        self.ask("clear bgp * soft in");
    }

    pub fn ask(&self, command: &str) -> String {
        ask(&self.dir, "bgpd", command)
    }
}

fn bgpd(wire: &Wire, dir: &TempDir, peer: &str, args: &[String]) -> Process {
    let log = dir.path().join("log");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut process = wire.start("/usr/lib/frr/bgpd", &args, &log);
    until_blocking(
        "FRR answers",
        || {
            assert!(process.runs(), "FRR: {}", std::fs::read_to_string(&log).unwrap());
            // Until zebra has told it of the link, it drops sessions as soon as they are up.
            ask(dir, "bgpd", "show bgp nexthop")
        },
        |answer| answer.contains(&format!("{peer} valid")),
    );
    process
}

/// FRR's bfdd at .4 and ::4, with us as its neighbour.
pub struct Bfdd {
    dir: TempDir,
    _processes: [Process; 2],
}

impl Bfdd {
    pub fn start(wire: &Wire) -> Bfdd {
        let (dir, zebra) = zebra(wire);
        let peer = |v6: bool| {
            format!(
                " peer {} local-address {} interface eth0\n  receive-interval 100\n  transmit-interval 100\n exit\n",
                address(v6, 1),
                address(v6, 4)
            )
        };
        std::fs::write(dir.path().join("bfdd.conf"), format!("bfd\n{}{}exit\n", peer(false), peer(true)))
            .unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (file, pid, control) = (path("bfdd.conf"), path("bfdd.pid"), path("bfdd.sock"));
        let log = dir.path().join("bfdd.log");
        let own = ["-f", &file, "-i", &pid, "--bfdctl", &control].map(str::to_owned);
        let args = [&common(&dir)[..], &own].concat();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut process = wire.start("/usr/lib/frr/bfdd", &args, &log);
        until_blocking(
            "bfdd answers",
            || {
                assert!(process.runs(), "bfdd: {}", std::fs::read_to_string(&log).unwrap());
                ask(&dir, "bfdd", "show bfd peers")
            },
            |answer| answer.contains("peer "),
        );
        Bfdd { dir, _processes: [process, zebra] }
    }

    pub fn peers(&self) -> Value {
        serde_json::from_str(&ask(&self.dir, "bfdd", "show bfd peers json")).unwrap_or_default()
    }
}

/// A directory for sockets and files, and the daemon that knows the addresses of the namespace; without it the others
/// have no next hops and no interfaces.
fn zebra(wire: &Wire) -> (TempDir, Process) {
    let dir = tempfile::tempdir().unwrap();
    // They run as a user of their own.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let log = dir.path().join("zebra.log");
    let pid = dir.path().join("zebra.pid").to_str().unwrap().to_owned();
    let args = [&common(&dir)[..], &["-f", "/dev/null", "-i", &pid].map(str::to_owned)].concat();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut process = wire.start("/usr/lib/frr/zebra", &args, &log);
    until_blocking(
        "zebra listens",
        || {
            assert!(process.runs(), "zebra: {}", std::fs::read_to_string(&log).unwrap());
            dir.path().join("zserv").exists()
        },
        |there| *there,
    );
    (dir, process)
}

fn common(dir: &TempDir) -> [String; 8] {
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (sockets, zserv) = (path(""), path("zserv"));
    ["--vty_socket", &sockets, "-P", "0", "-z", &zserv, "--log", "stdout"].map(str::to_owned)
}

fn ask(dir: &TempDir, daemon: &str, command: &str) -> String {
    text(&output(
        Command::new("vtysh").arg("--vty_socket").arg(dir.path()).args(["-d", daemon, "-c", command]),
    ))
}
