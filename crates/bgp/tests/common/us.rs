//! Our speaker, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bgp::transport::{Event, Handle, Options, PeerTransport, start};
use bgp::{BestPath, LocalRoute, PeerConfig, PeerStatus, SpeakerConfig};
use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::{PATIENCE, us};

/// See [`Us::churn`].
pub const LAST_ROUND: u32 = 19;

pub struct Us {
    pub handle: Handle,
    events: UnboundedReceiver<Vec<Event>>,
    /// The table as the events tell it.
    pub routes: BTreeMap<IpNet, Vec<BestPath>>,
    /// Peers whose session is up, as the events tell it.
    pub up: BTreeMap<String, bool>,
    pub converged: bool,
    /// Prefixes for which, at some time, there was no route any more.
    pub lost: Vec<IpNet>,
    /// Why sessions went down.
    pub downs: Vec<String>,
}

pub fn speaker(asn: u32) -> SpeakerConfig {
    SpeakerConfig::new(asn, [10, 0, 0, 1].into())
}

/// Names us as next hop of both families whatever the session is on.
pub fn peer(name: &str, address: IpAddr, asn: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(name, address, asn);
    (peer.own_addresses.v4, peer.own_addresses.v6) =
        (Some([10, 0, 0, 1].into()), Some("fd00::1".parse().unwrap()));
    peer
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Us {
    pub fn start(config: SpeakerConfig) -> Us {
        Us::with_options(config, Options::default())
    }

    pub fn with_options(config: SpeakerConfig, mut options: Options) -> Us {
        options.listen = [false, true].map(|v6| SocketAddr::new(us(v6), 179)).to_vec();
        let (handle, events) = start(config, 7, options).unwrap();
        Us {
            handle,
            events,
            routes: BTreeMap::new(),
            up: BTreeMap::new(),
            converged: false,
            lost: Vec::new(),
            downs: Vec::new(),
        }
    }

    pub async fn peer(&self, config: PeerConfig) {
        self.handle.set_peer(config, PeerTransport::default()).await.unwrap();
    }

    pub async fn announce(&self, prefixes: &[&str]) {
        for prefix in prefixes {
            self.handle.announce(net(prefix), LocalRoute::default()).await;
        }
    }

    /// Takes note of events until what they say is as wanted.
    #[track_caller]
    pub fn until<'a>(
        &'a mut self,
        what: &'a str,
        wanted: impl Fn(&Us) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            while !wanted(self) {
                match timeout(PATIENCE, self.events.recv()).await {
                    Ok(Some(events)) => events.into_iter().for_each(|event| self.note(event)),
                    _ => panic!(
                        "{caller}: {what}: routes {:#?}, up {:?}, {:#?}",
                        self.routes,
                        self.up,
                        self.handle.status().await
                    ),
                }
            }
        }
    }

    /// Announces and withdraws many routes of both families again and again; what is left, with MED [`LAST_ROUND`].
    pub async fn churn(&self) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        for round in 0..=LAST_ROUND {
            for number in 0..50_u32 {
                for prefix in [format!("10.10.{number}.0/24"), format!("2001:db8:1{number:02}::/48")] {
                    if (round + number) % 3 == 0 {
                        self.handle.withdraw(net(&prefix)).await;
                        left.remove(&prefix);
                    } else {
                        let route = LocalRoute { med: Some(round), ..LocalRoute::default() };
                        self.handle.announce(net(&prefix), route).await;
                        left.insert(prefix);
                    }
                }
            }
        }
        left
    }

    pub async fn up(&mut self, peer: &str) {
        self.until(&format!("{peer} is up"), |us| us.up.get(peer) == Some(&true)).await;
    }

    pub async fn down(&mut self, peer: &str) {
        self.until(&format!("{peer} is down"), |us| us.up.get(peer) == Some(&false)).await;
    }

    /// Waits until exactly these prefixes have come from peers.
    #[track_caller]
    pub fn until_learned<'a>(&'a mut self, prefixes: &'a [&'a str]) -> impl Future<Output = ()> + 'a {
        let mut wanted: Vec<IpNet> = prefixes.iter().map(|prefix| net(prefix)).collect();
        wanted.sort();
        self.until("routes come in", move |us| us.learned() == wanted)
    }

    pub fn learned(&self) -> Vec<IpNet> {
        let from_peers = self.routes.iter().filter(|(_, paths)| paths.iter().any(|path| path.peer.is_some()));
        from_peers.map(|(prefix, _)| *prefix).collect()
    }

    pub fn best(&self, prefix: &str) -> &BestPath {
        &self.routes[&net(prefix)][0]
    }

    pub async fn status(&self, peer: &str) -> PeerStatus {
        let all = self.handle.status().await.unwrap();
        all.into_iter().find(|status| status.name.as_str() == peer).unwrap()
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Rib(change) if change.paths.is_empty() => {
                self.routes.remove(&change.prefix);
                self.lost.push(change.prefix);
            }
            Event::Rib(change) => {
                self.routes.insert(change.prefix, change.paths);
            }
            Event::Session(event) => {
                self.up.insert(event.peer.to_string(), event.down.is_none());
                self.downs.extend(event.down);
            }
            Event::Converged => self.converged = true,
        }
    }
}
