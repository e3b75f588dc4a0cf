//! A node with pods and services, and sockets that say which endpoint was reached and whom it saw.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use kernel::{Kernel, Report};
use model::{
    Endpoint, EndpointPort, EndpointSlice, Family, NodeName, ObjectName, PerFamily, Protocol, Service,
    ServicePort, TrafficPolicy,
};
use plan::{Change, Input, Planner};

use super::TestNs;
use super::cluster::{self, Stack};
use super::pods::{self, Pod, attach};

/// How long to wait for what must come, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The port of services, and of their endpoints.
pub const PORT: u16 = 80;
pub const TARGET_PORT: u16 = 8080;

/// Node 0 of a cluster of three, with pods and no services yet.
pub struct Scene {
    pub node: TestNs,
    pub world: TestNs,
    pub pods: Vec<Pod>,
    pub planner: Planner,
    pub kernel: Kernel,
}

impl Scene {
    pub fn new(pods: u8) -> Scene {
        let (node, world) = pods::node_and_world();
        // What has no other way goes out to the world, as on a real node.
        node.run(&format!("ip route add default via {}", pods::STRANGER[0]));
        node.run(&format!("ip -6 route add default via {}", pods::STRANGER[1]));
        for external in ["198.51.100.0/24 via 172.16.0.1", "2001:db8:e::/64 via 2001:db8::1"] {
            world.run(&format!("ip route add {external}"));
        }
        let cluster = cluster::cluster(3, Stack::Dual);
        let mut planner = Planner::new(cluster::name(0));
        planner.update(Input::Network(cluster.network));
        for node in cluster.nodes.into_values() {
            planner.update(Input::Node(node));
        }
        planner.update(Input::UnderlayMtu(PerFamily { v4: Some(1500), v6: Some(1500) }));
        let attachments: Vec<_> =
            (0..pods).map(|number| cluster::attachment(2 + number, Stack::Dual)).collect();
        planner.update(Input::Attachments(attachments.clone()));
        let guard = node.enter();
        let mut kernel = Kernel::open().unwrap();
        kernel.reconcile(planner.entries()).unwrap();
        kernel.reconcile_services(planner.services()).unwrap();
        let pods = attachments.iter().map(attach).collect();
        assert!(kernel.reconcile(planner.entries()).unwrap().is_quiet());
        assert!(kernel.reconcile_services(planner.services()).unwrap().is_quiet());
        drop(guard);
        Scene { node, world, pods, planner, kernel }
    }

    /// Takes in changes, and has the kernel carry them out as one.
    #[track_caller]
    pub fn update(&mut self, inputs: impl IntoIterator<Item = Input>) -> Report {
        let mut change = Change::default();
        for input in inputs {
            change.extend(self.planner.update(input));
        }
        let _guard = self.node.enter();
        let report = self.kernel.apply(&change).unwrap();
        assert_clean(&report);
        assert!(!report.reconcile_needed);
        report
    }

    /// A whole comparison.
    #[track_caller]
    pub fn reconcile(&mut self) -> Report {
        let _guard = self.node.enter();
        assert!(self.kernel.reconcile(self.planner.entries()).unwrap().is_quiet());
        let report = self.kernel.reconcile_services(self.planner.services()).unwrap();
        assert_clean(&report);
        report
    }

    /// As after a restart: nothing is known of what is there.
    pub fn restart(&mut self) {
        let _guard = self.node.enter();
        self.kernel = Kernel::open().unwrap();
    }

    /// Endpoint slices with pods of this node as the endpoints.
    pub fn slices(&self, service: &Service, pods: &[usize]) -> Vec<Input> {
        let endpoints = pods
            .iter()
            .map(|pod| &self.pods[*pod])
            .flat_map(|pod| Family::BOTH.map(|family| endpoint(pod.address(family), &cluster::name(0))));
        slices(service, endpoints.collect())
    }

    /// A service with pods of this node as the endpoints.
    pub fn serve(&mut self, service: &Service, pods: &[usize]) -> Report {
        let slices = self.slices(service, pods);
        self.update(slices.into_iter().chain([Input::Service(service.clone())]))
    }

    /// UDP servers in pods, on one port.
    pub fn udp_servers(&self, pods: &[usize], family: Family) -> Vec<UdpSocket> {
        let each = |pod: &usize| {
            let pod = &self.pods[*pod];
            pods::socket(&pod.test, pod.address(family), TARGET_PORT)
        };
        pods.iter().map(each).collect()
    }

    pub fn tcp_servers(&self, pods: &[usize], family: Family) -> Vec<TcpListener> {
        let each = |pod: &usize| {
            let pod = &self.pods[*pod];
            listen(&pod.test, pod.address(family))
        };
        pods.iter().map(each).collect()
    }

