//! A node and pods as network namespaces, and the plugin called as a container runtime calls it. What it made is
//! looked at from outside, with `ip` and `nft`.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use kernel::Kernel;
use kernel::netns::{self, NetNs};
use model::{Cluster, Encapsulation, LinkName, NetworkConfig, Node, NodeName, PerFamily};
use plan::{Facts, Underlay};
use serde_json::{Value, json};

/// The plugin as cargo built it for a test.
pub const PLUGIN: &str = match option_env!("CARGO_BIN_EXE_cambric-cni") {
    Some(path) => path,
    None => "cambric-cni",
};
pub const DUAL: &[&str] = &["10.244.1.0/24", "fd00:10:244:1::/64"];
pub const V4: &[&str] = &["10.244.1.0/24"];
pub const V6: &[&str] = &["fd00:10:244:1::/64"];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A fresh namespace with a name, gone when it is dropped.
pub struct TestNs {
    pub name: String,
    pub ns: NetNs,
    pub path: PathBuf,
}

impl TestNs {
    pub fn new(kind: &str) -> TestNs {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cni-{}-{count}-{kind}", std::process::id());
        let path = PathBuf::from(netns::NAMED).join(&name);
        let ns = netns::create_named(&path).unwrap();
        TestNs { name, ns, path }
    }

    /// Runs a program in the namespace.
    pub fn try_run(&self, command: &str) -> Output {
        let words: Vec<_> = command.split_whitespace().collect();
        netns::run_in(&self.ns, || Command::new(words[0]).args(&words[1..]).output().unwrap()).unwrap()
    }

    /// Runs a program in the namespace; its output.
    pub fn run(&self, command: &str) -> String {
        succeeded(command, &self.try_run(command))
    }

    pub fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.run(command)).unwrap()
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.path);
    }
}

pub fn succeeded(what: &str, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}: {out}{err}", output.status);
    out.into_owned()
}

