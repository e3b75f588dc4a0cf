//! A pod's interface: a veth pair between the pod's namespace and the node's bridge.
//!
//! The node's end is named for the attachment ([`AttachmentId::host_link`]) and carries an alias that begins with
//! [`ALIAS_PREFIX`]; that is all that is needed to find it again.

mod early;
mod guard;
mod peer;
mod requests;
mod state;

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use ipnet::IpNet;
use model::{Attachment, AttachmentId, Family, LinkName, MacAddr, PodRange};

pub use early::Removal;
pub use guard::{Admitted, Guard};
pub use peer::namespace_of;
pub use state::{DefaultRoute, Interface};

use crate::netns::NetNs;
use crate::rtnl::RouteSocket;
use crate::settled::{self, News};
use crate::{Error, Result, sysctl};

/// What the alias of the node's end of every pod's veth pair begins with (`IFLA_IFALIAS`, shown by `ip link`).
pub const ALIAS_PREFIX: &str = "cambric pod ";

/// The longest alias in bytes: `IFALIASZ` less the terminator, linux/if.h.
const ALIAS_LONGEST: usize = 255;

/// First octet of the Ethernet address of the node's end; the rest is as in the pod's own.
const HOST_MAC: u8 = 0x02;

/// A pod's network namespace, with a socket in it. The thread itself stays in the node's.
#[derive(Debug)]
pub struct PodNs {
    namespace: NetNs,
    socket: RouteSocket,
    news: News,
}

/// What a pod's interface is to be.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Whose it is, with its addresses.
    pub attachment: &'a Attachment,
    /// Its name in the pod.
    pub name: &'a LinkName,
    /// The bridge to attach to.
    pub bridge: &'a LinkName,
    /// In bytes, on both ends.
    pub mtu: u32,
    /// The ranges that the addresses are from; they give the prefix lengths and the gateways.
    pub ranges: &'a [PodRange],
    /// What the operator knows the pod by; the node's end has it in its alias.
    pub pod: &'a str,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The Ethernet address of the node's end.
    pub host_mac: MacAddr,
    /// The Ethernet address of the pod's end.
    pub mac: MacAddr,
    /// The families that have a default route through the interface. One that had a default route already, through
    /// another interface, keeps that.
    pub default_routes: Vec<Family>,
}

impl PodNs {
    /// Opens the namespace that the container runtime names.
    ///
    /// # Errors
    /// [`Error::File`] with `ENOENT` if it does not exist, [`Error::System`] if the path is no network namespace.
    pub fn open(path: impl AsRef<Path>) -> Result<PodNs> {
        let namespace = NetNs::open(path)?;
        let guard = namespace.enter()?;
        let opened = RouteSocket::open().and_then(|socket| Ok((socket, News::open()?)));
        drop(guard);
        let (socket, news) = opened?;
        Ok(PodNs { namespace, socket, news })
    }

    /// The interface of a name; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says, other than that there is no such interface.
    pub fn interface(&mut self, name: &LinkName) -> Result<Option<Interface>> {
        state::interface(&mut self.socket, name)
    }

    /// The addresses of an interface with their prefix lengths.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self, interface: &Interface) -> Result<Vec<IpNet>> {
        state::addresses(&mut self.socket, interface)
    }

    /// The default routes of all interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn default_routes(&mut self) -> Result<Vec<DefaultRoute>> {
        state::default_routes(&mut self.socket)
    }
}

/// The interface of a name in the node's namespace; `None` if there is none.
///
/// # Errors
/// What the kernel says, other than that there is no such interface.
pub fn interface(node: &mut RouteSocket, name: &LinkName) -> Result<Option<Interface>> {
    state::interface(node, name)
}

/// Makes a pod's interface, ready for use: both ends up and passing packets, the node's a port of the bridge in hairpin
/// mode, the pod's with its addresses and default routes. `node` is a socket in the node's namespace, which is that of the
/// calling thread.
///
/// A node's end that is left from an attempt that was cut short is removed first.
///
/// # Errors
/// [`Error::Missing`] if there is no such bridge; [`Error::Foreign`] if something else has the name of the node's
/// end; else what the kernel says. Nothing stays behind.
pub fn attach(node: &mut RouteSocket, pod: &mut PodNs, wanted: &Wanted<'_>) -> Result<Attached> {
    let host = wanted.attachment.id.host_link();
    let what = || format!("attach pod {} to bridge {}", wanted.pod, wanted.bridge);
    let mac = wanted
        .attachment
        .mac()
        .ok_or_else(|| Error::Missing { what: what(), missing: "its address".into() })?;
    let bridge = state::interface(node, wanted.bridge)?
        .ok_or_else(|| Error::Missing { what: what(), missing: format!("bridge {}", wanted.bridge) })?;
    let [_, rest @ ..] = mac.0;
    let host_mac = MacAddr([HOST_MAC, rest[0], rest[1], rest[2], rest[3], rest[4]]);
    let pair = requests::Pair {
        host: &host,
        host_mac,
        bridge: bridge.index,
        name: wanted.name,
        mac,
        mtu: wanted.mtu,
        namespace: pod.namespace.as_fd().as_raw_fd(),
        alias: alias(wanted.pod),
    };
    match requests::create(node, &pair) {
        Err(error) if error.errno() == Some(libc::EEXIST) && pod.interface(wanted.name)?.is_none() => {
            // The name in the pod is free, so it is the node's that is taken.
            detach(node, &wanted.attachment.id)?;
            requests::create(node, &pair)?;
        }
        result => result?,
    }
    let furnished = furnish(pod, wanted, mac).and_then(|default_routes| {
        settled::wait(node, &News::open()?, &[host.as_str()], &[], settled::LIMIT)?;
        Ok(default_routes)
    });
    match furnished {
        Ok(default_routes) => Ok(Attached { host_mac, mac, default_routes }),
        Err(error) => {
            // The first error is the one to tell; the other end goes with this one.
            let _ = detach(node, &wanted.attachment.id);
            Err(error)
        }
    }
}

