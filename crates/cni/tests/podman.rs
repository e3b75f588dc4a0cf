//! The plugin under a container runtime: podman with its CNI backend.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{DUAL, PLUGIN, TestNode, reaches, succeeded};
use kernel::netns;
use serde_json::{Value, json};

/// podman with all its state in the test's directory, in the node's network namespace and a mount namespace of its
/// own, which `holder` keeps.
struct Podman {
    root: PathBuf,
    holder: Child,
}

impl Podman {
    fn new(node: &TestNode) -> Podman {
        let root = node.directory.path().join("podman");
        for name in ["plugins", "networks"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        symlink(PLUGIN, root.join("plugins/cambric")).unwrap();
        let plugin = json!({ "type": "cambric", "nodeFile": node.node_file(), "dataDir": node.data_dir() });
        let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [plugin] });
        fs::write(root.join("networks/10-net.conflist"), list.to_string()).unwrap();
        let config = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{:?}, \"/usr/lib/cni\"]\n\
             network_config_dir = {:?}\ndefault_network = \"net\"\n\
             [engine]\nruntime = \"crun\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [containers]\nlog_driver = \"k8s-file\"\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
            root.join("plugins"),
            root.join("networks"),
        );
        fs::write(root.join("containers.conf"), config).unwrap();
        let holder = hold(node, &root);
        Podman { root, holder }
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let directory = |name: &str| self.root.join(name).into_os_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--target", &self.holder.id().to_string(), "podman"]);
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(directory(name));
        }
        command.args(["--storage-driver", "vfs"]).args(arguments);
        command.env("CONTAINERS_CONF", directory("containers.conf")).output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        succeeded(&format!("podman {}", arguments.join(" ")), &self.try_run(arguments))
    }

    /// Makes an image that holds nothing but busybox.
    fn image(&self) {
        let tree = self.root.join("image");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
        let archive = self.root.join("image.tar");
        let tar =
            Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg(".").output().unwrap();
        succeeded("tar", &tar);
        self.run(&["import", "--quiet", archive.to_str().unwrap(), "busybox"]);
    }
}

/// Starts what keeps the mount namespace. The runtime's cache of results has a fixed place, so the test's is mounted
/// there; network namespaces are mounted where they are in this namespace only; and what cannot be seen of cgroups
/// cannot be changed.
fn hold(node: &TestNode, root: &Path) -> Child {
    let cache = root.join("cache");
    fs::create_dir(&cache).unwrap();
    let inside = "mkdir -p /var/lib/cni && mount --bind \"$1\" /var/lib/cni && umount -R /sys/fs/cgroup; mount -t tmpfs none /sys/fs/cgroup && \
                  mount -t tmpfs none /run/netns && echo ready && exec cat";
    let mut holder = netns::run_in(&node.ns.ns, || {
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", inside, "sh"])
            .arg(cache)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    })
    .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    holder
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.try_run(&["rm", "--all", "--force", "--time", "0"]);
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_container_has_our_address_and_gives_it_back() {
    let node = TestNode::new("node", DUAL);
    let podman = Podman::new(&node);
    podman.image();
    let run = ["run", "--detach", "--cgroups=disabled", "--name", "web", "--network", "net", "busybox"];
    podman.run(&[&run[..], &["/bin/busybox", "sleep", "600"]].concat());
    let inspected: Value = serde_json::from_str(&podman.run(&["inspect", "web"])).unwrap();
    let network = &inspected[0]["NetworkSettings"]["Networks"]["net"];
    assert_eq!(network["IPAddress"], "10.244.1.2", "{network}");
    assert_eq!(network["GlobalIPv6Address"], "fd00:10:244:1::2", "{network}");
    assert_eq!(network["MacAddress"], "0a:58:0a:f4:01:02", "{network}");
    assert!(reaches(&node.ns, "10.244.1.2") && reaches(&node.ns, "fd00:10:244:1::2"));
    let shown = podman.run(&["exec", "web", "/bin/busybox", "ip", "route"]);
    assert!(shown.contains("default via 10.244.1.1 dev eth0"), "{shown}");

    // A second container reaches the first.
    let ping = [
        "run",
        "--rm",
        "--cgroups=disabled",
        "--network",
        "net",
        "busybox",
        "/bin/busybox",
        "ping",
        "-c",
        "1",
    ];
    podman.run(&[&ping[..], &["10.244.1.2"]].concat());
    podman.run(&[&ping[..], &["-6", "fd00:10:244:1::2"]].concat());

    podman.run(&["rm", "--force", "--time", "0", "web"]);
    assert_eq!(node.traces(), [] as [String; 0]);
}
