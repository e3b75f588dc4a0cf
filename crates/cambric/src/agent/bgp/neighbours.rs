//! BFD beside BGP: whether peers can be reached, within a fraction of a second.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::bfd::{Change, Reachability};
use bgp::transport::bfd::Bfd;
use model::{BfdTimers, Family};
use plan::bgp::Speaker;
use tokio::sync::mpsc::UnboundedReceiver;

use super::translate;

/// The peers that are watched. Without any, no socket is open.
#[derive(Default)]
pub(super) struct Neighbours {
    open: Option<Open>,
    watched: BTreeMap<IpAddr, BfdTimers>,
    states: BTreeMap<IpAddr, Reachability>,
}

struct Open {
    ours: Vec<IpAddr>,
    bfd: Bfd,
    changes: UnboundedReceiver<Change>,
}

impl Neighbours {
    /// Watches those that are to be watched and no others; what cannot be done.
    pub(super) async fn adjust(&mut self, wanted: &Speaker) -> Option<String> {
        let sessions = wanted.sessions.values();
        let watched: BTreeMap<IpAddr, BfdTimers> =
            sessions.filter_map(|session| Some((session.address, session.bfd?))).collect();
        let spoken = |address: &&IpAddr| watched.keys().any(|peer| Family::of(peer) == Family::of(address));
        let ours: Vec<IpAddr> = wanted.addresses.iter().filter(spoken).copied().collect();
        if self.open.as_ref().map_or(&[][..], |open| &open.ours) != ours {
            if let Some(Open { bfd, mut changes, .. }) = std::mem::take(self).open {
                drop(bfd);
                while changes.recv().await.is_some() {}
            }
            if !ours.is_empty() {
                match Bfd::start(&ours, translate::seed(wanted.router_id)).await {
                    Ok((bfd, changes)) => self.open = Some(Open { ours, bfd, changes }),
                    Err(error) => {
                        return Some(format!("{error}; peers that are gone are noticed by BGP's hold time"));
                    }
                }
            }
        }
        if let Some(open) = &self.open {
            for gone in self.watched.keys().filter(|address| !watched.contains_key(address)) {
                open.bfd.forget(*gone).await;
                self.states.remove(gone);
            }
            for (address, timers) in &watched {
                if self.watched.get(address) != Some(timers) {
                    open.bfd.watch(*address, translate::bfd(*timers)).await;
                }
            }
            self.watched = watched;
        }
        None
    }

    /// Waits for news of one of them.
    pub(super) async fn next(&mut self) -> Change {
        if let Some(open) = &mut self.open
            && let Some(change) = open.changes.recv().await
        {
            return change;
        }
        std::future::pending().await
    }

    /// Takes note of news.
    pub(super) fn note(&mut self, change: Change) {
        self.states.insert(change.neighbour, change.reachability);
    }

    /// What is known of a peer; `None` if it has not been heard yet.
    pub(super) fn state(&self, address: IpAddr) -> Option<Reachability> {
        self.states.get(&address).copied()
    }
}
