//! What a frontend adds to the sets and maps of its family's table.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::Family;

use super::table::{
    ALLOWED, BACKENDS, CLUSTER_PODS, DROP, EXPOSED, HAIRPIN, KEEP_SOURCE, OUTSIDE, OUTSIDE_BACKENDS, REFUSE,
    RESTRICTED, SERVICE_RANGES, SERVICES, STICKY,
};
use super::{Backend, Balancer, Frontend, Picker, Reach, ServicePortName, Settings, Target, picker_chain};
use crate::rules::{ChainName, SetName, Value};

/// An element of a set or map of the services' table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The set or map.
    pub set: SetName,
    /// The fields of the key, in the order of the set's declaration.
    pub key: Vec<Value>,
    /// What it holds, in a map.
    pub data: Option<Datum>,
    /// Whose it is, for the reader of `nft list`; only where a reader would look for it.
    pub service: Option<Arc<ServicePortName>>,
}

/// What an element of a map holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datum {
    /// On with the rules of this chain.
    Goto(ChainName),
    /// An address and a port.
    Backend(Backend),
}

/// All elements that a frontend has in the table of its family.
pub fn elements(frontend: &Frontend, balancer: &Balancer, settings: &Settings) -> Vec<Element> {
    let key = [
        Value::Address(frontend.address),
        Value::Protocol(frontend.protocol.number()),
        Value::Port(frontend.port),
    ];
    let element = |set, more: Option<Value>, data| Element {
        set,
        key: key.iter().cloned().chain(more).collect(),
        data,
        service: None,
    };
    let mut all = Vec::new();
    let mut lead = |verdicts, backends, picks: fn(u32, bool) -> Picker, target: &Target| {
        let chain = match target {
            Target::Refuse => REFUSE,
            Target::Drop => DROP,
            Target::Backends(backends) => {
                picker_chain(picks(backends.len() as u32, balancer.affinity.is_some()))
            }
        };
        let verdict = element(verdicts, None, Some(Datum::Goto(chain)));
        all.push(Element { service: Some(balancer.service.clone()), ..verdict });
        all.extend((0u32..).zip(target.backends()).map(|(index, backend)| {
            element(backends, Some(Value::Index(index)), Some(Datum::Backend(*backend)))
        }));
    };
    lead(SERVICES, BACKENDS, Picker::any, &balancer.target);
    if let Some(outside) = &balancer.outside {
        lead(OUTSIDE, OUTSIDE_BACKENDS, Picker::outside, outside);
        all.push(element(KEEP_SOURCE, None, None));
    }
    if balancer.reach != Reach::Cluster
        || !settings.service_ranges.iter().any(|range| range.contains(&frontend.address))
    {
        all.push(element(EXPOSED, None, None));
    }
    if let Some(seconds) = balancer.affinity {
        all.push(element(STICKY, None, Some(Datum::Goto(picker_chain(Picker::Learn(seconds))))));
    }
    if let Some(sources) = &balancer.sources {
        all.push(element(RESTRICTED, None, None));
        all.extend(sources.iter().map(|net| element(ALLOWED, Some(Value::Prefix(*net)), None)));
    }
    all
}

/// The element that lets a pod of this node reach itself through a service.
pub fn hairpin(pod: IpAddr) -> Element {
    Element { set: HAIRPIN, key: vec![Value::Address(pod); 2], data: None, service: None }
}

/// The elements of one family that follow from the settings.
pub fn ranges(settings: &Settings, family: Family) -> impl Iterator<Item = Element> + use<> {
    let element =
        |set, net: &IpNet| Element { set, key: vec![Value::Prefix(*net)], data: None, service: None };
    // The kernel takes no ranges that overlap.
    let of_family = move |nets: Vec<IpNet>| {
        IpNet::aggregate(&nets).into_iter().filter(move |net| Family::of_net(net) == family)
    };
    let pods = of_family(settings.pods.iter().copied().collect());
    let services = of_family(settings.service_ranges.clone());
    pods.map(move |net| element(CLUSTER_PODS, &net))
        .chain(services.map(move |net| element(SERVICE_RANGES, &net)))
}

/// What leads from one state of a frontend to another: what goes, and then what comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Elements that are no more, or hold something else now.
    pub gone: Vec<Element>,
    /// Elements that are new, or hold something else now.
    pub new: Vec<Element>,
}

impl Delta {
    /// What leads from the elements of `before` to those of `after`.
    pub fn between(before: Vec<Element>, after: Vec<Element>) -> Delta {
        let mut old: BTreeMap<(SetName, Vec<Value>), Element> =
            before.into_iter().map(|element| ((element.set, element.key.clone()), element)).collect();
        let mut delta = Delta::default();
        for element in after {
            match old.remove(&(element.set, element.key.clone())) {
                Some(same) if same.data == element.data && same.service == element.service => {}
                Some(other) => {
                    delta.gone.push(other);
                    delta.new.push(element);
                }
                None => delta.new.push(element),
            }
        }
        delta.gone.extend(old.into_values());
        delta
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }

    /// Takes in what another frontend needs.
    pub fn extend(&mut self, more: Delta) {
        self.gone.extend(more.gone);
        self.new.extend(more.new);
    }
}
