//! Packets that must not arrive, each with an honest one like it that must.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use etherparse::PacketBuilder;
use kernel::netns::{self, NetNs};
use model::{Family, LinkName, MacAddr, NodeName};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use trace::capture::{Capture, Limits, Options, Packet, Recorder};

use super::evidence::{Forgery, ForgeryKind, Row};
use super::gather::{machine_party, pod_party};
use super::probe::{PATIENCE, listen_udp, udp_towards};
use super::sites;
use super::view::{self, Pod, View};
use super::wire::{failed, tunnels};
use crate::{Error, Result};

const FORGED: &[u8] = b"forged";
const HONEST: &[u8] = b"honest";

/// The UDP source port of the packets inside forged tunnels; nobody answers to it.
const INNER_PORT: u16 = 4242;

/// Tries all kinds of forgery on the first pods that fit.
pub(super) fn forgeries(view: &View) -> Result<Vec<Forgery>> {
    let mut all = Vec::new();
    for family in view.families() {
        if let Some((target, honest)) = across_nodes(view, family) {
            // What is behind a gateway no stranger reaches, whatever the nodes there accept.
            let open = [target, honest].iter().all(|pod| sites::site(view, &pod.node).is_none());
            for kind in [ForgeryKind::StrangersVxlan, ForgeryKind::StrangersIpip].into_iter().filter(|_| open)
            {
                all.extend(strangers(view, kind, family, target, honest)?);
            }
            // The victim is the pod that is asked, so that there is one even if there are but two.
            all.extend(spoofed(view, family, Row::OtherNode, honest, target)?);
        }
        if let Some((target, sender)) = same_node(view, family) {
            all.extend(spoofed(view, family, Row::SameNode, sender, target)?);
        }
    }
    Ok(all)
}

/// Two pods on different nodes, behind no NAT gateway if there are such nodes.
fn across_nodes(view: &View, family: Family) -> Option<(&Pod, &Pod)> {
    let apart = |one: &Pod, other: &Pod| one.node != other.node;
    let open = |pod: &Pod| sites::site(view, &pod.node).is_none();
    let both_open = |one: &Pod, other: &Pod| apart(one, other) && open(one) && open(other);
    pair(view, family, both_open).or_else(|| pair(view, family, apart))
}

fn same_node(view: &View, family: Family) -> Option<(&Pod, &Pod)> {
    pair(view, family, |one, other| one.node == other.node && one.full_name() != other.full_name())
}

fn pair(view: &View, family: Family, fits: impl Fn(&Pod, &Pod) -> bool) -> Option<(&Pod, &Pod)> {
    let pods: Vec<&Pod> = view.pods.iter().filter(|pod| pod.addresses.of(family).is_some()).collect();
    pods.iter().find_map(|one| Some((*one, *pods.iter().find(|other| fits(one, other))?)))
}

