//! Two nodes with pods, whose underlay is one link, and the fast path.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use kernel::{FastPathState, Kernel};
use model::{
    Attachment, AttachmentId, Encapsulation, Family, LinkName, NetworkConfig, PerFamily, Sending, Service,
};
use plan::{Change, Input, Planner, Underlay};

use super::cluster::{self, Stack};
use super::pods::{self, Pod, attach_to};
use super::services::{TARGET_PORT, assert_clean, endpoint, slices};
use super::sites::Bpffs;
use super::{TestNs, until};

pub struct Node {
    pub number: u32,
    pub test: TestNs,
    pub planner: Planner,
    pub kernel: Kernel,
    pub pods: Vec<Pod>,
}

/// A pod, by the numbers of its node and among that node's.
pub type At = (usize, usize);

pub struct Nodes {
    pub nodes: Vec<Node>,
    pub bpffs: Bpffs,
}

pub fn network(sending: Sending, fast_path: bool) -> NetworkConfig {
    let network = cluster::network(Stack::Dual, Encapsulation::default().vxlan);
    NetworkConfig {
        encapsulation: Encapsulation { sending, ..Encapsulation::default() },
        fast_path,
        ..network
    }
}

pub fn attachment(node: u32, number: u8) -> Attachment {
    let addresses = [format!("10.128.{node}.{number}"), format!("fd00:10:0:{node:x}::{number:x}")];
    Attachment {
        id: AttachmentId { container_id: format!("sandbox-{node}-{number}"), ifname: "eth0".to_owned() },
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

impl Nodes {
    /// With two pods on each of them, 2 and 3.
    pub fn new(sending: Sending, fast_path: bool) -> Nodes {
        Nodes::over(&Family::BOTH, sending, fast_path)
    }

    /// Nodes that have addresses of these families only.
    pub fn over(families: &[Family], sending: Sending, fast_path: bool) -> Nodes {
        let bpffs = Bpffs::mount();
        let tests = [TestNs::new("one"), TestNs::new("two")];
        tests[0].run(&format!("ip link add eth0 type veth peer name eth0 netns {}", tests[1].name));
        let mut nodes = Vec::new();
        for (number, test) in (0..).zip(tests) {
            test.run("ip link set lo up");
            let host = number + 1;
            test.run(&format!("ip addr add 172.16.0.{host}/16 dev eth0"));
            test.run(&format!("ip addr add 2001:db8::{host}/64 dev eth0 nodad"));
            test.run("ip link set eth0 up");
            nodes.push(Node::new(number, test, &bpffs, families, network(sending, fast_path)));
        }
        Nodes { nodes, bpffs }
    }

    /// The whole cluster follows a change of its network.
    pub fn change(&mut self, sending: Sending, fast_path: bool) {
        for node in &mut self.nodes {
            node.planner.update(Input::Network(network(sending, fast_path)));
            node.reconcile();
        }
    }

    pub fn pod(&self, (node, pod): At) -> &Pod {
        &self.nodes[node].pods[pod]
    }

    pub fn socket(&self, at: At, family: Family) -> UdpSocket {
        let pod = self.pod(at);
        pods::socket(&pod.test, pod.address(family), 0)
    }

    pub fn server(&self, at: At, family: Family) -> UdpSocket {
        let pod = self.pod(at);
        pods::socket(&pod.test, pod.address(family), TARGET_PORT)
    }

    /// How the fast path of each node fares; it goes on.
    pub fn states(&mut self) -> Vec<FastPathState> {
        let state = |node: &mut Node| {
            let _guard = node.test.enter();
            node.kernel.attend().unwrap();
            node.kernel.fast_path().unwrap().unwrap()
        };
        self.nodes.iter_mut().map(state).collect()
    }

    pub fn hits(&mut self) -> u64 {
        let [hits] = self.counted(["hit"]);
        hits
    }

    /// What both nodes have counted together; the fast path goes on.
    pub fn counted<const N: usize>(&mut self, names: [&str; N]) -> [u64; N] {
        let states = self.states();
        names.map(|name| states.iter().map(|state| state.counters.of(name)).sum())
    }

    /// A service that leads to a pod, in both families.
    pub fn leading(&self, service: &Service, to: At) -> Vec<Input> {
        let (pod, node) = (self.pod(to), cluster::name(to.0 as u32));
        let endpoints = Family::BOTH.map(|family| endpoint(pod.address(family), &node));
        [slices(service, endpoints.to_vec()), vec![Input::Service(service.clone())]].concat()
    }
}

impl Node {
    fn new(number: u32, test: TestNs, bpffs: &Bpffs, families: &[Family], network: NetworkConfig) -> Node {
        let mut planner = Planner::new(cluster::name(number));
        planner.update(Input::Network(network));
        for other in 0..2 {
            let mut other = cluster::node(other, Stack::Dual);
            let mut addresses = PerFamily::default();
            for family in families {
                addresses.insert(*family, *other.addresses.of(*family).unwrap());
            }
            other.addresses = addresses;
            planner.update(Input::Node(other));
        }
        let on_eth0 = |net: String| {
            let net = net.parse().unwrap();
            Some(Underlay { link: LinkName::new("eth0").unwrap(), net, mtu: 1500 })
        };
        let host = number + 1;
        let underlay = PerFamily {
            v4: on_eth0(format!("172.16.0.{host}/16")).filter(|_| families.contains(&Family::V4)),
            v6: on_eth0(format!("2001:db8::{host}/64")).filter(|_| families.contains(&Family::V6)),
        };
        planner.update(Input::Underlay(underlay));
        let attachments = [2, 3].map(|pod| attachment(number, pod));
        planner.update(Input::Attachments(attachments.to_vec()));
        let guard = test.enter();
        let mut kernel = Kernel::open().unwrap();
        kernel.pin_in(&bpffs.path);
        assert_clean(&kernel.reconcile(planner.entries()).unwrap());
        let pods = attachments.iter().map(|attachment| attach_to(number, attachment)).collect();
        drop(guard);
        let mut node = Node { number, test, planner, kernel, pods };
        node.reconcile();
        node
    }

    pub fn reconcile(&mut self) {
        let _guard = self.test.enter();
        let report = self.kernel.reconcile(self.planner.entries()).unwrap();
        assert_clean(&report);
        if let Some(error) = report.fast_path.or(report.tunnel) {
            panic!("{error}");
        }
        assert_clean(&self.kernel.reconcile_services(self.planner.services()).unwrap());
    }

    pub fn update(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let mut change = Change::default();
        for input in inputs {
            change.extend(self.planner.update(input));
        }
        let _guard = self.test.enter();
        let report = self.kernel.apply(&change).unwrap();
        assert_clean(&report);
        assert!(!report.reconcile_needed && report.fast_path.is_none());
    }

    /// How many programs are on each link, by its name: for what comes, and for what goes.
    pub fn programs(&self) -> BTreeMap<String, [usize; 2]> {
        use aya::programs::{SchedClassifier, TcAttachType};
        let links: Vec<serde_json::Value> = serde_json::from_str(&self.test.run("ip -j link")).unwrap();
        let _guard = self.test.enter();
        let name = |link: &serde_json::Value| link["ifname"].as_str().unwrap().to_owned();
        let count = |name: String| {
            let at = |hook| SchedClassifier::query_tcx(&name, hook).unwrap().1.len();
            let programs = [TcAttachType::Ingress, TcAttachType::Egress].map(at);
            (name, programs)
        };
        links.iter().map(name).map(count).collect()
    }

    /// Waits until the programs on links are as they should be. A process that another test starts has all descriptors of this
    /// one until it becomes another program (execve(2)), and a program is on its link as long as a descriptor says so.
    #[track_caller]
    pub fn until_programs(&self, are_so: impl Fn(&BTreeMap<String, [usize; 2]>) -> bool) {
        until(|| self.programs(), are_so);
    }
}

/// A question and its answer over UDP. Whom the server saw, and who answered.
pub fn exchange(client: &UdpSocket, to: SocketAddr, server: &UdpSocket, text: &[u8]) -> [SocketAddr; 2] {
    let mut buffer = [0; 2000];
    client.send_to(text, to).unwrap();
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], text);
    server.send_to(text, from).unwrap();
    let (length, answers) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], text);
    [from, answers]
}

pub fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, TARGET_PORT)
}
