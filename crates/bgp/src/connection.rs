//! One connection: messages out of bytes, the state machine, its timers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use model::Family;
use rustbgpd_fsm::{Action, Event, NegotiatedSession, TimerType};
use rustbgpd_wire::notification::cease_subcode;
use rustbgpd_wire::{
    Afi, Capability, DecodeError, EXTENDED_MAX_MESSAGE_LEN, MAX_MESSAGE_LEN, Message, NotificationMessage,
    OpenMessage, Safi, decode_message, encode_message, peek_message_length,
};

use crate::jitter::Jitter;
use crate::notification;
use crate::wire;
use crate::{ConnectionId, Families, Moment, PeerConfig, SessionState, SpeakerConfig};

/// The least time for which a peer may take nothing before it is given up (RFC 9687, section 6).
const SEND_HOLD_FLOOR: Duration = Duration::from_secs(480);

/// A connection with a peer.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) remote: IpAddr,
    /// Our address; none while it is being opened.
    pub(crate) local: Option<IpAddr>,
    /// Bytes sent that have not been handed to the kernel yet.
    pub(crate) unsent: usize,
    fsm: rustbgpd_fsm::Session,
    input: BytesMut,
    hold: Option<Moment>,
    keepalive: Option<Moment>,
    /// Since when something is unsent.
    blocked: Option<Moment>,
    /// Whether our OPEN has bits R and F set.
    forwarding: bool,
}

/// What follows from a step.
#[derive(Debug)]
pub(crate) enum Effect {
    /// These bytes go out.
    Send(Bytes),
    /// The session is up.
    Established(Box<Negotiated>),
    /// The connection is over.
    Closed(End),
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: String,
    /// Whether routes may be kept for a peer with graceful restart, and one with the addition of RFC 8538.
    pub(crate) keep: Keep,
    /// Whether the socket is closed already.
    pub(crate) gone: bool,
}

/// Which kind of graceful restart is needed for a peer's routes to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The connection broke: RFC 4724 is enough.
    Broken,
    /// A NOTIFICATION was sent or received: RFC 8538 is needed.
    Notified,
    /// They go in any case.
    Never,
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) router_id: Ipv4Addr,
    pub(crate) hold_time: Duration,
    pub(crate) families: Families,
    pub(crate) four_octet_as: bool,
    pub(crate) refresh: bool,
    pub(crate) enhanced_refresh: bool,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub(crate) v4_over_v6: bool,
    pub(crate) restart: Option<PeerRestart>,
}

/// What a peer says of its graceful restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerRestart {
    /// Bit R: it has restarted.
    pub(crate) restarting: bool,
    pub(crate) time: Duration,
    pub(crate) families: Families,
    /// Bit F: of these it has kept the forwarding state.
    pub(crate) preserved: Families,
    /// RFC 8538: also a NOTIFICATION does not cost the routes.
    pub(crate) notification: bool,
}

impl Connection {
    /// A connection that is being opened, or has just been accepted. `restarting` is for bits R and F of our OPEN.
    pub(crate) fn new(
        id: ConnectionId,
        remote: IpAddr,
        speaker: &SpeakerConfig,
        peer: &PeerConfig,
        restarting: bool,
    ) -> Connection {
        let mut fsm = rustbgpd_fsm::Session::new(fsm_config(speaker, peer));
        // Opening connections and retrying is the peer's business, not the connection's.
        fsm.handle_event(Event::ManualStart);
        Connection {
            id,
            remote,
            local: None,
            unsent: 0,
            fsm,
            input: BytesMut::new(),
            hold: None,
            keepalive: None,
            blocked: None,
            forwarding: restarting,
        }
    }

    pub(crate) fn state(&self) -> SessionState {
        match self.fsm.state() {
            rustbgpd_fsm::SessionState::Idle => SessionState::Idle,
            rustbgpd_fsm::SessionState::Connect => SessionState::Connect,
            rustbgpd_fsm::SessionState::Active => SessionState::Active,
            rustbgpd_fsm::SessionState::OpenSent => SessionState::OpenSent,
            rustbgpd_fsm::SessionState::OpenConfirm => SessionState::OpenConfirm,
            rustbgpd_fsm::SessionState::Established => SessionState::Established,
        }
    }

