//! Rows 4 and 6: connections to services are tried.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kernel::netns::NetNs;
use model::{Family, NodeName};

use super::cases::{Case, Client, cases, unserved};
use super::cast::Cast;
use super::detour::Detour;
use super::evidence::{Connection, Fate, Got, Party, Row, Try};
use super::predict::Predictor;
use super::probe::PATIENCE;
use super::trial::{Ports, Tried, attempt};
use super::view::{self, View};
use super::wire::Wire;
use crate::Result;

/// How many connections are tried at the same time. Most of the time is that of waiting where no answer comes.
const AT_ONCE: usize = 64;
/// How long to wait where no answer should come. Answers in a lab take some milliseconds, and a datagram is sent again
/// meanwhile.
const SILENCE: Duration = Duration::from_millis(500);

/// A connection before the captures have been looked at.
pub(super) struct Attempted<'v> {
    case: Case<'v>,
    tries: Vec<Tried>,
}

/// Tries the connections of a row.
pub(super) fn connect<'v>(view: &'v View, ports: &Ports, row: Row) -> Result<Vec<Attempted<'v>>> {
    let Some(cast) = Cast::of(view) else { return Ok(Vec::new()) };
    let mut all = cases(view, &cast, row);
    if row != Row::BehindNat {
        all.extend(unserved(view, &cast, row));
    }
    if row != Row::Inbound {
        return try_all(view, ports, all);
    }
    // A host outside comes in by one node after the other.
    let mut by_node: BTreeMap<&NodeName, Vec<Case<'v>>> = BTreeMap::new();
    for case in all {
        if let Client::Outside(_, node) = case.client {
            by_node.entry(node).or_default().push(case);
        }
    }
    let mut attempted = Vec::new();
    for (node, cases) in by_node {
        let own: Vec<IpAddr> = view
            .cluster
            .nodes
            .get(node)
            .into_iter()
            .flat_map(|node| node.addresses.iter().copied())
            .collect();
        let mut addresses: Vec<IpAddr> = cases.iter().map(|case| case.target.address.ip()).collect();
        addresses.retain(|address| !own.contains(address));
        addresses.sort_unstable();
        addresses.dedup();
        let detour = Detour::through(view, node, &addresses)?;
        attempted.extend(try_all(view, ports, cases)?);
        detour.end()?;
    }
    Ok(attempted)
}

/// Puts together what came of connections, with what was on the wire.
pub(super) fn conclude(
    view: &View,
    predictor: &Predictor<'_>,
    attempted: Vec<Attempted<'_>>,
    wire: &Wire,
) -> Vec<Connection> {
    let conclude = |Attempted { case, tries }: Attempted<'_>| {
        let party = case.client.party(view, Family::of(&case.target.address.ip()))?;
        let from = Party { address: case.source.unwrap_or(party.address), ..party };
        let (predicted, steps) = predictor.connection(&case, from.address);
        let tries = tries.into_iter().map(|Tried { mark, got, after }| {
            let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            Try { got, after, wire: wire.of_mark(case.transport, mark) }
        });
        Some(Connection {
            row: case.row,
            aspect: case.aspect,
            from,
            to: case.target,
            transport: case.transport,
            expected: case.fate,
            predicted,
            steps,
            tries: tries.collect(),
        })
    };
    attempted.into_iter().filter_map(conclude).collect()
}

/// Tries cases side by side; the tries of one case one after the other.
fn try_all<'v>(view: &View, ports: &Ports, cases: Vec<Case<'v>>) -> Result<Vec<Attempted<'v>>> {
    let spaces = cases.iter().map(|case| namespace(view, case.client)).collect::<Result<Vec<NetNs>>>()?;
    let results: Vec<Mutex<Vec<Tried>>> = cases.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(case), Some(from), Some(result)) =
                (cases.get(index), spaces.get(index), results.get(index))
            else {
                return;
            };
            *result.lock().unwrap_or_else(PoisonError::into_inner) =
                try_one(from, case, ports, view.questions());
        }
    };
    thread::scope(|scope| {
        for _ in 0..cases.len().min(AT_ONCE) {
            scope.spawn(work);
        }
    });
    let tries = results.into_iter().map(|tries| tries.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(cases.into_iter().zip(tries).map(|(case, tries)| Attempted { case, tries }).collect())
}

/// Tries a case as often as it says, or until a try comes to nothing.
fn try_one(from: &NetNs, case: &Case<'_>, ports: &Ports, questions: usize) -> Vec<Tried> {
    let mut tries: Vec<Tried> = Vec::new();
    let patience = if matches!(case.fate, Fate::Silent { .. }) { SILENCE } else { PATIENCE };
    let goes_on = |tries: &[Tried]| tries.last().is_none_or(|last| matches!(last.got, Got::Answer(_)));
    while tries.len() < case.times && goes_on(&tries) {
        let to = case.target.address;
        tries.push(attempt(from, to, case.transport, ports, patience, ports.mark(), questions));
    }
    tries
}

fn namespace(view: &View, client: Client<'_>) -> Result<NetNs> {
    match client {
        Client::Pod(pod) => view::open(&pod.netns),
        Client::Node(node) => view.machine_namespace(node.as_str()),
        Client::Outside(host, _) => view.machine_namespace(&host.name),
    }
}

/// Why services cannot be tried, if they cannot.
pub(super) fn obstacle(view: &View) -> Option<String> {
    if view.cluster.network.service_ranges.is_empty() {
        return Some("there is no range of service addresses".to_owned());
    }
    let ranges = super::cast::ranges();
    let meets = |net: &ipnet::IpNet| ranges.iter().find(|range| range.contains(net) || net.contains(*range));
    let nets = view.topology.subnets.iter().flat_map(|subnet| subnet.prefixes.iter());
    let nets = nets.chain(&view.cluster.network.service_ranges).copied();
    let mut nets = nets.chain(view.cluster.network.pod_ranges.iter().map(|range| range.net()));
    let range = nets.find_map(|net| meets(&net));
    range.map(|range| format!("{range}, whose addresses the check takes, is in use"))
}
