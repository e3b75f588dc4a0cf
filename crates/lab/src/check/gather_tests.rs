//! The check against the kernel, without an API: machines, nodes programmed by their plans, and pods. What is broken
//! by hand must be noticed.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::Kernel;
use kernel::netns::{self, NetNs};
use kernel::pod::{PodNs, Wanted, attach};
use kernel::rtnl::RouteSocket;
use model::{Attachment, AttachmentId, Cluster, LinkName, Node, PerFamily, PodRange};
use plan::Facts;

use super::*;
use crate::check::cast::{self, Cast, PROTOCOLS, Role};
use crate::check::judge::{Judged, Verdict, all_so, judge};
use crate::check::view::Container;
use crate::echo::{self, EchoPort};
use crate::fabric;
use crate::paths::LabName;
use crate::topology;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The pods of each node, by number.
const PODS: u16 = 2;
/// The containers of each pod, with the port of the echo server in it.
const CONTAINERS: [(&str, u16); 2] = [("left", 8081), ("right", 8082)];

struct Harness {
    view: View,
    /// A process in each pod, standing for its container.
    children: Vec<Child>,
    namespaces: Vec<PathBuf>,
    /// A directory for each node's programs of IP in IP.
    pins: tempfile::TempDir,
}

impl Harness {
    fn up(topology: &str) -> Harness {
        let topology = topology::parse(topology).unwrap();
        let name =
            LabName::new(format!("g{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))).unwrap();
        let mut harness = Harness {
            view: View {
                cluster: cluster(&topology),
                lab: name.clone(),
                topology: topology.clone(),
                pods: Vec::new(),
                heard: BTreeMap::new(),
            },
            children: Vec::new(),
            namespaces: Vec::new(),
            pins: tempfile::tempdir().unwrap(),
        };
        fabric::build(&name, &topology, |namespace| {
            harness.namespaces.push(fabric::namespace_path(namespace));
            Ok(())
        })
        .unwrap();
        let nodes: Vec<Node> = harness.view.cluster.nodes.values().cloned().collect();
        let mut attached = Vec::new();
        for node in &nodes {
            harness.program(node, Vec::new());
            attached.push((0..PODS).map(|number| harness.pod(node, number)).collect::<Vec<Attachment>>());
        }
        harness.services();
        for (node, attachments) in nodes.iter().zip(attached) {
            harness.program(node, attachments);
        }
        harness
    }

    /// The check's services, with addresses and node ports as the API would give them.
    fn services(&mut self) {
        let ranges = self.view.cluster.network.service_ranges.clone();
        for (role, number) in Role::ALL.into_iter().zip(1u16..) {
            let addresses = ranges.iter().map(|range| match range.network() {
                IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(number)).into()),
                IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
            });
            let node_ports = PROTOCOLS.map(|(_, protocol)| (protocol, 30_000 + number)).into();
            let service = cast::service(role, addresses.collect(), &node_ports);
            let slices = Cast::of(&self.view).unwrap().slices(role);
            self.view.cluster.services.insert(service.name.clone(), service);
            self.view.cluster.slices.extend(slices.into_iter().map(|slice| (slice.name.clone(), slice)));
        }
    }

    /// Makes a node's kernel hold its plan.
    fn program(&self, node: &Node, attachments: Vec<Attachment>) {
        let underlay = self.view.topology.underlay(node.name.as_str());
        let facts = Facts { attachments, underlay, ..Facts::default() };
        let plan = plan::plan(&self.view.cluster, &node.name, &facts);
        assert_eq!(plan.problems, []);
        let namespace = self.view.machine_namespace(node.name.as_str()).unwrap();
        let pins = self.pins.path().join(node.name.as_str());
        let report = netns::run_in(&namespace, || {
            let mut kernel = Kernel::open()?;
            kernel.pin_in(&pins);
            kernel.reconcile_services(&plan.services)?;
            kernel.reconcile(&plan.entries)
        })
        .unwrap()
        .unwrap();
        let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        assert_eq!(failures, Vec::<String>::new());
    }