/// A host outside sends into the tunnel of the target's node, as if it were the node of an honest pod.
fn strangers(
    view: &View,
    kind: ForgeryKind,
    family: Family,
    target: &Pod,
    honest: &Pod,
) -> Result<Vec<Forgery>> {
    let vxlan = view.cluster.network.encapsulation.vxlan;
    let nodes = &view.cluster.nodes;
    let (Some(node), Some(honest_node)) = (nodes.get(&target.node), nodes.get(&honest.node)) else {
        return Ok(Vec::new());
    };
    let (Some(to), Some(pretended)) = (target.addresses.of(family), honest.addresses.of(family)) else {
        return Ok(Vec::new());
    };
    let common = |family: &Family| Some((*node.addresses.of(*family)?, *honest_node.addresses.of(*family)?));
    let Some((tunnel, honest_tunnel)) = Family::BOTH.iter().find_map(common) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for stranger in view.topology.of_role(crate::topology::Role::Outside) {
        let Some(own) = stranger.addresses().of(Family::of(&tunnel)).copied() else { continue };
        let witness = Witness::at(target, *to)?;
        let link = uplink(view, &target.node, &tunnel)?;
        let recorder = record(&view.machine_namespace(target.node.as_str())?, link, target.node.as_str())?;
        let send = |from: &NetNs, marker: &[u8]| {
            let frame = inner(honest_tunnel, tunnel, *pretended, witness.address, marker)?;
            if kind == ForgeryKind::StrangersIpip {
                let packet = frame.get(ETHERNET..).unwrap_or_default();
                return netns::run_in(from, || send_in_ip(packet, family, tunnel))
                    .map_err(io::Error::other)?;
            }
            let payload = [&vxlan_header(vxlan.vni.value())[..], &frame].concat();
            let to = SocketAddr::new(tunnel, vxlan.port.value());
            let socket = netns::run_in(from, || udp_towards(to)).map_err(io::Error::other)??;
            socket.send(&payload).map(drop)
        };
        let stranger_ns = view.machine_namespace(&stranger.name)?;
        let honest_ns = view.machine_namespace(honest.node.as_str())?;
        send(&stranger_ns, FORGED).map_err(|error| Error::system("send a forged packet", error))?;
        let (arrived, control) = witness.compare(send(&honest_ns, HONEST))?;
        let is_it = |packet: &Packet| {
            packet.ip().is_some_and(|outer| outer.source == own) && to_witness(packet, &witness)
        };
        all.push(Forgery {
            row: Row::OtherNode,
            kind,
            from: machine_party(&stranger.name, own),
            to: pod_party(target, *to),
            pretended: *pretended,
            seen: find(view, recorder, target.node.as_str(), is_it)?,
            arrived,
            control,
        });
    }
    Ok(all)
}

/// A pod sends with the address of another pod: of one that is neither it nor the target, if there is such a one.
fn spoofed(view: &View, family: Family, row: Row, sender: &Pod, target: &Pod) -> Result<Option<Forgery>> {
    let uninvolved = |pod: &&Pod| {
        pod.full_name() != sender.full_name()
            && pod.full_name() != target.full_name()
            && pod.addresses.of(family).is_some()
    };
    let Some(victim) = view.pods.iter().find(uninvolved) else { return Ok(None) };
    let (Some(own), Some(to), Some(pretended)) =
        (sender.addresses.of(family), target.addresses.of(family), victim.addresses.of(family))
    else {
        return Ok(None);
    };
    let witness = Witness::at(target, *to)?;
    let namespace = view::open(&sender.netns)?;
    let link = LinkName::new("eth0").map_err(|error| Error::Other(error.to_string()))?;
    let recorder = record(&namespace, link, &sender.full_name())?;
    let send = |source: IpAddr, marker: &[u8]| {
        let socket = netns::run_in(&namespace, || foreign(source)).map_err(io::Error::other)??;
        socket.send_to(marker, witness.address).map(drop)
    };
    send(*pretended, FORGED).map_err(|error| Error::system("send a forged packet", error))?;
    let (arrived, control) = witness.compare(send(*own, HONEST))?;
    let is_it = |packet: &Packet| {
        packet.ip().is_some_and(|ip| ip.source == *pretended) && to_witness(packet, &witness)
    };
    Ok(Some(Forgery {
        row,
        kind: ForgeryKind::SpoofedSource,
        from: pod_party(sender, *own),
        to: pod_party(target, *to),
        pretended: *pretended,
        seen: find(view, recorder, &sender.full_name(), is_it)?,
        arrived,
        control,
    }))
}

/// A socket in the target pod that sees what arrives.
struct Witness {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Witness {
    fn at(target: &Pod, address: IpAddr) -> Result<Witness> {
        let failed = |error| Error::system(format!("listen in pod {}", target.full_name()), error);
        let socket = listen_udp(&view::open(&target.netns)?, address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Witness { socket, address })
    }

    /// Whether the forged packet has arrived by the time at which the honest one, which was sent after it, does.
    fn compare(&self, sent: io::Result<()>) -> Result<(bool, Result<bool, String>)> {
        if let Err(error) = sent {
            return Ok((false, Err(error.to_string())));
        }
        let mut forged = false;
        let mut buffer = [0; 16];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) if &buffer[..length] == FORGED => forged = true,
                Ok(length) if &buffer[..length] == HONEST => return Ok((forged, Ok(true))),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((forged, Ok(false))),
                Err(error) => {
                    let what = format!("receive at {} within {} s", self.address, PATIENCE.as_secs());
                    return Err(Error::system(what, error));
                }
            }
        }
    }
}

