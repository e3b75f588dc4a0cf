//! Labs come and go, and whatever happens on the way, nothing of them stays.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CAMBRIC: &str = env!("CARGO_BIN_EXE_cambric");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The plugin: named by the environment, or beside the executable.
fn plugin() -> PathBuf {
    let path = std::env::var_os("CAMBRIC_CNI")
        .map_or_else(|| Path::new(CAMBRIC).with_file_name("cambric-cni"), PathBuf::from);
    assert!(path.exists(), "there is no CNI plugin at {}; build it (cargo build -p cni)", path.display());
    path
}

/// A name for a lab that is taken down when the test ends, however it ends.
struct Lab(String);

impl Lab {
    fn new() -> Lab {
        Lab(format!("l{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(CAMBRIC);
        command.args(["lab", verb, "--name", &self.0]);
        command
    }

    fn up(&self) -> Command {
        let mut command = self.command("up");
        command.arg("--plugin").arg(plugin()).stderr(Stdio::piped());
        command
    }

    fn root(&self) -> PathBuf {
        Path::new("/run/cambric-lab").join(&self.0)
    }

    fn namespaces(&self) -> Vec<String> {
        let prefix = format!("cambric-{}-", self.0);
        let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(&prefix)).collect()
    }

    /// The processes that were started with this lab's name or files among their arguments.
    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let lines = entries
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .filter_map(|entry| {
                let line = fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
                Some(format!("{} {line}", entry.file_name().to_string_lossy()))
            });
        let (name, path) = (format!("--name {} ", self.0), format!("/{}/", self.0));
        lines.filter(|line| line.contains(&name) || line.contains(&path)).collect()
    }

    fn assert_gone(&self, when: &str) {
        assert_eq!(self.namespaces(), Vec::<String>::new(), "{when}");
        assert_eq!(self.processes(), Vec::<String>::new(), "{when}");
        assert!(!self.root().exists(), "{when}: {} is there", self.root().display());
    }

    fn down(&self) -> Output {
        self.command("down").output().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.down();
    }
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap() + &errors
}

/// Sends a signal to a process of this test.
fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// The network of the namespace that the tests are run in.
fn own_network() -> Vec<String> {
    let commands: [&[&str]; 6] = [
        &["ip", "-d", "link"],
        &["ip", "-br", "address"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["nft", "list", "ruleset"],
        &[
            "sysctl",
            "-a",
            "--pattern",
            r"^net\.(ipv4|ipv6|bridge)\..*(forward|rp_filter|disable_ipv6|nf-call)",
        ],
    ];
    commands.iter().map(|command| succeed(Command::new(command[0]).args(&command[1..]))).collect()
}

#[test]
fn a_lab_comes_up_works_and_goes() {
    let before = own_network();
    let lab = Lab::new();
    let shown = succeed(&mut lab.up());
    assert!(shown.contains("3 nodes ready"), "{shown}");
    assert_eq!(lab.namespaces().len(), 6);

    let list = succeed(Command::new(CAMBRIC).args(["lab", "list", "--json"]));
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let entry = list.as_array().unwrap().iter().find(|entry| entry["name"] == lab.0.as_str()).unwrap();
    assert_eq!(entry["status"], "up");
    assert_eq!(entry["processes"].as_array().unwrap().len(), 7);

    succeed(lab.command("exec").args(["client", "--", "ping", "-c1", "-W2", "192.0.2.12"]));
    succeed(lab.command("exec").args(["node-1", "--", "ping", "-c1", "-W2", "2001:db8:2::101"]));
    let nodes = succeed(lab.command("kubectl").args(["--", "get", "nodes", "--no-headers"]));
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 3, "{nodes}");

    let again = lab.up().output().unwrap();
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && error.contains("is already up; take it down first"), "{error}");
    let unknown = lab.command("exec").args(["node-9", "--", "true"]).output().unwrap();
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(error.contains("has no \"node-9\"; it has router, node-1, node-2, node-3, client"), "{error}");

    assert_eq!(own_network(), before);
    succeed(&mut lab.command("down"));
    lab.assert_gone("after down");
    assert_eq!(own_network(), before);
    let error = String::from_utf8_lossy(&lab.down().stderr).into_owned();
    assert!(error.contains(&format!("there is no lab \"{}\"", lab.0)), "{error}");
}

#[test]
fn down_ends_what_others_run_in_the_lab() {
    let lab = Lab::new();
    succeed(&mut lab.up());
    let mut sleepers: Vec<Child> = ["router", "node-2", "client"]
        .iter()
        .map(|machine| {
            let mut command = lab.command("exec");
            command.args([machine, "--", "sh", "-c", "echo inside; exec sleep 1000"]).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "inside\n");
            child
        })
        .collect();
    succeed(&mut lab.command("down"));
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.wait().unwrap().signal(), Some(9));
    }
    lab.assert_gone("after down");
}

const DEPLOYMENT: &str = r#"{
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "echo", "ports": [{"containerPort": 80}]}]}}}}"#;

