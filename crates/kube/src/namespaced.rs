//! What the watches say of services, endpoint slices and BGP peers. No I/O: watch events go in, events come out.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;

use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use model::{BgpPeer, EndpointSlice, ObjectName, Service, SharedNames};

use crate::objects::{BgpPeerLite, EndpointSliceLite, ServiceLite};
use crate::peer_conversion::read_peer;
use crate::service::read_service;
use crate::slice::read_slice;
use crate::track::{Event, Listing, Object, Refusals};

/// A kind of object of which only a hash is kept. One that lives in no namespace has an empty one.
pub(crate) trait Namespaced: Resource<DynamicType = ()> {
    /// What becomes of it.
    type Model: Hash;
    /// Its kind.
    const NAME: &'static str;

    /// What it says; `None` if that does not concern us.
    fn read(&self, name: &ObjectName) -> Result<Option<Self::Model>, String>;

    /// It is new or changed.
    fn changed(model: Self::Model, names: &mut SharedNames) -> Event;

    /// It is gone.
    fn gone(name: ObjectName) -> Event;
}

impl Namespaced for ServiceLite {
    type Model = Service;
    const NAME: &'static str = "Service";

    fn read(&self, name: &ObjectName) -> Result<Option<Service>, String> {
        read_service(name, self).map_err(|error| error.to_string())
    }

    fn changed(service: Service, _: &mut SharedNames) -> Event {
        Event::Service(service)
    }

    fn gone(name: ObjectName) -> Event {
        Event::ServiceGone(name)
    }
}

impl Namespaced for EndpointSliceLite {
    type Model = EndpointSlice;
    const NAME: &'static str = "EndpointSlice";

    fn read(&self, name: &ObjectName) -> Result<Option<EndpointSlice>, String> {
        read_slice(name, self).map_err(|error| error.to_string())
    }

    fn changed(mut slice: EndpointSlice, names: &mut SharedNames) -> Event {
        names.share(&mut slice);
        Event::Slice(slice)
    }

    fn gone(name: ObjectName) -> Event {
        Event::SliceGone(name)
    }
}

impl Namespaced for BgpPeerLite {
    type Model = BgpPeer;
    const NAME: &'static str = "BgpPeer";

    fn read(&self, name: &ObjectName) -> Result<Option<BgpPeer>, String> {
        read_peer(&name.name, &self.spec).map(Some).map_err(|error| error.to_string())
    }

    fn changed(peer: BgpPeer, _: &mut SharedNames) -> Event {
        Event::Peer(peer)
    }

    fn gone(name: ObjectName) -> Event {
        Event::PeerGone(name.name)
    }
}

/// The objects of one kind as last seen.
///
/// Of an object is kept what tells whether it is another now: a hash, since the planner has the object itself. Two
/// states that follow each other have the same one once in 2⁶⁴ times.
#[derive(Debug)]
pub(crate) struct Tracker<K> {
    known: HashMap<ObjectName, u64>,
    hashes: RandomState,
    names: SharedNames,
    refusals: Refusals,
    listing: Listing,
    kind: PhantomData<fn(K)>,
}

impl<K> Default for Tracker<K> {
    fn default() -> Self {
        Tracker {
            known: HashMap::new(),
            hashes: RandomState::new(),
            names: SharedNames::default(),
            refusals: Refusals::default(),
            listing: Listing::default(),
            kind: PhantomData,
        }
    }
}

impl<K: Namespaced> Tracker<K> {
    /// Takes in a watch event; says whether it completes a list.
    pub(crate) fn take(&mut self, event: watcher::Event<K>, out: &mut Vec<Event>) -> bool {
        match event {
            // A list that broke off begins anew.
            watcher::Event::Init => self.listing = Listing::default(),
            watcher::Event::InitApply(object) => {
                let name = name(&object);
                self.listing.0.insert(text(&name));
                self.apply(name, &object, out);
            }
            watcher::Event::Apply(object) => self.apply(name(&object), &object, out),
            watcher::Event::Delete(object) => self.delete(name(&object), out),
            watcher::Event::InitDone => {
                let known: Vec<String> = self.known.keys().map(text).collect();
                let refused = self.refusals.0.keys().map(String::as_str);
                for gone in self.listing.gone(known.iter().map(String::as_str).chain(refused)) {
                    // Neither part can have a slash in it.
                    let (namespace, name) = gone.split_once('/').unwrap_or(("", &gone));
                    self.delete(ObjectName::new(namespace, name), out);
                }
                return true;
            }
        }
        false
    }

