//! `cambric trace`: a packet's way, from what the Kubernetes API holds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use lab::live::{self, Comparison, Stage};
use lab::paths::LabName;
use lab::signals::Interrupts;
use model::{Family, NodeName};
use trace::journey::text::{Style, render};
use trace::journey::{Journey, Query, Scene, Transport};

use crate::terminal::in_colour;

/// Show a packet's way through the cluster, hop by hop, and the way of its answer.
///
/// The way is worked out from what the Kubernetes API holds, by the plans that the nodes' agents make of it; nothing is
/// sent. With --live one packet is sent, in a lab, and shown where it was captured. The exit code is 0 if the packet and
/// its answer arrive, whichever endpoint is chosen, and 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "Ends of a way:
  pod/NAMESPACE/NAME, NAMESPACE/NAME, or NAME of a pod
  node/NAME
  service/NAMESPACE/NAME[:PORT]   PORT is a number or the name of a service's port
  an IP address                   of a pod, service or node, or outside of the cluster

Examples:
  cambric trace client-0 service/default/web
  cambric trace default/client-0 web-1:8080 --family 6
  cambric trace node/node-1 10.244.2.7:53 --protocol udp --json
  cambric trace 198.51.100.7 node/node-1:30080 --all
  cambric trace --lab demo --live client-0 service/default/web")]
pub(crate) struct TraceOptions {
    /// Who sends
    #[arg(value_name = "SOURCE")]
    source: String,
    /// To whom
    #[arg(value_name = "DESTINATION[:PORT]")]
    destination: String,
    /// The protocol [default: tcp with a port, icmp without]
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// The address family [default: the first that both have]
    #[arg(long, value_name = "4|6", value_parser = family)]
    family: Option<Family>,
    /// The node that a packet from outside comes to
    #[arg(long, value_name = "NODE")]
    via: Option<String>,
    /// The namespace of names without one
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The kubeconfig [default: KUBECONFIG, the only lab's if there is one, or ~/.kube/config]
    #[arg(long, value_name = "FILE", conflicts_with = "lab")]
    kubeconfig: Option<PathBuf>,
    /// The lab
    #[arg(long, value_name = "LAB")]
    lab: Option<LabName>,
    /// Send one packet, and show where it was captured beside what was predicted (in a lab)
    #[arg(long)]
    live: bool,
    /// Show the way to each endpoint in full
    #[arg(long)]
    all: bool,
    /// Show rules that only let it pass as well
    #[arg(short, long)]
    verbose: bool,
    /// Draw with ASCII characters
    #[arg(long)]
    ascii: bool,
    /// As JSON, for programs
    #[arg(long, conflicts_with_all = ["all", "verbose", "ascii"])]
    json: bool,
}

/// What is sent.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

pub(crate) fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("use 4 or 6".to_owned()),
    }
}

pub(crate) fn run(options: &TraceOptions) -> Result<ExitCode> {
    let (journey, comparison) = match chosen_lab(options.lab.as_ref(), options.kubeconfig.as_deref())? {
        Some(lab) => in_lab(options, &lab)?,
        None if options.live => bail!(
            "--live sends a packet and captures it on the nodes, which for now works in a lab only; bring one up (cambric \
             lab up) and name it with --lab, or leave out --live"
        ),
        None => (in_cluster(options)?, None),
    };
    let different = comparison.as_ref().is_some_and(|comparison| comparison.difference.is_some());
    let text = match options.json {
        true => format!("{:#}\n", live::json(&journey, comparison.as_ref())?),
        false => {
            let live = comparison.as_ref().map(|comparison| "\n".to_owned() + &live::text(comparison));
            render(&journey, &style(options, comparison.as_ref())) + &live.unwrap_or_default()
        }
    };
    crate::print(&text)?;
    Ok(if journey.delivered && !different { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The lab that is meant: the one that was named, or the only one if no cluster was named.
pub(crate) fn chosen_lab(lab: Option<&LabName>, kubeconfig: Option<&Path>) -> Result<Option<LabName>> {
    if let Some(lab) = lab {
        lab::state::State::read(lab)?;
        return Ok(Some(lab.clone()));
    }
    let named = kubeconfig.is_some() || std::env::var_os("KUBECONFIG").is_some();
    if named || crate::shell::is_plugin() {
        return Ok(None);
    }
    // Others than root cannot look, and have none.
    Ok(match lab::state::labs().unwrap_or_default().as_slice() {
        [only] => Some(only.clone()),
        _ => None,
    })
}

fn in_lab(options: &TraceOptions, lab: &LabName) -> Result<(Journey, Option<Comparison>)> {
    let stage = Stage::load(lab, &Interrupts::hold()?)?;
    let query = query(options, &stage.scene)?;
    if options.live {
        let (journey, _, comparison) = stage.trace(&query)?;
        return Ok((journey, Some(comparison)));
    }
    Ok((stage.scene.journey(&query)?, None))
}

fn in_cluster(options: &TraceOptions) -> Result<Journey> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let snapshot = runtime.block_on(async {
        let client = kube_source::client(options.kubeconfig.as_deref()).await?;
        kube_source::snapshot(&client).await.context("the Kubernetes API")
    })?;
    for refused in &snapshot.refused {
        eprintln!("cambric: left out {}: {}", refused.object, refused.reason);
    }
    let scene = Scene::assumed(snapshot.cluster, snapshot.pods);
    let query = query(options, &scene)?;
    Ok(scene.journey(&query)?)
}

fn query(options: &TraceOptions, scene: &Scene) -> Result<Query> {
    Ok(Query {
        source: scene.source(&options.source, &options.namespace).context("SOURCE")?,
        destination: scene.party(&options.destination, &options.namespace).context("DESTINATION")?,
        transport: options.protocol.map(|protocol| match protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Icmp => Transport::Icmp,
        }),
        family: options.family,
        via: options.via.as_ref().map(|name| NodeName::new(name.as_str()).context("--via")).transpose()?,
    })
}

fn style(options: &TraceOptions, comparison: Option<&Comparison>) -> Style {
    Style {
        all: options.all,
        way: comparison.map_or(0, |comparison| comparison.way),
        rules: options.verbose,
        ascii: options.ascii,
        colour: in_colour(&std::io::stdout()),
    }
}
