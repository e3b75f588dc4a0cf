//! What the agent leaves for others: the node file and the CNI configuration, its status, and its state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kernel::FastPathState;
use kernel::ipip::Counters;
use model::{Family, NodeFile, NodeName, PerFamily};
use plan::Entries;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::bgp::Wanted;
use super::contacts_file::ContactsFile;
use super::core::{Announced, Core};
use super::keepalives::Keepalives;
use super::options::AgentOptions;
use super::routes::RoutesFile;
use super::saver::Saver;
use super::service_health::Checks;
use super::summary::{ClusterStatus, Happened, Repairs};
use crate::clock::unix_now;
use crate::files::{make_private_dir, publish};
use crate::paths::{self, RunDir};

/// How many problems that begin or end at once get a line of the log each; all are in the status.
const LINES: usize = 20;

/// What `cambric status` reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The node.
    pub(crate) node: String,
    /// Why the agent is not ready; none if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_ready: Option<String>,
    /// The configuration in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<String>,
    /// The node's own addresses and pod ranges.
    pub(crate) addresses: Vec<String>,
    pub(crate) pod_ranges: Vec<String>,
    /// How many nodes and pods' interfaces there are.
    pub(crate) nodes: usize,
    pub(crate) attachments: usize,
    /// How many addresses and ports of services there are, and endpoints behind them.
    #[serde(default)]
    pub(crate) services: usize,
    #[serde(default)]
    pub(crate) endpoints: usize,
    /// How many entries of which kind are planned.
    pub(crate) entries: BTreeMap<String, usize>,
    /// How many packets met which fate in IP in IP; nothing if there is none.
    #[serde(default)]
    pub(crate) tunnel: BTreeMap<String, u64>,
    /// How the fast path fares; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fast_path: Option<FastPathStatus>,
    /// Who was heard of late through a NAT gateway, or from behind one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) heard: Vec<HeardFrom>,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
    /// When the kernel was last compared, in seconds since 1970.
    pub(crate) compared: Option<u64>,
    /// When the agent started, in seconds since 1970.
    #[serde(default)]
    pub(crate) started: u64,
    /// How packets are carried, how big they can be, and where routes come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    /// How many entries of the plan the kernel has refused.
    #[serde(default)]
    pub(crate) refused: usize,
    /// What was not as planned, and was put right.
    #[serde(default)]
    pub(crate) repairs: Repairs,
    /// The problem that began last, whether or not there still is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<Happened>,
    /// The other nodes.
    #[serde(default)]
    pub(crate) cluster: ClusterStatus,
}

/// How the fast path fared at the last comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FastPathStatus {
    /// The links on which packets are looked at.
    pub(crate) links: Vec<String>,
    /// The addresses of pods of this node whose flows it takes.
    pub(crate) pods: usize,
    /// The flows that are remembered.
    pub(crate) flows: u64,
    /// How many flows were learned, and how many of them had to make room for others.
    pub(crate) learned: u64,
    pub(crate) evicted: u64,
    /// Packets that it has sent.
    pub(crate) hits: u64,
    /// Packets that took the kernel's path, by reason.
    pub(crate) misses: BTreeMap<String, u64>,
    /// Of those, packets from which no flow was learned, by reason.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Packets that were dropped because the kernel would not change them.
    pub(crate) failed: u64,
}

impl From<&FastPathState> for FastPathStatus {
    fn from(state: &FastPathState) -> FastPathStatus {
        let FastPathState { links, pods, counters } = state;
        let named = |(reason, count): (&str, u64)| (reason.to_owned(), count);
        FastPathStatus {
            links: links.iter().map(ToString::to_string).collect(),
            pods: *pods,
            flows: counters.flows(),
            learned: counters.of("learned"),
            evicted: counters.of("evicted"),
            hits: counters.hits(),
            misses: counters.misses().map(named).collect(),
            refusals: counters.refusals().map(named).collect(),
            failed: counters.of("failed"),
        }
    }
}

/// An outer address from which IP in IP came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeardFrom {
    /// The address.
    pub(crate) address: IpAddr,
    /// The family of what was in the packets.
    pub(crate) inner: Family,
}

/// How the last comparison went.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) failures: Vec<String>,
    pub(crate) underlay_error: Option<String>,
    pub(crate) attachments_error: Option<String>,
    pub(crate) publish_error: Option<String>,
    /// Why services are not as planned.
    pub(crate) services_error: Option<String>,
    /// Why there is no IP in IP, where nothing is sent by it.
    pub(crate) tunnel_error: Option<String>,
    /// What the programs of IP in IP have counted.
    pub(crate) tunnel: Option<Counters>,
    /// Why there is no fast path, though there should be.
    pub(crate) fast_path_error: Option<String>,
    /// How the fast path fares.
    pub(crate) fast_path: Option<FastPathState>,
    /// The ports for health checks that cannot be listened on.
    pub(crate) health_ports: Vec<String>,
    /// What is wrong with the BGP speaker.
    pub(crate) bgp: Vec<String>,
    /// The addresses of this node whose links were looked up.
    pub(crate) addresses: Option<PerFamily<IpAddr>>,
    /// Whether a comparison of this run has ended without a failure.
    pub(crate) ever_clean: bool,
    /// Whether the node has a pod range.
    pub(crate) has_range: bool,
    /// Whether there has been a comparison since the status was written.
    pub(crate) fresh: bool,
    /// What was put right in this run.
    pub(crate) repairs: Repairs,
    entries: BTreeMap<String, usize>,
    compared: Option<u64>,
}