fn to_witness(packet: &Packet, witness: &Witness) -> bool {
    packet.innermost().ip().is_some_and(|ip| {
        ip.destination == witness.address.ip()
            && ip.ports().is_some_and(|(_, to)| to == witness.address.port())
    })
}

fn record(namespace: &NetNs, link: LinkName, whose: &str) -> Result<Recorder> {
    let capture = netns::run_in(namespace, || Capture::open(&Options::on(link)))
        .map_err(Error::kernel(whose.to_owned()))?;
    capture.and_then(|capture| Recorder::start(capture, Limits::default())).map_err(failed(whose))
}

/// The first packet of a recording that is the one looked for, as a line.
fn find(
    view: &View,
    recorder: Recorder,
    whose: &str,
    is_it: impl Fn(&Packet) -> bool,
) -> Result<Option<String>> {
    let recording = recorder.stop().map_err(failed(whose))?;
    let tunnels = tunnels(view);
    let mut packets = recording.frames.iter().map(|captured| captured.decode(&tunnels));
    Ok(packets.find(|packet| is_it(packet)).map(|packet| packet.to_string()))
}

/// The link of a node that has an address.
fn uplink(view: &View, node: &NodeName, address: &IpAddr) -> Result<LinkName> {
    let machine = view.topology.machine(node.as_str());
    let interface = machine.and_then(|machine| {
        let has = |net: &ipnet::IpNet| net.addr() == *address;
        machine.interfaces.iter().find(|interface| interface.addresses.iter().any(has))
    });
    let name = interface.map(|interface| interface.link.as_str()).unwrap_or_default();
    LinkName::new(name).map_err(|_| Error::Other(format!("Node {node}: no link has its address {address}")))
}

/// A UDP socket of the calling thread's namespace that sends from an address which need not be here
/// (`IP_TRANSPARENT`, ip(7)).
fn foreign(source: IpAddr) -> io::Result<UdpSocket> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    match source {
        IpAddr::V4(_) => setsockopt(&fd, sockopt::IpTransparent, &true)?,
        IpAddr::V6(_) => transparent6(&fd)?,
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    Ok(fd.into())
}

fn transparent6(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int and lives through the call, as IPV6_TRANSPARENT takes it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_TRANSPARENT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a packet in a packet of IP, as it is for the network of the calling thread.
fn send_in_ip(packet: &[u8], inner: Family, to: IpAddr) -> io::Result<()> {
    let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let protocol = match inner {
        Family::V4 => libc::IPPROTO_IPIP,
        Family::V6 => libc::IPPROTO_IPV6,
    };
    // SAFETY: socket takes no pointers, and nobody else has the descriptor that it returns.
    let socket = unsafe {
        let fd = libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    nix::sys::socket::sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty())?;
    Ok(())
}

/// The length of an Ethernet header, in bytes.
const ETHERNET: usize = 14;

/// A VXLAN header (RFC 7348, section 5).
fn vxlan_header(vni: u32) -> [u8; 8] {
    let [_, a, b, c] = vni.to_be_bytes();
    [0x08, 0, 0, 0, a, b, c, 0]
}

/// The frame inside: from the tunnel device of one node to that of another, a datagram to the witness.
fn inner(
    from_node: IpAddr,
    to_node: IpAddr,
    source: IpAddr,
    witness: SocketAddr,
    marker: &[u8],
) -> io::Result<Vec<u8>> {
    let ethernet =
        PacketBuilder::ethernet2(MacAddr::for_tunnel(&from_node).0, MacAddr::for_tunnel(&to_node).0);
    let ip = match (source, witness.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => ethernet.ipv4(source.octets(), to.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(to)) => ethernet.ipv6(source.octets(), to.octets(), 64),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut frame = Vec::new();
    ip.udp(INNER_PORT, witness.port()).write(&mut frame, marker).map_err(io::Error::other)?;
    Ok(frame)
}
