//! `cambric flows`: what connection tracking sees, with names instead of addresses.

mod cluster;
mod text;

use std::collections::HashMap;
use std::io::stdout;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use lab::flows::{Event, Flows, Look, Place, Untracked, What, current};
use lab::paths::LabName;
use model::{Family, NodeName};
use serde::Serialize;
use serde_json::json;
use trace::flow::{Filter, NamedFlow, Verdict};
use trace::journey::Scene;

use crate::paths;
use crate::terminal::in_colour;
use text::Style;

/// How old counters of flows that go on can be while they are followed.
const COUNTERS_LAST: Duration = Duration::from_secs(5);

/// Show the flows that a node tracks, with names instead of addresses.
///
/// Lists what goes on now, or with --follow also what begins, changes and ends from then on: who sends to whom, by which
/// service and endpoint, what has become of it, and how much went through. In a lab all nodes are asked. Tunnels
/// between nodes are left out, and so is a node's talk with itself and with multicast groups and, of a flow that several
/// nodes track, all but what the client's node knows; --all shows that too.
#[derive(Debug, Args)]
#[command(after_help = "Verdicts:
  new          nothing has come back yet
  replied      there was an answer
  established  the connection is set up, or packets have gone to and fro
  closing      a side has said that it is done
  closed       it was answered, and has ended
  refused      the answer was a TCP reset or an SCTP abort
  unanswered   it has ended, and nothing ever came back

Options of one kind are alternatives; of several kinds all must fit.

Examples:
  cambric flows
  cambric flows --follow --service default/web
  cambric flows -f --pod client-0 --verdict refused,unanswered
  cambric flows --peer node/node-2 --protocol udp --port 53 --json
  cambric flows --lab demo --node node-1 -f")]
pub(crate) struct FlowsOptions {
    /// Go on with what begins, changes and ends
    #[arg(short, long)]
    follow: bool,
    /// A pod that sends or receives
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pod: Vec<String>,
    /// A service that is asked for, with or without a port or its name
    #[arg(long, value_name = "[NAMESPACE/]NAME[:PORT]")]
    service: Vec<String>,
    /// Anybody who sends or receives: pod/…, node/…, service/… or an IP address, as for cambric trace
    #[arg(long, value_name = "PARTY")]
    peer: Vec<String>,
    /// The port that is sent to, of a service or of its endpoint
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// The protocol
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    protocol: Vec<Protocol>,
    /// What has become of it
    #[arg(
        long,
        visible_alias = "state",
        value_name = "VERDICT",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(Verdict::ALL.map(Verdict::name))
    )]
    verdict: Vec<String>,
    /// The address family
    #[arg(long, value_name = "4|6", value_parser = crate::journey::family)]
    family: Option<Family>,
    /// Show also tunnels, what nodes say to themselves and to groups, and what several nodes track each time
    #[arg(short, long)]
    all: bool,
    /// The namespace of names without one
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The kubeconfig for names [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE", conflicts_with = "lab")]
    kubeconfig: Option<PathBuf>,
    /// The lab [default: the only one, unless KUBECONFIG is set]
    #[arg(long, value_name = "LAB")]
    lab: Option<LabName>,
    /// The node of the lab [default: all]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The agent's run directory
    #[arg(long, value_name = "DIR", env = paths::RUN_DIR_VARIABLE, default_value = paths::RUN_DIR)]
    run_dir: PathBuf,
    /// As JSON, one object a line, for programs
    #[arg(long)]
    json: bool,
}

/// A protocol of flows.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

impl Protocol {
    /// As flows have them.
    fn names(self) -> &'static [&'static str] {
        match self {
            Protocol::Tcp => &["TCP"],
            Protocol::Udp => &["UDP"],
            Protocol::Sctp => &["SCTP"],
            Protocol::Icmp => &["ICMP", "ICMPv6"],
        }
    }
}

/// Whose flows are shown, and how to look up names.
struct Stage {
    places: Vec<Place>,
    look: Look,
}

