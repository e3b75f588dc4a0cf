//! The services' table of one family: its sets, maps and rules.
//!
//! It is a table of its own beside the node's, so that neither is made anew for the sake of the other.

use std::borrow::Cow;
use std::net::IpAddr;

use model::{Family, LinkName};

use super::{Balancer, Settings, Target};
use crate::rules::{
    Action, Chain, ChainName, Field, Hook, Match, Rule, Set, SetData, SetName, Table, TableName, Value,
};

/// The name of the table in each family.
pub const TABLE: TableName = TableName("cambric-services");

/// Where connections to a frontend go, those from pods and this node at least.
pub const SERVICES: SetName = SetName("services");
/// The endpoints of a frontend, by number.
pub const BACKENDS: SetName = SetName("backends");
/// Where connections from outside of the cluster go, if that is elsewhere.
pub const OUTSIDE: SetName = SetName("outside-services");
/// The endpoints for those, by number.
pub const OUTSIDE_BACKENDS: SetName = SetName("outside-backends");
/// Frontends that are no cluster address of a known range.
pub const EXPOSED: SetName = SetName("exposed");
/// Frontends to which sources outside of the cluster stay as they are.
pub const KEEP_SOURCE: SetName = SetName("keep-source");
/// Frontends that not everybody may use.
pub const RESTRICTED: SetName = SetName("restricted");
/// Who may use those.
pub const ALLOWED: SetName = SetName("allowed");
/// Frontends whose clients stay with an endpoint.
pub const STICKY: SetName = SetName("sticky");
/// Which client stays with which endpoint.
pub const AFFINITY: SetName = SetName("affinity");
/// Pods that may be sent back to themselves.
pub const HAIRPIN: SetName = SetName("hairpin");
/// Pod ranges of the cluster.
pub const CLUSTER_PODS: SetName = SetName("cluster-pods");
/// Ranges of cluster addresses.
pub const SERVICE_RANGES: SetName = SetName("service-ranges");

/// The sender is told at once.
pub const REFUSE: ChainName = ChainName::fixed("refuse");
/// The sender is not told.
pub const DROP: ChainName = ChainName::fixed("drop-silently");
const BALANCE: ChainName = ChainName::fixed("balance");
/// Gives a connection an address of this node as its source.
pub const MASQUERADE: ChainName = ChainName::fixed("masquerade-source");

// IANA protocol number
const TCP: u8 = 6;

/// A chain that exists once for all frontends that have use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Picker {
    /// Draws one of so many endpoints.
    Pick(u32),
    /// The same, unless the client has one already.
    Stick(u32),
    /// Draws one of so many endpoints for sources outside of the cluster.
    PickOutside(u32),
    /// The same, unless the client has one already.
    StickOutside(u32),
    /// Keeps the client's endpoint for so many seconds.
    Learn(u32),
}

impl Picker {
    pub(super) fn any(count: u32, sticky: bool) -> Picker {
        if sticky { Picker::Stick(count) } else { Picker::Pick(count) }
    }

    pub(super) fn outside(count: u32, sticky: bool) -> Picker {
        if sticky { Picker::StickOutside(count) } else { Picker::PickOutside(count) }
    }
}

/// The name of a picker's chain.
pub fn picker_chain(picker: Picker) -> ChainName {
    ChainName(Cow::Owned(match picker {
        Picker::Pick(count) => format!("pick-{count}"),
        Picker::Stick(count) => format!("stick-{count}"),
        Picker::PickOutside(count) => format!("pick-outside-{count}"),
        Picker::StickOutside(count) => format!("stick-outside-{count}"),
        Picker::Learn(seconds) => format!("learn-{seconds}"),
    }))
}

