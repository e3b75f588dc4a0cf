//! Measures what the agent of one node costs in a big cluster: its memory, the time from its start until the node is as
//! planned, and that of another node's join. The API is the lab's, in this process; the agent is one of its own, in a
//! namespace without a way out. Nodes are as big as real ones: their images and conditions pass through the agent too.
//!
//! `cargo run --release -p cambric --example agent -- PATH-OF-CAMBRIC [NODES]`. Exits with a failure if the agent needs
//! more memory or time than it may.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use apiserver::patch::Patch;
use apiserver::{Api, Config, Server};
use kernel::netns::{self, NetNs};
use kernel::{Event, Kernel, Monitor};
use plan::Key;
use serde_json::{Value, json};

/// The most memory that the agent may ever have, in KiB.
const MEMORY: u64 = 60 * 1024;
/// The most time that it may take, once it has heard of all nodes, to plan and to make the kernel hold the plan.
const TIME: Duration = Duration::from_millis(1500);

/// How often the agent starts on a node that has nothing yet. The quickest start counts: others' work on the machine
/// blurs the clock.
const STARTS: usize = 3;
const JOINS: u32 = 50;
/// How many times everything is compared, before the memory is looked at again.
const COMPARISONS: u64 = 5;
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The namespace is this program's own, so the ports are free.
const API: &str = "127.0.0.1:6443";
const AGENT: &str = "127.0.0.1:9469";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let program = PathBuf::from(arguments.next().unwrap());
    let nodes: u32 = arguments.next().map_or(5000, |text| text.parse().unwrap());
    let place = Place::new();
    let (most, time) = netns::run_in(&place.namespace, || measure(&place, &program, nodes)).unwrap();
    let within = most <= MEMORY && time <= TIME;
    if !within {
        println!("too much: the agent may have {MEMORY} KiB, and {TIME:?} to plan and apply");
    }
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The most memory that the agent had, in KiB, and how long it took to plan and apply when it was quickest.
fn measure(place: &Place, program: &Path, nodes: u32) -> (u64, Duration) {
    println!("an agent among {nodes} nodes, IPv4 and IPv6");
    underlay(&place.name);
    let server = Server::open(Config::new(place.directory.path().join("api"))).unwrap();
    let kubeconfig = place.directory.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig(&format!("https://{API}"))).unwrap();
    let api = server.api().clone();
    populate(&api, nodes);
    let listener = TcpListener::bind(API).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.serve(vec![listener], std::future::pending())).unwrap();
    });

    let (mut agent, mut time) = from_nothing(place, program, &kubeconfig);
    for _ in 1..STARTS {
        drop(agent);
        let outcome = Kernel::open().unwrap().cleanup().unwrap();
        assert!(outcome.failures.is_empty(), "{}", outcome.failures[0]);
        let again;
        (agent, again) = from_nothing(place, program, &kubeconfig);
        time = time.min(again);
    }

    let mut monitor = Monitor::open().unwrap();
    let mut times: Vec<Duration> =
        (nodes..nodes + JOINS).map(|number| join(&api, &mut monitor, number)).collect();
    times.sort_unstable();
    let worst = format!("worst of {JOINS}: {:?}", times[times.len() - 1]);
    report("one node joins", times[times.len() / 2], &worst);
    drop(monitor);
    agent.wait_for_comparisons();
    agent.memory("after some comparisons");

    // Every entry is another then: both tunnel devices are made anew, and what is on them.
    agent.forget();
    let network = json!({"spec": {"encapsulation": {"vni": 7}}});
    let start = Instant::now();
    api.patch("clusternetworks.cambric.io", "", "default", &Patch::Merge(network)).unwrap();
    report(
        "another network",
        agent.says("applied a change of the cluster") - start,
        "a new network identifier",
    );
    agent.wait_for_comparisons();
    agent.memory("after that");
    (agent.status()["VmHWM"], time)
}

/// Starts the agent where nothing of ours is; how long it took to plan and apply.
fn from_nothing(place: &Place, program: &Path, kubeconfig: &Path) -> (Agent, Duration) {
    let start = Instant::now();
    let agent = Agent::start(program, kubeconfig, place.directory.path());
    let listed = agent.says("the API has listed all objects");
    let before = agent.processor_time();
    let compared = agent.says("compared the kernel with the plan for the first time");
    let processor = agent.processor_time() - before;
    agent.says("ready");
    report("start to list", listed - start, "over TLS, in pages");
    let time = compared - listed;
    report("plan and apply", time, &format!("from nothing; {processor:?} of processor time"));
    report("start to end", compared - start, "until the node is as planned");
    agent.memory("after the start");
    (agent, time)
}

/// A namespace and a directory, gone when dropped.
struct Place {
    namespace: NetNs,
    name: String,
    path: PathBuf,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let name = format!("agent-{}", std::process::id());
        let path = Path::new(netns::NAMED).join(&name);
        let namespace = netns::create_named(&path).unwrap();
        Place { namespace, name, path, directory: tempfile::tempdir().unwrap() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.path);
    }
}

/// The agent's process, ended when dropped, and what it says with the time at which it did.
struct Agent {
    process: Child,
    log: Receiver<(Instant, String)>,
    _directory: tempfile::TempDir,
}

