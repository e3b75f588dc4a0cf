//! Two connections with one peer (RFC 4271, section 6.8; RFC 6286, section 2.3).

use std::net::Ipv4Addr;

use crate::ConnectionId;

/// Another connection with the peer whose OPEN has just come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Other {
    /// Its OPEN has come in, too.
    Confirming(ConnectionId),
    /// It carries the session.
    Established {
        connection: ConnectionId,
        /// Whether it may be given up without loss: the peer keeps to graceful restart, and the session is not so
        /// young that both connections belong to one start.
        may_be_left: bool,
    },
}

/// The ends of a connection, as far as they decide which one stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) local: (Ipv4Addr, u32),
    pub(crate) remote: (Ipv4Addr, u32),
}

/// What becomes of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The connection whose OPEN has just come in has to go.
    CloseNew,
    /// The other one has to go.
    CloseOther,
    /// The peer has restarted and we had not noticed: the other one goes without a word, and its routes stay
    /// (RFC 4724, section 4.2).
    Restarted,
}

/// Decides between the connection `new`, whose OPEN has just come in, and another one. `restarting` is bit R of it.
pub(crate) fn resolve(new: ConnectionId, restarting: bool, other: Other, ends: Ends) -> Verdict {
    let other = match other {
        Other::Established { may_be_left, .. } => {
            return if restarting && may_be_left { Verdict::Restarted } else { Verdict::CloseNew };
        }
        Other::Confirming(other) => other,
    };
    let ours_stays = ends.local > ends.remote;
    match (new, other) {
        (ConnectionId::Outgoing(_), ConnectionId::Incoming(_)) if !ours_stays => Verdict::CloseNew,
        (ConnectionId::Incoming(_), ConnectionId::Outgoing(_)) if ours_stays => Verdict::CloseNew,
        // One opened by each side; or two by one side, which must then have given up the first.
        _ => Verdict::CloseOther,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: ConnectionId = ConnectionId::Outgoing(1);
    const IN: ConnectionId = ConnectionId::Incoming(1);

    fn ends(local: u8, remote: u8) -> Ends {
        Ends { local: ([10, 0, 0, local].into(), 65000), remote: ([10, 0, 0, remote].into(), 65001) }
    }

    #[test]
    fn the_connection_of_the_higher_identifier_stays_whichever_open_comes_last() {
        use Verdict::{CloseNew, CloseOther};
        let matrix = [
            (OUT, IN, ends(2, 1), CloseOther),
            (IN, OUT, ends(2, 1), CloseNew),
            (OUT, IN, ends(1, 2), CloseNew),
            (IN, OUT, ends(1, 2), CloseOther),
            // Equal identifiers in different ASes: the higher AS (RFC 6286).
            (OUT, IN, ends(1, 1), CloseNew),
            (IN, OUT, ends(1, 1), CloseOther),
            // The same side twice: the newer one.
            (IN, ConnectionId::Incoming(0), ends(2, 1), CloseOther),
            (OUT, ConnectionId::Outgoing(0), ends(1, 2), CloseOther),
        ];
        for (new, other, ends, verdict) in matrix {
            for restarting in [false, true] {
                assert_eq!(
                    resolve(new, restarting, Other::Confirming(other), ends),
                    verdict,
                    "{new} {other}"
                );
            }
        }
    }

    #[test]
    fn both_sides_keep_the_same_connection() {
        for (a, b) in [(1, 2), (2, 1)] {
            // What is outgoing here is incoming there.
            let here = resolve(OUT, false, Other::Confirming(IN), ends(a, b));
            let mirrored = Ends { local: ends(a, b).remote, remote: ends(a, b).local };
            let there = resolve(IN, false, Other::Confirming(OUT), mirrored);
            assert_eq!(here, there);
        }
    }

    #[test]
    fn an_established_session_is_left_only_for_a_peer_that_says_it_restarted() {
        for (restarting, may_be_left, verdict) in [
            (false, false, Verdict::CloseNew),
            (false, true, Verdict::CloseNew),
            (true, false, Verdict::CloseNew),
            (true, true, Verdict::Restarted),
        ] {
            let other = Other::Established { connection: OUT, may_be_left };
            assert_eq!(resolve(IN, restarting, other, ends(2, 1)), verdict);
        }
    }
}
