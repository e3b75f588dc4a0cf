//! The small kubelet: pods of the API become processes in network namespaces, attached by the CNI plugin.
//!
//! What it has done is on disk before it is done, and containers outlive it: the next life of the kubelet takes them
//! over and clears away what belongs to nothing.

mod cni;
mod container;
mod node;
mod pod;
mod probe;
mod process;
mod record;
mod sandbox;
mod status;
mod supervise;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::JoinSet;

use self::cni::{NetworkList, Runtime};
use self::pod::Wanted;
use self::record::{Record, Records};
use crate::paths::LabName;
use crate::{Error, Result};

/// How many calls of the CNI plugin run at the same time.
const CALLS: usize = 8;
/// How long to wait before the API is asked again. It is on the loopback: asking costs nothing.
const RETRY: Duration = Duration::from_millis(500);

/// What all pods of a node share.
struct Shared {
    lab: LabName,
    node: String,
    client: Client,
    /// The directory of CNI configurations.
    conf: PathBuf,
    runtime: Runtime,
    records: Records,
    /// The directory of the containers' logs, one directory a pod.
    logs: PathBuf,
    /// The program that runs echo servers.
    executable: PathBuf,
    /// The node's addresses.
    host_ips: Vec<String>,
    network: watch::Receiver<Option<Arc<NetworkList>>>,
    calls: Semaphore,
    /// Held for reading by who attaches, and for writing by who tells the plugin what is attached.
    attaching: RwLock<()>,
}

/// Runs the kubelet of a node, in the namespace of the calling process, until SIGTERM. Pods go on without it.
///
/// # Errors
/// [`Error`] if it cannot start: no kubeconfig, no API client, no place for its records.
pub fn run(lab: &LabName, node: &str) -> Result<()> {
    crate::signals::let_through()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Error::system("start the event loop", error))?;
    runtime.block_on(async {
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|e| Error::system("wait for SIGTERM", e))?;
        tokio::select! {
            result = kubelet(lab, node) => result,
            _ = terminate.recv() => Ok(()),
        }
    })
}

async fn kubelet(lab: &LabName, name: &str) -> Result<()> {
    let paths = lab.paths().node(name);
    let client = kube_source::client(Some(&paths.kubeconfig())).await;
    let client = client.map_err(|error| Error::Other(error.to_string()))?;
    let (network_sender, network) = watch::channel(None);
    let shared = Arc::new(Shared {
        lab: lab.clone(),
        node: name.into(),
        conf: paths.cni_conf(),
        runtime: Runtime { bin: lab.paths().bin() },
        records: Records::open(&paths.root().join("pods"))?,
        logs: paths.log().join("pods"),
        executable: std::env::current_exe().map_err(|e| Error::system("find the executable", e))?,
        host_ips: host_ips(&client, name).await,
        client,
        network,
        calls: Semaphore::new(CALLS),
        attaching: RwLock::new(()),
    });
    tokio::select! {
        result = node::run(&shared, &network_sender) => result,
        result = pods(&shared) => result,
        () = collect_garbage(&shared) => Ok(()),
    }
}