#[test]
fn pods_are_entered_by_name_and_go_with_the_lab() {
    let lab = Lab::new();
    succeed(&mut lab.up());
    let mut apply = lab
        .command("kubectl")
        .args(["--", "apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    apply.stdin.take().unwrap().write_all(DEPLOYMENT.as_bytes()).unwrap();
    assert!(apply.wait().unwrap().success());
    let wait = ["--", "wait", "--for=condition=Available", "--timeout=30s", "deployment/web"];
    succeed(lab.command("kubectl").args(wait));
    assert_eq!(lab.namespaces().len(), 6 + 4);

    let pods = succeed(lab.command("kubectl").args(["--", "get", "pods", "-o", "json"]));
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    let pods = pods["items"].as_array().unwrap();
    let name = |index: usize| pods[index]["metadata"]["name"].as_str().unwrap();
    let address = pods[1]["status"]["podIP"].as_str().unwrap();
    succeed(lab.command("exec").args([name(0), "--", "ping", "-c1", "-W2", address]));
    let own =
        succeed(lab.command("exec").args([&format!("default/{}", name(1)), "--", "ip", "-br", "address"]));
    assert!(own.contains(address), "{address}: {own}");

    succeed(&mut lab.command("down"));
    lab.assert_gone("after down");
}

#[test]
fn two_labs_side_by_side() {
    let labs = [Lab::new(), Lab::new()];
    let children: Vec<Child> = labs.iter().map(|lab| lab.up().spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // The same addresses on both, and each reaches its own.
    for lab in &labs {
        succeed(lab.command("exec").args(["node-1", "--", "ping", "-c1", "-W2", "192.0.2.13"]));
        let nodes = succeed(lab.command("kubectl").args(["--", "get", "nodes", "--no-headers"]));
        assert_eq!(nodes.lines().count(), 3, "{nodes}");
    }
    succeed(&mut labs[0].command("down"));
    labs[0].assert_gone("after down");
    assert_eq!(labs[1].namespaces().len(), 6);
    succeed(labs[1].command("kubectl").args(["--", "get", "nodes"]));
    succeed(&mut labs[1].command("down"));
    labs[1].assert_gone("after down");
}

/// How long bringing a lab up takes, so that the points at which it is disturbed are spread over all of it.
fn duration_of_up() -> Duration {
    let lab = Lab::new();
    let begin = Instant::now();
    succeed(&mut lab.up());
    begin.elapsed()
}

/// Points of time spread evenly, from the very beginning to just before the end.
fn points(whole: Duration, count: u32) -> impl Iterator<Item = Duration> {
    (0..count).map(move |index| whole * index / count)
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    let whole = duration_of_up();
    for (point, name) in points(whole, 12).zip(["-INT", "-TERM", "-HUP"].into_iter().cycle()) {
        let lab = Lab::new();
        let child = lab.up().process_group(0).spawn().unwrap();
        thread::sleep(point);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let when = format!("{name} after {point:?}: {}", String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            // The signal came when the lab was up.
            succeed(&mut lab.command("down"));
        } else {
            let number = match name {
                "-INT" => 2,
                "-TERM" => 15,
                _ => 1,
            };
            let stopped =
                output.status.code() == Some(128 + number) || output.status.signal() == Some(number);
            assert!(stopped, "{when}: {}", output.status);
        }
        lab.assert_gone(&when);
    }
}

#[test]
fn down_cleans_up_after_a_kill_at_any_moment() {
    let whole = duration_of_up();
    for point in points(whole, 12) {
        let lab = Lab::new();
        let mut child = lab.up().stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(point);
        child.kill().unwrap();
        child.wait().unwrap();
        let there = lab.root().exists();
        let output = lab.down();
        let when = format!("killed after {point:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.success(), there, "{when}");
        lab.assert_gone(&when);
    }
}

#[test]
fn down_stops_an_up_that_is_under_way() {
    let whole = duration_of_up();
    for point in points(whole, 4).skip(1) {
        let lab = Lab::new();
        let child = lab.up().spawn().unwrap();
        thread::sleep(point);
        succeed(&mut lab.command("down"));
        let output = child.wait_with_output().unwrap();
        let when = format!("after {point:?}: {}", String::from_utf8_lossy(&output.stderr));
        lab.assert_gone(&when);
    }
}

#[test]
fn a_namespace_of_somebody_else_is_left_alone() {
    let lab = Lab::new();
    let foreign = format!("cambric-{}-node-2", lab.0);
    succeed(Command::new("ip").args(["netns", "add", &foreign]));
    let output = lab.up().output().unwrap();
    let left = lab.namespaces();
    succeed(Command::new("ip").args(["netns", "delete", &foreign]));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&format!("\"{foreign}\" is there already")), "{error}");
    assert_eq!(left, [foreign]);
    lab.assert_gone("after a name that was taken");
}

#[test]
fn processes_can_be_killed_and_restarted() {
    let lab = Lab::new();
    succeed(&mut lab.up());
    for target in ["api", "agent/node-1", "kubelet/node-3"] {
        succeed(lab.command("kill").arg(target));
        let list = succeed(Command::new(CAMBRIC).args(["lab", "list"]));
        assert!(list.contains("degraded") && list.contains("does not run"), "{target}: {list}");
        succeed(lab.command("restart").arg(target));
        succeed(lab.command("kubectl").args(["--", "get", "nodes"]));
    }
    let port = fs::read_to_string(lab.root().join("api/port")).unwrap();
    succeed(lab.command("restart").args(["--kill", "api"]));
    assert_eq!(fs::read_to_string(lab.root().join("api/port")).unwrap(), port);
    let error = lab.command("restart").arg("agent/node-9").output().unwrap();
    let error = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(error.contains("has no \"agent/node-9\"; it has api, agent/node-1, kubelet/node-1"), "{error}");
    succeed(&mut lab.command("down"));
    lab.assert_gone("after down");
}

#[test]
fn a_topology_that_cannot_be_used_makes_nothing() {
    let lab = Lab::new();
    let file = std::env::temp_dir().join(format!("{}.yaml", lab.0));
    fs::write(&file, "network: {podRanges: [10.244.0.0/16]}\nsubnets: []\nnodes: []\n").unwrap();
    let output = lab.up().arg(&file).output().unwrap();
    fs::remove_file(&file).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&format!("{}:2:10: subnets: a topology has", file.display())), "{error}");
    lab.assert_gone("after a bad topology");
}