impl Report {
    /// Counts what is planned.
    pub(crate) fn count(&mut self, plan: &Entries) {
        self.entries.clear();
        for key in plan.keys() {
            *self.entries.entry(key.kind().to_owned()).or_default() += 1;
        }
        self.compared = Some(unix_now().as_secs());
    }

    /// Why pods cannot be networked, or not as planned.
    pub(crate) fn not_ready(&self, core: &Core) -> Option<String> {
        if let Some(missing) = core.missing() {
            return Some(missing);
        }
        if !self.ever_clean && self.failures.is_empty() {
            return Some("the kernel has not been compared with the plan yet".to_owned());
        }
        if let Some(first) = self.failures.first() {
            let count = self.failures.len();
            return Some(format!("the kernel refused {count} entries of the plan, among them: {first}"));
        }
        if !self.has_range {
            let node = core.local_node()?;
            return Some(plan::Problem::NoRange(node.name.clone()).to_string());
        }
        self.publish_error.clone()
    }
}

/// Writes the agent's files.
#[derive(Debug)]
pub(crate) struct Publisher {
    local: NodeName,
    run_dir: RunDir,
    cni_conf_dir: PathBuf,
    cni_data_dir: PathBuf,
    condition: watch::Sender<bool>,
    checks: watch::Sender<Checks>,
    keepalives: watch::Sender<Keepalives>,
    speech: UnboundedSender<Wanted>,
    shown: Option<Status>,
    /// When this run began, in seconds since 1970.
    started: u64,
    /// Keeps the state for a start without the API.
    pub(crate) saver: Saver,
    /// Keeps what BGP has told of other nodes for the next run.
    pub(crate) contacts: ContactsFile,
    /// Lists the routes.
    pub(crate) routes: RoutesFile,
}

impl Publisher {
    /// Writes to where the options say; whether the node's condition is wanted, and what load balancers and
    /// BGP peers are told, goes over the channels.
    pub(crate) fn new(
        local: NodeName,
        options: &AgentOptions,
        condition: watch::Sender<bool>,
        checks: watch::Sender<Checks>,
        speech: UnboundedSender<Wanted>,
        keepalives: watch::Sender<Keepalives>,
    ) -> Publisher {
        let run_dir = RunDir(options.run_dir.clone());
        Publisher {
            saver: Saver::new(run_dir.state(), local.clone()),
            contacts: ContactsFile::new(run_dir.contacts(), local.clone()),
            routes: RoutesFile::new(run_dir.routes()),
            local,
            run_dir,
            cni_conf_dir: options.cni_conf_dir.clone(),
            cni_data_dir: options.cni_data_dir.clone(),
            condition,
            checks,
            keepalives,
            speech,
            shown: None,
            started: unix_now().as_secs(),
        }
    }

    /// Publishes what the CNI plugin needs and, once all that it rests on is there, the configuration that makes the
    /// container runtime call the plugin.
    pub(crate) fn publish(&self, file: &NodeFile, complete: bool) -> Result<()> {
        make_private_dir(&self.run_dir.0)?;
        let mut json = serde_json::to_vec_pretty(file).context("cannot encode the node file")?;
        json.push(b'\n');
        publish(&self.run_dir.node_file(), &json, 0o600)?;
        if complete && publish(&self.conflist(), self.conflist_text().as_bytes(), 0o644)? {
            tracing::info!(path = %self.conflist().display(), "CNI configuration written");
        }
        Ok(())
    }

    fn conflist(&self) -> PathBuf {
        paths::conflist(&self.cni_conf_dir)
    }