/// The picker that has a chain of this name.
pub fn picker_of(chain: &str) -> Option<Picker> {
    let (kind, number) = chain.rsplit_once('-')?;
    let number = number.parse().ok()?;
    let picker = match kind {
        "pick" => Picker::Pick(number),
        "stick" => Picker::Stick(number),
        "pick-outside" => Picker::PickOutside(number),
        "stick-outside" => Picker::StickOutside(number),
        "learn" => Picker::Learn(number),
        _ => return None,
    };
    // Such as pick-+3: a number, and no name that we would give.
    (picker_chain(picker).0 == chain).then_some(picker)
}

/// The chains that a balancer needs.
pub fn pickers(balancer: &Balancer) -> impl Iterator<Item = Picker> {
    let sticky = balancer.affinity.is_some();
    let picks = move |target: &Target, picker: fn(u32, bool) -> Picker| match target {
        Target::Backends(backends) => Some(picker(backends.len() as u32, sticky)),
        Target::Refuse | Target::Drop => None,
    };
    let outside = balancer.outside.as_ref().and_then(|target| picks(target, Picker::outside));
    let learn = balancer.affinity.map(Picker::Learn);
    picks(&balancer.target, Picker::any).into_iter().chain(outside).chain(learn)
}

/// The fields of one family.
#[derive(Clone, Copy)]
struct Fields {
    source: Field,
    destination: Field,
    original_source: Field,
    original_destination: Field,
}

impl Fields {
    fn of(family: Family) -> Fields {
        match family {
            Family::V4 => Fields {
                source: Field::Ip4Source,
                destination: Field::Ip4Destination,
                original_source: Field::OriginalSource4,
                original_destination: Field::OriginalDestination4,
            },
            Family::V6 => Fields {
                source: Field::Ip6Source,
                destination: Field::Ip6Destination,
                original_source: Field::OriginalSource6,
                original_destination: Field::OriginalDestination6,
            },
        }
    }

    /// What a client connects to.
    fn frontend(self) -> Vec<Field> {
        vec![self.destination, Field::Protocol, Field::DestinationPort]
    }

    /// What the client of a connection that was rewritten has connected to.
    fn original(self) -> Vec<Field> {
        vec![self.original_destination, Field::Protocol, Field::OriginalPort]
    }
}

/// The table of one family, with the chains of these pickers.
pub fn table(settings: &Settings, family: Family, pickers: impl Iterator<Item = Picker>) -> Table {
    let fields = Fields::of(family);
    let mut chains = vec![refuse(), drop_silently()];
    // What is sent to by elements of maps comes before the maps are used.
    chains.extend(pickers.map(|picker| picker_rules(family, picker)));
    chains.push(balance(fields));
    chains.extend([
        entrance("prerouting", Hook::DestinationNat, Action::Jump(BALANCE), "new connections to services"),
        entrance(
            "output",
            Hook::OutputNat,
            Action::Jump(BALANCE),
            "new connections of this node to services",
        ),
    ]);
    chains.extend(unserved(fields));
    chains.extend(remember(fields));
    chains.push(masquerade(settings, family));
    chains.push(postrouting(fields));
    Table { name: TABLE, family: family.into(), sets: sets(family), chains }
}

/// The sets and maps of one family's table.
pub fn sets(family: Family) -> Vec<Set> {
    let fields = Fields::of(family);
    let with = |more: Field| fields.frontend().into_iter().chain([more]).collect::<Vec<Field>>();
    let endpoint = || SetData::Values(vec![fields.destination, Field::DestinationPort]);
    // Of how many numbers a number is drawn does not matter for its type.
    let number = Field::Random(1);
    let map = |name, fields, data| Set { data, ..Set::plain(name, fields) };
    vec![
        map(SERVICES, fields.frontend(), SetData::Verdict),
        map(BACKENDS, with(number), endpoint()),
        map(OUTSIDE, fields.frontend(), SetData::Verdict),
        map(OUTSIDE_BACKENDS, with(number), endpoint()),
        Set::plain(EXPOSED, fields.frontend()),
        Set::plain(KEEP_SOURCE, fields.frontend()),
        Set::plain(RESTRICTED, fields.frontend()),
        Set { prefixes: true, ..Set::plain(ALLOWED, with(fields.source)) },
        map(STICKY, fields.frontend(), SetData::Verdict),
        Set {
            learned: true,
            data: endpoint(),
            ..Set::plain(AFFINITY, [vec![fields.source], fields.frontend()].concat())
        },
        Set::plain(HAIRPIN, vec![fields.source, fields.destination]),
        Set { prefixes: true, ..Set::plain(CLUSTER_PODS, vec![fields.source]) },
        Set { prefixes: true, ..Set::plain(SERVICE_RANGES, vec![fields.destination]) },
    ]
}