    /// Makes a pod of two containers, each of which is an echo server.
    fn pod(&mut self, node: &Node, number: u16) -> Attachment {
        let name = format!("p{number}-{}", node.name);
        let path = fabric::namespace_path(&format!(
            "{}{number}",
            self.view.lab.pod_namespace_prefix(node.name.as_str())
        ));
        let namespace = netns::create_named(&path).unwrap();
        self.namespaces.push(path.clone());
        let ranges: Vec<PodRange> = node.pod_ranges.iter().copied().collect();
        let attachment = Attachment {
            // As the check has it on paper.
            id: AttachmentId { container_id: format!("default/{name}"), ifname: "eth0".to_owned() },
            addresses: ranges.iter().map(|range| nth(range, number)).collect(),
        };
        let wanted = Wanted {
            attachment: &attachment,
            name: &LinkName::new("eth0").unwrap(),
            bridge: &LinkName::bridge(),
            mtu: 1400,
            ranges: &ranges,
            pod: &format!("default/{name}"),
        };
        let in_node = self.view.machine_namespace(node.name.as_str()).unwrap();
        netns::run_in(&in_node, || attach(&mut RouteSocket::open()?, &mut PodNs::open(&path)?, &wanted))
            .unwrap()
            .unwrap();
        netns::run_in(&namespace, || {
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
        })
        .unwrap();
        let mut addresses = PerFamily::default();
        for address in &attachment.addresses {
            addresses.insert(Family::of(address), *address);
        }
        let containers = CONTAINERS.map(|(container, port)| {
            serve(&namespace, &name, node.name.as_str(), container, port);
            self.container(&namespace, container, port)
        });
        self.view.pods.push(Pod {
            namespace: "default".to_owned(),
            name,
            uid: "uid".to_owned(),
            node: node.name.clone(),
            addresses,
            containers: containers.to_vec(),
            netns: path,
        });
        attachment
    }

    /// A process that stands for a container.
    fn container(&mut self, namespace: &NetNs, name: &str, port: u16) -> Container {
        let mut command = Command::new("sh");
        command.args(["-c", "echo here; read end"]).env("CAMBRIC_POD_UID", "uid");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns::run_in(namespace, || command.spawn()).unwrap().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = i32::try_from(child.id()).ok();
        self.children.push(child);
        let ports = Transport::BOTH.into_iter().map(|transport| (port, transport));
        Container { name: name.to_owned(), ports: ports.collect(), pid }
    }

    fn judged(&self) -> Vec<Judged> {
        judge(&gather(&self.view, &mut |_| Ok(())).unwrap())
    }