    /// A socket in a pod, on a port that the kernel chooses.
    pub fn client(&self, pod: usize, family: Family) -> UdpSocket {
        let pod = &self.pods[pod];
        pods::socket(&pod.test, pod.address(family), 0)
    }
}

#[track_caller]
pub fn assert_clean(report: &Report) {
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(
        failures.is_empty() && report.blocked == 0 && report.services.is_none(),
        "{report}: {failures:#?}"
    );
}

/// The cluster addresses of a service.
pub fn cluster_address(number: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 96, 0, number].into(),
        Family::V6 => [0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()].into(),
    }
}

/// An address outside of the cluster that the world sends to node 0.
pub fn external_address(number: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => [198, 51, 100, number].into(),
        Family::V6 => [0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number.into()].into(),
    }
}

/// The address by which a node reaches its pods.
pub fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 128, 0, 1].into(),
        Family::V6 => [0xfd00, 0x10, 0, 0, 0, 0, 0, 1].into(),
    }
}

/// A service with cluster addresses of both families, and all of these protocols on one port.
pub fn service(number: u8, protocols: &[Protocol]) -> Service {
    let port = |protocol: &Protocol| ServicePort {
        name: protocol.to_string().to_lowercase().into(),
        protocol: *protocol,
        port: PORT,
        node_port: None,
    };
    Service {
        name: ObjectName::new("default", format!("service-{number}")),
        cluster_addresses: Family::BOTH.map(|family| cluster_address(number, family)).to_vec(),
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        balancer_sources: Vec::new(),
        ports: protocols.iter().map(port).collect(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    }
}

/// An endpoint that is ready.
pub fn endpoint(address: IpAddr, node: &NodeName) -> Endpoint {
    Endpoint {
        address,
        ready: true,
        serving: true,
        terminating: false,
        node: Some(Arc::new(node.clone())),
        zones: Arc::default(),
        nodes: Arc::default(),
    }
}

/// The endpoint slices of a service, one for each family.
pub fn slices(service: &Service, endpoints: Vec<Endpoint>) -> Vec<Input> {
    let mut by_family: BTreeMap<Family, Vec<Endpoint>> =
        Family::BOTH.into_iter().map(|family| (family, Vec::new())).collect();
    for endpoint in endpoints {
        by_family.entry(Family::of(&endpoint.address)).or_default().push(endpoint);
    }
    let ports = |port: &ServicePort| EndpointPort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: TARGET_PORT,
    };
    let slice = |(family, endpoints): (Family, Vec<Endpoint>)| {
        Input::Slice(EndpointSlice {
            name: ObjectName::new("default", format!("{}-{family:?}", service.name.name)),
            service: service.name.name.clone(),
            family,
            ports: service.ports.iter().map(ports).collect(),
            endpoints,
        })
    };
    by_family.into_iter().map(slice).collect()
}

pub fn listen(test: &TestNs, address: IpAddr) -> TcpListener {
    let _guard = test.enter();
    TcpListener::bind((address, TARGET_PORT)).unwrap()
}

/// Connects from a namespace.
pub fn connect(test: &TestNs, to: SocketAddr) -> io::Result<TcpStream> {
    let _guard = test.enter();
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Which of the servers was reached by a connection, whom it sees, and its end of it.
#[track_caller]
pub fn accept(servers: &[TcpListener]) -> (usize, IpAddr, TcpStream) {
    let which = ready(servers, PATIENCE).unwrap_or_else(|| panic!("no server was reached"));
    let (stream, from) = servers[which].accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (which, from.ip(), stream)
}

/// Sends a datagram to a service and an answer back: which of the servers had it, and whom it saw.
#[track_caller]
pub fn ask(client: &UdpSocket, to: SocketAddr, servers: &[UdpSocket]) -> (usize, IpAddr) {
    client.send_to(b"question", to).unwrap();
    let which = ready(servers, PATIENCE).unwrap_or_else(|| panic!("no server was reached"));
    let mut buffer = [0; 64];
    let (_, from) = servers[which].recv_from(&mut buffer).unwrap();
    servers[which].send_to(b"answer", from).unwrap();
    let (length, answers) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], answers), (&b"answer"[..], to));
    (which, from.ip())
}

/// The first of some sockets that has something to read.
pub fn ready<S: AsRawFd>(sockets: &[S], patience: Duration) -> Option<usize> {
    let wait = |socket: &S| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut waiting: Vec<libc::pollfd> = sockets.iter().map(wait).collect();
    let time = patience.as_millis() as libc::c_int;
    // SAFETY: the pointer and the length are those of a vector that lives through the call.
    let count = unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, time) };
    assert!(count >= 0, "{}", io::Error::last_os_error());
    waiting.iter().position(|each| each.revents != 0)
}