pub(crate) fn run(options: &FlowsOptions) -> Result<ExitCode> {
    let Stage { places, mut look } = cluster::stage(options)?;
    let scene = look()?;
    let filter = filter(options, &scene, &places)?;
    note_uncounted(&places)?;
    let style = Style {
        several: places.len() > 1,
        clock: options.follow,
        colour: in_colour(&stdout()) && !options.json,
    };
    match options.follow {
        true => follow(options, places, &scene, look, &filter, &style)?,
        false => list(options, &places, &scene, &filter, &style)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn filter(options: &FlowsOptions, scene: &Scene, places: &[Place]) -> Result<Filter> {
    let named = |option: &'static str, kind: &str, names: &[String]| {
        let one = |name: &String| {
            let named = scene.party(&format!("{kind}{name}"), &options.namespace);
            named.with_context(|| format!("{option} {name}"))
        };
        names.iter().map(one).collect::<Result<Vec<_>>>()
    };
    let is_wanted = |verdict: &Verdict| options.verdict.iter().any(|name| name == verdict.name());
    Ok(Filter {
        pods: named("--pod", "pod/", &options.pod)?,
        services: named("--service", "service/", &options.service)?,
        peers: named("--peer", "", &options.peer)?,
        ports: options.port.clone(),
        protocols: options.protocol.iter().flat_map(|protocol| protocol.names()).copied().collect(),
        verdicts: Verdict::ALL.into_iter().filter(is_wanted).collect(),
        family: options.family,
        nodes: (!options.all).then(|| places.iter().map(|place| place.node.clone()).collect()),
    })
}

/// Says where bytes are not counted.
fn note_uncounted(places: &[Place]) -> Result<()> {
    for place in places {
        if !place.counts()? {
            note(&format!(
                "{} does not count bytes: net.netfilter.nf_conntrack_acct is 0 there. The agent sets it; flows that have \
                 begun before are never counted",
                place.node
            ));
        }
    }
    Ok(())
}

fn note(text: &str) {
    eprintln!("cambric: {text}");
}

fn list(
    options: &FlowsOptions,
    places: &[Place],
    scene: &Scene,
    filter: &Filter,
    style: &Style,
) -> Result<()> {
    let mut found = current(places, scene, filter)?;
    found.sort_by(|one, other| {
        let key =
            |flow: &NamedFlow| (flow.node.clone(), flow.client.name.clone(), flow.destination.name.clone());
        key(one).cmp(&key(other)).then_with(|| one.client.port.cmp(&other.client.port))
    });
    if found.is_empty() {
        note("no such flow");
    }
    for flow in &found {
        show(options, What::Listed, flow, style)?;
    }
    Ok(())
}

fn follow(
    options: &FlowsOptions,
    places: Vec<Place>,
    scene: &Scene,
    look: Look,
    filter: &Filter,
    style: &Style,
) -> Result<()> {
    let mut flows = Flows::follow(places, scene, look, COUNTERS_LAST)?;
    let mut shown = Shown::default();
    while let Some(event) = flows.next(None)? {
        match event {
            Event::Flow(what, flow) => {
                if shown.is_news(what, &flow) && filter.wants(&flow) {
                    show(options, what, &flow, style)?;
                }
            }
            Event::Lost(node, count) => lost(options, &node, count)?,
            Event::Untracked(node, untracked) => self::untracked(options, &node, untracked)?,
            Event::Note(text) => note(&text),
        }
    }
    Ok(())
}

fn lost(options: &FlowsOptions, node: &NodeName, count: u32) -> Result<()> {
    if options.json {
        return crate::print(&format!("{}\n", json!({"event": "lost", "node": node, "messages": count})));
    }
    note(&format!(
        "{node}: {count} messages of the kernel were lost, as they came too fast; what they said is listed next, but for \
         flows that have come and gone meanwhile"
    ));
    Ok(())
}

fn untracked(
    options: &FlowsOptions,
    node: &NodeName,
    Untracked { invalid, dropped }: Untracked,
) -> Result<()> {
    if options.json {
        let line = json!({"event": "untracked", "node": node, "invalid": invalid, "dropped": dropped});
        return crate::print(&format!("{line}\n"));
    }
    note(&format!(
        "{node}: {invalid} packets belonged to no flow and could begin none (invalid), {dropped} were dropped as there was no \
         place for their flow"
    ));
    Ok(())
}

/// A line of JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    event: What,
    /// In seconds since 1970.
    time: f64,
    #[serde(flatten)]
    flow: &'a NamedFlow,
}

fn show(options: &FlowsOptions, event: What, flow: &NamedFlow, style: &Style) -> Result<()> {
    let now = SystemTime::now();
    let line = match options.json {
        true => {
            let time = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            serde_json::to_string(&Line { event, time, flow }).context("cannot encode a flow")? + "\n"
        }
        false => text::line(flow, now, style),
    };
    crate::print(&line)
}

/// The verdicts that were shown. That more has gone through a flow is no news to somebody who reads lines.
#[derive(Default)]
struct Shown(HashMap<Key, Verdict>);

/// What makes it the same flow.
type Key = (NodeName, u32, SocketAddr, SocketAddr);

impl Shown {
    fn is_news(&mut self, what: What, flow: &NamedFlow) -> bool {
        let at = |(address, port): (IpAddr, Option<u16>)| SocketAddr::new(address, port.unwrap_or_default());
        let [client, destination] = [&flow.client, &flow.destination].map(|end| at((end.address, end.port)));
        let key = (flow.node.clone(), flow.id, client, destination);
        if what == What::Ended {
            self.0.remove(&key);
            return true;
        }
        self.0.insert(key, flow.verdict) != Some(flow.verdict)
    }
}
