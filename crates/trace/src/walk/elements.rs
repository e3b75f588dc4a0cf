//! What is in the sets and maps of a node's tables.

use std::sync::Arc;

use model::{Family, Protocol};
use plan::services::{self, Datum, Element, Frontend, ServicePlan, ServicePortName, Settings};
use plan::{Key, Member, NodePlan, SetName, TableFamily, Value};

/// The elements of the sets of one table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Elements<'p> {
    /// Of the node's own table.
    Node(&'p NodePlan, TableFamily),
    /// Of the services' table. They are made where they are looked for, as there may be very many.
    Services(&'p ServicePlan, &'p Settings, Family),
}

/// An element that was looked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What it holds, in a map.
    pub(super) datum: Option<Datum>,
    /// Whose it is, if it is a service's.
    pub(super) service: Option<Arc<ServicePortName>>,
}

impl Elements<'_> {
    /// The element of a set that has this key.
    pub(super) fn find(self, set: SetName, key: &[Value]) -> Option<Found> {
        match self {
            Elements::Node(plan, family) => member(plan, family, set, key).then(Found::default),
            Elements::Services(plan, settings, family) => {
                let is_it = |element: &Element| element.set == set && matches(key, &element.key);
                if let Some((frontend, balancer)) =
                    frontend(key).and_then(|frontend| plan.frontends.get_key_value(&frontend))
                {
                    let all = services::elements(frontend, balancer, settings);
                    let service = Some(balancer.service.clone());
                    return all.into_iter().find(is_it).map(|each| Found { datum: each.data, service });
                }
                let hairpin = match key {
                    [Value::Address(pod), ..] => plan.hairpins.get(pod).map(|pod| services::hairpin(*pod)),
                    _ => None,
                };
                let mut others = services::ranges(settings, family).chain(hairpin);
                others.find(is_it).map(|each| Found { datum: each.data, service: None })
            }
        }
    }
}

/// Whether a field's value is the one wanted, or is in the prefix or begins as wanted.
pub(super) fn is(has: &Value, wanted: &Value) -> bool {
    match (has, wanted) {
        (Value::Link(name), Value::LinkPrefix(prefix)) => name.as_str().starts_with(prefix),
        (Value::Address(address), Value::Prefix(net)) => net.contains(address),
        _ => has == wanted,
    }
}

fn matches(key: &[Value], element: &[Value]) -> bool {
    key.len() == element.len() && key.iter().zip(element).all(|(has, wanted)| is(has, wanted))
}

fn member(plan: &NodePlan, family: TableFamily, set: SetName, key: &[Value]) -> bool {
    if plan.entries.contains_key(&Key::Member(Member { family, set, key: key.into() })) {
        return true;
    }
    // Sets of prefixes are few and short: the cluster's ranges.
    let [Value::Address(_)] = key else { return false };
    let from = Key::Member(Member { family, set, key: [].into() });
    plan.entries
        .range(from..)
        .map_while(|(key, _)| match key {
            Key::Member(member) if member.family == family && member.set == set => Some(member),
            _ => None,
        })
        .any(|member| matches(key, &member.key))
}

/// What a client connects to, in the keys of the sets that are about that.
fn frontend(key: &[Value]) -> Option<Frontend> {
    let [Value::Address(address), Value::Protocol(protocol), Value::Port(port), ..] = key else {
        return None;
    };
    Some(Frontend { address: *address, protocol: Protocol::from_number(*protocol)?, port: *port })
}
