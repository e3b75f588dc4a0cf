//! The plugin under the CNI project's own runtime, `cnitool`, alone and with plugins of others after it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{DUAL, PLUGIN, TestNode, TestNs, V4, reaches, succeeded};
use kernel::netns;
use serde_json::{Value, json};

/// Where Debian's containernetworking-plugins are.
const OTHERS: &str = "/usr/lib/cni";

/// cnitool for one node, with its configurations and its cache in the test's own directory.
struct CniTool {
    program: PathBuf,
    plugins: PathBuf,
    configs: PathBuf,
    cache: PathBuf,
}

impl CniTool {
    fn new(node: &TestNode) -> CniTool {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/cnitool.sh");
        let program = succeeded("scripts/cnitool.sh", &Command::new(script).output().unwrap());
        let directory = |name: &str| {
            let path = node.directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let tool = CniTool {
            program: PathBuf::from(program.trim()),
            plugins: directory("plugins"),
            configs: directory("configs"),
            cache: directory("cache"),
        };
        symlink(PLUGIN, tool.plugins.join("cambric")).unwrap();
        tool
    }

    /// Installs a network of our plugin, with others after it.
    fn configure(&self, node: &TestNode, version: &str, others: &[Value]) {
        let mut plugins = vec![json!({
            "type": "cambric", "nodeFile": node.node_file(), "dataDir": node.data_dir(),
        })];
        plugins.extend_from_slice(others);
        let list = json!({ "cniVersion": version, "name": "net", "plugins": plugins });
        fs::write(self.configs.join("net.conflist"), list.to_string()).unwrap();
    }

    /// Runs cnitool in the node's namespace. Its cache, which has a fixed place, is one of the test's directories,
    /// mounted there for it alone.
    fn run(&self, node: &TestNode, command: &str, pod: &Path, capabilities: &Value) -> Output {
        netns::run_in(&node.ns.ns, || {
            let inside = "mkdir -p /var/lib/cni && mount --bind \"$1\" /var/lib/cni && shift && exec \"$@\"";
            Command::new("unshare")
                .args(["--mount", "sh", "-c", inside, "sh"])
                .args([&self.cache, &self.program])
                .args([command, "net"])
                .arg(pod)
                .env("CNI_PATH", format!("{}:{OTHERS}", self.plugins.display()))
                .env("NETCONFPATH", &self.configs)
                .env("CAP_ARGS", capabilities.to_string())
                .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0")
                .output()
                .unwrap()
        })
        .unwrap()
    }
}

#[test]
fn add_check_del_in_every_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("pod"));
        let tool = CniTool::new(&node);
        tool.configure(&node, version, &[]);
        let run = |command: &str| tool.run(&node, command, &pod.path, &json!({}));
        let result: Value = serde_json::from_str(&succeeded("add", &run("add"))).unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["address"], "10.244.1.2/24");
        assert_eq!(result["ips"][1]["gateway"], "fd00:10:244:1::1");
        assert!(reaches(&pod, "10.244.1.1") && reaches(&pod, "fd00:10:244:1::1"));
        if version != "0.3.1" {
            succeeded("check", &run("check"));
            pod.run("ip addr flush dev eth0");
            let failed = run("check");
            assert!(String::from_utf8_lossy(&failed.stderr).contains("lacks the address 10.244.1.2/24"));
        }
        for _ in 0..2 {
            succeeded("del", &run("del"));
            assert_eq!(node.traces(), [] as [String; 0], "{version}");
        }
    }
}