    /// The connection is there.
    pub(crate) fn connected(&mut self, local: IpAddr, now: Moment, jitter: &mut Jitter) -> Vec<Effect> {
        self.local = Some(local);
        self.step(Event::TcpConnectionConfirmed, now, jitter)
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What is wrong with it; the connection cannot go on.
    pub(crate) fn message(&mut self) -> Result<Option<Message>, DecodeError> {
        let extended = self.fsm.negotiated().is_some_and(|session| session.peer_extended_message);
        let limit = if extended { EXTENDED_MAX_MESSAGE_LEN } else { MAX_MESSAGE_LEN };
        match peek_message_length(&self.input, limit)? {
            Some(len) if self.input.len() >= usize::from(len) => {
                let mut message = self.input.split_to(usize::from(len)).freeze();
                decode_message(&mut message, limit).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Notes that bytes are on their way.
    pub(crate) fn sending(&mut self, len: usize, now: Moment) {
        self.unsent += len;
        self.blocked.get_or_insert(now);
    }

    pub(crate) fn drained(&mut self) {
        self.unsent = 0;
        self.blocked = None;
    }

    pub(crate) fn opened(&mut self, open: OpenMessage, now: Moment, jitter: &mut Jitter) -> Vec<Effect> {
        self.step(Event::OpenReceived(open), now, jitter)
    }

    /// Something other than an OPEN or an UPDATE has come in.
    pub(crate) fn other(&mut self, message: Message, now: Moment, jitter: &mut Jitter) -> Vec<Effect> {
        match message {
            Message::Open(open) => self.opened(open, now, jitter),
            Message::Update(_) => self.step(Event::UpdateReceived, now, jitter),
            Message::RouteRefresh(refresh) => {
                let (afi, safi) =
                    (refresh.afi().unwrap_or(Afi::Ipv4), refresh.safi().unwrap_or(Safi::Unicast));
                self.step(Event::RouteRefreshReceived { afi, safi }, now, jitter)
            }
            Message::Notification(received) => {
                let keep = if notification::is_hard_reset(&received) { Keep::Never } else { Keep::Notified };
                let reason = format!("peer sent {}", notification::words(&received));
                self.step(Event::NotificationReceived(received), now, jitter);
                vec![Effect::Closed(End { reason, keep, gone: false })]
            }
            _ => self.step(Event::KeepaliveReceived, now, jitter),
        }
    }

    /// An UPDATE was taken: the peer is alive. All that the state machine would do is to start the hold timer again.
    pub(crate) fn alive(&mut self, now: Moment) {
        if self.hold.is_some() {
            let seconds = self.fsm.negotiated().map_or(0, |session| session.hold_time);
            self.hold = Some(now + Duration::from_secs(seconds.into()));
        }
    }

    pub(crate) fn undecodable(
        &mut self,
        error: DecodeError,
        now: Moment,
        jitter: &mut Jitter,
    ) -> Vec<Effect> {
        self.step(Event::DecodeError(error), now, jitter)
    }

    /// Says something, so that a peer that knows nothing of the connection answers that it does not.
    pub(crate) fn probe(&mut self) -> Vec<Effect> {
        keepalive().into_iter().collect()
    }

    /// Ends the connection with a NOTIFICATION.
    pub(crate) fn refuse(&self, message: NotificationMessage, keep: Keep) -> Vec<Effect> {
        let reason = format!("we sent {}", notification::words(&message));
        let mut effects = Vec::new();
        if self.local.is_some() {
            effects.push(Effect::Send(notification::encoded(message)));
        }
        effects.push(Effect::Closed(End { reason, keep, gone: false }));
        effects
    }

    /// Sees to the timers that are due.
    pub(crate) fn tick(&mut self, now: Moment, jitter: &mut Jitter) -> Vec<Effect> {
        if self.hold.is_some_and(|due| due <= now) {
            self.hold = None;
            return self.step(Event::HoldTimerExpires, now, jitter);
        }
        if self.send_hold().is_some_and(|due| due <= now) {
            // A NOTIFICATION would not get through either (RFC 9687, section 4.2).
            let reason = "the peer's receive window has been closed for too long".to_owned();
            return vec![Effect::Closed(End { reason, keep: Keep::Broken, gone: false })];
        }
        if self.keepalive.is_some_and(|due| due <= now) {
            self.keepalive = None;
            return self.step(Event::KeepaliveTimerExpires, now, jitter);
        }
        Vec::new()
    }

    /// When the next timer is due.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        [self.hold, self.keepalive, self.send_hold()].into_iter().flatten().min()
    }

    fn send_hold(&self) -> Option<Moment> {
        let hold = self.fsm.negotiated().map_or(0, |session| session.hold_time);
        let patience = SEND_HOLD_FLOOR.max(2 * Duration::from_secs(hold.into()));
        self.blocked.map(|since| since + patience)
    }

    fn step(&mut self, event: Event, now: Moment, jitter: &mut Jitter) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut end = None;
        for action in self.fsm.handle_event(event) {
            match action {
                Action::SendOpen(open) => effects.push(Effect::Send(self.open_bytes(open))),
                Action::SendKeepalive => effects.extend(keepalive()),
                Action::SendNotification(message) => {
                    end = Some(format!("we sent {}", notification::words(&message)));
                    effects.push(Effect::Send(notification::encoded(message)));
                }
                Action::StartTimer(TimerType::Hold, seconds) => {
                    self.hold = Some(now + Duration::from_secs(seconds.into()));
                }
                Action::StartTimer(TimerType::Keepalive, seconds) => {
                    self.keepalive = Some(now + jitter.shorten(Duration::from_secs(seconds.into())));
                }
                Action::StopTimer(TimerType::Hold) => self.hold = None,
                Action::StopTimer(TimerType::Keepalive) => self.keepalive = None,
                Action::CloseTcpConnection => {
                    let reason = end.take().unwrap_or_else(|| "closed".to_owned());
                    effects.push(Effect::Closed(End { reason, keep: Keep::Notified, gone: false }));
                }
                Action::SessionEstablished(session) => {
                    effects.push(Effect::Established(Box::new(negotiated(&session))));
                }
                // Connecting and retrying is the peer's business; the rest is for observers.
                _ => {}
            }
        }
        effects
    }

    fn open_bytes(&self, mut open: OpenMessage) -> Bytes {
        for capability in &mut open.capabilities {
            if let Capability::GracefulRestart { restart_state, families, .. } = capability {
                *restart_state = self.forwarding;
                for family in families {
                    family.forwarding_preserved = self.forwarding;
                }
            }
        }
        encode_message(&Message::Open(open)).map(BytesMut::freeze).unwrap_or_default()
    }
}

fn keepalive() -> Option<Effect> {
    encode_message(&Message::Keepalive).ok().map(|bytes| Effect::Send(bytes.freeze()))
}

/// Whether an OPEN has bit R set: its sender has restarted.
pub(crate) fn is_restarting(open: &OpenMessage) -> bool {
    open.capabilities
        .iter()
        .any(|capability| matches!(capability, Capability::GracefulRestart { restart_state: true, .. }))
}

/// The Cease for a connection that lost against another one.
pub(crate) fn collided() -> NotificationMessage {
    notification::cease(cease_subcode::CONNECTION_COLLISION_RESOLUTION)
}

fn fsm_config(speaker: &SpeakerConfig, peer: &PeerConfig) -> rustbgpd_fsm::PeerConfig {
    let mut config = rustbgpd_fsm::PeerConfig::new(speaker.asn, peer.asn, speaker.router_id);
    config.hold_time = peer.hold_time;
    config.families = peer.families.iter().map(|family| (wire::afi(family), Safi::Unicast)).collect();
    config.disable_ipv4_unicast = !peer.families.v4;
    config.graceful_restart = peer.restart_time.is_some();
    config.gr_restart_time = peer.restart_time.unwrap_or(0);
    config
}

fn negotiated(session: &NegotiatedSession) -> Negotiated {
    let unicast = |(afi, safi): (Afi, Safi)| (safi == Safi::Unicast).then(|| wire::family(afi)).flatten();
    let families: Families = session.negotiated_families.iter().copied().filter_map(unicast).collect();
    let restart = session.peer_gr_capable.then(|| PeerRestart {
        restarting: session.peer_restart_state,
        time: Duration::from_secs(session.peer_restart_time.into()),
        families: session
            .peer_gr_families
            .iter()
            .filter_map(|family| unicast((family.afi, family.safi)))
            .collect(),
        preserved: session
            .peer_gr_families
            .iter()
            .filter(|family| family.forwarding_preserved)
            .filter_map(|family| unicast((family.afi, family.safi)))
            .collect(),
        notification: session.peer_notification_gr,
    });
    Negotiated {
        router_id: session.peer_router_id,
        hold_time: Duration::from_secs(session.hold_time.into()),
        families,
        four_octet_as: session.four_octet_as,
        refresh: session.peer_route_refresh,
        enhanced_refresh: session.peer_enhanced_route_refresh,
        v4_over_v6: session.extended_nexthop_families.contains_key(&(wire::afi(Family::V4), Safi::Unicast)),
        restart,
    }
}
