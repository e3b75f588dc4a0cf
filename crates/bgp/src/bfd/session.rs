//! One session: states and timers (RFC 5880, section 6.8).

use std::time::Duration;

use super::packet::{Diagnostic, LENGTH, Packet, State};
use super::{BfdConfig, Reachability};
use crate::Moment;
use crate::jitter::Jitter;

/// While the session is not up, nobody is to be sent packets more often than this (section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Session {
    config: BfdConfig,
    mine: u32,
    yours: u32,
    state: State,
    diagnostic: Diagnostic,
    /// What the neighbour has said last.
    remote: Option<Remote>,
    /// Whether the neighbour's BFD goes on when its control plane ends, as it has said last.
    independent: bool,
    /// When the next packet is due; none if the neighbour wants none.
    next: Option<Moment>,
    /// When the neighbour is given up.
    expires: Option<Moment>,
    /// Whether the neighbour has still to confirm that it knows our intervals.
    polling: bool,
    /// The intervals before those, which count until then (section 6.8.3).
    former: Option<BfdConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remote {
    min_tx: Duration,
    min_rx: Duration,
    multiplier: u8,
}

/// What follows from an event.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) send: Option<[u8; LENGTH]>,
    pub(super) changed: Option<Reachability>,
}

impl Session {
    /// A session that starts now. `mine` must not be that of another session.
    pub(super) fn new(config: BfdConfig, mine: u32, now: Moment) -> Session {
        Session {
            config,
            mine,
            yours: 0,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: None,
            independent: false,
            next: Some(now),
            expires: None,
            polling: false,
            former: None,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn discriminator(&self) -> u32 {
        self.mine
    }

    pub(super) fn config(&self) -> BfdConfig {
        self.config
    }

    pub(super) fn is_independent(&self) -> bool {
        self.independent
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.next.into_iter().chain(self.expires).min()
    }

    /// Takes over other intervals.
    pub(super) fn reconfigure(&mut self, config: BfdConfig) {
        if self.state == State::Up {
            self.polling = true;
            self.former = Some(self.config);
        }
        self.config = config;
    }

    /// A packet of the neighbour.
    pub(super) fn received(&mut self, packet: &Packet, now: Moment, jitter: &mut Jitter) -> Step {
        self.yours = packet.mine;
        self.independent = packet.independent;
        self.remote =
            Some(Remote { min_tx: packet.min_tx, min_rx: packet.min_rx, multiplier: packet.multiplier });
        if packet.finish {
            self.polling = false;
            self.former = None;
        }
        let before = self.state;
        match (self.state, packet.state) {
            (State::AdminDown, _) => return Step::default(),
            (State::Down, State::Down) => self.state = State::Init,
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => self.state = State::Up,
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.fall(Diagnostic::NeighbourSignaledDown);
            }
            _ => {}
        }
        self.expires = self.detection_time().map(|time| now + time);
        let mut step = Step { changed: self.change(before, Some(packet)), send: None };
        if self.state == State::Up && before != State::Up {
            self.diagnostic = Diagnostic::None;
            // From here on the intervals are those that were asked for; the neighbour is to know.
            self.polling = true;
        }
        if packet.poll {
            step.send = Some(self.packet(true).bytes());
        }
        // The interval may be another now, and what is due later than it allows is due at once.
        let due = self.interval().map(|interval| now + jitter.shorten(interval));
        self.next = match (self.next, due) {
            (Some(next), Some(due)) if before == self.state => Some(next.min(due)),
            (_, Some(_)) if before != self.state => Some(now),
            (_, due) => due,
        };
        step
    }

    /// Sees to what is due.
    pub(super) fn tick(&mut self, now: Moment, jitter: &mut Jitter) -> Step {
        let mut step = Step::default();
        if self.expires.is_some_and(|expires| expires <= now) {
            let before = self.state;
            self.expires = None;
            self.yours = 0;
            self.remote = None;
            if self.state != State::AdminDown {
                self.fall(Diagnostic::DetectionTimeExpired);
            }
            step.changed = self.change(before, None);
            self.next = Some(now);
        }
        if self.next.is_some_and(|next| next <= now) {
            step.send = Some(self.packet(false).bytes());
            self.next = self.interval().map(|interval| now + jitter.shorten(interval));
        }
        step
    }

    /// The last packet before the session ends: the neighbour is to know that this is on purpose.
    pub(super) fn farewell(&mut self) -> [u8; LENGTH] {
        self.state = State::AdminDown;
        self.diagnostic = Diagnostic::AdministrativelyDown;
        self.packet(false).bytes()
    }

    fn fall(&mut self, diagnostic: Diagnostic) {
        self.state = State::Down;
        self.diagnostic = diagnostic;
        self.polling = false;
        self.former = None;
    }

    /// What is new since `before`, after a packet or a silence.
    fn change(&self, before: State, packet: Option<&Packet>) -> Option<Reachability> {
        // One that has begun anew is down without having missed anything.
        let on_purpose =
            |packet: &Packet| packet.state == State::AdminDown || packet.diagnostic == Diagnostic::None;
        match (before, self.state) {
            (State::Up, State::Down) if packet.is_some_and(on_purpose) => Some(Reachability::Unknown),
            (State::Up, State::Down) => Some(Reachability::Down(self.diagnostic)),
            (State::Down | State::Init, State::Up) => Some(Reachability::Up),
            _ => None,
        }
    }

    fn packet(&self, finish: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // A packet must not have both (section 6.8.7).
            poll: self.polling && !finish,
            finish,
            // It is the process of the control plane that speaks BFD.
            independent: false,
            multiplier: self.config.multiplier.max(1),
            mine: self.mine,
            yours: self.yours,
            min_tx: self.min_tx(),
            min_rx: self.config.min_rx,
        }
    }

    fn min_tx(&self) -> Duration {
        if self.state == State::Up { self.config.min_tx } else { self.config.min_tx.max(SLOW) }
    }

    /// How far apart our packets are (section 6.8.2); none if the neighbour wants none.
    fn interval(&self) -> Option<Duration> {
        let wanted = self.remote.map_or(Duration::from_micros(1), |remote| remote.min_rx);
        let former = self.former.map_or(Duration::MAX, |former| former.min_tx);
        (!wanted.is_zero()).then(|| self.min_tx().min(former).max(wanted))
    }

    /// After how long a silence the neighbour is given up (section 6.8.4).
    fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote?;
        let former = self.former.map_or(Duration::ZERO, |former| former.min_rx);
        Some(self.config.min_rx.max(former).max(remote.min_tx) * u32::from(remote.multiplier))
    }
}