fn rule(comment: &'static str, matches: Vec<Match>, action: Action) -> Rule {
    Rule { comment, matches, action }
}

fn entrance(name: &'static str, hook: Hook, action: Action, comment: &'static str) -> Chain {
    Chain { name: ChainName::fixed(name), hook: Some(hook), rules: vec![rule(comment, vec![], action)] }
}

fn refuse() -> Chain {
    Chain {
        name: REFUSE,
        hook: None,
        rules: vec![
            rule("TCP is reset", vec![Match::Is(Field::Protocol, Value::Protocol(TCP))], Action::Reset),
            rule("anything else is told that the port cannot be reached", vec![], Action::Unreachable),
        ],
    }
}

fn drop_silently() -> Chain {
    let rules = vec![rule("no endpoint that this client may use", vec![], Action::Drop)];
    Chain { name: DROP, hook: None, rules }
}

/// The chain of a picker.
pub fn picker_rules(family: Family, picker: Picker) -> Chain {
    let fields = Fields::of(family);
    let draw = |map, count| {
        let key = fields.frontend().into_iter().chain([Field::Random(count)]).collect();
        rule("one endpoint at random", vec![], Action::DestinationFrom(key, map))
    };
    // Rules and elements change at one moment, but a packet may be between the two lookups then, with a number that
    // has just gone. The first endpoint is always there.
    let first = |map| Rule { comment: "the first, if the number drawn has just gone", ..draw(map, 1) };
    let known = || {
        let key = [vec![fields.source], fields.frontend()].concat();
        rule("the endpoint that the client has", vec![], Action::DestinationFrom(key, AFFINITY))
    };
    let rules = match picker {
        Picker::Pick(count) => vec![draw(BACKENDS, count), first(BACKENDS)],
        Picker::Stick(count) => vec![known(), draw(BACKENDS, count), first(BACKENDS)],
        Picker::PickOutside(count) => vec![draw(OUTSIDE_BACKENDS, count), first(OUTSIDE_BACKENDS)],
        Picker::StickOutside(count) => {
            vec![known(), draw(OUTSIDE_BACKENDS, count), first(OUTSIDE_BACKENDS)]
        }
        Picker::Learn(seconds) => {
            let key = [vec![fields.original_source], fields.original()].concat();
            let data = vec![fields.destination, Field::DestinationPort];
            let learn = Action::Learn { map: AFFINITY, key, data, seconds };
            vec![rule("the client stays with its endpoint", vec![], learn)]
        }
    };
    Chain { name: picker_chain(picker), hook: None, rules }
}

fn balance(fields: Fields) -> Chain {
    let allowed = [fields.frontend(), vec![fields.source]].concat();
    Chain {
        name: BALANCE,
        hook: None,
        rules: vec![
            rule(
                "loadBalancerSourceRanges",
                vec![Match::In(fields.frontend(), RESTRICTED), Match::NotIn(allowed, ALLOWED)],
                Action::Drop,
            ),
            rule(
                "externalTrafficPolicy Local is for sources outside of the cluster",
                vec![Match::NotIn(vec![fields.source], CLUSTER_PODS), Match::SourceIsOwn(false)],
                Action::Look(fields.frontend(), OUTSIDE),
            ),
            rule("to the endpoints of the service", vec![], Action::Look(fields.frontend(), SERVICES)),
        ],
    }
}

