//! A node, pods on its bridge, and the rest of the world at the other end of its underlay.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use kernel::pod::{self, PodNs, Wanted};
use kernel::rtnl::RouteSocket;
use model::{Attachment, Family, LinkName, MacAddr};

use super::TestNs;
use super::cluster::{self, Stack};

/// The addresses of node-1 and of somebody who is no node.
pub const NODE: [&str; 2] = ["172.16.0.2", "2001:db8::2"];
pub const STRANGER: [&str; 2] = ["172.16.0.99", "2001:db8::99"];

pub struct Pod {
    pub test: TestNs,
    pub mac: MacAddr,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Pod {
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// Namespaces of node 0 and of all that its underlay leads to.
pub fn node_and_world() -> (TestNs, TestNs) {
    let (node, world) = (TestNs::underlay("node"), TestNs::new("world"));
    node.run(&format!("ip link set wire netns {}", world.name));
    world.run("ip link set lo up");
    world.run("ip link set wire up");
    for address in [NODE[0], STRANGER[0]] {
        world.run(&format!("ip addr add {address}/16 dev wire"));
    }
    for address in [NODE[1], STRANGER[1]] {
        world.run(&format!("ip addr add {address}/64 dev wire nodad"));
    }
    (node, world)
}

/// Attaches a pod to the bridge of node 0, in whose namespace the calling thread is.
pub fn attach(attachment: &Attachment) -> Pod {
    attach_to(0, attachment)
}

/// Attaches a pod to the bridge of a node, in whose namespace the calling thread is.
pub fn attach_to(node: u32, attachment: &Attachment) -> Pod {
    let test = TestNs::new("pod");
    let (name, bridge) = (LinkName::new("eth0").unwrap(), LinkName::bridge());
    let ranges: Vec<_> = cluster::node(node, Stack::Dual).pod_ranges.iter().copied().collect();
    let wanted =
        Wanted { attachment, name: &name, bridge: &bridge, mtu: 1450, ranges: &ranges, pod: "default/test" };
    let mut namespace = PodNs::open(test.ns.path()).unwrap();
    let attached = pod::attach(&mut RouteSocket::open().unwrap(), &mut namespace, &wanted).unwrap();
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (attachment.addresses[0], attachment.addresses[1]) else {
        panic!("{attachment:?}");
    };
    Pod { test, mac: attached.mac, v4, v6 }
}

pub fn socket(test: &TestNs, address: IpAddr, port: u16) -> UdpSocket {
    let _guard = test.enter();
    let socket = UdpSocket::bind(SocketAddr::new(address, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}
