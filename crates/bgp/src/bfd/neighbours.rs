//! All sessions: whose a packet is, and which timer is due.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::packet::Packet;
use super::session::{Session, Step};
use super::{BfdConfig, Change, Output, State};
use crate::Moment;
use crate::jitter::Jitter;

/// The neighbours that are watched.
#[derive(Debug)]
pub struct Neighbours {
    sessions: BTreeMap<IpAddr, Session>,
    jitter: Jitter,
    discriminators: u32,
}

impl Neighbours {
    /// No neighbours yet. `seed` spreads the timers and should not be that of others.
    pub fn new(seed: u64) -> Neighbours {
        Neighbours { sessions: BTreeMap::new(), jitter: Jitter::new(seed), discriminators: 0 }
    }

    /// Watches a neighbour, or watches it otherwise.
    pub fn watch(&mut self, neighbour: IpAddr, config: BfdConfig, now: Moment) {
        match self.sessions.get_mut(&neighbour) {
            Some(session) if session.config() == config => {}
            Some(session) => session.reconfigure(config),
            None => {
                self.discriminators = self.discriminators.wrapping_add(1).max(1);
                self.sessions.insert(neighbour, Session::new(config, self.discriminators, now));
            }
        }
    }

    /// Watches a neighbour no more, and tells it so.
    pub fn forget(&mut self, neighbour: IpAddr) -> Option<Output> {
        let mut session = self.sessions.remove(&neighbour)?;
        Some(Output::Send { to: neighbour, bytes: session.farewell() })
    }

    /// The state of a neighbour; none if it is not watched.
    pub fn state(&self, neighbour: IpAddr) -> Option<State> {
        self.sessions.get(&neighbour).map(Session::state)
    }

    /// A packet has come in, and no router has passed it on.
    pub fn received(&mut self, from: IpAddr, bytes: &[u8], now: Moment) -> Vec<Output> {
        let Some(packet) = Packet::read(bytes) else {
            return Vec::new();
        };
        match self.sessions.get_mut(&from) {
            Some(session) if packet.yours == 0 || packet.yours == session.discriminator() => {
                let step = session.received(&packet, now, &mut self.jitter);
                outputs(from, session, step)
            }
            _ => Vec::new(),
        }
    }

    /// Sees to what is due.
    pub fn tick(&mut self, now: Moment) -> Vec<Output> {
        let mut all = Vec::new();
        for (neighbour, session) in &mut self.sessions {
            if session.deadline().is_some_and(|deadline| deadline <= now) {
                let step = session.tick(now, &mut self.jitter);
                all.extend(outputs(*neighbour, session, step));
            }
        }
        all
    }

    /// When [`Neighbours::tick`] is wanted next.
    pub fn deadline(&self) -> Option<Moment> {
        self.sessions.values().filter_map(Session::deadline).min()
    }
}

fn outputs(neighbour: IpAddr, session: &Session, step: Step) -> Vec<Output> {
    let independent = session.is_independent();
    let send = step.send.map(|bytes| Output::Send { to: neighbour, bytes });
    let changed =
        step.changed.map(|reachability| Output::Changed(Change { neighbour, reachability, independent }));
    send.into_iter().chain(changed).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