    /// CNI spec 1.1.0, section 1. A runtime that does not know `cniVersions` goes by `cniVersion`.
    fn conflist_text(&self) -> String {
        let json = serde_json::json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": paths::NETWORK,
            "plugins": [{
                "type": "cambric",
                "nodeFile": self.run_dir.node_file(),
                "dataDir": self.cni_data_dir,
            }],
        });
        format!("{json:#}\n")
    }

    /// Says whether the Node's condition is to be set.
    pub(crate) fn want_condition(&self, wanted: bool) {
        self.condition.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
    }

    /// Says what load balancers are to be told.
    pub(crate) fn answer(&self, checks: &Checks) {
        self.checks.send_if_modified(|before| {
            let new = before != checks;
            if new {
                before.clone_from(checks);
            }
            new
        });
    }

    /// Says what is to be sent so that tunnels through NAT gateways stay open.
    pub(crate) fn keep_alive(&self, keepalives: &Keepalives) {
        self.keepalives.send_if_modified(|before| {
            let new = before != keepalives;
            if new {
                before.clone_from(keepalives);
            }
            new
        });
    }

    /// Says what BGP peers are to be told, and who they are.
    pub(crate) fn speak(&self, core: &mut Core) {
        // Whoever speaks lives as long as the agent does.
        let say = |wanted| drop(self.speech.send(wanted));
        match core.new_announced() {
            Announced::All => say(Wanted::Services(core.announced().clone())),
            Announced::Changed(changes) if changes.is_empty() => {}
            Announced::Changed(changes) => say(Wanted::ServicesChanged(changes)),
        }
        if let Some(speaker) = core.new_speaker() {
            say(Wanted::Speaker(speaker, core.epoch()));
        }
    }

    /// Writes the status if something in it is new; the number of problems if it was written.
    pub(crate) fn show(
        &mut self,
        core: &Core,
        report: &mut Report,
        not_ready: Option<&str>,
    ) -> Option<usize> {
        let stale = self.shown.as_ref().is_none_or(|shown| shown.not_ready.as_deref() != not_ready);
        if !stale && !std::mem::take(&mut report.fresh) {
            return None;
        }
        let mut problems = core.problems();
        problems.extend(report.underlay_error.iter().chain(&report.attachments_error).cloned());
        problems.extend(report.publish_error.clone());
        problems.extend(report.tunnel_error.clone());
        problems.extend(report.fast_path_error.clone());
        problems.extend(report.health_ports.iter().cloned());
        problems.extend(report.bgp.iter().cloned());
        problems.extend(report.failures.iter().cloned());
        let node = core.local_node();
        let status = Status {
            node: self.local.to_string(),
            not_ready: not_ready.map(str::to_owned),
            network: core
                .network_in_force()
                .map(|network| kube_source::verdict(kube_source::SINGLETON, Ok(network)).message),
            addresses: node
                .into_iter()
                .flat_map(|node| node.addresses.iter())
                .map(ToString::to_string)
                .collect(),
            pod_ranges: node
                .into_iter()
                .flat_map(|node| node.pod_ranges.iter())
                .map(ToString::to_string)
                .collect(),
            nodes: core.nodes().len(),
            attachments: core.attachments().len(),
            services: core.services().frontends.len(),
            endpoints: core.services().endpoints(),
            entries: report.entries.clone(),
            tunnel: report
                .tunnel
                .iter()
                .flat_map(Counters::by_fate)
                .map(|(fate, count)| (fate.to_owned(), count))
                .collect(),
            fast_path: report.fast_path.as_ref().map(FastPathStatus::from),
            heard: core
                .heard()
                .iter()
                .map(|(address, inner)| HeardFrom { address: *address, inner: *inner })
                .collect(),
            last_error: self.last_error(&problems),
            problems,
            compared: report.compared,
            started: self.started,
            mode: core.mode(),
            refused: report.failures.len(),
            repairs: report.repairs.clone(),
            cluster: ClusterStatus::of(core),
        };
        self.log_news(&status);
        if let Err(error) = self.write_status(&status) {
            tracing::warn!(error = format!("{error:#}"), "the status cannot be written");
        }
        let count = status.problems.len();
        self.shown = Some(status);
        Some(count)
    }

    fn last_error(&self, problems: &[String]) -> Option<Happened> {
        let before = self.shown.as_ref();
        let is_new = |problem: &&String| before.is_none_or(|shown| !shown.problems.contains(problem));
        let begun = problems
            .iter()
            .rfind(is_new)
            .map(|what| Happened { at: unix_now().as_secs(), what: what.clone() });
        begun.or_else(|| before?.last_error.clone())
    }

    fn write_status(&self, status: &Status) -> Result<()> {
        let json = serde_json::to_vec(status).context("cannot encode the status")?;
        publish(&self.run_dir.status(), &json, 0o600).map(drop)
    }

    /// What is wrong is logged when it begins and when it ends.
    fn log_news(&self, status: &Status) {
        let before = self.shown.as_ref();
        let old: BTreeSet<&String> = before.iter().flat_map(|shown| &shown.problems).collect();
        let new: BTreeSet<&String> = status.problems.iter().collect();
        for problem in new.difference(&old).take(LINES) {
            tracing::warn!(problem, "problem");
        }
        for problem in old.difference(&new).take(LINES) {
            tracing::info!(problem, "problem solved");
        }
        match (&status.not_ready, before.map(|shown| &shown.not_ready)) {
            (None, None | Some(Some(_))) => tracing::info!("ready"),
            (Some(reason), _) => tracing::info!(reason, "not ready"),
            _ => {}
        }
    }
}