    fn apply(&mut self, name: ObjectName, object: &K, out: &mut Vec<Event>) {
        match object.read(&name) {
            Ok(Some(model)) => {
                self.refusals.accept(self::object::<K>(&name), out);
                // Much changes in a service or slice that connections do not depend on.
                let hash = self.hashes.hash_one(&model);
                if self.known.get(&name) != Some(&hash) {
                    self.known.insert(name, hash);
                    out.push(K::changed(model, &mut self.names));
                }
            }
            Ok(None) => self.delete(name, out),
            Err(reason) => self.refusals.refuse(self::object::<K>(&name), reason, out),
        }
    }

    fn delete(&mut self, name: ObjectName, out: &mut Vec<Event>) {
        self.refusals.accept(object::<K>(&name), out);
        if self.known.remove(&name).is_some() {
            out.push(K::gone(name));
        }
    }
}

fn name(object: &impl Resource) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

fn object<K: Namespaced>(name: &ObjectName) -> Object {
    Object { kind: K::NAME, name: text(name) }
}

fn text(name: &ObjectName) -> String {
    if name.namespace.is_empty() { name.name.to_string() } else { name.to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    use super::*;

    fn service(name: &str, spec: Value) -> ServiceLite {
        let metadata = json!({"name": name, "namespace": "shop", "resourceVersion": "1"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn at(address: &str) -> Value {
        json!({"clusterIP": address, "ports": [{"port": 80}]})
    }

    fn slice(name: &str, address: &str) -> EndpointSliceLite {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": if address.contains(':') { "IPv6" } else { "IPv4" },
            "ports": [{"port": 80}],
            "endpoints": [{
                "addresses": [address], "nodeName": "a", "hints": {"forZones": [{"name": "east"}]},
            }],
        }))
        .unwrap()
    }

    fn feed<K: Namespaced>(tracker: &mut Tracker<K>, events: Vec<watcher::Event<K>>) -> Vec<Event> {
        let mut out = Vec::new();
        for event in events {
            tracker.take(event, &mut out);
        }
        out
    }

    fn gone(name: &str) -> Event {
        Event::ServiceGone(ObjectName::new("shop", name))
    }

    #[test]
    fn a_relist_says_only_what_is_different() {
        let mut tracker = Tracker::default();
        let (b, c) = (service("b", at("10.96.0.2")), service("c", at("fd00:96::3")));
        assert_eq!(
            feed(&mut tracker, vec![Init, InitApply(b.clone()), InitApply(c.clone()), InitDone]).len(),
            2
        );
        let d = service("d", at("10.96.0.4"));
        let events = feed(&mut tracker, vec![Init, InitApply(b.clone()), InitApply(d.clone()), InitDone]);
        assert!(
            matches!(&events[..], [Event::Service(d), gone_c]
            if &*d.name.name == "d" && *gone_c == gone("c")),
            "{events:?}"
        );
        // A list that breaks off removes nothing.
        assert_eq!(feed(&mut tracker, vec![Init, InitApply(b.clone()), Init]), []);
        assert_eq!(feed(&mut tracker, vec![InitApply(b), InitApply(d), InitDone]), []);
    }

    #[test]
    fn what_does_not_concern_connections_is_no_change() {
        let mut tracker = Tracker::default();
        let mut spec = at("10.96.0.2");
        assert_eq!(feed(&mut tracker, vec![Apply(service("b", spec.clone()))]).len(), 1);
        spec["selector"] = json!({"app": "other"});
        assert_eq!(feed(&mut tracker, vec![Apply(service("b", spec.clone()))]), []);
        spec["sessionAffinity"] = "ClientIP".into();
        assert_eq!(feed(&mut tracker, vec![Apply(service("b", spec))]).len(), 1);
    }

    #[test]
    fn a_service_that_is_none_of_ours_any_more_is_gone() {
        let mut tracker = Tracker::default();
        let headless = service("b", json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        let external = service("b", json!({"type": "ExternalName", "externalName": "example.org"}));
        for none in [headless, external] {
            assert_eq!(feed(&mut tracker, vec![Apply(none.clone())]), []);
            assert_eq!(feed(&mut tracker, vec![Apply(service("b", at("10.96.0.2")))]).len(), 1);
            assert_eq!(feed(&mut tracker, vec![Apply(none)]), [gone("b")]);
        }
    }

    #[test]
    fn a_bad_service_keeps_its_last_good_state() {
        let mut tracker = Tracker::default();
        let good = service("b", at("10.96.0.2"));
        feed(&mut tracker, vec![Apply(good.clone())]);
        let mut spec = at("10.96.0.2");
        spec["externalIPs"] = json!(["127.0.0.1"]);
        let bad = service("b", spec);
        let events = feed(&mut tracker, vec![Apply(bad.clone()), Apply(bad.clone())]);
        let [Event::Refused { object, reason }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(object.to_string(), "Service shop/b");
        assert!(reason.contains("spec.externalIPs: 127.0.0.1 is not unicast"), "{reason}");
        // The same as before: accepted, and nothing to do.
        assert_eq!(feed(&mut tracker, vec![Apply(good)]), [Event::Accepted(object.clone())]);
        // Refused, and then not there in the next list.
        feed(&mut tracker, vec![Apply(bad)]);
        let events = feed(&mut tracker, vec![Init, InitDone]);
        assert_eq!(events, [Event::Accepted(object.clone()), gone("b")]);
    }

    #[test]
    fn a_refused_slice_that_goes_is_forgotten() {
        let mut tracker = Tracker::default();
        let mut bad = slice("web-1", "10.244.1.2");
        bad.endpoints[0].addresses.clear();
        let events = feed(&mut tracker, vec![Apply(bad.clone())]);
        let [Event::Refused { object, reason }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(object.to_string(), "EndpointSlice shop/web-1");
        assert!(reason.starts_with("EndpointSlice shop/web-1: endpoints[0].addresses is empty"), "{reason}");
        assert_eq!(feed(&mut tracker, vec![Delete(bad)]), [Event::Accepted(object.clone())]);
    }

    #[test]
    fn peers_come_and_go_and_keep_their_last_good_state() {
        let peer = |address: &str| -> BgpPeerLite {
            let spec = json!({"address": address, "asn": 65001});
            serde_json::from_value(json!({"metadata": {"name": "tor"}, "spec": spec})).unwrap()
        };
        let mut tracker = Tracker::default();
        let good = peer("192.0.2.1");
        let events = feed(&mut tracker, vec![Init, InitApply(good.clone()), InitDone]);
        assert!(matches!(&events[..], [Event::Peer(peer)] if &*peer.name == "tor"), "{events:?}");
        assert_eq!(feed(&mut tracker, vec![Init, InitApply(good.clone()), InitDone]), []);
        let events = feed(&mut tracker, vec![Apply(peer("192.0.2.300"))]);
        let [Event::Refused { object, reason }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(object.to_string(), "BgpPeer tor");
        assert!(reason.starts_with("spec.address: \"192.0.2.300\" is not an IP address"), "{reason}");
        assert_eq!(feed(&mut tracker, vec![Apply(good.clone())]), [Event::Accepted(object.clone())]);
        assert_eq!(feed(&mut tracker, vec![Init, InitDone]), [Event::PeerGone("tor".into())]);
        feed(&mut tracker, vec![Apply(good.clone())]);
        assert_eq!(feed(&mut tracker, vec![Delete(good)]), [Event::PeerGone("tor".into())]);
    }

    #[test]
    fn slices_come_and_go_and_share_their_names() {
        let mut tracker = Tracker::default();
        let (four, six) = (slice("web-1", "10.244.1.2"), slice("web-2", "fd00:10:244:1::2"));
        let events = feed(&mut tracker, vec![Init, InitApply(four.clone()), InitApply(six), InitDone]);
        let [Event::Slice(one), Event::Slice(other)] = &events[..] else { panic!("{events:?}") };
        let (one, other) = (&one.endpoints[0], &other.endpoints[0]);
        assert!(Arc::ptr_eq(one.node.as_ref().unwrap(), other.node.as_ref().unwrap()));
        assert!(Arc::ptr_eq(&one.zones, &other.zones));
        let name = ObjectName::new("shop", "web-1");
        assert_eq!(feed(&mut tracker, vec![Delete(four)]), [Event::SliceGone(name)]);
    }
}
