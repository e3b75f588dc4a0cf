//! One node in a namespace of its own, with the API beside it and the real agent; gone when dropped.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod news;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kernel::netns::{self, NetNs};
use serde_json::{Value, json};
use tokio::sync::oneshot;

static COUNT: AtomicU32 = AtomicU32::new(0);

const CAMBRIC: &str = env!("CARGO_BIN_EXE_cambric");
/// The namespace is the test's own, so the ports are always free.
const API_PORT: u16 = 6443;
const AGENT: &str = "127.0.0.1:9469";

/// How long a repair or a change may take on a machine that has a lot else to do. What it takes otherwise is checked
/// where repairs are.
pub const SOON: Duration = Duration::from_secs(5);
/// How long anything may take that has to start first.
pub const START: Duration = Duration::from_secs(20);

/// A node named `a`, with underlay addresses 192.0.2.1 and 2001:db8::1 on `eth0`.
pub struct Node {
    pub namespace: String,
    pub dir: tempfile::TempDir,
    api: Option<RunningApi>,
    agent: Option<Child>,
}

struct RunningApi {
    api: apiserver::Api,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Node {
    /// The node, with an API that knows it and the network.
    pub fn new() -> Node {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("cagt{}-{number}", process::id());
        run("ip", &format!("netns add {namespace}"));
        let mut node = Node { namespace, dir: tempfile::tempdir().unwrap(), api: None, agent: None };
        // Addresses are there at once, and forwarding is on from the start: cleanup leaves settings as they are.
        for setting in ["ipv6.conf.default.accept_dad=0", "ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1"] {
            node.exec(&format!("sysctl -q -w net.{setting}"));
        }
        for command in [
            "link set lo up",
            // Both ends stay here: there is nobody to talk to, but the link has a carrier.
            "link add eth0 type veth peer name cable",
            "link set cable up",
            "link set eth0 up",
            "address add 192.0.2.1/24 dev eth0",
            "address add 2001:db8::1/64 dev eth0 nodad",
        ] {
            node.ip(command);
        }
        node.settle();
        node.start_api();
        for crd in kube_source::crds() {
            let crd = serde_json::to_value(crd).unwrap();
            node.api().create("customresourcedefinitions.apiextensions.k8s.io", "", crd).unwrap();
        }
        node.put_node("a", 1);
        node.put_network(&json!({"podRanges": ["10.244.0.0/16", "fd00:10:244::/48"]}));
        node
    }

    /// The node with a second one in the cluster and a ready agent.
    pub fn ready() -> Node {
        let mut node = Node::new();
        node.put_node("b", 2);
        node.start_agent();
        node.wait_ready();
        node
    }

    pub fn api(&self) -> &apiserver::Api {
        &self.api.as_ref().unwrap().api
    }

    pub fn start_api(&mut self) {
        let directory = self.dir.path().join("api");
        let server = apiserver::Server::open(apiserver::Config::new(directory)).unwrap();
        let kubeconfig = server.kubeconfig(&format!("https://127.0.0.1:{API_PORT}"));
        std::fs::write(self.kubeconfig(), kubeconfig).unwrap();
        let listener = self.inside(|| TcpListener::bind(("127.0.0.1", API_PORT))).unwrap();
        let api = server.api().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let stopped = async { drop(stopped.await) };
            runtime.block_on(server.serve(vec![listener], stopped)).unwrap();
        });
        self.api = Some(RunningApi { api, stop, thread });
    }

    pub fn stop_api(&mut self) {
        let RunningApi { api, stop, thread } = self.api.take().unwrap();
        drop(api);
        let _ = stop.send(());
        thread.join().unwrap();
    }

    /// Makes or changes a node of the cluster, with the addresses of this number.
    pub fn put_node(&self, name: &str, number: u16) {
        let metadata = json!({"name": name});
        let spec =
            json!({"podCIDRs": [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number:x}::/64")]});
        // What an earlier call has made keeps its ranges: Kubernetes does not let them change.
        let _ = self.api().create("nodes", "", json!({"metadata": metadata, "spec": spec}));
        self.put_addresses(name, number);
    }

    pub fn put_addresses(&self, name: &str, number: u16) {
        self.put_status(name, &[&format!("192.0.2.{number}"), &format!("2001:db8::{number:x}")]);
    }

    pub fn put_status(&self, name: &str, addresses: &[&str]) {
        let entry = |address: &&str| json!({"type": "InternalIP", "address": address});
        let addresses: Vec<Value> = addresses.iter().map(entry).collect();
        let patch = json!({"status": {"addresses": addresses}});
        self.api().patch_status("nodes", "", name, &merge(patch)).unwrap();
    }

    /// Makes or changes the ClusterNetwork.
    pub fn put_network(&self, spec: &Value) {
        let kind = "clusternetworks.cambric.io";
        let metadata = json!({"name": "default"});
        let object = json!({
            "apiVersion": "cambric.io/v1alpha1", "kind": "ClusterNetwork", "metadata": metadata, "spec": spec,
        });
        if self.api().create(kind, "", object).is_err() {
            self.api().patch(kind, "", "default", &merge(json!({"spec": spec}))).unwrap();
        }
    }

    /// Makes or changes a service in the namespace `default`.
    pub fn put_service(&self, name: &str, spec: &Value) {
        let service = json!({"metadata": {"name": name}, "spec": spec});
        if self.api().create("services", "default", service).is_err() {
            let patch = merge(json!({"spec": spec}));
            self.api().patch("services", "default", name, &patch).unwrap();
        }
    }

    /// Makes or changes an endpoint slice of the service `web`, with these endpoints of one family.
    pub fn put_slice(&self, name: &str, addresses: &[&str]) {
        self.put_slice_of("web", name, addresses);
    }

    /// The same for another service.
    pub fn put_slice_of(&self, service: &str, name: &str, addresses: &[&str]) {
        let kind = "endpointslices.discovery.k8s.io";
        let endpoints: Vec<Value> =
            addresses.iter().map(|address| json!({"addresses": [address], "nodeName": "b"})).collect();
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": if addresses[0].contains(':') { "IPv6" } else { "IPv4" },
            "ports": [{"name": "", "port": 8080}],
            "endpoints": endpoints,
        });
        if self.api().create(kind, "default", slice).is_err() {
            let patch = merge(json!({"endpoints": endpoints}));
            self.api().patch(kind, "default", name, &patch).unwrap();
        }
    }

    pub fn network(&self) -> Value {
        self.api().read("clusternetworks.cambric.io", "", "default").unwrap()
    }

    pub fn start_agent(&mut self) {
        self.start_agent_with(&[]);
    }

    /// The same with more options.
    pub fn start_agent_with(&mut self, options: &[&str]) {
        assert!(self.agent.is_none());
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command("agent");
        command.args(["--node-name", "a", "--log-level", "debug", "--kubeconfig"]).arg(self.kubeconfig());
        for (option, directory) in
            [("--run-dir", "run"), ("--cni-conf-dir", "net.d"), ("--cni-data-dir", "networks")]
        {
            let path = self.dir.path().join(directory);
            std::fs::create_dir_all(&path).unwrap();
            command.arg(option).arg(path);
        }
        command.args(options);
        self.agent = Some(command.stderr(log).spawn().unwrap());
    }

    pub fn wait_ready(&self) {
        self.eventually(START, "the agent is ready", || {
            self.get("/readyz").is_some_and(|body| body == "ok\n")
        });
        self.settle();
    }

    /// Waits until the kernel has finished with addresses that it makes itself.
    fn settle(&self) {
        self.eventually(START, "no address is tentative", || !self.shows("ip -6 address", "tentative"));
    }

    pub fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &format!("-{signal} {}", self.pid()));
    }

    /// Ends the agent; whether it ended well.
    pub fn end_agent(&mut self, signal: &str) -> bool {
        self.signal(signal);
        self.agent.take().unwrap().wait().unwrap().success()
    }

    /// Runs `cambric cleanup`: whether it went well, and what it said.
    pub fn cleanup(&self) -> (bool, String) {
        let mut command = self.command("cleanup");
        for (option, directory) in
            [("--run-dir", "run"), ("--cni-conf-dir", "net.d"), ("--cni-data-dir", "networks")]
        {
            command.arg(option).arg(self.dir.path().join(directory));
        }
        let output = command.arg("--addresses").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// Waits until what an agent without the API would go by has a text in it.
    pub fn keeps(&self, text: &str) {
        let path = self.dir.path().join("run/state.json");
        let keeps = || std::fs::read_to_string(&path).is_ok_and(|state| state.contains(text));
        self.eventually(SOON, &format!("the state has {text}"), keeps);
    }

    /// What `cambric status` would show as wrong.
    pub fn problems(&self) -> Vec<String> {
        let status = std::fs::read(self.dir.path().join("run/status.json")).unwrap();
        let status: Value = serde_json::from_slice(&status).unwrap();
        serde_json::from_value(status["problems"].clone()).unwrap()
    }

    /// A command of the binary in the node's namespace.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, CAMBRIC, verb]);
        command
    }

    /// The body of the answer, if there is one, whatever its status.
    pub fn get(&self, path: &str) -> Option<String> {
        self.inside(|| {
            let mut stream = TcpStream::connect(AGENT).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
        })
    }

    /// The value of a metric; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(' ')));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    pub fn ip(&self, arguments: &str) -> String {
        run("ip", &format!("-n {} {arguments}", self.namespace))
    }

    pub fn exec(&self, command: &str) -> String {
        run("ip", &format!("netns exec {} {command}", self.namespace))
    }

    /// Whether the output of a command, which may fail, has a text in it.
    pub fn shows(&self, command: &str, text: &str) -> bool {
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &self.namespace]).args(command.split(' '));
        String::from_utf8_lossy(&run.output().unwrap().stdout).contains(text)
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = NetNs::open(Path::new(netns::NAMED).join(&self.namespace)).unwrap();
        netns::run_in(&namespace, work).unwrap()
    }

    /// Waits for something to become so.
    pub fn eventually(&self, patience: Duration, what: &str, so: impl Fn() -> bool) {
        let start = Instant::now();
        while !so() {
            if start.elapsed() > patience {
                let ready = self.get("/readyz");
                panic!("not within {patience:?}: {what}\nreadyz: {ready:?}\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a command's output has a text in it; how long that took.
    pub fn comes(&self, command: &str, text: &str) -> Duration {
        let start = Instant::now();
        self.eventually(SOON, &format!("{command} shows {text}"), || self.shows(command, text));
        start.elapsed()
    }

    /// Waits until a command's output does not have a text in it any more.
    pub fn goes(&self, command: &str, text: &str) {
        self.eventually(SOON, &format!("{command} does not show {text}"), || !self.shows(command, text));
    }

    /// Everything that concerns us, as the tools show it, without counters and ages.
    pub fn kernel_state(&self) -> String {
        let mut text = String::new();
        for command in [
            "ip -o link show",
            "ip -o address show",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip neigh show nud permanent",
            "bridge fdb show",
            "nft -s list ruleset",
        ] {
            text.push_str(&self.exec(command));
        }
        text
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if let Some(api) = self.api.take() {
            let _ = api.stop.send(());
            let _ = api.thread.join();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

pub fn merge(patch: Value) -> apiserver::patch::Patch {
    apiserver::patch::Patch::Merge(patch)
}

/// Runs a command, which must succeed; what it prints.
fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
