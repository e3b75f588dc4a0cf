//! A node, pods on its bridge, and the rest of the world at the other end of its underlay.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
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

/// Sets an option of a socket that takes a number.
pub fn set_option(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    // SAFETY: the pointer and the length are those of a number that lives through the call.
    let done = unsafe {
        let size = size_of_val(&value) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Sets the traffic class of what a socket sends, with the bits for ECN.
pub fn set_class(socket: &UdpSocket, class: libc::c_int) {
    let (level, option) = match socket.local_addr().unwrap() {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    };
    set_option(socket, level, option, class);
}

pub fn socket(test: &TestNs, address: IpAddr, port: u16) -> UdpSocket {
    let _guard = test.enter();
    let socket = UdpSocket::bind(SocketAddr::new(address, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}