impl Agent {
    fn start(program: &Path, kubeconfig: &Path, directory: &Path) -> Agent {
        // Not that of the agent before, or this one would know what it knew.
        let directory = tempfile::tempdir_in(directory).unwrap();
        let mut command = Command::new(program);
        command.args(["agent", "--node-name", &name(0), "--log-format", "json", "--sync-period", "1s"]);
        command.arg("--kubeconfig").arg(kubeconfig);
        for option in ["--run-dir", "--cni-conf-dir", "--cni-data-dir"] {
            let path = directory.path().join(option);
            fs::create_dir(&path).unwrap();
            command.arg(option).arg(path);
        }
        let mut process = command.env_remove("RUST_LOG").stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| sender.send((Instant::now(), line)))
        });
        Agent { process, log, _directory: directory }
    }

    /// Waits until the agent says this; when it did.
    fn says(&self, message: &str) -> Instant {
        loop {
            let (at, line) = self.log.recv_timeout(PATIENCE).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            assert!(!["ERROR", "WARN"].iter().any(|level| line["level"] == **level), "{line}");
            if line["message"] == message {
                return at;
            }
        }
    }

    /// Passes over what it has said up to now.
    fn forget(&self) {
        self.log.try_iter().for_each(drop);
    }

    /// The processor time that its threads have used (`/proc/PID/task/TID/schedstat`, in nanoseconds).
    fn processor_time(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let time = |thread: PathBuf| -> u64 {
            let text = fs::read_to_string(thread.join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        Duration::from_nanos(threads.map(|thread| time(thread.unwrap().path())).sum())
    }

    /// What the kernel says of the process' memory (proc_pid_status(5)), in KiB.
    fn status(&self) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let number = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.strip_suffix(" kB")?.trim().parse().ok()?))
        };
        text.lines().filter_map(number).collect()
    }

    fn memory(&self, when: &str) {
        let status = self.status();
        println!(
            "{:<20} {:>9} KiB {when} (most: {} KiB; {} KiB of it are the program's)",
            "memory", status["VmRSS"], status["VmHWM"], status["RssFile"]
        );
    }

    fn wait_for_comparisons(&self) {
        let before = comparisons();
        let start = Instant::now();
        while comparisons() < before + COMPARISONS {
            assert!(start.elapsed() < PATIENCE, "the agent does not compare");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How often the agent has compared everything.
fn comparisons() -> u64 {
    let mut stream = TcpStream::connect(AGENT).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let value = answer.lines().find_map(|line| line.strip_prefix("cambric_reconciles_total "));
    value.unwrap().parse().unwrap()
}

/// A link with the addresses of the first node and a wire to nowhere.
fn underlay(namespace: &str) {
    for command in [
        "link set lo up",
        "link add eth0 type veth peer name wire",
        "link set wire up",
        "link set eth0 up",
        "address add 172.16.0.1/16 dev eth0",
        "address add 2001:db8::1/64 dev eth0 nodad",
    ] {
        let output = Command::new("ip").args(["-n", namespace]).args(command.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn populate(api: &Api, nodes: u32) {
    let crd = serde_json::to_value(kube_source::crd()).unwrap();
    api.create("customresourcedefinitions.apiextensions.k8s.io", "", crd).unwrap();
    let network = json!({
        "apiVersion": "cambric.io/v1alpha1", "kind": "ClusterNetwork", "metadata": {"name": "default"},
        "spec": {"podRanges": ["10.128.0.0/9", "fd00:10::/32"]},
    });
    api.create("clusternetworks.cambric.io", "", network).unwrap();
    for number in 0..nodes {
        register(api, number);
        give_addresses(api, number);
    }
}

fn name(number: u32) -> String {
    format!("node-{number}")
}

/// Makes a node as it is before its kubelet has said where it is.
fn register(api: &Api, number: u32) {
    let (high, low) = (number / 256, number % 256);
    let ranges = [format!("10.{}.{low}.0/24", 128 + high), format!("fd00:10:{high:x}:{low:x}::/64")];
    let labels: BTreeMap<String, String> =
        (0..10).map(|label| (format!("example.com/label-{label}"), format!("value-{label}"))).collect();
    let metadata = json!({"name": name(number), "labels": labels});
    let node = json!({"metadata": metadata, "spec": {"podCIDR": ranges[0], "podCIDRs": ranges}});
    api.create("nodes", "", node).unwrap();
}

/// Says where a node is, with all else that a kubelet says.
fn give_addresses(api: &Api, number: u32) {
    let (high, low) = (number / 250, number % 250 + 1);
    let addresses = [format!("172.16.{high}.{low}"), format!("2001:db8::{high:x}:{low:x}")];
    let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
    let image = |image| {
        let name = format!("registry.example.com/team/image-{image}");
        json!({"names": [format!("{name}@sha256:{image:064x}"), format!("{name}:v1")], "sizeBytes": 123_456_789})
    };
    let images: Vec<Value> = (0..50).map(image).collect();
    let condition = |kind| {
        json!({"type": kind, "status": "False", "lastHeartbeatTime": "2030-01-01T00:00:00Z",
            "reason": format!("KubeletHasNo{kind}"), "message": format!("kubelet has no {kind}")})
    };
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(condition);
    let status = json!({"addresses": addresses, "images": images, "conditions": conditions});
    api.patch_status("nodes", "", &name(number), &Patch::Merge(json!({"status": status}))).unwrap();
}

/// The time from the write of a new node's addresses until the last route to its pods is there.
fn join(api: &Api, monitor: &mut Monitor, number: u32) -> Duration {
    register(api, number);
    let start = Instant::now();
    give_addresses(api, number);
    let mut missing = 2;
    while missing > 0 {
        let events = monitor.wait(Some(PATIENCE)).unwrap();
        assert!(!events.is_empty() && !events.contains(&Event::Overrun), "no route to {}", name(number));
        let route = |event: &&Event| matches!(event, Event::Entry { key: Key::Route(_), found: Some(_) });
        missing -= events.iter().filter(route).count();
    }
    start.elapsed()
}

fn report(what: &str, time: Duration, note: &str) {
    println!("{what:<20} {:>9.3} ms  {note}", time.as_secs_f64() * 1e3);
}
