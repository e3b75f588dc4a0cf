//! The node's and the cluster's part of the screen, as a node's agent sees them.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::agent::{BgpStatus, ClusterStatus, Happened, SessionStatus, Status};
use crate::terminal::labelled;

/// Where values begin.
const INDENT: usize = 12;
/// How many problems are shown; all are counted, and in the JSON.
const PROBLEMS: usize = 8;
/// How many nodes, sessions and links are named.
const NAMED: usize = 6;

/// What is known of the node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen<'a> {
    /// The process id of the agent, if one runs.
    pub(super) agent: Option<&'a str>,
    pub(super) status: Option<&'a Status>,
    pub(super) bgp: Option<&'a BgpStatus>,
    /// In seconds since 1970.
    pub(super) now: u64,
}

pub(super) fn render(seen: &Seen<'_>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut text, seen);
    text
}

fn line(out: &mut String, name: &str, value: &str) -> fmt::Result {
    labelled(out, INDENT, name, value.split(' '))
}

fn write_all(out: &mut String, seen: &Seen<'_>) -> fmt::Result {
    let Some(status) = seen.status else {
        line(out, "agent", if seen.agent.is_some() { "runs" } else { "does not run" })?;
        return line(out, "status", "unknown: no agent has run here since the last boot or cleanup");
    };
    agent(out, seen, status)?;
    line(out, "node", &format!("{}, {}", status.node, listed(&status.addresses)))?;
    line(
        out,
        "pod ranges",
        &format!("{}; {} attached", listed(&status.pod_ranges), pods(status.attachments)),
    )?;
    line(out, "mode", status.mode.as_deref().unwrap_or("none: there is no ClusterNetwork"))?;
    kernel(out, seen, status)?;
    let (services, endpoints) = (status.services, status.endpoints);
    line(out, "services", &format!("{services} addresses and ports, {endpoints} endpoints"))?;
    line(out, "BGP", &sessions(seen.bgp))?;
    let packets = status.tunnel.iter().filter(|(_, count)| **count > 0);
    let packets: Vec<String> = packets.map(|(fate, count)| format!("{count} {fate}")).collect();
    if !packets.is_empty() {
        line(out, "IP in IP", &listed(&packets))?;
    }
    if let Some(fast) = &status.fast_path {
        line(out, "fast path", &format!("{} flows, {} packets sent by it", fast.flows, fast.hits))?;
    }
    problems(out, seen, status)?;
    writeln!(out)?;
    cluster(out, status.nodes, &status.cluster)
}

fn agent(out: &mut String, seen: &Seen<'_>, status: &Status) -> fmt::Result {
    let Some(pid) = seen.agent else {
        line(out, "agent", "does not run; what it left in the kernel stays, but nothing is repaired")?;
        return line(out, "", "What follows is how it was when it ended.");
    };
    let age = duration(seen.now.saturating_sub(status.started));
    line(out, "agent", &format!("runs with process id {pid}, for {age}"))?;
    match &status.not_ready {
        None => line(out, "ready", "yes"),
        Some(why) => line(out, "ready", &format!("no: {why}")),
    }
}

fn kernel(out: &mut String, seen: &Seen<'_>, status: &Status) -> fmt::Result {
    let total: usize = status.entries.values().sum();
    let Some(compared) = status.compared else {
        return line(out, "kernel", "has not been compared with the plan yet");
    };
    let ago = duration(seen.now.saturating_sub(compared));
    let how = match status.refused {
        0 => format!("as planned: {total} entries"),
        refused => format!("not as planned: {refused} of {total} entries refused"),
    };
    line(out, "kernel", &format!("{how}, compared {ago} ago"))?;
    let Some(Happened { at, what }) = &status.repairs.last else { return Ok(()) };
    let (count, ago) = (status.repairs.count, duration(seen.now.saturating_sub(*at)));
    line(out, "repairs", &format!("{count} since the agent started, the last {ago} ago: {what}"))
}

fn sessions(bgp: Option<&BgpStatus>) -> String {
    let Some(BgpStatus { speaker: Some(_), sessions, .. }) = bgp else { return "not spoken".to_owned() };
    let up = sessions.iter().filter(|session| session.is_up()).count();
    let down = sessions.iter().filter(|session| !session.is_up());
    let down: Vec<String> =
        down.map(|SessionStatus { name, state, .. }| format!("{name} ({state})")).collect();
    let rest = if down.is_empty() { String::new() } else { format!("; not: {}", named(&down, down.len())) };
    format!("{up} of {} sessions up{rest}", sessions.len())
}

fn problems(out: &mut String, seen: &Seen<'_>, status: &Status) -> fmt::Result {
    if let (Some(Happened { at, what }), true) = (&status.last_error, status.problems.is_empty()) {
        let ago = duration(seen.now.saturating_sub(*at));
        return line(out, "problems", &format!("none now; the last began {ago} ago: {what}"));
    }
    if status.problems.is_empty() {
        return line(out, "problems", "none");
    }
    for problem in status.problems.iter().take(PROBLEMS) {
        line(out, "problem", problem)?;
    }
    match status.problems.len().checked_sub(PROBLEMS) {
        None | Some(0) => Ok(()),
        Some(more) => line(out, "", &format!("and {more} more (cambric status --json)")),
    }
}

fn cluster(out: &mut String, total: usize, cluster: &ClusterStatus) -> fmt::Result {
    let ready = total.saturating_sub(cluster.unready);
    let unready = match cluster.unready {
        0 => String::new(),
        count => format!("; not: {}", named(&cluster.unready_nodes, count)),
    };
    line(out, "cluster", &format!("{ready} of {total} nodes ready{unready}"))?;
    if !cluster.reached.is_empty() {
        line(out, "reached", &ways(&cluster.reached))?;
    }
    match cluster.unreached {
        0 => Ok(()),
        count => line(out, "no way", &format!("to {}", named(&cluster.unreached_nodes, count))),
    }
}

/// How many nodes are reached how; by way of which nodes is said for the first.
fn ways(reached: &BTreeMap<String, usize>) -> String {
    let of = |way: &str| reached.get(way).map(|count| (*count, way.to_owned()));
    let words = [("vxlan", "by VXLAN"), ("ipip", "by IP in IP"), ("direct", "directly")];
    let plain = words.iter().filter_map(|(way, words)| of(way).map(|(count, _)| format!("{count} {words}")));
    let through = reached.iter().filter(|(way, _)| way.starts_with("through "));
    let through: Vec<String> = through.map(|(way, count)| format!("{count} {way}")).collect();
    let mut all: Vec<String> = plain.collect();
    if !through.is_empty() {
        all.push(named(&through, through.len()));
    }
    all.join(", ")
}

fn pods(count: usize) -> String {
    match count {
        1 => "1 pod".to_owned(),
        count => format!("{count} pods"),
    }
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// The first of so many.
fn named(names: &[String], count: usize) -> String {
    let shown = names.len().min(NAMED);
    let rest = match count.saturating_sub(shown) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{rest}", names.iter().take(shown).cloned().collect::<Vec<_>>().join(", "))
}

/// The two greatest units.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match () {
        () if days > 0 => format!("{days} d {hours} h"),
        () if hours > 0 => format!("{hours} h {minutes} min"),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
