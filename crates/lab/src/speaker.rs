//! The BGP speaker of a router: what it learns from the nodes of its subnets becomes routes of the router's namespace.
//!
//! It takes sessions from every node of the topology that is its neighbour, whichever families the node opens them in, and
//! opens none itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bgp::bfd::{BfdConfig, Change, Reachability};
use bgp::transport::bfd::Bfd;
use bgp::transport::{Event, Handle, Options, PORT, PeerTransport};
use bgp::{LocalRoute, OwnAddresses, PeerConfig, PeerName, RibChange, SpeakerConfig};
use ipnet::IpNet;
use model::Family;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::fabric::Learned;
use crate::paths::LabName;
use crate::topology::{self, Machine, RouterBgp, Session, Topology};
use crate::{Error, Result};

/// Speaks BGP in the namespace of the calling thread, until SIGTERM; then the routes go that were learned. If it is
/// killed, they stay, as those of a router whose hardware goes on forwarding, and the next speaker says so to its peers
/// (RFC 4724).
///
/// # Errors
/// [`Error`] if the topology has no such router, an address cannot be listened on, or the kernel gives no socket.
pub fn run(lab: &LabName, router: &str) -> Result<()> {
    crate::signals::let_through()?;
    let topology = topology::load(&lab.paths().topology())?;
    let found = topology.bgp_routers().find(|(machine, _)| machine.name == router);
    let (machine, bgp) = found.ok_or_else(|| Error::NoMember {
        lab: lab.clone(),
        name: router.to_owned(),
        known: topology.bgp_routers().map(|(machine, _)| machine.name.clone()).collect(),
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::system("start the event loop", error))?;
    runtime.block_on(speak(&topology, machine, bgp))
}

async fn speak(topology: &Topology, router: &Machine, bgp: &RouterBgp) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Error::system("wait for SIGTERM", e))?;
    let mut table = Table::open(&router.name)?;
    let failed = |error| Error::system(format!("start the BGP speaker of {}", router.name), error);
    let config = SpeakerConfig {
        restarting: table.is_held(),
        ..SpeakerConfig::new(bgp.asn.value(), router_id(router))
    };
    let listen = vec![
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT),
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT),
    ];
    let seed = std::process::id().into();
    let (speaker, mut events) =
        bgp::transport::start(config, seed, Options { listen, record: None }).map_err(failed)?;
    for prefix in &bgp.announce {
        speaker.announce(*prefix, LocalRoute::default()).await;
    }
    let sessions = topology.sessions(router);
    for session in &sessions {
        let peer = peer(topology, router, session);
        speaker
            .set_peer(peer, PeerTransport::default())
            .await
            .map_err(|error| Error::Other(format!("BGP speaker of {}: {error}", router.name)))?;
    }
    let (_bfd, mut changes) = match bgp.bfd {
        true => watch(router, &sessions, seed).await.map_err(failed)?,
        false => (Vec::new(), mpsc::unbounded_channel().1),
    };
    crate::process::ready();
    tracing::info!(router = router.name, sessions = sessions.len(), "serving");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            Some(change) = changes.recv() => heed(&speaker, &sessions, &change).await,
            told = events.recv() => match told {
                Some(told) => told.into_iter().for_each(|event| table.take(event)),
                None => return Err(Error::Other(format!("the BGP speaker of {} has ended", router.name))),
            },
        }
    }
    speaker.stop().await;
    table.clear();
    Ok(())
}

/// The first IPv4 address, or as much of the first IPv6 address as there is room for.
fn router_id(router: &Machine) -> Ipv4Addr {
    match (router.addresses().v4, router.addresses().v6) {
        (Some(IpAddr::V4(address)), _) => address,
        (_, Some(IpAddr::V6(address))) => Ipv4Addr::from((u128::from(address) as u32).max(1)),
        _ => Ipv4Addr::LOCALHOST,
    }
}

fn name(session: &Session<'_>) -> PeerName {
    format!("{}-{}", session.node.name, Family::of(&session.peer)).into()
}

