//! Ordinary manifests in a lab: pods that answer, spread over the nodes, and nothing left of those that are gone.

#![allow(missing_docs, clippy::unwrap_used)]

mod lab_common;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns;
use lab_common::{Lab, Pod, until};
use serde_json::Value;

/// A manifest as anybody would write it, with an image that is not there.
const NGINX: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, labels: {app: nginx}}
spec:
  replicas: 3
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
        - name: nginx
          image: nginx:1.27
          ports: [{containerPort: 80}]
";

#[test]
fn an_ordinary_deployment_answers_on_every_node() {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(NGINX);
    rolled_out(&lab, "nginx");
    let pods = lab.pods();
    let mut nodes: Vec<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-1", "node-2", "node-3"]);
    for from in &pods {
        for to in &pods {
            for (own, address) in [(from.v4(), to.v4()), (from.v6(), to.v6())] {
                let answer = asked(from, address, 80);
                assert_eq!(answer["pod"], to.name.as_str());
                let source: SocketAddr = answer["source"].as_str().unwrap().parse().unwrap();
                assert_eq!(source.ip(), own, "{answer}");
            }
        }
    }

    // The deployment's template changes: all pods are replaced.
    lab.run("kubectl", &["--", "set", "image", "deployment/nginx", "nginx=nginx:1.28"]);
    rolled_out(&lab, "nginx");
    lab.run("kubectl", &["--", "wait", "--for=delete", &format!("pod/{}", pods[0].name), "--timeout=60s"]);
    lab.run("kubectl", &["--", "rollout", "undo", "deployment/nginx"]);
    rolled_out(&lab, "nginx");
}

#[test]
fn pods_outlive_their_kubelet_and_the_api() {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(lab_common::PODS);
    let before = lab.pods();
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut stream = connect(&a, b.v4(), 8080);
    stream.write_all(b"ECHO\n").unwrap();
    lab.run("restart", &["--kill", "kubelet/node-1"]);
    lab.run("restart", &["--kill", "kubelet/node-2"]);
    lab.run("restart", &["--kill", "api"]);
    echoes(&mut stream);
    let after = lab.pods();
    let facts = |pods: &[Pod]| -> Vec<_> {
        pods.iter().map(|pod| (pod.name.clone(), pod.addresses.clone(), pod.netns.clone())).collect()
    };
    assert_eq!(facts(&after), facts(&before));

    // What was deleted while its kubelet was away goes when the kubelet is back.
    lab.run("kill", &["kubelet/node-1"]);
    lab.run("kubectl", &["--", "delete", "pod", "a", "--wait=false"]);
    lab.run("restart", &["kubelet/node-1"]);
    lab.run("kubectl", &["--", "wait", "--for=delete", "pod/a", "--timeout=60s"]);
    assert!(!a.netns.exists());
    lab.run("kubectl", &["--", "delete", "pod", "--all", "--timeout=60s"]);
    nothing_left(&lab);
}

#[test]
fn scaling_up_and_down_leaves_nothing_behind() {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(NGINX);
    for _ in 0..10 {
        lab.run("kubectl", &["--", "scale", "deployment/nginx", "--replicas=60"]);
        rolled_out(&lab, "nginx");
        let mut addresses: Vec<IpAddr> = lab.pods().into_iter().flat_map(|pod| pod.addresses).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 120, "two addresses each, and no two alike");
        lab.run("kubectl", &["--", "scale", "deployment/nginx", "--replicas=0"]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !lab.pods().is_empty() {
            assert!(Instant::now() < deadline, "there are still {} pods", lab.pods().len());
            thread::sleep(Duration::from_millis(50));
        }
        nothing_left(&lab);
    }
}

fn rolled_out(lab: &Lab, deployment: &str) {
    let name = format!("deployment/{deployment}");
    lab.run("kubectl", &["--", "rollout", "status", &name, "--timeout=60s"]);
}

fn connect(from: &Pod, to: IpAddr, port: u16) -> TcpStream {
    let stream = netns::run_in(&from.enter(), || {
        TcpStream::connect_timeout(&(to, port).into(), Duration::from_secs(5))
    });
    let stream = stream.unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// What the echo server at an address says.
fn asked(from: &Pod, to: IpAddr, port: u16) -> Value {
    let mut stream = connect(from, to, port);
    stream.write_all(b"GET /json HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"still there").unwrap();
    let mut back = [0; 11];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there");
}

/// The kubelet's own file of a pod is the last to go, after the pod's object.
fn nothing_left(lab: &Lab) {
    until("something is left of pods", || left(lab), Vec::is_empty);
}

/// What is left of pods when there should be none: namespaces, ports of the bridges, files.
fn left(lab: &Lab) -> Vec<String> {
    let mut left = Vec::new();
    let root = PathBuf::from("/run/cambric-lab").join(&lab.name).join("nodes");
    for node in ["node-1", "node-2", "node-3"] {
        let prefix = format!("{}--", lab.namespace(node));
        left.extend(names(Path::new("/run/netns")).into_iter().filter(|name| name.starts_with(&prefix)));
        let links = lab.inside(node, "ip -br link show master cbr0");
        left.extend(links.lines().filter(|line| line.starts_with("cbv")).map(str::to_owned));
        let own = root.join(node);
        left.extend(names(&own.join("pods")));
        left.extend(names(&own.join("log/pods")));
        // Addresses are files named after them.
        let files = names(&own.join("cni-data/cambric"));
        left.extend(files.into_iter().filter(|name| name.parse::<IpAddr>().is_ok()));
    }
    left
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
