//! The passwords of BGP peers. Of each Secret that one is in, that Secret alone is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::ByteString;
use kube::runtime::watcher;
use model::{BgpPeer, ObjectName, PasswordState, PeerPassword, SecretKey};

use crate::objects::SecretLite;
use crate::track::Event;

/// The longest key that TCP MD5 takes (`TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h), in bytes.
const LONGEST: usize = 80;

type Answer = watcher::Result<watcher::Event<SecretLite>>;

/// Which passwords this node needs: those of the peers that choose it.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    labels: BTreeMap<String, String>,
    /// The peers that have a password, by name.
    peers: BTreeMap<Box<str>, (BTreeMap<String, String>, SecretKey)>,
}

impl Wanted {
    /// Takes note of what is known of peers and of this node; says whether others may be needed now.
    pub(crate) fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::LocalLabels(labels) => self.labels.clone_from(labels),
            Event::Peer(BgpPeer { name, nodes, password: Some(key), .. }) => {
                self.peers.insert(name.clone(), (nodes.clone(), key.clone()));
            }
            Event::Peer(BgpPeer { name, .. }) | Event::PeerGone(name) => {
                return self.peers.remove(name).is_some();
            }
            _ => return false,
        }
        true
    }

    /// The keys that are needed.
    pub(crate) fn keys(&self) -> BTreeSet<SecretKey> {
        let chosen = |nodes: &BTreeMap<String, String>| {
            nodes.iter().all(|(key, value)| self.labels.get(key) == Some(value))
        };
        self.peers.values().filter(|(nodes, _)| chosen(nodes)).map(|(_, key)| key.clone()).collect()
    }
}

/// The Secrets that are watched.
#[derive(Default)]
pub(crate) struct Secrets {
    watches: BTreeMap<ObjectName, Watch>,
    keys: BTreeSet<SecretKey>,
    told: BTreeMap<SecretKey, PasswordState>,
}

