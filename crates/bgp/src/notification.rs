//! NOTIFICATION messages in words.

use bytes::Bytes;
use rustbgpd_wire::notification::{cease_subcode, decode_shutdown_communication, description};
use rustbgpd_wire::{Message, NotificationCode, NotificationMessage, encode_message};

/// What a NOTIFICATION says, for an operator.
pub(crate) fn words(notification: &NotificationMessage) -> String {
    let NotificationMessage { code, subcode, data } = notification;
    let detail = description(*code, *subcode);
    let mut words = format!("{code}");
    if !detail.is_empty() {
        words = format!("{words}: {detail}");
    }
    let shut_down = *code == NotificationCode::Cease
        && matches!(*subcode, cease_subcode::ADMINISTRATIVE_SHUTDOWN | cease_subcode::ADMINISTRATIVE_RESET);
    if let Some(reason) = decode_shutdown_communication(data).filter(|reason| shut_down && !reason.is_empty())
    {
        // The peer chose the text; it must not be able to write lines of its own into a log.
        let plain: String = reason.chars().filter(|character| !character.is_control()).collect();
        words = format!("{words} (\"{plain}\")");
    }
    words
}

/// Whether the routes of the sender are to go even if graceful restart was agreed on (RFC 8538, section 3.1).
pub(crate) fn is_hard_reset(notification: &NotificationMessage) -> bool {
    notification.code == NotificationCode::Cease && notification.subcode == cease_subcode::HARD_RESET
}

/// A Cease.
pub(crate) fn cease(subcode: u8) -> NotificationMessage {
    NotificationMessage::new(NotificationCode::Cease, subcode, Bytes::new())
}

/// A Cease that costs our routes, wrapped as a Hard Reset for peers that would otherwise keep them.
pub(crate) fn final_cease(subcode: u8, peer_keeps_routes: bool) -> NotificationMessage {
    if peer_keeps_routes {
        let inner = vec![NotificationCode::Cease.as_u8(), subcode];
        NotificationMessage::new(NotificationCode::Cease, cease_subcode::HARD_RESET, Bytes::from(inner))
    } else {
        cease(subcode)
    }
}

/// The message on the wire; nothing if it would be too long, which none of ours is.
pub(crate) fn encoded(notification: NotificationMessage) -> Bytes {
    encode_message(&Message::Notification(notification)).map(bytes::BytesMut::freeze).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_write_lines_into_our_log() {
        let mut data = vec![12];
        data.extend_from_slice(b"bye\nERROR 12");
        let words = words(&NotificationMessage::new(NotificationCode::Cease, 2, Bytes::from(data)));
        assert!(words.contains("(\"byeERROR 12\")") && words.starts_with("Cease: "), "{words}");
    }
}