    fn inside(&self, machine: &str, words: &str) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.view.lab.namespace(machine)])
            .args(words.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for path in &self.namespaces {
            let _ = netns::remove_named(path);
        }
        for node in self.view.cluster.nodes.keys() {
            let pins = self.pins.path().join(node.as_str());
            let _ = nix::mount::umount2(&pins, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// An echo server for as long as the tests run.
fn serve(namespace: &NetNs, pod: &str, node: &str, container: &str, port: u16) {
    let options = echo::Options {
        ports: vec![EchoPort { port, protocol: None }],
        pod: pod.to_owned(),
        namespace: "default".to_owned(),
        node: node.to_owned(),
        container: container.to_owned(),
        notify: false,
    };
    let path = namespace.path().to_owned();
    thread::spawn(move || {
        let _stay = NetNs::open(path).unwrap().enter().unwrap();
        echo::run(&options).unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    while probe::ask(namespace, ([127, 0, 0, 1], port).into(), Transport::Tcp, 1).result.is_err() {
        assert!(Instant::now() < deadline, "no echo server in {pod}");
        thread::yield_now();
    }
}

fn cluster(topology: &topology::Topology) -> Cluster {
    let families = &topology.network.config.pod_ranges;
    let node = |(index, machine): (usize, &Machine)| {
        let ranges = families.iter().map(|range| match range.family() {
            Family::V4 => format!("10.244.{index}.0/24"),
            Family::V6 => format!("fd00:10:244:{index}::/64"),
        });
        let addresses: Vec<String> = machine.addresses().iter().map(ToString::to_string).collect();
        let ranges: Vec<String> = ranges.collect();
        let name = NodeName::new(machine.name.as_str()).unwrap();
        let node = Node::parse(
            name.clone(),
            addresses.iter().map(String::as_str),
            ranges.iter().map(String::as_str),
        );
        (name, node.unwrap())
    };
    Cluster {
        network: topology.network.config.clone(),
        nodes: topology.nodes().enumerate().map(node).collect(),
        services: BTreeMap::new(),
        slices: BTreeMap::new(),
    }
}

fn nth(range: &PodRange, number: u16) -> IpAddr {
    match range.first_pod() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(number)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
    }
}

/// The rows and additions that failed, and everything that is wrong with them.
fn failed(judged: &[Judged]) -> (Vec<&'static str>, String) {
    let failures = judged.iter().filter(|one| matches!(one.verdict, Verdict::NotSo(_)));
    (failures.clone().map(|one| one.title).collect(), format!("{:#?}", failures.collect::<Vec<_>>()))
}

const DUAL: &str = include_str!("../../../../examples/labs/vxlan.yaml");
const V4: &str = include_str!("../../../../examples/labs/vxlan-v4.yaml");
const V6: &str = include_str!("../../../../examples/labs/vxlan-v6.yaml");

/// Small, because every packet that does not come takes its time.
const TWO_NODES: &str = "
network: {podRanges: [10.244.0.0/16], serviceRanges: [10.96.0.0/24]}
subnets: [{name: nodes, prefixes: [192.0.2.0/24]}, {name: world, prefixes: [198.51.100.0/24]}]
routers: [{name: router, subnets: [nodes, world]}]
nodes: [{name: node-1, subnet: nodes}, {name: node-2, subnet: nodes}]
outside: [{name: client, subnet: world}]
";

#[test]
fn what_plans_make_of_machines_is_proved() {
    for topology in [DUAL, V4, V6] {
        let harness = Harness::up(topology);
        let judged = harness.judged();
        assert!(all_so(&judged), "{judged:#?}");
        let proved = judged.iter().filter(|one| one.verdict == Verdict::So).count();
        // Seven rows, three forgeries with pods of other nodes and one with pods of the same, and of services five more of
        // pods and nodes, four of hosts outside.
        assert_eq!(proved, 20, "{judged:#?}");
    }
}

#[test]
fn what_is_broken_by_hand_is_noticed() {
    type Broken = (&'static [&'static str], &'static [&'static str], &'static str);
    let cases: &[Broken] = &[
        (&["ip route del 10.244.1.0/24 proto 203"], &["pod to pod, other node"], "cannot connect"),
        (
            &[
                "nft add table ip intruder",
                "nft add chain ip intruder post { type nat hook postrouting priority 50 ; }",
                "nft add rule ip intruder post oifname vxlan.cambric snat to 10.244.0.1",
            ],
            &["pod to pod, other node"],
            "the far end saw",
        ),
        (&["nft delete table bridge cambric"], &["another pod's source"], "it arrived"),
        (&["nft delete table ip cambric"], &["VXLAN from a stranger", "pod to outside"], "it arrived"),
        (
            &["nft delete element ip cambric-services services { 10.96.0.1 . tcp . 80 }"],
            &["pod to service"],
            "it was refused",
        ),
        (
            &["nft flush chain ip cambric-services postrouting"],
            &["outside to service or pod", "a pod to itself"],
            "neither an answer nor a refusal",
        ),
        (
            &[
                "nft add table ip intruder",
                "nft add chain ip intruder post { type nat hook postrouting priority 50 ; }",
                "nft add rule ip intruder post ct status dnat snat to 10.244.0.1",
            ],
            &["pod to service"],
            "the far end saw 10.244.0.1, not 10.244.0.3",
        ),
        (&["nft flush chain ip cambric-services refuse"], &["no endpoint: refusal"], "neither an answer"),
        (&["ip link set cbr0 down"], &["pod to pod, same node"], "no answer"),
    ];
    thread::scope(|scope| {
        for (commands, titles, words) in cases {
            scope.spawn(move || is_noticed(commands, titles, words));
        }
    });
}

fn is_noticed(commands: &[&str], titles: &[&str], words: &str) {
    let harness = Harness::up(TWO_NODES);
    for command in commands {
        harness.inside("node-1", command);
    }
    let judged = harness.judged();
    let (found, all) = failed(&judged);
    assert!(titles.iter().all(|title| found.contains(title)), "{commands:?}: {all}");
    assert!(all.contains(words), "{commands:?}: {all}");
    assert!(!found.contains(&"containers of one pod") && !found.contains(&"node to node"), "{all}");
}

/// A program that somebody runs in a pod cannot say whom it sees, and must not be taken for a fault.
#[test]
fn other_servers_are_not_asked() {
    let harness = Harness::up(TWO_NODES);
    let mut pod = harness.view.pods[0].clone();
    let namespace = view::open(&pod.netns).unwrap();
    let listener = netns::run_in(&namespace, || TcpListener::bind(("127.0.0.1", 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"220 ready\n").unwrap();
    });
    let container = |name: &str, port| Container {
        name: name.to_owned(),
        ports: vec![(port, Transport::Tcp)],
        pid: None,
    };
    pod.containers.push(container("mail", port));
    pod.containers.push(container("silent", 9));
    view::forget_other_servers(&mut pod).unwrap();
    server.join().unwrap();
    let left: Vec<&str> =
        pod.containers.iter().filter(|one| !one.ports.is_empty()).map(|one| one.name.as_str()).collect();
    assert_eq!(left, ["left", "right", "silent"]);
}

/// Nothing may be left in the file system.
#[test]
fn the_harness_removes_its_namespaces() {
    let harness = Harness::up(V4);
    let lab = format!("{}-", harness.view.lab);
    drop(harness);
    let left = fs::read_dir(netns::NAMED).unwrap().flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().contains(&lab)));
}