struct Watch {
    stream: BoxStream<'static, Answer>,
    /// What is in it; none if there is no such Secret.
    listed: Option<BTreeMap<String, ByteString>>,
    /// Whether that is known.
    known: bool,
    /// Whether a list that is under way has named it.
    named: bool,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Secrets {
    /// Watches the Secrets of these keys and no others. `watch` begins to watch one.
    pub(crate) fn want(
        &mut self,
        keys: BTreeSet<SecretKey>,
        watch: impl Fn(&ObjectName) -> BoxStream<'static, Answer>,
        out: &mut Vec<Event>,
    ) {
        let secrets: BTreeSet<&ObjectName> = keys.iter().map(|key| &key.secret).collect();
        self.watches.retain(|name, _| secrets.contains(name));
        for name in secrets {
            self.watches.entry(name.clone()).or_insert_with(|| Watch {
                stream: watch(name),
                listed: None,
                known: false,
                named: false,
            });
        }
        self.keys = keys;
        self.tell(out);
    }

    /// Waits for what is said of one of them. It loses nothing if it is dropped.
    pub(crate) async fn next(&mut self) -> (ObjectName, Answer) {
        poll_fn(|context| {
            for (name, watch) in &mut self.watches {
                if let Poll::Ready(Some(answer)) = watch.stream.poll_next_unpin(context) {
                    return Poll::Ready((name.clone(), answer));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes in a watch event.
    pub(crate) fn take(
        &mut self,
        name: &ObjectName,
        event: watcher::Event<SecretLite>,
        out: &mut Vec<Event>,
    ) {
        let Some(watch) = self.watches.get_mut(name) else { return };
        let listed = match event {
            // Until a list is complete, what was known counts.
            watcher::Event::Init => {
                watch.named = false;
                return;
            }
            watcher::Event::InitDone if watch.named => return,
            watcher::Event::InitApply(secret) | watcher::Event::Apply(secret) => Some(secret.data),
            watcher::Event::InitDone | watcher::Event::Delete(_) => None,
        };
        watch.named = listed.is_some();
        (watch.listed, watch.known) = (listed, true);
        self.tell(out);
    }

    /// Tells all passwords if one is another now.
    fn tell(&mut self, out: &mut Vec<Event>) {
        let state = |key: &SecretKey| {
            let watch = self.watches.get(&key.secret).filter(|watch| watch.known)?;
            Some((key.clone(), password(key, watch.listed.as_ref())))
        };
        let states: BTreeMap<SecretKey, PasswordState> = self.keys.iter().filter_map(state).collect();
        if states != self.told {
            self.told.clone_from(&states);
            out.push(Event::Passwords(states));
        }
    }
}

fn password(key: &SecretKey, data: Option<&BTreeMap<String, ByteString>>) -> PasswordState {
    let SecretKey { secret, key } = key;
    let data = data.ok_or_else(|| format!("there is no Secret {secret}"))?;
    let ByteString(bytes) =
        data.get(&**key).ok_or_else(|| format!("Secret {secret} has no key \"{key}\""))?;
    if bytes.is_empty() || bytes.len() > LONGEST {
        let length = bytes.len();
        return Err(format!("\"{key}\" of Secret {secret} has {length} bytes; use 1 to {LONGEST}"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(PeerPassword::new(text)),
        Err(_) => Err(format!("\"{key}\" of Secret {secret} is no UTF-8; use text")),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use serde_json::{Value, json};
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    use super::*;

    fn key(secret: &str, key: &str) -> SecretKey {
        SecretKey { secret: ObjectName::new("net", secret), key: key.into() }
    }

    fn secret(data: &Value) -> SecretLite {
        serde_json::from_value(json!({"metadata": {"name": "bgp", "namespace": "net"}, "data": data}))
            .unwrap()
    }

    fn want(secrets: &mut Secrets, keys: &[SecretKey]) -> Vec<Event> {
        let mut out = Vec::new();
        secrets.want(keys.iter().cloned().collect(), |_| stream::pending().boxed(), &mut out);
        out
    }

    fn take(secrets: &mut Secrets, events: Vec<watcher::Event<SecretLite>>) -> Vec<Event> {
        let mut out = Vec::new();
        for event in events {
            secrets.take(&ObjectName::new("net", "bgp"), event, &mut out);
        }
        out
    }

    fn tells(key: &SecretKey, state: Result<&str, &str>) -> Vec<Event> {
        let state = state.map(PeerPassword::new).map_err(str::to_owned);
        vec![Event::Passwords([(key.clone(), state)].into())]
    }

    #[test]
    fn a_password_is_told_when_it_is_known_and_whenever_it_is_another() {
        let mut secrets = Secrets::default();
        let tor = key("bgp", "tor");
        assert_eq!(want(&mut secrets, std::slice::from_ref(&tor)), []);
        let sesame = secret(&json!({"tor": "c2VzYW1l", "other": "eA=="}));
        assert_eq!(
            take(&mut secrets, vec![Init, InitApply(sesame.clone()), InitDone]),
            tells(&tor, Ok("sesame"))
        );
        assert_eq!(take(&mut secrets, vec![Apply(sesame.clone())]), []);
        // A list that breaks off takes nothing away.
        assert_eq!(take(&mut secrets, vec![Init]), []);
        let changed = secret(&json!({"tor": "b3Blbg=="}));
        assert_eq!(take(&mut secrets, vec![Apply(changed)]), tells(&tor, Ok("open")));
        assert_eq!(
            take(&mut secrets, vec![Delete(sesame.clone())]),
            tells(&tor, Err("there is no Secret net/bgp"))
        );
        take(&mut secrets, vec![Apply(sesame)]);
        // It was deleted while nobody listened.
        assert_eq!(take(&mut secrets, vec![Init, InitDone]), tells(&tor, Err("there is no Secret net/bgp")));
        assert_eq!(want(&mut secrets, &[]), [Event::Passwords(BTreeMap::new())]);
        assert!(secrets.watches.is_empty());
    }

    #[test]
    fn what_is_no_password_is_said_in_words() {
        let long = "QUFB".repeat(27);
        for (data, expected) in [
            (json!({"other": "eA=="}), "Secret net/bgp has no key \"tor\""),
            (json!({"tor": ""}), "\"tor\" of Secret net/bgp has 0 bytes; use 1 to 80"),
            (json!({"tor": long}), "\"tor\" of Secret net/bgp has 81 bytes; use 1 to 80"),
            (json!({"tor": "/w=="}), "\"tor\" of Secret net/bgp is no UTF-8; use text"),
        ] {
            let mut secrets = Secrets::default();
            let tor = key("bgp", "tor");
            want(&mut secrets, std::slice::from_ref(&tor));
            assert_eq!(take(&mut secrets, vec![Apply(secret(&data))]), tells(&tor, Err(expected)));
        }
        let mut secrets = Secrets::default();
        let tor = key("bgp", "tor");
        want(&mut secrets, std::slice::from_ref(&tor));
        assert_eq!(take(&mut secrets, vec![Init, InitDone]), tells(&tor, Err("there is no Secret net/bgp")));
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        let mut secrets = Secrets::default();
        want(&mut secrets, &[key("bgp", "tor")]);
        let sesame = secret(&json!({"tor": "c2VzYW1l"}));
        assert!(!format!("{sesame:?}").contains("115"), "{sesame:?}");
        let told = take(&mut secrets, vec![Apply(sesame)]);
        assert!(!format!("{secrets:?}{told:?}").contains("sesame"));
    }

    #[test]
    fn only_the_secrets_of_peers_that_choose_this_node_are_wanted() {
        let mut wanted = Wanted::default();
        let spec = json!({
            "address": "192.0.2.1", "asn": 65001, "nodeSelector": {"matchLabels": {"rack": "1"}},
            "passwordSecret": {"namespace": "net", "name": "bgp", "key": "tor"},
        });
        let peer = crate::peer_conversion::read_peer("tor", &spec).unwrap();
        assert!(wanted.note(&Event::Peer(peer.clone())));
        assert!(wanted.keys().is_empty());
        let labels = |value: &str| Event::LocalLabels([("rack".to_owned(), value.to_owned())].into());
        assert!(wanted.note(&labels("1")));
        assert_eq!(wanted.keys(), [key("bgp", "tor")].into());
        assert!(wanted.note(&Event::Peer(BgpPeer { password: None, ..peer.clone() })));
        assert!(wanted.keys().is_empty());
        assert!(!wanted.note(&Event::PeerGone("tor".into())));
        assert!(wanted.note(&Event::Peer(peer)) && wanted.note(&labels("2")));
        assert!(wanted.keys().is_empty());
    }
}
