//! A speaker that runs, and what it has been told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bgp::transport::{self, Event, Handle, Options, PeerTransport};
use bgp::{PeerConfig, PeerName, PeerStatus};
use ipnet::IpNet;
use plan::bgp::{Session, Speaker};
use tokio::sync::mpsc::UnboundedReceiver;

use super::translate;

/// How long peers are given to take leave.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Running {
    handle: Handle,
    events: UnboundedReceiver<Vec<Event>>,
    speaker: Arc<Speaker>,
    peers: BTreeMap<PeerName, (PeerConfig, PeerTransport)>,
    sessions: BTreeMap<String, Session>,
    pod_routes: BTreeSet<IpNet>,
    /// Where it should listen and does not, and why, in words.
    deaf: BTreeMap<SocketAddr, String>,
}

impl Running {
    /// Starts it. It also speaks if it cannot listen: those who are to connect to it do not get through then, and that is
    /// among the problems.
    pub(super) async fn start(
        speaker: Arc<Speaker>,
        services: &BTreeSet<IpAddr>,
        restarting: bool,
    ) -> io::Result<(Running, Vec<String>)> {
        let config = translate::speaker(&speaker, restarting);
        let (handle, events) =
            transport::start(config, translate::seed(speaker.router_id), Options::default())?;
        tracing::info!(asn = %speaker.asn, router_id = %speaker.router_id, "speaking BGP");
        let mut running = Running {
            handle,
            events,
            speaker: speaker.clone(),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            pod_routes: BTreeSet::new(),
            deaf: BTreeMap::new(),
        };
        for address in speaker.addresses.iter() {
            running.listen_at(SocketAddr::new(*address, transport::PORT)).await;
        }
        for address in services {
            running.set_service(*address, true).await;
        }
        let problems = running.adjust(speaker).await;
        Ok((running, problems))
    }

    /// Whether this one can become what is wanted, without its being started anew.
    pub(super) fn fits(&self, wanted: &Speaker) -> bool {
        let Speaker { asn, router_id, cluster_id, addresses, .. } = &*self.speaker;
        (asn, router_id, cluster_id, addresses)
            == (&wanted.asn, &wanted.router_id, &wanted.cluster_id, &wanted.addresses)
    }

    /// Makes sessions and routes as they are wanted; what cannot be done.
    pub(super) async fn adjust(&mut self, wanted: Arc<Speaker>) -> Vec<String> {
        let mut problems = Vec::new();
        for gone in self.pod_routes.difference(&wanted.pod_routes) {
            self.handle.withdraw(*gone).await;
        }
        for range in &wanted.pod_routes {
            if wanted.heard != self.speaker.heard || !self.pod_routes.contains(range) {
                self.handle.announce(*range, translate::pod_route(&wanted, range)).await;
            }
        }
        self.pod_routes.clone_from(&wanted.pod_routes);

        let mut peers = BTreeMap::new();
        self.sessions.clear();
        for (name, session) in &wanted.sessions {
            match translate::peer(&wanted, name, session) {
                Ok(peer) => {
                    self.sessions.insert(name.to_string(), session.clone());
                    peers.insert(translate::name(name), peer);
                }
                Err(error) => problems.push(format!("BGP: {name}: {error}")),
            }
        }
        for gone in self.peers.keys().filter(|name| !peers.contains_key(name)) {
            self.handle.remove_peer(gone.clone()).await;
        }
        for (name, (config, transport)) in &peers {
            if self.peers.get(name).is_none_or(|(known, way)| known != config || way != transport)
                && let Err(error) = self.handle.set_peer(config.clone(), transport.clone()).await
            {
                problems.push(format!("BGP: {error}"));
            }
        }
        self.peers = peers;
        self.speaker = wanted;
        problems
    }

    /// Tells peers of an address of a service, or that it is no more.
    pub(super) async fn set_service(&self, address: IpAddr, told: bool) {
        match told {
            true => self.handle.announce(address.into(), translate::service_route(&self.speaker)).await,
            false => self.handle.withdraw(address.into()).await,
        }
    }

    /// BFD has found an address to be out of reach.
    pub(super) async fn lost(&self, address: IpAddr, independent: bool) {
        for name in self.watched_at(address) {
            self.handle.peer_lost(name.clone(), independent).await;
        }
    }

    /// BFD has found an address to be in reach.
    pub(super) async fn reachable(&self, address: IpAddr) {
        for name in self.watched_at(address) {
            self.handle.peer_reachable(name.clone()).await;
        }
    }

    fn watched_at(&self, address: IpAddr) -> impl Iterator<Item = &PeerName> {
        let at = move |config: &PeerConfig| config.address == address && !config.roaming;
        self.peers.iter().filter(move |(_, (config, _))| at(config)).map(|(name, _)| name)
    }

    /// What has happened; never anything, if the speaker has ended.
    pub(super) async fn events(&mut self) -> Vec<Event> {
        match self.events.recv().await {
            Some(events) => events,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn status(&self) -> Option<Vec<PeerStatus>> {
        self.handle.status().await.ok()
    }

    /// The session of a name.
    pub(super) fn session(&self, name: &str) -> Option<&Session> {
        self.sessions.get(name)
    }

    /// Listens wherever it should; where it cannot, and why, in words.
    pub(super) async fn listen(&mut self) -> impl Iterator<Item = &String> {
        for at in std::mem::take(&mut self.deaf).into_keys() {
            self.listen_at(at).await;
        }
        self.deaf.values()
    }

    async fn listen_at(&mut self, at: SocketAddr) {
        match self.handle.listen(at).await {
            Ok(()) => tracing::info!(%at, "taking BGP connections"),
            Err(error) => drop(self.deaf.insert(at, translate::deaf(at, &error))),
        }
    }

    /// Ends it as if it had been killed; peers keep its routes. Its addresses can be listened on again then.
    pub(super) async fn leave(mut self) {
        drop(self.handle);
        while self.events.recv().await.is_some() {}
    }

    /// Ends it for good. Peers outside are told to forget its routes. Other nodes keep them for a while: those that have not
    /// heard yet that routes come from elsewhere have no others.
    pub(super) async fn finish(self) {
        tracing::info!("BGP is spoken no more");
        if self.sessions.values().any(|session| session.outside) {
            let _ = tokio::time::timeout(STOP_PATIENCE, self.handle.stop()).await;
        } else {
            self.leave().await;
        }
    }
}