/// What is sent to a cluster address and was not rewritten has no service; no route leads to it but the default one.
fn unserved(fields: Fields) -> [Chain; 2] {
    let chain = |name, hook| Chain {
        name: ChainName::fixed(name),
        hook: Some(hook),
        rules: vec![rule(
            "a cluster address or port without a service",
            vec![Match::In(vec![fields.destination], SERVICE_RANGES)],
            Action::Goto(REFUSE),
        )],
    };
    [chain("unserved-forward", Hook::Forward), chain("unserved-output", Hook::Output)]
}

/// On the way out, or in to an endpoint that is no pod, the endpoint is known, however it was chosen.
fn remember(fields: Fields) -> [Chain; 2] {
    let chain = |name, hook| Chain {
        name: ChainName::fixed(name),
        hook: Some(hook),
        rules: vec![rule(
            "sessionAffinity ClientIP",
            vec![Match::New, Match::Translated],
            Action::Look(fields.original(), STICKY),
        )],
    };
    [chain("remember-out", Hook::Postrouting), chain("remember-in", Hook::Input)]
}

/// The new source is the address by which this node reaches the endpoint, so that the answer comes back through it.
fn masquerade(settings: &Settings, family: Family) -> Chain {
    let mut rules = vec![rule(
        "what this node sends to itself stays as it is",
        vec![Match::Is(Field::OutputLink, Value::Link(LinkName::loopback()))],
        Action::Return,
    )];
    if let Some(gateway) = settings.gateways.of(family) {
        let links = [LinkName::bridge(), LinkName::vxlan_v4(), LinkName::vxlan_v6()];
        rules.extend(links.map(|link| to_gateway(link, *gateway)));
    }
    rules.push(rule("to an endpoint that is no pod", vec![], Action::Masquerade));
    Chain { name: MASQUERADE, hook: None, rules }
}

fn to_gateway(link: LinkName, gateway: IpAddr) -> Rule {
    rule("to a pod", vec![Match::Is(Field::OutputLink, Value::Link(link))], Action::SourceTo(gateway))
}

fn postrouting(fields: Fields) -> Chain {
    let not_pod = || Match::NotIn(vec![fields.source], CLUSTER_PODS);
    Chain {
        name: ChainName::fixed("postrouting"),
        hook: Some(Hook::ServiceSourceNat),
        rules: vec![
            rule(
                "a pod that reaches itself must not see its own address",
                vec![Match::Translated, Match::In(vec![fields.source, fields.destination], HAIRPIN)],
                Action::Goto(MASQUERADE),
            ),
            rule(
                "externalTrafficPolicy Local keeps the source",
                vec![
                    Match::Translated,
                    not_pod(),
                    Match::In(fields.original(), KEEP_SOURCE),
                    Match::SourceIsOwn(false),
                ],
                Action::Return,
            ),
            rule(
                "to a cluster address, not from a pod",
                vec![
                    Match::Translated,
                    not_pod(),
                    Match::In(vec![fields.original_destination], SERVICE_RANGES),
                ],
                Action::Goto(MASQUERADE),
            ),
            rule(
                "to another address of a service, not from a pod",
                vec![Match::Translated, not_pod(), Match::In(fields.original(), EXPOSED)],
                Action::Goto(MASQUERADE),
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pickers_are_known_by_their_chains() {
        for picker in [
            Picker::Pick(1),
            Picker::Stick(250),
            Picker::PickOutside(2),
            Picker::StickOutside(u32::MAX),
            Picker::Learn(86400),
        ] {
            assert_eq!(picker_of(&picker_chain(picker).0), Some(picker));
        }
        for other in
            ["refuse", "pick", "pick-", "pick-+3", "pick-03", "pick--3", "outside-3", "unserved-output"]
        {
            assert_eq!(picker_of(other), None, "{other}");
        }
    }
}
