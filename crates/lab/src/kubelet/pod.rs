//! One pod, from the namespace to the last file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::cni::{Attachment, PortMapping};
use super::container::Given;
use super::process::{Search, kill_all};
use super::record::{ContainerState, Record, Sandbox, now};
use super::sandbox;
use super::status::{is_over, is_sidecar, status};
use super::supervise::{Kind, supervise};
use crate::{Error, Result};

/// How long a pod that the API has no longer may take to stop.
const GONE_GRACE: Duration = Duration::from_secs(1);
/// How long to wait before something that failed is tried again: at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What the API wants of a pod.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// The pod as it is in the API.
    Pod(Arc<Pod>),
    /// The API has it no longer.
    Gone,
}

impl Wanted {
    /// When the pod must have stopped, if it has to.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Gone => Some(Instant::now() + GONE_GRACE),
            Self::Pod(pod) if pod.metadata.deletion_timestamp.is_none() => None,
            Self::Pod(pod) => {
                let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
                Some(Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or_default()))
            }
        }
    }

    fn pod(&self) -> Option<&Arc<Pod>> {
        match self {
            Self::Pod(pod) => Some(pod),
            Self::Gone => None,
        }
    }
}

/// A pod that this kubelet has to do with.
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
    record: Mutex<Record>,
    changed: Notify,
    /// Whether nothing of the pod runs and nothing of it is attached.
    clear: AtomicBool,
    /// When everything must have stopped, if it has to.
    pub(super) stop: watch::Sender<Option<Instant>>,
}

/// Runs a pod until nothing of it is left, here and in the API.
pub(super) async fn run(shared: Arc<Shared>, record: Option<Record>, mut wanted: watch::Receiver<Wanted>) {
    let first = wanted.borrow_and_update().clone();
    let known = record.is_some();
    let Some(record) = record.or_else(|| first.pod().and_then(|pod| Record::new(pod))) else { return };
    let stop = watch::Sender::new(first.deadline());
    let live = Arc::new(Live {
        shared,
        record: Mutex::new(record),
        changed: Notify::new(),
        clear: AtomicBool::new(false),
        stop,
    });
    let mut relayed = wanted.clone();
    let mut reported = wanted.clone();
    let whole = async {
        if let Some(pod) = first.pod() {
            // A pod that has ended before, and of which nothing is known any more, is not started again.
            let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if known || !matches!(ended, Some("Succeeded" | "Failed")) {
                live.clone().life(pod.clone()).await;
                live.detach().await;
                live.clear.store(true, Ordering::Relaxed);
                live.changed.notify_one();
            }
            // Stopping may have had other reasons than the pod's deletion.
            let _ = wanted.wait_for(|wanted| wanted.deadline().is_some()).await;
        }
        if !live.clear.load(Ordering::Relaxed) {
            live.detach().await;
        }
        live.forget().await;
    };
    tokio::select! {
        () = whole => {}
        () = live.relay_deletion(&mut relayed) => {}
        () = live.report(&mut reported) => {}
    }
    let uid = live.record().uid.clone();
    if let Err(error) = live.shared.records.remove(&uid) {
        tracing::warn!(%error, "the record of a pod could not be removed");
    }
}

impl Live {
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record, writes it, and has the status reported.
    pub(super) fn update(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.record();
        change(&mut record);
        if let Err(error) = self.shared.records.write(&record) {
            tracing::error!(%error, pod = record.name, "the record of a pod could not be written");
        }
        drop(record);
        self.changed.notify_one();
    }

