//! Keeps tunnels through NAT gateways open.

use std::collections::{BTreeMap, BTreeSet};

use plan::site::{KEEPALIVE_INTERVAL, Keepalive};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// The keepalives to be sent.
pub(crate) type Keepalives = BTreeSet<Keepalive>;

/// Sends what is wanted, for as long as somebody can want something: each at once, and then again and again.
pub(crate) async fn serve(
    mut wanted: watch::Receiver<Keepalives>,
    mut send: impl FnMut(&Keepalive) -> Result<(), String>,
) {
    let mut beat = tokio::time::interval(KEEPALIVE_INTERVAL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Keepalives::new();
    let mut errors = BTreeMap::new();
    loop {
        let due = tokio::select! {
            _ = beat.tick() => known.clone(),
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = wanted.borrow_and_update().clone();
                let new = now.difference(&known).copied().collect();
                errors.retain(|keepalive, _| now.contains(keepalive));
                known = now;
                new
            }
        };
        for keepalive in due {
            match send(&keepalive) {
                Ok(()) => drop(errors.remove(&keepalive)),
                // The same error again and again is one line.
                Err(error) => {
                    if errors.insert(keepalive, error.clone()).as_ref() != Some(&error) {
                        tracing::warn!(error, "a tunnel through a NAT gateway cannot be kept open");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use model::Family;
    use plan::ipip::Outer;

    use super::*;

    fn keepalive(text: &str) -> Keepalive {
        let outer = Outer::new("10.0.0.1".parse().unwrap(), text.parse().unwrap()).unwrap();
        Keepalive { outer, inner: Family::V6 }
    }

    #[tokio::test]
    async fn the_first_one_is_sent_at_once_and_errors_end_nothing() {
        let (want, wanted) = watch::channel(Keepalives::new());
        let (sent, mut log) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(serve(wanted, move |keepalive| {
            sent.send(*keepalive).unwrap();
            Err("unreachable".to_owned())
        }));
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(keepalive);
        want.send_replace([one].into());
        let start = Instant::now();
        assert_eq!(log.recv().await, Some(one));
        want.send_replace([one, other].into());
        assert_eq!(log.recv().await, Some(other), "the new one alone");
        assert!(start.elapsed() < KEEPALIVE_INTERVAL);
        for expected in [one, other, one, other] {
            assert_eq!(log.recv().await, Some(expected));
        }
        assert!(start.elapsed() > KEEPALIVE_INTERVAL);
        want.send_replace([other].into());
        for _ in 0..2 {
            assert_eq!(log.recv().await, Some(other));
        }
        drop(want);
        while log.recv().await.is_some() {}
    }
}
