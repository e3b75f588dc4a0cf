//! The watches, and the connection that they go over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use model::{NodeName, ObjectName};
use tokio::time::{Instant, sleep_until};

use crate::error::ConnectError;
use crate::namespaced::{Namespaced, Tracker};
use crate::objects::{BgpPeerLite, ClusterNetworkLite, EndpointSliceLite, NodeLite, SecretLite, ServiceLite};
use crate::secrets::{Secrets, Wanted};
use crate::track::{Event, NetworkTracker, NodeTracker, Unjudged, Watched};
use crate::write::{delay, write_verdict};

/// How long the API may hold a watch open, in seconds. A connection that died without a word is noticed five seconds
/// after this; 5,000 agents renew some 130 watches a second between them.
const WATCH_TIMEOUT: u32 = 150;
/// How long the API may take to answer; longer than a watch, which may be silent for all its time.
const READ_TIMEOUT: Duration = Duration::from_secs(170);
/// Objects per page of a list. A Node is some 10 KiB of JSON, and a page is held whole.
pub(crate) const PAGE: u32 = 200;
/// Slices per page: one has up to 100 endpoints, of some 400 bytes each.
pub(crate) const PAGE_OF_SLICES: u32 = 100;
/// Services per page, of some 2 KiB each.
pub(crate) const PAGE_OF_SERVICES: u32 = 500;
/// The services and slices that are ours, as kube-proxy has it: what names another proxy is not, and neither is what
/// has no address of its own. Headless services need not have the label, but their slices do.
pub(crate) const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// How long after a failed write of a status the next attempt is made.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// Makes a client for the Kubernetes API: from a kubeconfig, or (without one) from `KUBECONFIG`, `~/.kube/config` or
/// the service account of the pod that this runs in.
///
/// # Errors
/// [`ConnectError`] if there is no usable configuration. The API itself need not answer.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let error = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(error)?
        }
        None => Config::infer().await.map_err(|error| ConnectError::Infer(Box::new(error)))?,
    };
    config.read_timeout = Some(READ_TIMEOUT);
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ConnectError::Client { server, source: Box::new(source) })
}

/// The cluster as the API tells it.
#[derive(Debug)]
pub struct Source {
    local: NodeName,
    nodes: NodeTracker,
    networks: NetworkTracker,
    services: Tracker<ServiceLite>,
    slices: Tracker<EndpointSliceLite>,
    peers: Tracker<BgpPeerLite>,
    wanted: Wanted,
    secrets: Secrets,
    listed: BTreeSet<Watched>,
    synced: bool,
    broken: BTreeMap<Watched, String>,
    /// When the status of which `ClusterNetwork` is written, if nobody else does before.
    due: BTreeMap<String, (Unjudged, Instant)>,
}

impl Source {
    /// A source for this node that has seen nothing yet.
    pub fn new(local: NodeName) -> Source {
        Source {
            nodes: NodeTracker::new(local.clone()),
            networks: NetworkTracker::default(),
            services: Tracker::default(),
            slices: Tracker::default(),
            peers: Tracker::default(),
            wanted: Wanted::default(),
            secrets: Secrets::default(),
            listed: BTreeSet::new(),
            synced: false,
            broken: BTreeMap::new(),
            due: BTreeMap::new(),
            local,
        }
    }

    /// Watches for as long as it is polled, and hands every event to `sink` in order.
    ///
    /// A watch that ends is resumed where it ended; one that cannot be resumed lists anew and says what is different.
    /// A watch that fails is tried again with a growing delay (0.8 to 30 seconds, spread at random).
    pub async fn run(mut self, client: Client, mut sink: impl FnMut(Event)) {
        let ours = |page| config(page).labels(OURS);
        let mut nodes = pin!(watch::<NodeLite>(&client, config(PAGE)));
        let mut networks = pin!(watch::<ClusterNetworkLite>(&client, config(PAGE)));
        let mut services = pin!(watch::<ServiceLite>(&client, ours(PAGE_OF_SERVICES)));
        let mut slices = pin!(watch::<EndpointSliceLite>(&client, ours(PAGE_OF_SLICES)));
        let mut peers = pin!(watch::<BgpPeerLite>(&client, config(PAGE)));
        let mut out = Vec::new();
        loop {
            let due =
                self.due.iter().min_by_key(|(_, (_, at))| *at).map(|(name, (_, at))| (name.clone(), *at));
            tokio::select! {
                Some(event) = nodes.next() => self.take_nodes(event, &mut out),
                Some(event) = networks.next() => self.take_networks(event, &mut out),
                Some(event) = services.next() => {
                    self.take_namespaced(Watched::Services, |source| &mut source.services, event, &mut out);
                }
                Some(event) = slices.next() => {
                    self.take_namespaced(Watched::EndpointSlices, |source| &mut source.slices, event, &mut out);
                }
                Some(event) = peers.next() => self.take_peers(event, &mut out),
                (secret, event) = self.secrets.next() => {
                    if let Some(event) = self.heard(Watched::Secrets, event, &mut out) {
                        self.secrets.take(&secret, event, &mut out);
                    }
                }
                Some(name) = until(due) => self.write(&client, name).await,
            }
            let news = out.iter().filter(|event| self.wanted.note(event)).count();
            if news > 0 {
                self.secrets.want(self.wanted.keys(), |secret| watch_secret(&client, secret), &mut out);
            }
            out.drain(..).for_each(&mut sink);
        }
    }