    /// Waits until the pod has to stop; by when.
    pub(super) async fn stopped(&self) -> Instant {
        let mut stop = self.stop.subscribe();
        match stop.wait_for(Option::is_some).await {
            Ok(deadline) => deadline.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }

    /// Sleeps, unless the pod has to stop; whether it has not.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = sleep(time) => true,
            _ = self.stopped() => false,
        }
    }

    /// Tells the containers when the pod has to stop, for ever.
    async fn relay_deletion(&self, wanted: &mut watch::Receiver<Wanted>) {
        loop {
            let deadline = wanted.borrow_and_update().deadline();
            if let Some(deadline) = deadline {
                // A second deletion can only shorten the time.
                self.stop.send_if_modified(|stop| {
                    let sooner = stop.is_none_or(|before| deadline < before);
                    if sooner {
                        *stop = Some(deadline);
                    }
                    sooner
                });
            }
            if wanted.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Attaches the pod and runs its containers; returns when none runs and none will be started again.
    async fn life(self: Arc<Self>, pod: Arc<Pod>) {
        if is_over(&pod, &self.record()) {
            return;
        }
        let Some(spec) = &pod.spec else { return };
        if let Err(error) = self.end_unrecorded().await {
            tracing::warn!(%error, "processes of an earlier life of a pod could not be ended");
        }
        let host_network = spec.host_network == Some(true);
        if !host_network && !self.attach(&pod).await {
            return;
        }
        let host_ips = self.shared.host_ips.clone();
        let addresses = self.record().sandbox.as_ref().map(Sandbox::addresses);
        let given = Arc::new(Given { pod_ips: addresses.unwrap_or_else(|| host_ips.clone()), host_ips });
        self.changed.notify_one();

        let mut sidecars = JoinSet::new();
        for container in spec.init_containers.iter().flatten() {
            let kind = if is_sidecar(container) { Kind::Sidecar } else { Kind::Init };
            let life = supervise(self.clone(), pod.clone(), container.clone(), kind, given.clone());
            if kind == Kind::Sidecar {
                sidecars.spawn(life);
            } else if !life.await {
                return;
            }
        }
        let mut containers = JoinSet::new();
        for container in &spec.containers {
            let life = supervise(self.clone(), pod.clone(), container.clone(), Kind::Main, given.clone());
            containers.spawn(life);
        }
        while containers.join_next().await.is_some() {}
        let grace = spec.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30);
        self.stop.send_if_modified(|stop| {
            stop.get_or_insert(Instant::now() + Duration::from_secs(grace));
            true
        });
        while sidecars.join_next().await.is_some() {}
    }

    /// Ends processes that an earlier life of the kubelet started and could not write down any more.
    async fn end_unrecorded(&self) -> Result<()> {
        let (uid, recorded) = {
            let record = self.record();
            let recorded =
                record.containers.keys().filter_map(|name| record.process(name)).collect::<Vec<_>>();
            (record.uid.clone(), recorded)
        };
        // A container's recorded process may have started others, which then belong to it.
        if !recorded.is_empty() {
            return Ok(());
        }
        blocking(move || kill_all(Search::Marked(&uid), &[])).await
    }

    /// Makes the pod's namespace and attaches it, until that succeeds (true) or the pod has to stop.
    async fn attach(&self, pod: &Pod) -> bool {
        let attached = self.record().sandbox.as_ref().is_some_and(|sandbox| {
            sandbox.result.is_some() && sandbox::open(&sandbox.attachment.netns).is_some()
        });
        if attached {
            return true;
        }
        let mut delay = RETRY.0;
        loop {
            // What an earlier attempt has left.
            self.detach().await;
            let mut network = self.shared.network.clone();
            let network = tokio::select! {
                network = network.wait_for(Option::is_some) => network.ok().and_then(|network| network.clone()),
                _ = self.stopped() => None,
            };
            let Some(network) = network else { return false };
            let attachment = self.attachment(pod);
            let sandbox = Sandbox { network: (*network).clone(), attachment, result: None };
            match self.attach_once(sandbox).await {
                Ok(()) => return true,
                Err(why) => {
                    tracing::warn!(
                        pod = self.record().name,
                        why,
                        "the pod could not be attached; trying again"
                    );
                    self.explain(pod, &why);
                }
            }
            if !self.pause(delay).await {
                return false;
            }
            delay = (delay * 2).min(RETRY.1);
        }
    }

    async fn attach_once(&self, mut sandbox: Sandbox) -> Result<(), String> {
        let _attaching = self.shared.attaching.read().await;
        let _call = self.shared.calls.acquire().await.map_err(|error| error.to_string())?;
        self.update(|record| record.sandbox = Some(sandbox.clone()));
        let netns = sandbox.attachment.netns.clone();
        blocking(move || sandbox::create(&netns).map(drop)).await.map_err(|error| error.to_string())?;
        let added = self.shared.runtime.add(&sandbox.network, &sandbox.attachment).await;
        sandbox.result = Some(added.map_err(|error| error.to_string())?);
        self.update(|record| record.sandbox = Some(sandbox));
        Ok(())
    }

    fn attachment(&self, pod: &Pod) -> Attachment {
        let record = self.record();
        let Record { namespace, name, uid, .. } = &*record;
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", namespace),
            ("K8S_POD_NAME", name),
            ("K8S_POD_INFRA_CONTAINER_ID", uid),
            ("K8S_POD_UID", uid),
        ];
        let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|c| c.ports.iter().flatten());
        let port_mappings = ports.filter_map(|port| {
            Some(PortMapping {
                host_port: u16::try_from(port.host_port?).ok()?,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
            })
        });
        Attachment {
            container_id: uid.clone(),
            netns: sandbox::path(&self.shared.lab, &self.shared.node, uid),
            interface: "eth0".into(),
            args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            port_mappings: port_mappings.collect(),
        }
    }

    /// Shows in the status why the pod's containers do not run yet.
    fn explain(&self, pod: &Pod, why: &str) {
        let names: Vec<String> =
            pod.spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone()).collect();
        self.update(|record| {
            for name in names {
                let (reason, message) = ("ContainerCreating".into(), why.to_owned());
                record.containers.entry(name).or_default().state =
                    ContainerState::Waiting { reason, message };
            }
        });
    }

    /// Ends what still runs, detaches the pod and removes its namespace. Tries until all is done.
    async fn detach(&self) {
        let mut delay = RETRY.0;
        while let Err(why) = self.detach_once().await {
            tracing::warn!(pod = self.record().name, why, "the pod could not be detached; trying again");
            sleep(delay).await;
            delay = (delay * 2).min(RETRY.1);
        }
    }

    async fn detach_once(&self) -> Result<(), String> {
        let (uid, sandbox) = {
            let record = self.record();
            (record.uid.clone(), record.sandbox.clone())
        };
        let netns: Option<PathBuf> = sandbox.as_ref().map(|sandbox| sandbox.attachment.netns.clone());
        let (searched, path) = (uid, netns.clone());
        let ended = blocking(move || match path.as_deref().and_then(sandbox::open) {
            Some(namespace) => kill_all(Search::Inside(&namespace), &[]),
            None => kill_all(Search::Marked(&searched), &[]),
        });
        ended.await.map_err(|error| error.to_string())?;
        let Some((sandbox, netns)) = sandbox.zip(netns) else { return Ok(()) };
        let _call = self.shared.calls.acquire().await.map_err(|error| error.to_string())?;
        let deleted =
            self.shared.runtime.del(&sandbox.network, &sandbox.attachment, sandbox.result.as_ref()).await;
        deleted.map_err(|error| error.to_string())?;
        blocking(move || sandbox::remove(&netns)).await.map_err(|error| error.to_string())?;
        self.update(|record| record.sandbox = None);
        Ok(())
    }

    /// Removes the pod's logs and its object in the API.
    async fn forget(&self) {
        let (namespace, name, uid) = {
            let record = self.record();
            (record.namespace.clone(), record.name.clone(), record.uid.clone())
        };
        match std::fs::remove_dir_all(self.shared.logs.join(&uid)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, pod = name, "the logs of a pod could not be removed");
            }
            _ => {}
        }
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), &namespace);
        let preconditions = Preconditions { uid: Some(uid), ..Default::default() };
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..Default::default()
        };
        let mut delay = RETRY.0;
        loop {
            match pods.delete(&name, &now).await {
                Ok(_) => return,
                // Gone, or another pod of that name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(%error, pod = name, "the pod could not be deleted; trying again");
                }
            }
            sleep(delay).await;
            delay = (delay * 2).min(RETRY.1);
        }
    }

    /// Reports the pod's status whenever it changes, for ever.
    async fn report(&self, wanted: &mut watch::Receiver<Wanted>) {
        let mut sent: Option<Value> = None;
        let mut answered: Option<Pod> = None;
        loop {
            let Some(pod) = wanted.borrow_and_update().pod().cloned() else {
                return std::future::pending().await;
            };
            // What the API answered last is newer than what the watch has brought so far.
            let newest = answered.as_ref().unwrap_or(&pod);
            let report = status(newest, &self.record(), &self.shared.host_ips, &now());
            if sent.as_ref() != Some(&report) {
                match self.send(newest, &report).await {
                    Ok(pod) => (sent, answered) = (Some(report), Some(pod)),
                    // It is gone, or somebody else has changed it, and then the watch brings what there is now.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => sent = None,
                    Err(error) => {
                        tracing::warn!(%error, pod = self.record().name, "the status could not be reported");
                        sleep(RETRY.0).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    answered = None;
                }
            }
        }
    }

    /// Sends a report that was made from the pod as it was in a certain version, and is of no use for another: with
    /// the conditions it would take back what others have written there meanwhile.
    async fn send(&self, of: &Pod, status: &Value) -> kube::Result<Pod> {
        let (namespace, name, uid) = {
            let record = self.record();
            (record.namespace.clone(), record.name.clone(), record.uid.clone())
        };
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), &namespace);
        let patch = Patch::Merge(
            json!({"metadata": {"uid": uid, "resourceVersion": of.metadata.resource_version}, "status": status}),
        );
        pods.patch_status(&name, &PatchParams::default(), &patch).await
    }
}

/// Waits until a deadline that may come nearer has passed.
pub(super) async fn until(mut stop: watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = stop.borrow_and_update().unwrap_or_else(Instant::now);
        tokio::select! {
            () = sleep_until(deadline) => return,
            Ok(()) = stop.changed() => {}
        }
    }
}

/// Does something that blocks, elsewhere.
async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Other(error.to_string()))?
}
