//! Connections to services of a lab while agents are killed and pods come and go: none fails, and an agent that starts
//! writes nothing that was right.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use kernel::netns::{self, NetNs};
use kernel::{Event, Monitor};
use lab_common::Lab;
use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits before it connects again.
const PAUSE: Duration = Duration::from_millis(2);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Two servers on each node, a service before them, and a client on a node.
const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: echo
          ports: [{containerPort: 8080, protocol: TCP}, {containerPort: 8080, protocol: UDP}]
          # A container runs before it listens.
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          # And goes on to listen until the nodes know that it is no endpoint any more.
          lifecycle: {preStop: {sleep: {seconds: 1}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ipFamilyPolicy: RequireDualStack
  ports:
    - {name: http, port: 80, targetPort: 8080, protocol: TCP}
    - {name: datagrams, port: 80, targetPort: 8080, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: node-1
  containers: [{name: client, image: client, command: [sleep, infinity]}]
";

#[test]
fn killed_agents_cost_no_connection_and_write_nothing() {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(MANIFEST);
    let addresses = cluster_addresses(&lab);
    let pod = lab.pod("client");
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for (what, namespace) in [("a pod", pod.enter()), ("a node", lab.enter("node-1"))] {
        let namespace = Arc::new(namespace);
        for address in &addresses {
            let to = SocketAddr::new(*address, 80);
            // The agent has heard of the service when it answers.
            reached_in_time(&namespace, to);
            clients.push(Client::start(format!("{what} to {to}"), namespace.clone(), to, &stop));
        }
    }
    for node in NODES {
        let mut monitor = netns::run_in(&lab.enter(node), || Monitor::open().unwrap()).unwrap();
        lab.run("restart", &["--kill", &format!("agent/{node}")]);
        lab.agent_ready(node);
        let events = monitor.wait(Some(Duration::from_millis(500))).unwrap();
        let written: Vec<&Event> =
            events.iter().filter(|event| matches!(event, Event::Services | Event::Table)).collect();
        assert!(written.is_empty(), "{node}: the agent that was restarted wrote: {written:?}");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (what, connections) = client.finish();
        assert!(connections > 50, "{what}: {connections} connections");
    }
}

/// Endpoints come when their pods are ready, and go before those end.
#[test]
fn pods_that_come_and_go_cost_no_connection() {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(MANIFEST);
    let pod = Arc::new(lab.pod("client").enter());
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for address in cluster_addresses(&lab) {
        let to = SocketAddr::new(address, 80);
        reached_in_time(&pod, to);
        clients.push(Client::start(format!("a pod to {to}"), pod.clone(), to, &stop));
    }
    for replicas in ["9", "3", "6"] {
        let replicas = format!("--replicas={replicas}");
        lab.run("kubectl", &["--", "scale", "deployment", "web", &replicas]);
        lab.run("kubectl", &["--", "rollout", "status", "deployment", "web", "--timeout=60s"]);
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (what, connections) = client.finish();
        assert!(connections > 50, "{what}: {connections} connections");
    }
}

fn cluster_addresses(lab: &Lab) -> Vec<IpAddr> {
    let service: Value =
        serde_json::from_str(&lab.run("kubectl", &["--", "get", "service", "web", "-o", "json"])).unwrap();
    let addresses = service["spec"]["clusterIPs"].as_array().unwrap();
    assert_eq!(addresses.len(), 2, "{service}");
    addresses.iter().map(|address| address.as_str().unwrap().parse().unwrap()).collect()
}

/// Who connects all the time, and sends datagrams.
struct Client {
    what: String,
    thread: thread::JoinHandle<()>,
    connections: Arc<AtomicU64>,
}

impl Client {
    fn start(what: String, namespace: Arc<NetNs>, to: SocketAddr, stop: &Arc<AtomicBool>) -> Client {
        let connections = Arc::new(AtomicU64::new(0));
        let (counted, stop, named) = (connections.clone(), stop.clone(), what.clone());
        let thread = thread::spawn(move || {
            // Connection tracking remembers where datagrams of a port went for half a minute. One that is used again in the
            // moment between an endpoint's end and the news of it leads there, as everywhere in Kubernetes.
            let mut ports = if to.is_ipv4() { 20_000..40_000 } else { 40_000..60_000 };
            while !stop.load(Ordering::Relaxed) {
                let port = ports.next().unwrap();
                let exchanged = netns::run_in(&namespace, || {
                    ask(to)?;
                    ask_by_datagram(port, to)
                });
                exchanged.unwrap().unwrap_or_else(|error| panic!("{named}: {error}"));
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        });
        Client { what, thread, connections }
    }

    fn finish(self) -> (String, u64) {
        self.thread.join().unwrap_or_else(|_| panic!("{}: a connection failed", self.what));
        (self.what, self.connections.load(Ordering::Relaxed))
    }
}

/// Waits until a service answers.
fn reached_in_time(namespace: &NetNs, to: SocketAddr) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = netns::run_in(namespace, || ask(to)).unwrap() {
        assert!(std::time::Instant::now() < deadline, "{to}: {error}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn ask(to: SocketAddr) -> std::io::Result<()> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    (&stream).write_all(b"JSON\n")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    assert!(line.starts_with('{'), "{line:?}");
    Ok(())
}

fn ask_by_datagram(port: u16, to: SocketAddr) -> std::io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    let socket = UdpSocket::bind((any, port))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"JSON")?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer)?;
    assert!(answer[..length].starts_with(b"{"));
    Ok(())
}
