//! Control packets (RFC 5880, section 4.1).

use std::time::Duration;

/// The length of a packet without authentication.
pub(super) const LENGTH: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const MULTIPOINT: u8 = 0x01;

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Held down on purpose.
    AdminDown,
    /// Nothing comes from the neighbour, or it hears nothing of us.
    Down,
    /// The neighbour is heard.
    Init,
    /// Each hears the other.
    Up,
}

/// Why a session is not up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnostic {
    /// No reason is given.
    None,
    /// The neighbour was not heard for too long.
    DetectionTimeExpired,
    /// The neighbour does not hear us.
    NeighbourSignaledDown,
    /// It was held down on purpose.
    AdministrativelyDown,
    /// Another one of section 4.1.
    Other(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) diagnostic: Diagnostic,
    pub(super) state: State,
    pub(super) poll: bool,
    pub(super) finish: bool,
    /// The sender's BFD goes on when its control plane ends (bit C).
    pub(super) independent: bool,
    pub(super) multiplier: u8,
    pub(super) mine: u32,
    /// Zero if the sender does not know it yet.
    pub(super) yours: u32,
    pub(super) min_tx: Duration,
    pub(super) min_rx: Duration,
}

impl Packet {
    /// Reads a packet; none if it has to be discarded for what it is (section 6.8.6).
    pub(super) fn read(bytes: &[u8]) -> Option<Packet> {
        let fixed: &[u8; LENGTH] = bytes.first_chunk()?;
        let [first, flags, multiplier, length, ..] = *fixed;
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (mine, yours) = (word(4), word(8));
        let state = State::from_bits(flags >> 6);
        let bad = first >> 5 != VERSION
            || usize::from(length) < LENGTH
            || usize::from(length) > bytes.len()
            || multiplier == 0
            || flags & (MULTIPOINT | AUTHENTICATED) != 0
            || mine == 0
            || (yours == 0 && state > State::Down);
        (!bad).then(|| Packet {
            diagnostic: Diagnostic::from_bits(first & 0x1f),
            state,
            poll: flags & POLL != 0,
            finish: flags & FINAL != 0,
            independent: flags & INDEPENDENT != 0,
            multiplier,
            mine,
            yours,
            min_tx: Duration::from_micros(word(12).into()),
            min_rx: Duration::from_micros(word(16).into()),
        })
    }

    pub(super) fn bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.bits();
        let flags = [(self.poll, POLL), (self.finish, FINAL), (self.independent, INDEPENDENT)];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        bytes[1] = self.state.bits() << 6 | flags;
        bytes[2] = self.multiplier;
        bytes[3] = LENGTH as u8;
        let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let words = [self.mine, self.yours, micros(self.min_tx), micros(self.min_rx), 0];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

impl State {
    fn from_bits(bits: u8) -> State {
        match bits & 3 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }

    fn bits(self) -> u8 {
        self as u8
    }
}

impl Diagnostic {
    fn from_bits(bits: u8) -> Diagnostic {
        match bits {
            0 => Diagnostic::None,
            1 => Diagnostic::DetectionTimeExpired,
            3 => Diagnostic::NeighbourSignaledDown,
            7 => Diagnostic::AdministrativelyDown,
            other => Diagnostic::Other(other),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Diagnostic::None => 0,
            Diagnostic::DetectionTimeExpired => 1,
            Diagnostic::NeighbourSignaledDown => 3,
            Diagnostic::AdministrativelyDown => 7,
            Diagnostic::Other(bits) => bits & 0x1f,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn good() -> Packet {
        Packet {
            diagnostic: Diagnostic::NeighbourSignaledDown,
            state: State::Up,
            poll: true,
            finish: false,
            independent: true,
            multiplier: 3,
            mine: 7,
            yours: 0x0102_0304,
            min_tx: Duration::from_millis(300),
            min_rx: Duration::from_micros(50_001),
        }
    }

    #[test]
    fn is_read_as_it_was_written_and_written_as_the_rfc_says() {
        let bytes = good().bytes();
        assert_eq!(bytes[..12], [0x23, 0xe8, 3, 24, 0, 0, 0, 7, 1, 2, 3, 4]);
        assert_eq!(Packet::read(&bytes), Some(good()));
    }

    #[test]
    fn what_must_be_discarded_is() {
        let bytes = good().bytes();
        let with = |place: usize, value: u8| {
            let mut changed = bytes;
            changed[place] = value;
            Packet::read(&changed)
        };
        assert_eq!(with(0, 0x43), None, "another version");
        assert_eq!(with(1, 0xe9), None, "multipoint");
        assert_eq!(with(1, 0xec), None, "authenticated");
        assert_eq!(with(2, 0), None, "no multiplier");
        assert_eq!((with(3, 23), with(3, 25)), (None, None), "a wrong length");
        assert_eq!(with(7, 0), None, "no discriminator");
        assert_eq!(Packet::read(&bytes[..23]), None);
        let nobody = Packet { yours: 0, ..good() };
        assert_eq!(Packet::read(&nobody.bytes()), None, "up, but with whom");
        let first = Packet { state: State::Down, ..nobody };
        assert_eq!(Packet::read(&first.bytes()), Some(first));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(packet) = Packet::read(&bytes) {
                prop_assert_eq!(Packet::read(&packet.bytes()), Some(packet));
            }
        }
    }
}
