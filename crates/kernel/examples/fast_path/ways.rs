//! Who talks to whom, over what.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use model::{Family, Protocol};

use crate::common::TestNs;
use crate::common::fast::{At, Nodes};
use crate::common::services::{PORT, TARGET_PORT, cluster_address, service};

/// From a client to a server.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) client: PathBuf,
    pub(crate) server: PathBuf,
    /// Where the server listens; port 0 is any.
    pub(crate) listen: SocketAddr,
    /// Where the client connects to, if it is elsewhere.
    pub(crate) service: Option<SocketAddr>,
}

impl Way {
    fn new(client: &TestNs, server: &TestNs, address: IpAddr) -> Way {
        let namespace = |test: &TestNs| test.ns.path().to_owned();
        let listen = SocketAddr::new(address, 0);
        Way { client: namespace(client), server: namespace(server), listen, service: None }
    }

    /// From the first pod of the first node.
    pub(crate) fn pods(nodes: &Nodes, to: At, family: Family) -> Way {
        let pod = nodes.pod(to);
        Way::new(&nodes.pod((0, 0)).test, &pod.test, pod.address(family))
    }

    /// The same by a service that has one pod of the other node for endpoint.
    pub(crate) fn service(nodes: &Nodes, family: Family) -> Way {
        let mut way = Way::pods(nodes, (1, 0), family);
        way.listen.set_port(TARGET_PORT);
        Way { service: Some(SocketAddr::new(cluster_address(10, family), PORT)), ..way }
    }

    /// From node to node, with their own addresses.
    pub(crate) fn nodes(nodes: &Nodes, family: Family) -> Way {
        let address = match family {
            Family::V4 => "172.16.0.2",
            Family::V6 => "2001:db8::2",
        };
        Way::new(&nodes.nodes[0].test, &nodes.nodes[1].test, address.parse().unwrap())
    }
}

/// Gives the cluster a service whose endpoint is on the other node.
pub(crate) fn serve(nodes: &mut Nodes) {
    let service = service(10, &[Protocol::Tcp, Protocol::Udp]);
    let news = nodes.leading(&service, (1, 0));
    nodes.nodes[0].update(news);
}

/// Two namespaces with a veth pair between them.
pub(crate) struct Bare([TestNs; 2]);

impl Bare {
    pub(crate) fn new() -> Bare {
        let ends = [TestNs::new("bare"), TestNs::new("bare")];
        join(&ends[0], "eth0", &ends[1], "eth0");
        for (end, host) in ends.iter().zip(1..) {
            address(end, "eth0", &format!("192.0.2.{host}/24"), &format!("2001:db8:b::{host}/64"));
        }
        Bare(ends)
    }

    pub(crate) fn way(&self, family: Family) -> Way {
        let address = match family {
            Family::V4 => "192.0.2.2",
            Family::V6 => "2001:db8:b::2",
        };
        Way::new(&self.0[0], &self.0[1], address.parse().unwrap())
    }
}

/// Two nodes with a pod each, as it is done without Cambric: pods on a bridge, routes into a VXLAN device with a neighbour and
/// a forwarding entry for the other node, and no rules of netfilter at all.
pub(crate) struct ByHand {
    _nodes: [TestNs; 2],
    pods: [TestNs; 2],
}

impl ByHand {
    pub(crate) fn new() -> ByHand {
        let nodes = [TestNs::new("hand"), TestNs::new("hand")];
        let pods = [TestNs::new("pod"), TestNs::new("pod")];
        join(&nodes[0], "eth0", &nodes[1], "eth0");
        for (number, (node, pod)) in nodes.iter().zip(&pods).enumerate() {
            let (own, other) = (number + 1, 2 - number);
            address(node, "eth0", &format!("192.0.2.{own}/24"), &format!("2001:db8:b::{own}/64"));
            for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
                node.run(&format!("sysctl -qw {setting}"));
            }
            let device = format!("id 7 local 192.0.2.{own} dstport 4789 nolearning");
            node.run(&format!("ip link add vxlan type vxlan {device}"));
            node.run(&format!("ip link set vxlan address 02:00:00:00:00:0{own} mtu 1450"));
            node.run("ip link add bridge type bridge");
            join(node, "pod", pod, "eth0");
            node.run("ip link set pod master bridge");
            for link in ["pod", "bridge"] {
                node.run(&format!("ip link set {link} mtu 1450"));
            }
            pod.run("ip link set eth0 mtu 1450");
            address(node, "bridge", &format!("198.51.{own}.1/24"), &format!("2001:db8:{own}::1/64"));
            address(node, "vxlan", &format!("198.51.{own}.0/32"), &format!("2001:db8:{own}::/128"));
            address(pod, "eth0", &format!("198.51.{own}.2/24"), &format!("2001:db8:{own}::2/64"));
            pod.run(&format!("ip route add default via 198.51.{own}.1"));
            pod.run(&format!("ip route add default via 2001:db8:{own}::1"));
            node.run(&format!("bridge fdb add 02:00:00:00:00:0{other} dev vxlan dst 192.0.2.{other}"));
            for (gateway, net) in [
                (format!("198.51.{other}.0"), format!("198.51.{other}.0/24")),
                (format!("2001:db8:{other}::"), format!("2001:db8:{other}::/64")),
            ] {
                node.run(&format!(
                    "ip neigh add {gateway} lladdr 02:00:00:00:00:0{other} dev vxlan nud permanent"
                ));
                node.run(&format!("ip route add {net} via {gateway} dev vxlan onlink"));
            }
        }
        ByHand { _nodes: nodes, pods }
    }

    pub(crate) fn way(&self, family: Family) -> Way {
        let address = match family {
            Family::V4 => "198.51.2.2",
            Family::V6 => "2001:db8:2::2",
        };
        Way::new(&self.pods[0], &self.pods[1], address.parse().unwrap())
    }
}

fn join(one: &TestNs, name: &str, other: &TestNs, peer: &str) {
    one.run(&format!("ip link add {name} type veth peer name {peer} netns {}", other.name));
    for (test, link) in [(one, name), (other, peer)] {
        test.run("ip link set lo up");
        test.run(&format!("ip link set {link} up"));
    }
}

fn address(test: &TestNs, link: &str, v4: &str, v6: &str) {
    test.run(&format!("ip link set {link} up"));
    test.run(&format!("ip addr add {v4} dev {link}"));
    test.run(&format!("ip addr add {v6} dev {link} nodad"));
}
