//! Speakers joined without a network: what one sends, the other is told.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::{
    BestPath, ConnectionId, Input, LocalRoute, Moment, Output, PeerConfig, PeerStatus, SessionState, Speaker,
    SpeakerConfig,
};

/// A way of bytes: the speaker that gets them, and what it calls the connection.
type End = (usize, ConnectionId);

#[derive(Debug)]
enum Parcel {
    Bytes(Vec<u8>),
    End,
}

pub(super) struct Net {
    pub(super) now: Moment,
    pub(super) hosts: Vec<Host>,
    /// What is under way to each end of a connection.
    wires: BTreeMap<End, VecDeque<Parcel>>,
    other: BTreeMap<End, End>,
    incoming: u64,
    /// Connections to which nothing gets through, without either side being told.
    pub(super) silent: bool,
    /// Picks among what is under way; in the order of connections if it is 0.
    pub(super) chance: u64,
}

pub(super) struct Host {
    pub(super) speaker: Speaker,
    pub(super) routes: BTreeMap<IpNet, Vec<BestPath>>,
    pub(super) sessions: Vec<(String, Option<String>)>,
    pub(super) converged: bool,
    /// All that it was told.
    pub(super) told: Vec<(Moment, Input)>,
    pub(super) answers: Vec<Vec<Output>>,
    pub(super) off: bool,
}

pub(super) fn at(number: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, number as u8 + 1])
}

pub(super) fn config(number: usize, asn: u32) -> SpeakerConfig {
    SpeakerConfig::new(asn, [10, 0, 0, number as u8 + 1].into())
}