/// The node's addresses, as soon as the API has the node.
async fn host_ips(client: &Client, name: &str) -> Vec<String> {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        match nodes.get(name).await {
            Ok(node) => {
                let status = node.status.unwrap_or_default();
                let addresses = status.addresses.unwrap_or_default().into_iter();
                return addresses.filter(|a| a.type_ == "InternalIP").map(|a| a.address).collect();
            }
            Err(error) => {
                tracing::warn!(%error, "the node is not in the API yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The same wait before every attempt.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(RETRY)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// The pods of the node, each with a task of its own.
struct Pods {
    shared: Arc<Shared>,
    wanted: HashMap<String, watch::Sender<Wanted>>,
    tasks: JoinSet<String>,
}

async fn pods(shared: &Arc<Shared>) -> Result<()> {
    let api: Api<Pod> = Api::all(shared.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.node));
    let mut events = Box::pin(watcher(api, config).backoff(Steady));
    let mut records: HashMap<String, Record> =
        shared.records.load()?.into_iter().map(|record| (record.uid.clone(), record)).collect();
    let mut pods = Pods { shared: shared.clone(), wanted: HashMap::new(), tasks: JoinSet::new() };
    let mut listed: Vec<Pod> = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(ended) = pods.tasks.join_next() => {
                pods.ended(ended);
                continue;
            }
        };
        match event {
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(pod))) => listed.push(pod),
            Some(Ok(Event::InitDone)) => {
                pods.list(std::mem::take(&mut listed), &mut records);
                sweep(shared, &pods.wanted).await;
            }
            Some(Ok(Event::Apply(pod))) => pods.want(pod, None),
            Some(Ok(Event::Delete(pod))) => {
                if let Some(wanted) = pod.metadata.uid.as_ref().and_then(|uid| pods.wanted.get(uid)) {
                    wanted.send_replace(Wanted::Gone);
                }
            }
            Some(Err(error)) => tracing::warn!(%error, "the pods cannot be watched; trying again"),
            None => return Err(Error::Other("the watch of the pods has ended".into())),
        }
    }
}

impl Pods {
    /// Takes what the API has: all others are gone. Records that are taken over are removed from `records`.
    fn list(&mut self, listed: Vec<Pod>, records: &mut HashMap<String, Record>) {
        let uids: Vec<String> = listed.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        for pod in listed {
            let record = pod.metadata.uid.as_ref().and_then(|uid| records.remove(uid));
            self.want(pod, record);
        }
        for (uid, record) in records.drain() {
            self.start(uid, Wanted::Gone, Some(record));
        }
        for (uid, wanted) in &self.wanted {
            if !uids.contains(uid) {
                wanted.send_replace(Wanted::Gone);
            }
        }
    }

    fn want(&mut self, pod: Pod, record: Option<Record>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let wanted = Wanted::Pod(Arc::new(pod));
        match self.wanted.get(&uid) {
            Some(sender) => {
                sender.send_replace(wanted);
            }
            None => self.start(uid, wanted, record),
        }
    }

    fn start(&mut self, uid: String, wanted: Wanted, record: Option<Record>) {
        let (sender, receiver) = watch::channel(wanted);
        self.wanted.insert(uid.clone(), sender);
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            pod::run(shared, record, receiver).await;
            uid
        });
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.wanted.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "the task of a pod failed"),
        }
    }
}

/// Removes namespaces of which no record speaks.
async fn sweep(shared: &Arc<Shared>, known: &HashMap<String, watch::Sender<Wanted>>) {
    let stray = sandbox::uids(&shared.lab, &shared.node).into_iter().filter(|uid| !known.contains_key(uid));
    for uid in stray {
        let path = sandbox::path(&shared.lab, &shared.node, &uid);
        let removed = tokio::task::spawn_blocking(move || {
            if let Some(namespace) = sandbox::open(&path) {
                process::kill_all(process::Search::Inside(&namespace), &[])?;
            }
            sandbox::remove(&path)
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a namespace that no pod has could not be removed"),
            Err(error) => tracing::warn!(%error, "a namespace that no pod has could not be removed"),
        }
    }
}

/// Tells the plugin once, as soon as there is a network, what is attached; then waits for ever.
async fn collect_garbage(shared: &Arc<Shared>) {
    let mut network = shared.network.clone();
    let current = network.wait_for(Option::is_some).await.ok().and_then(|network| network.clone());
    if let Some(network) = current {
        let _alone = shared.attaching.write().await;
        match shared.records.load() {
            Ok(records) => {
                let attachments = records.into_iter().filter_map(|record| Some(record.sandbox?.attachment));
                let valid: Vec<(String, String)> =
                    attachments.map(|attachment| (attachment.container_id, attachment.interface)).collect();
                if let Err(error) = shared.runtime.gc(&network, &valid).await {
                    tracing::warn!(%error, "the network could not clear away what is no longer attached");
                }
            }
            Err(error) => tracing::warn!(%error, "the records of the pods cannot be read"),
        }
    }
    std::future::pending::<()>().await;
}
