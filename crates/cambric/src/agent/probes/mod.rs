//! Probes (`cambric trace --live`): this node's part in sending a packet and looking for it.
//!
//! Who may make one is decided by the API server. What an agent does for one is little all the same: one packet from a pod
//! of its own node, and the headers of that packet and its answer where they pass.

mod judge;
mod session;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use kube_source::{PROBE_LIFETIME, Probe, ProbeStatus, probe_age};
use model::NodeName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub(crate) use judge::View;
use judge::{Job, Verdict, judge};

/// What a probe needs to know of the node, asked of the worker. `None` says that there is no network yet.
pub(crate) type Ask = oneshot::Sender<Option<View>>;

/// What all probes of this node have in common.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) client: kube::Client,
    pub(crate) node: NodeName,
    /// Where the container runtime names the namespaces of pods.
    pub(crate) netns_dir: PathBuf,
    /// Where the worker is asked.
    pub(crate) ask: mpsc::UnboundedSender<Ask>,
}

/// The probes that are known, by UID.
struct Probes {
    around: Surroundings,
    known: BTreeMap<String, Known>,
    running: JoinSet<()>,
}

struct Known {
    probe: Probe,
    status: watch::Sender<ProbeStatus>,
    /// When it is deleted, if this node's agent is the one to do so.
    expires: Option<Instant>,
}

/// Does this node's part in all probes, for as long as it is polled.
pub(crate) async fn serve(around: Surroundings) {
    let mut events = std::pin::pin!(kube_source::watch_probes(&around.client));
    let mut probes = Probes { around, known: BTreeMap::new(), running: JoinSet::new() };
    let mut broken = None;
    let mut listed = Vec::new();
    loop {
        let expires = probes.known.values().filter_map(|known| known.expires).min();
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(event) => {
                    broken = None;
                    probes.take(event, &mut listed);
                }
                // A cluster whose definitions are older than this agent has no probes.
                Err(error) if broken.as_ref() == Some(&error) => {}
                Err(error) => {
                    tracing::info!(error, "probes cannot be watched, so cambric trace --live does not work here");
                    broken = Some(error);
                }
            },
            () = until(expires) => probes.delete_expired().await,
            Some(_) = probes.running.join_next() => {}
        }
    }
}

/// The time that has come; never, if there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Probes {
    fn take(&mut self, event: Event<Probe>, listed: &mut Vec<String>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(probe) => {
                listed.extend(probe.uid());
                self.see(probe);
            }
            Event::InitDone => self.known.retain(|uid, _| listed.contains(uid)),
            Event::Apply(probe) => self.see(probe),
            // Its session ends with it.
            Event::Delete(probe) => drop(probe.uid().and_then(|uid| self.known.remove(&uid))),
        }
    }

    fn see(&mut self, probe: Probe) {
        let Some(uid) = probe.uid() else { return };
        let status = probe.status.clone().unwrap_or_default();
        if let Some(known) = self.known.get(&uid) {
            known.status.send_replace(status);
            return;
        }
        let age = probe_age(&probe);
        let own = self.around.node.clone();
        // What an earlier run of this agent was at is not begun again.
        let before = status.nodes.iter().any(|report| report.node == own.as_str());
        let verdict = judge(&own, &probe.spec, &uid, age, self.running.len());
        let (sender, receiver) = watch::channel(status);
        match verdict {
            Verdict::NotOurs | Verdict::Expired { .. } => {}
            _ if before => {}
            Verdict::Do(job) => self.begin(probe.clone(), job, receiver),
            Verdict::Refuse(reason) => self.refuse(probe.clone(), reason),
        }
        let deletes = probe.spec.sender.node == own.as_str();
        let left = Duration::from_secs(PROBE_LIFETIME).saturating_sub(age);
        let expires = deletes.then(|| Instant::now() + left);
        self.known.insert(uid, Known { probe, status: sender, expires });
    }

    fn begin(&mut self, probe: Probe, job: Job, status: watch::Receiver<ProbeStatus>) {
        tracing::info!(probe = probe.name_any(), to = %job.to, sends = job.sends.is_some(), "a probe");
        self.running.spawn(session::run(self.around.clone(), probe, job, status));
    }

    fn refuse(&mut self, probe: Probe, reason: String) {
        let around = self.around.clone();
        self.running.spawn(async move { session::refuse(&around, &probe, reason).await });
    }

    async fn delete_expired(&mut self) {
        let now = Instant::now();
        for known in self.known.values_mut().filter(|known| known.expires.is_some_and(|at| at <= now)) {
            let probe = known.probe.name_any();
            match kube_source::delete_probe(&self.around.client, &known.probe).await {
                Ok(()) => {
                    tracing::info!(probe, "deleted, as it is older than {PROBE_LIFETIME} seconds");
                    known.expires = None;
                }
                Err(error) => {
                    tracing::warn!(%error, probe, "it is older than {PROBE_LIFETIME} seconds and stays");
                    known.expires = Some(now + Duration::from_secs(PROBE_LIFETIME));
                }
            }
        }
    }
}