pub(super) fn peer(number: usize, asn: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(format!("s{number}"), at(number), asn);
    peer.own_addresses.v6 = Some("2001:db8::1".parse().unwrap());
    peer
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Host {
    fn new(config: SpeakerConfig, seed: u64, now: Moment) -> Host {
        Host {
            speaker: Speaker::new(config, seed, now),
            routes: BTreeMap::new(),
            sessions: Vec::new(),
            converged: false,
            told: Vec::new(),
            answers: Vec::new(),
            off: false,
        }
    }
}

impl Net {
    /// Speakers with these settings and no peers.
    pub(super) fn new(configs: impl IntoIterator<Item = SpeakerConfig>) -> Net {
        let now = Moment::after_start(Duration::from_secs(1));
        let hosts =
            configs.into_iter().enumerate().map(|(number, config)| Host::new(config, number as u64, now));
        Net {
            now,
            hosts: hosts.collect(),
            wires: BTreeMap::new(),
            other: BTreeMap::new(),
            incoming: 0,
            silent: false,
            chance: 0,
        }
    }

    /// Two speakers in these ASes, each with the other as peer, changed by `change`.
    pub(super) fn pair(asns: [u32; 2], change: impl Fn(usize, &mut PeerConfig)) -> Net {
        let mut net = Net::new([config(0, asns[0]), config(1, asns[1])]);
        for (here, there) in [(0, 1), (1, 0)] {
            let mut peer = peer(there, asns[there]);
            change(here, &mut peer);
            net.tell(here, Input::SetPeer(Box::new(peer)));
        }
        net.deliver();
        // The first attempt of the first one was too early.
        net.pass(Duration::from_secs(1));
        net
    }

    pub(super) fn tell(&mut self, host: usize, input: Input) {
        let now = self.now;
        let target = &mut self.hosts[host];
        target.told.push((now, input.clone()));
        let outputs = target.speaker.handle(now, input);
        target.answers.push(outputs.clone());
        for output in outputs {
            match output {
                Output::Connect { connection, address, .. } => self.connect((host, connection), address),
                Output::Send { connection, bytes } => {
                    self.put((host, connection), Parcel::Bytes(bytes.to_vec()));
                }
                Output::Close { connection } => {
                    self.wires.remove(&(host, connection));
                    self.put((host, connection), Parcel::End);
                    self.other.remove(&(host, connection));
                }
                Output::Rib(change) if change.paths.is_empty() => {
                    self.hosts[host].routes.remove(&change.prefix);
                }
                Output::Rib(change) => {
                    self.hosts[host].routes.insert(change.prefix, change.paths);
                }
                Output::Session(event) => {
                    self.hosts[host].sessions.push((event.peer.to_string(), event.down));
                }
                Output::Converged => self.hosts[host].converged = true,
            }
        }
    }

    pub(super) fn announce(&mut self, host: usize, prefixes: &[&str]) {
        for prefix in prefixes {
            self.tell(host, Input::Announce(net(prefix), LocalRoute::default()));
        }
        self.deliver();
    }

    /// Delivers all that is under way.
    pub(super) fn deliver(&mut self) {
        loop {
            let ready: Vec<End> =
                self.wires.iter().filter(|(_, wire)| !wire.is_empty()).map(|(end, _)| *end).collect();
            if ready.is_empty() || self.silent {
                return;
            }
            self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005);
            let end = ready[(self.chance >> 33) as usize % ready.len()];
            self.deliver_one(end);
        }
    }

    fn deliver_one(&mut self, end: End) {
        let (host, connection) = end;
        match self.wires.get_mut(&end).and_then(VecDeque::pop_front) {
            Some(Parcel::Bytes(bytes)) => {
                self.tell(host, Input::Received { connection, bytes });
                if let Some((other, connection)) = self.other.get(&end).copied() {
                    self.tell(other, Input::Drained { connection });
                }
            }
            Some(Parcel::End) => {
                self.wires.remove(&end);
                self.other.remove(&end);
                self.tell(
                    host,
                    Input::Closed { connection, reason: "peer closed the connection".to_owned() },
                );
            }
            None => {}
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let hosts = self.hosts.iter().enumerate().filter(|(_, host)| !host.off);
            let next = hosts.filter_map(|(number, host)| Some((host.speaker.deadline()?, number))).min();
            match next {
                Some((due, host)) if due <= end => {
                    self.now = self.now.max(due);
                    self.tell(host, Input::Tick);
                    self.deliver();
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Breaks all connections of a host, as when its process is killed.
    pub(super) fn cut(&mut self, host: usize) {
        let ends: Vec<(End, End)> =
            self.other.iter().filter(|(end, _)| end.0 == host).map(|(end, other)| (*end, *other)).collect();
        for (here, there) in ends {
            self.wires.remove(&here);
            self.wires.remove(&there);
            self.other.remove(&here);
            self.other.remove(&there);
            for (host, connection) in [here, there] {
                if !self.hosts[host].off {
                    self.tell(host, Input::Closed { connection, reason: "connection reset".to_owned() });
                }
            }
        }
        self.deliver();
    }

    /// Kills a host.
    pub(super) fn kill(&mut self, host: usize) {
        self.hosts[host].off = true;
        self.cut(host);
    }

    /// Starts a host anew.
    pub(super) fn revive(&mut self, host: usize, config: SpeakerConfig) {
        self.hosts[host] = Host::new(config, 99, self.now);
    }

    pub(super) fn status(&self, host: usize) -> PeerStatus {
        self.hosts[host].speaker.status(self.now).remove(0)
    }

    pub(super) fn is_up(&self, host: usize) -> bool {
        self.status(host).state == SessionState::Established
    }

    /// The prefixes that a host has from peers.
    pub(super) fn learned(&self, host: usize) -> Vec<String> {
        let routes = self.hosts[host].routes.iter();
        routes.filter(|(_, paths)| paths[0].peer.is_some()).map(|(prefix, _)| prefix.to_string()).collect()
    }

    pub(super) fn stale(&self, host: usize) -> Vec<String> {
        let routes = self.hosts[host].routes.iter();
        routes.filter(|(_, paths)| paths[0].stale).map(|(prefix, _)| prefix.to_string()).collect()
    }

    /// Bytes from a connection of one's own making.
    pub(super) fn push(&mut self, host: usize, connection: ConnectionId, bytes: &[u8]) {
        self.tell(host, Input::Received { connection, bytes: bytes.to_vec() });
    }

    fn connect(&mut self, end: End, address: IpAddr) {
        let (host, connection) = end;
        let to = (0..self.hosts.len()).find(|number| at(*number) == address);
        match to.filter(|to| !self.hosts[*to].off) {
            Some(to) => {
                self.incoming += 1;
                let there = (to, ConnectionId::Incoming(self.incoming));
                self.other.insert(end, there);
                self.other.insert(there, end);
                self.wires.insert(end, VecDeque::new());
                self.wires.insert(there, VecDeque::new());
                self.tell(to, Input::Accepted { connection: there.1, from: at(host), local: at(to) });
                self.tell(host, Input::Connected { connection, local: at(host) });
            }
            None => self.tell(host, Input::Closed { connection, reason: "connection refused".to_owned() }),
        }
    }

    fn put(&mut self, from: End, parcel: Parcel) {
        if let Some(wire) = self.other.get(&from).and_then(|to| self.wires.get_mut(to)) {
            wire.push_back(parcel);
        }
    }
}