/// Runs a program with a text on its standard input.
pub fn converse(command: &mut Command, input: &str) -> Output {
    let mut child = command.spawn().unwrap();
    // One that is killed reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A node as the agent leaves it: bridge, tables and node file, from a plan.
pub struct TestNode {
    pub ns: TestNs,
    pub directory: tempfile::TempDir,
    pub ranges: Vec<String>,
}

impl TestNode {
    pub fn new(kind: &str, ranges: &[&str]) -> TestNode {
        let ns = TestNs::new(kind);
        for command in [
            "ip link set lo up",
            "ip link add uplink type veth peer name far",
            "ip addr add 192.0.2.1/24 dev uplink",
            "ip link set far up",
            "ip link set uplink up",
        ] {
            ns.run(command);
        }
        let node = TestNode {
            ns,
            directory: tempfile::tempdir().unwrap(),
            ranges: ranges.iter().map(|range| (*range).to_owned()).collect(),
        };
        node.reconcile();
        node
    }

    /// Does what the agent does at its start.
    pub fn reconcile(&self) {
        let name = NodeName::new("node-1").unwrap();
        let node = Node::parse(name.clone(), ["192.0.2.1"], self.ranges.iter().map(String::as_str)).unwrap();
        let encapsulation = Encapsulation::default();
        let network = NetworkConfig::parse(&self.ranges, &[], encapsulation, "auto").unwrap();
        let link = LinkName::new("eth0").unwrap();
        let underlay = PerFamily {
            v4: Some(Underlay { link, net: "192.0.2.1/24".parse().unwrap(), mtu: 1500 }),
            v6: None,
        };
        let file = plan::node_file(&network, &node, &underlay).unwrap();
        fs::write(self.node_file(), serde_json::to_vec(&file).unwrap()).unwrap();
        let cluster = Cluster {
            network,
            nodes: BTreeMap::from([(name.clone(), node)]),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        };
        let attachments = self.store().lock().unwrap().attachments().unwrap();
        let plan = plan::plan(&cluster, &name, &Facts { underlay, attachments, ..Facts::default() });
        let report =
            netns::run_in(&self.ns.ns, || Kernel::open()?.reconcile(&plan.entries)).unwrap().unwrap();
        assert!(report.failures.is_empty(), "{report}");
    }

    pub fn node_file(&self) -> PathBuf {
        self.directory.path().join("node.json")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("networks")
    }

    pub fn store(&self) -> cni::ipam::Store {
        cni::ipam::Store::new(self.data_dir(), "net")
    }

    pub fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "net",
            "type": "cambric",
            "nodeFile": self.node_file(),
            "dataDir": self.data_dir(),
        })
    }

    /// The plugin in the node's namespace, not started yet.
    pub fn plugin(&self, program: &[&str], command: &str, id: &str, netns: &Path) -> Command {
        let mut call = Command::new(program[0]);
        call.args(&program[1..])
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns)
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;MORE=1")
            .env("CNI_PATH", "/nowhere")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        call
    }

    /// Runs a program in the node's namespace with a configuration on its standard input.
    pub fn feed(&self, command: &mut Command, config: &Value) -> Output {
        netns::run_in(&self.ns.ns, || converse(command, &config.to_string())).unwrap()
    }

    /// Calls the plugin; its result, or its error.
    pub fn call(&self, command: &str, id: &str, netns: &Path, config: &Value) -> Result<Value, Value> {
        let output = self.feed(&mut self.plugin(&[PLUGIN], command, id, netns), config);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command}");
        let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect(&text) };
        if output.status.success() { Ok(value) } else { Err(value) }
    }

    pub fn add(&self, id: &str, pod: &TestNs) -> Result<Value, Value> {
        self.call("ADD", id, &pod.path, &self.config("1.1.0"))
    }

    pub fn del(&self, id: &str, pod: &TestNs) -> Result<Value, Value> {
        self.call("DEL", id, &pod.path, &self.config("1.1.0"))
    }

    pub fn check(&self, id: &str, pod: &TestNs, result: &Value) -> Result<Value, Value> {
        let mut config = self.config(result["cniVersion"].as_str().unwrap());
        config["prevResult"] = result.clone();
        self.call("CHECK", id, &pod.path, &config)
    }

    pub fn gc(&self, valid: &[&str]) -> Result<Value, Value> {
        let mut config = self.config("1.1.0");
        config["cni.dev/valid-attachments"] =
            valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
        self.call("GC", "", Path::new(""), &config)
    }

    /// All that belongs to pods on this node: links, set elements and address files.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for link in self.ns.json("ip -j link").as_array().unwrap() {
            let name = link["ifname"].as_str().unwrap();
            if name.starts_with("cbv") {
                traces.push(format!("link {name}"));
            }
        }
        traces.extend(self.elements());
        if let Ok(files) = fs::read_dir(self.data_dir().join("net")) {
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let kept = |name: &String| name == "lock" || name.starts_with("last_reserved_ip.");
            traces.extend(names.filter(|name| !kept(name)).map(|name| format!("file {name}")));
        }
        traces.sort();
        traces
    }

    fn elements(&self) -> Vec<String> {
        let output = self.ns.try_run("nft -j list table bridge cambric");
        if !output.status.success() {
            return Vec::new();
        }
        let ruleset: Value = serde_json::from_slice(&output.stdout).unwrap();
        let sets = ruleset["nftables"].as_array().unwrap().iter().filter_map(|entry| entry.get("set"));
        sets.flat_map(|set| {
            let elements = set["elem"].as_array().cloned().unwrap_or_default();
            elements.into_iter().map(|element| format!("element {}: {element}", set["name"]))
        })
        .collect()
    }
}

/// Whether one namespace reaches an address, at the first try.
pub fn reaches(from: &TestNs, address: &str) -> bool {
    from.try_run(&format!("ping -c 1 -W 2 {address}")).status.success()
}
