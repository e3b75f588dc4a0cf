//! Labs for tests: brought up by the real command, gone when dropped.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod bird;
pub mod fast_path;
pub mod hearing;
pub mod kernel_state;
pub mod traffic;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::{self, NetNs};
use serde_json::Value;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/labs");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How long anything may take. Most of it is the machine's.
const PATIENCE: Duration = Duration::from_secs(30);

/// The executable under test.
pub const CAMBRIC: &str = env!("CARGO_BIN_EXE_cambric");

/// The plugin: named by the environment, or beside the executable.
fn plugin() -> PathBuf {
    let path = std::env::var_os("CAMBRIC_CNI")
        .map_or_else(|| Path::new(CAMBRIC).with_file_name("cambric-cni"), PathBuf::from);
    assert!(path.exists(), "there is no CNI plugin at {}; build it (cargo build -p cni)", path.display());
    path
}

/// A lab of its own.
pub struct Lab {
    pub name: String,
}

/// A pod of a lab.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub node: String,
    pub addresses: Vec<IpAddr>,
    pub netns: PathBuf,
}

impl Pod {
    pub fn enter(&self) -> NetNs {
        NetNs::open(&self.netns).unwrap()
    }

    pub fn v4(&self) -> IpAddr {
        *self.addresses.iter().find(|address| address.is_ipv4()).unwrap()
    }

    pub fn v6(&self) -> IpAddr {
        *self.addresses.iter().find(|address| address.is_ipv6()).unwrap()
    }
}

impl Lab {
    /// Brings up a lab from a file in `examples/labs`.
    pub fn up(topology: &str) -> Lab {
        Lab::up_file(&Path::new(EXAMPLES).join(topology))
    }

    /// Brings up a lab from a file in `examples/labs` in which texts are replaced by others.
    pub fn up_changed(topology: &str, changes: &[(&str, &str)]) -> Lab {
        let mut text = std::fs::read_to_string(Path::new(EXAMPLES).join(topology)).unwrap();
        for (old, new) in changes {
            assert!(text.contains(old), "{old} is not in {topology}");
            text = text.replacen(old, new, 1);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Lab::up_file(file.path())
    }

    fn up_file(file: &Path) -> Lab {
        let lab = Lab { name: format!("t{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)) };
        let mut command = Command::new(CAMBRIC);
        command.args(["lab", "up", "--name", &lab.name, "--plugin"]).arg(plugin()).arg(file);
        succeed(&mut command);
        lab
    }

    /// A command of `cambric lab` on this lab.
    pub fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(CAMBRIC);
        command.args(["lab", verb, "--name", &self.name]).args(arguments);
        command
    }

    /// Runs a command of `cambric lab`, which must succeed, and returns what it prints.
    pub fn run(&self, verb: &str, arguments: &[&str]) -> String {
        succeed(&mut self.command(verb, arguments))
    }

    /// Applies a manifest and waits until all pods in the namespace default are ready.
    pub fn apply(&self, manifest: &str) {
        let mut command = self.command("kubectl", &["--", "apply", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        self.run("kubectl", &["--", "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"]);
    }

    /// The pods of the namespace default.
    pub fn pods(&self) -> Vec<Pod> {
        let list: Value =
            serde_json::from_str(&self.run("kubectl", &["--", "get", "pods", "-o", "json"])).unwrap();
        let pod = |pod: &Value| {
            let node = pod["spec"]["nodeName"].as_str().unwrap().to_owned();
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            let ips = pod["status"]["podIPs"].as_array().unwrap();
            Pod {
                name: pod["metadata"]["name"].as_str().unwrap().to_owned(),
                addresses: ips.iter().map(|ip| ip["ip"].as_str().unwrap().parse().unwrap()).collect(),
                netns: format!("/run/netns/cambric-{}-{node}--{uid}", self.name).into(),
                node,
            }
        };
        list["items"].as_array().unwrap().iter().map(pod).collect()
    }

    /// Where the agent of a node has its files.
    pub fn run_dir(&self, node: &str) -> String {
        format!("/run/cambric-lab/{}/nodes/{node}/run", self.name)
    }

    /// What `cambric status` says on a node, without its line breaks.
    pub fn status(&self, node: &str) -> String {
        let words = self.status_with(node, &[]);
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What `cambric status bgp` says on a node.
    pub fn status_bgp(&self, node: &str) -> String {
        self.status_with(node, &["bgp"])
    }

    /// What `cambric status` with these words says on a node. Its exit code says whether all is well, which is asked for
    /// otherwise here.
    pub fn status_with(&self, node: &str, words: &[&str]) -> String {
        let mut command = Command::new(CAMBRIC);
        let output = command.arg("status").args(words).args(["--run-dir", &self.run_dir(node)]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    pub fn pod(&self, name: &str) -> Pod {
        self.pods().into_iter().find(|pod| pod.name == name).unwrap()
    }

    /// Waits until a node's agent says that all that is planned is in force.
    pub fn agent_ready(&self, node: &str) {
        let address = ([127, 0, 0, 1], 9469).into();
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let namespace = self.enter(node);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = netns::run_in(&namespace, ask).unwrap();
            if answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return;
            }
            assert!(Instant::now() < deadline, "the agent of {node} is not ready: {answer:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The name of a machine's namespace.
    pub fn namespace(&self, machine: &str) -> String {
        format!("cambric-{}-{machine}", self.name)
    }

    pub fn enter(&self, machine: &str) -> NetNs {
        NetNs::open(format!("/run/netns/{}", self.namespace(machine))).unwrap()
    }

    /// Runs a program in a machine's namespace; it must succeed.
    pub fn inside(&self, machine: &str, words: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(machine)]).args(words.split(' '));
        succeed(&mut command)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        }
        let gone = self.command("down", &[]).status();
        if !thread::panicking() {
            assert!(gone.unwrap().success(), "lab down failed");
        }
    }
}

impl Lab {
    /// The end of every log, for a test that failed.
    fn show_logs(&self) {
        let find = ["/run/cambric-lab/", &self.name].concat();
        let logs = Command::new("find").args([&find, "-name", "*.log"]).output().unwrap();
        for log in String::from_utf8_lossy(&logs.stdout).lines() {
            let end = Command::new("tail").args(["-n", "30", log]).output().unwrap();
            eprintln!("--- {log}\n{}", String::from_utf8_lossy(&end.stdout));
        }
    }
}

/// Looks until what is seen is so; returns how long that took at most.
pub fn until<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    is_so: impl Fn(&T) -> bool,
) -> Duration {
    let begin = Instant::now();
    loop {
        let seen = look();
        if is_so(&seen) {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: {seen:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command that must succeed and returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out.into_owned()
}

/// Two pods on different nodes, and one more beside the first.
pub const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  nodeName: node-1
  containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: beside}
spec:
  nodeName: node-1
  containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec:
  nodeName: node-2
  containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]
";