#[test]
fn status_and_gc() {
    let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("pod"));
    let tool = CniTool::new(&node);
    tool.configure(&node, "1.1.0", &[]);
    let run = |command: &str| tool.run(&node, command, &pod.path, &json!({}));
    succeeded("status", &run("status"));
    node.ns.run("ip link set cbr0 down");
    let failed = run("status");
    assert!(
        !failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("bridge cbr0 is down")
    );
    node.reconcile();

    succeeded("add", &run("add"));
    // One that the runtime has forgotten.
    let lost = TestNs::new("lost");
    node.add("lost", &lost).unwrap();
    // cnitool calls nothing valid, so it detaches all that it knows of, and the plugin finds the other.
    succeeded("gc", &run("gc"));
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn plugins_of_others_after_it() {
    // portmap's own CHECK (version 1.1.1) looks for the rules of either family in both, so it goes without.
    for (version, ranges, portmap) in [("0.4.0", V4, true), ("1.0.0", DUAL, true), ("1.0.0", DUAL, false)] {
        let (node, pod) = (TestNode::new("node", ranges), TestNs::new("pod"));
        let tool = CniTool::new(&node);
        let mut others = vec![
            json!({ "type": "bandwidth", "ingressRate": 800_000_000, "ingressBurst": 8_000_000 }),
            json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "512" } }),
        ];
        if portmap {
            others.push(json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }));
        }
        tool.configure(&node, version, &others);
        let mapping =
            json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
        let run = |command: &str| tool.run(&node, command, &pod.path, &mapping);

        let result: Value = serde_json::from_str(&succeeded("add", &run("add"))).unwrap();
        assert_eq!(result["ips"].as_array().unwrap().len(), ranges.len(), "{result}");
        assert_eq!(pod.run("sysctl -n net.core.somaxconn").trim(), "512");
        let host = result["interfaces"][0]["name"].as_str().unwrap();
        assert!(node.ns.run(&format!("tc qdisc show dev {host}")).contains("tbf"), "{result}");
        if portmap {
            published(&node, &pod);
        } else {
            succeeded("check", &run("check"));
        }
        succeeded("del", &run("del"));
        assert_eq!(node.traces(), [] as [String; 0], "{version}");
        assert!(!node.ns.run("iptables-save").contains("8080"), "{version}");
    }
}

/// Somebody outside reaches a server in the pod by the node's port.
fn published(node: &TestNode, pod: &TestNs) {
    let outside = TestNs::new("outside");
    node.ns.run(&format!("ip link set far netns {}", outside.name));
    outside.run("ip addr add 192.0.2.9/24 dev far");
    outside.run("ip link set far up");
    let server =
        || Command::new("busybox").args(["nc", "-l", "-p", "80", "-e", "echo", "here"]).spawn().unwrap();
    let mut server = netns::run_in(&pod.ns, server).unwrap();
    while !pod.run("ss -Hltn sport = 80").contains(":80") {
        std::thread::yield_now();
    }
    let output = outside.try_run("timeout 5 busybox nc 192.0.2.1 8080");
    let _ = server.kill();
    server.wait().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "here\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn addresses_are_shared_with_the_reference() {
    let (node, pod) = (TestNode::new("node", V4), TestNs::new("pod"));
    let host_local = |command: &str, id: &str| {
        let mut config = node.config("1.0.0");
        config["ipam"] = json!({
            "type": "host-local", "dataDir": node.data_dir(), "ranges": [[{ "subnet": V4[0] }]],
        });
        let program = format!("{OTHERS}/host-local");
        let output = node.feed(&mut node.plugin(&[&program], command, id, &pod.path), &config);
        let text = succeeded("host-local", &output);
        serde_json::from_str::<Value>(&text).unwrap_or_default()["ips"][0]["address"].clone()
    };
    // A node moves from the reference to us and back with its pods running.
    assert_eq!(host_local("ADD", "theirs"), "10.244.1.2/24");
    let ours = node.add("ours", &pod).unwrap();
    assert_eq!(ours["ips"][0]["address"], "10.244.1.3/24");
    assert_eq!(host_local("ADD", "later"), "10.244.1.4/24");
    let store = node.store();
    assert_eq!(store.lock().unwrap().attachments().unwrap().len(), 3);

    // Either takes back what the other gave.
    node.call("DEL", "theirs", Path::new(""), &node.config("1.1.0")).unwrap();
    host_local("DEL", "ours");
    let left = store.lock().unwrap().attachments().unwrap();
    assert_eq!(left.iter().map(|each| each.id.container_id.as_str()).collect::<Vec<_>>(), ["later"]);
    node.gc(&[]).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);
}