/// Removes a pod's interface by its node's end; whether there was one. The pod's namespace is not needed.
///
/// # Errors
/// [`Error::Foreign`] if what has the name is not ours; else what the kernel says.
pub fn detach(node: &mut RouteSocket, id: &AttachmentId) -> Result<bool> {
    match own_link(node, id)? {
        Some(found) => remove(node, &found),
        None => Ok(false),
    }
}

/// The node's end of a pod's veth pair, if there is one; an error if what has the name is not ours.
fn own_link(node: &mut RouteSocket, id: &AttachmentId) -> Result<Option<Interface>> {
    let name = id.host_link();
    match state::interface(node, &name)? {
        Some(found) if !found.is_pods() => Err(Error::Foreign {
            what: format!("remove link {name} of pod interface {id}"),
            obstacle: format!("a link of that name with alias \"{}\"", found.alias),
            remedy: format!("see what it is with \"ip -d link show {name}\", and rename or remove it"),
        }),
        found => Ok(found),
    }
}

/// Removes an interface of the node's namespace; whether it was still there.
///
/// # Errors
/// What the kernel says.
pub fn remove(node: &mut RouteSocket, interface: &Interface) -> Result<bool> {
    match node.request(requests::delete(interface)) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(false),
        result => result.map(|()| true),
    }
}

/// The node's ends of all pods' veth pairs.
///
/// # Errors
/// What the kernel says.
pub fn host_links(node: &mut RouteSocket) -> Result<Vec<Interface>> {
    let mut links = state::interfaces(node)?;
    links.retain(|link| link.name.as_str().starts_with(LinkName::POD_PREFIX) && link.is_pods());
    Ok(links)
}

/// Gives the pod's end what belongs on it, and waits until it is in use; the families that got a default route.
fn furnish(pod: &mut PodNs, wanted: &Wanted<'_>, mac: MacAddr) -> Result<Vec<Family>> {
    let what =
        || format!("find interface {} that was just made in {}", wanted.name, pod.namespace.path().display());
    let missing = || Error::Missing { what: what(), missing: "it".into() };
    let index = state::interface(&mut pod.socket, wanted.name)?.ok_or_else(missing)?.index;
    let on = |address: &IpAddr| {
        let range = wanted.ranges.iter().find(|range| range.holds_pod(address))?;
        Some((IpNet::new(*address, range.net().prefix_len()).ok()?, range.gateway()))
    };
    let nets: Vec<(IpNet, IpAddr)> = wanted.attachment.addresses.iter().filter_map(on).collect();
    let ipv6 = nets.iter().any(|(net, _)| net.addr().is_ipv6());
    let link_local = ipv6.then(|| mac.link_local());
    let addressing = requests::addressing(wanted.name, index, &nets, link_local);
    let mut sent = requests::activation(wanted.name, index, ipv6);
    let first = sent.len();
    sent.extend(addressing.iter().map(|(_, request)| request.clone()));
    let mut results = pod.socket.batch(&sent);
    if ipv6 && results.iter().any(|result| errno(result) == Some(libc::EACCES)) {
        // Some runtimes disable IPv6 in every new namespace; the interface inherits that (net.ipv6.conf.default).
        let guard = pod.namespace.enter()?;
        let enabled = sysctl::write(&format!("net/ipv6/conf/{}/disable_ipv6", wanted.name), "0");
        drop(guard);
        enabled?;
        let again: Vec<usize> =
            (0..sent.len()).filter(|at| results.get(*at).is_some_and(|result| result.is_err())).collect();
        let requests: Vec<_> = again.iter().filter_map(|at| sent.get(*at).cloned()).collect();
        for (at, result) in again.into_iter().zip(pod.socket.batch(&requests)) {
            if let Some(slot) = results.get_mut(at) {
                *slot = result;
            }
        }
    }
    let addressed = results.split_off(first);
    results.into_iter().collect::<Result<()>>()?;
    let mut default_routes = Vec::new();
    for ((route, _), result) in addressing.iter().zip(addressed) {
        match (route, result) {
            // Another network of the pod was first.
            (Some(_), Err(error)) if error.errno() == Some(libc::EEXIST) => {}
            (_, Err(error)) => return Err(error),
            (Some(family), Ok(())) => default_routes.push(*family),
            (None, Ok(())) => {}
        }
    }
    let own = nets.iter().map(|(net, _)| net.addr());
    let addresses: Vec<IpAddr> = own.chain(link_local.map(IpAddr::V6)).collect();
    settled::wait(&mut pod.socket, &pod.news, &[wanted.name.as_str()], &addresses, settled::LIMIT)?;
    Ok(default_routes)
}

fn errno(result: &Result<()>) -> Option<i32> {
    result.as_ref().err().and_then(Error::errno)
}

/// The alias of the node's end of a pod's veth pair, for what the operator knows the pod by.
pub fn alias(pod: &str) -> String {
    let mut alias = format!("{ALIAS_PREFIX}{pod}");
    let cut = (0..=ALIAS_LONGEST).rev().find(|at| alias.is_char_boundary(*at)).unwrap_or_default();
    alias.truncate(cut);
    alias
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_fit_the_kernel_and_stay_text() {
        assert_eq!(alias("default/web-0"), "cambric pod default/web-0");
        let long = alias(&"é".repeat(200));
        assert!(long.len() == ALIAS_LONGEST - 1 && long.starts_with(ALIAS_PREFIX), "{}", long.len());
    }
}