fn peer(topology: &Topology, router: &Machine, session: &Session<'_>) -> PeerConfig {
    let mut own_addresses = OwnAddresses::default();
    let interface = router.interfaces.iter().find(|interface| interface.subnet == session.subnet);
    for address in interface.into_iter().flat_map(|interface| interface.addresses.iter()) {
        match address.addr() {
            IpAddr::V4(address) => own_addresses.v4 = Some(address),
            IpAddr::V6(address) => own_addresses.v6 = Some(address),
        }
    }
    let asn = topology.network.config.bgp.asn.value();
    PeerConfig { passive: true, own_addresses, ..PeerConfig::new(name(session), session.peer, asn) }
}

/// Watches the nodes by BFD. There is one watcher in each subnet, for it has one address of a family.
async fn watch(
    router: &Machine,
    sessions: &[Session<'_>],
    seed: u64,
) -> std::io::Result<(Vec<Bfd>, UnboundedReceiver<Change>)> {
    let (sender, all) = mpsc::unbounded_channel();
    let mut watchers = Vec::new();
    for interface in &router.interfaces {
        let of_subnet: Vec<_> =
            sessions.iter().filter(|session| session.subnet == interface.subnet).collect();
        if of_subnet.is_empty() {
            continue;
        }
        let ours: Vec<IpAddr> = interface.addresses.iter().map(IpNet::addr).collect();
        let (bfd, mut changes) = Bfd::start(&ours, seed.wrapping_add(interface.subnet as u64)).await?;
        for session in of_subnet {
            bfd.watch(session.peer, BfdConfig::default()).await;
        }
        watchers.push(bfd);
        let sender = sender.clone();
        tokio::spawn(async move {
            while let Some(change) = changes.recv().await {
                // The speaker ends before its watchers do.
                let _ = sender.send(change);
            }
        });
    }
    Ok((watchers, all))
}

/// A node that cannot be reached has no session, whatever TCP thinks. One whose agent has ended is waited for.
async fn heed(speaker: &Handle, sessions: &[Session<'_>], change: &Change) {
    if let Reachability::Down(_) = change.reachability {
        for session in sessions.iter().filter(|session| session.peer == change.neighbour) {
            speaker.peer_lost(name(session), change.independent).await;
        }
    }
}

/// The routes that were learned.
struct Table {
    router: String,
    kernel: Learned,
    /// The destinations in the kernel's table, those of an earlier speaker included.
    held: BTreeSet<IpNet>,
    /// The next hops that this speaker has set.
    set: BTreeMap<IpNet, BTreeSet<IpAddr>>,
}

impl Table {
    fn open(router: &str) -> Result<Table> {
        let mut kernel = Learned::open().map_err(Error::kernel(router))?;
        let held = kernel.destinations().map_err(Error::kernel(router))?;
        Ok(Table { router: router.to_owned(), kernel, held, set: BTreeMap::new() })
    }

    fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Rib(change) => self.change(&change),
            // What an earlier speaker left and nobody has told again.
            Event::Converged => {
                let stale: Vec<IpNet> =
                    self.held.iter().filter(|held| !self.set.contains_key(*held)).copied().collect();
                stale.iter().for_each(|destination| self.remove(destination));
            }
            Event::Session(_) => {}
        }
    }

    fn change(&mut self, change: &RibChange) {
        let learned = change.paths.iter().filter(|path| path.peer.is_some());
        // Two sessions with one node tell of the same next hop.
        let next_hops: BTreeSet<IpAddr> = learned.map(|path| path.attributes.next_hop).collect();
        let destination = change.prefix;
        if next_hops.is_empty() {
            return self.remove(&destination);
        }
        if self.set.get(&destination) == Some(&next_hops) {
            return;
        }
        match self.kernel.set(&destination, &next_hops) {
            Ok(()) => {
                tracing::info!(router = self.router, %destination, ?next_hops, "route");
                self.held.insert(destination);
                self.set.insert(destination, next_hops);
            }
            Err(error) => tracing::warn!(router = self.router, %error, "a route is not taken"),
        }
    }

    fn remove(&mut self, destination: &IpNet) {
        self.set.remove(destination);
        if !self.held.remove(destination) {
            return;
        }
        match self.kernel.remove(destination) {
            Ok(()) => tracing::info!(router = self.router, %destination, "no route any more"),
            Err(error) => tracing::warn!(router = self.router, %error, "a route stays"),
        }
    }

    fn clear(&mut self) {
        for destination in std::mem::take(&mut self.held) {
            if let Err(error) = self.kernel.remove(&destination) {
                tracing::warn!(router = self.router, %error, "a route stays");
            }
        }
    }
}
