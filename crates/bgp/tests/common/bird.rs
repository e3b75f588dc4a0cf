//! BIRD 2, and how it sees the world.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Process, Wire, output, text, until_blocking};

pub struct Bird {
    dir: Arc<TempDir>,
    process: Process,
}

/// A route: `via` and what BIRD calls its attributes, without the `BGP.`.
pub type Route = BTreeMap<String, String>;

impl Bird {
    /// Starts BIRD with what stands after the lines that every test needs.
    pub fn start(wire: &Wire, router_id: &str, rest: &str) -> Bird {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bird.conf"), config(router_id, rest)).unwrap();
        let process = Bird::spawn(wire, &dir, &[]);
        Bird { dir: Arc::new(dir), process }
    }

    fn spawn(wire: &Wire, dir: &TempDir, more: &[&str]) -> Process {
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (conf, socket, pid) = (path("bird.conf"), path("ctl"), path("pid"));
        let mut args = vec!["-f", "-c", &conf, "-s", &socket, "-P", &pid];
        args.extend(more);
        let log = dir.path().join("log");
        let mut process = wire.start("/usr/sbin/bird", &args, &log);
        until_blocking(
            "BIRD answers",
            || {
                assert!(process.runs(), "BIRD: {}", std::fs::read_to_string(&log).unwrap());
                ask(dir, "show status")
            },
            |answer| answer.contains("Daemon is up"),
        );
        process
    }

    /// Starts it again after it was killed, in recovery from a graceful restart.
    pub fn recover(&mut self, wire: &Wire) {
        let _ = std::fs::remove_file(self.dir.path().join("ctl"));
        self.process = Bird::spawn(wire, &self.dir, &["-R"]);
    }

    /// Where it is asked.
    pub fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("ctl")
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Stops it without ending it: its kernel still answers for it.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn ask(&self, command: &str) -> String {
        ask(&self.dir, command)
    }

    /// Something that asks while the test holds the process.
    pub fn asker(&self) -> Asker {
        Asker(Arc::clone(&self.dir))
    }

    /// Gives it another configuration.
    pub fn configure(&self, router_id: &str, rest: &str) {
        std::fs::write(self.dir.path().join("bird.conf"), config(router_id, rest)).unwrap();
        let answer = self.ask("configure");
        assert!(answer.contains("Reconfigur"), "{answer}");
    }

    /// What it has from a protocol of its own.
    pub fn routes(&self, protocol: &str) -> BTreeMap<String, Route> {
        self.asker().routes(protocol)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// Asks a BIRD.
pub struct Asker(Arc<TempDir>);

impl Asker {
    pub fn ask(&self, command: &str) -> String {
        ask(&self.0, command)
    }

    pub fn routes(&self, protocol: &str) -> BTreeMap<String, Route> {
        parse(&ask(&self.0, &format!("show route all protocol {protocol}")))
    }
}

fn config(router_id: &str, rest: &str) -> String {
    format!(
        "log stderr all;\nrouter id {router_id};\nprotocol device {{ scan time 1; }}\n\
         protocol direct {{ ipv4; ipv6; interface \"eth0\"; }}\n{rest}\n"
    )
}

fn ask(dir: &TempDir, command: &str) -> String {
    text(&output(
        Command::new("/usr/sbin/birdc").arg("-s").arg(dir.path().join("ctl")).args(command.split(' ')),
    ))
}

fn parse(answer: &str) -> BTreeMap<String, Route> {
    let mut routes = BTreeMap::new();
    let mut current: Option<(String, Route)> = None;
    for line in answer.lines() {
        let indented = line.starts_with('\t');
        if !indented && (line.contains(" unicast [") || line.contains(" unreachable [")) {
            routes.extend(current.take());
            current = Some((line.split(' ').next().unwrap().to_owned(), Route::new()));
        } else if let (true, Some((_, route))) = (indented, current.as_mut()) {
            let line = line.trim();
            if let Some(via) = line.strip_prefix("via ") {
                route.insert("via".to_owned(), via.split(' ').next().unwrap().to_owned());
            } else if let Some((key, value)) = line.split_once(':') {
                route.insert(key.trim_start_matches("BGP.").to_owned(), value.trim().to_owned());
            }
        }
    }
    routes.extend(current);
    routes
}