    fn take_nodes(&mut self, event: watcher::Result<watcher::Event<NodeLite>>, out: &mut Vec<Event>) {
        if let Some(event) = self.heard(Watched::Nodes, event, out) {
            let complete = self.nodes.take(event, out);
            self.note_listed(Watched::Nodes, complete, out);
        }
    }

    fn take_namespaced<K: Namespaced>(
        &mut self,
        watched: Watched,
        tracker: fn(&mut Source) -> &mut Tracker<K>,
        event: watcher::Result<watcher::Event<K>>,
        out: &mut Vec<Event>,
    ) {
        if let Some(event) = self.heard(watched, event, out) {
            let complete = tracker(self).take(event, out);
            self.note_listed(watched, complete, out);
        }
    }

    fn take_peers(&mut self, event: watcher::Result<watcher::Event<BgpPeerLite>>, out: &mut Vec<Event>) {
        // A cluster whose definitions are older than this agent has no peers, and waits for nothing.
        let undefined = matches!(
            &event,
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404
        );
        self.take_namespaced(Watched::BgpPeers, |source| &mut source.peers, event, out);
        self.note_listed(Watched::BgpPeers, undefined, out);
    }

    fn take_networks(
        &mut self,
        event: watcher::Result<watcher::Event<ClusterNetworkLite>>,
        out: &mut Vec<Event>,
    ) {
        let Some(event) = self.heard(Watched::ClusterNetworks, event, out) else { return };
        let complete = self.networks.take(event, out);
        self.note_listed(Watched::ClusterNetworks, complete, out);
        let at = Instant::now() + delay(&self.local);
        let mut before = std::mem::take(&mut self.due);
        for (name, unjudged) in &self.networks.unjudged {
            // What waits already keeps its time, or changes would put the writing off for ever.
            let at = before.remove(name).map_or(at, |(_, at)| at);
            self.due.insert(name.clone(), (unjudged.clone(), at));
        }
    }

    /// Keeps book on whether a watch works; the event itself, if it is one.
    fn heard<K>(
        &mut self,
        watched: Watched,
        event: watcher::Result<watcher::Event<K>>,
        out: &mut Vec<Event>,
    ) -> Option<watcher::Event<K>> {
        match event {
            // The beginning of a list says nothing: it is said before the API is asked.
            Ok(event) => {
                let asked = !matches!(event, watcher::Event::Init);
                if asked && self.broken.remove(&watched).is_some() {
                    out.push(Event::Connected(watched));
                }
                Some(event)
            }
            Err(error) => {
                let error = chain(&error);
                self.broken.insert(watched, error.clone());
                out.push(Event::Disconnected { watched, error });
                None
            }
        }
    }

    fn note_listed(&mut self, watched: Watched, complete: bool, out: &mut Vec<Event>) {
        if !complete || self.synced {
            return;
        }
        self.listed.insert(watched);
        if Watched::ALL.iter().all(|watched| self.listed.contains(watched)) {
            self.synced = true;
            out.push(Event::Synced);
        }
    }

    async fn write(&mut self, client: &Client, name: String) {
        let Some((unjudged, _)) = self.due.get(&name) else { return };
        let object = format!("ClusterNetwork {name}");
        match write_verdict(client, &name, unjudged).await {
            Ok(()) => {
                tracing::info!(object, message = unjudged.verdict.message, "status written");
                self.due.remove(&name);
                self.networks.unjudged.remove(&name);
            }
            Err(error) => {
                tracing::warn!(%error, "the status could not be written; it will be tried again");
                self.due.entry(name).and_modify(|(_, at)| *at = Instant::now() + WRITE_AGAIN);
            }
        }
    }
}

/// The name whose time has come; never, if there is none.
async fn until(due: Option<(String, Instant)>) -> Option<String> {
    let (name, at) = due?;
    sleep_until(at).await;
    Some(name)
}

pub(crate) fn config(page: u32) -> watcher::Config {
    // The most recent state and not a cache's: a node that this one has already seen must not seem gone because a
    // replica of the API lags behind.
    watcher::Config::default().page_size(page).timeout(WATCH_TIMEOUT)
}

fn watch<K>(
    client: &Client,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + use<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    watcher(Api::<K>::all(client.clone()), config).default_backoff()
}

/// Watches one Secret. Whoever may read that one alone can do it (the field selector of a list or a watch names it, as
/// RBAC wants it for `resourceNames`).
fn watch_secret(
    client: &Client,
    secret: &ObjectName,
) -> BoxStream<'static, watcher::Result<watcher::Event<SecretLite>>> {
    let api = Api::<SecretLite>::namespaced(client.clone(), &secret.namespace);
    let config = config(PAGE).fields(&format!("metadata.name={}", secret.name));
    watcher(api, config).default_backoff().boxed()
}

/// An error with its causes, which the API's client keeps apart.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
