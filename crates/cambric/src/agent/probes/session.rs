//! One probe, from the first look at it to what was seen.

use std::path::Path;
use std::time::Duration;

use kernel::netns::{self, NetNs};
use kernel::pod;
use kernel::rtnl::RouteSocket;
use kube_source::{Probe, ProbePhase, ProbePod, ProbeReport, ProbeStatus};
use model::{Attachment, LinkName};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};
use trace::capture::{Capture, Limits, Options, Tunnels};
use trace::journey::Place;
use trace::live::send::send;
use trace::live::{Reply, Watch, filter};

use super::Surroundings;
use super::judge::{Job, Next, View};
use crate::probe;

/// How long a node looks, from when it is ready.
const LOOK: Duration = Duration::from_secs(15);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a capture keeps at most, all of it the probe's own: a few hundred bytes of a handful of frames.
const LIMITS: Limits = Limits { frames: 256, bytes: 64 << 10 };
/// The size in bytes of the kernel's buffer for each capture.
const BUFFER: usize = 256 << 10;
/// How much of a frame is kept, in bytes; the filter cuts it, too.
const SNAP: usize = 256;

/// Does this node's part; what goes wrong is written into the probe.
pub(super) async fn run(
    around: Surroundings,
    probe: Probe,
    job: Job,
    mut status: watch::Receiver<ProbeStatus>,
) {
    let result = match begin(&around, &job).await {
        Ok((view, watching)) => follow(&around, &probe, &job, &view, watching, &mut status).await,
        Err(reason) => Err(reason),
    };
    if let Err(reason) = result {
        refuse(&around, &probe, reason).await;
    }
}

/// Says that this node does nothing for a probe, and why.
pub(super) async fn refuse(around: &Surroundings, probe: &Probe, reason: String) {
    tracing::info!(probe = kube::ResourceExt::name_any(probe), reason, "refused");
    let refused =
        ProbeReport { message: Some(reason), ..ProbeReport::new(around.node.as_str(), ProbePhase::Refused) };
    // If that fails too, whoever waits learns it from the silence.
    if let Err(error) = kube_source::report_probe(&around.client, probe, &refused).await {
        tracing::warn!(%error, "a probe");
    }
}

/// The running captures, and where the packet is sent from.
struct Watching {
    captures: Watch,
    from: Option<NetNs>,
}

/// Looks up the pods and begins to capture.
async fn begin(around: &Surroundings, job: &Job) -> Result<(View, Watching), String> {
    let (answer, asked) = oneshot::channel();
    // Whoever answers lives as long as the agent does.
    let _ = around.ask.send(answer);
    let view = asked.await.ok().flatten().ok_or("there is no ClusterNetwork in force on this node")?;
    let mut pods = Vec::new();
    for pod in &job.pods {
        let found = kube_source::find_pod(&around.client, &pod.namespace, &pod.name).await;
        let found = found.map_err(|error| error.to_string())?;
        pods.push((pod.clone(), view.attachment(&around.node, pod, found.as_ref())?.clone()));
    }
    let (around, job) = (around.clone(), job.clone());
    let begun = tokio::task::spawn_blocking(move || {
        let watching = watch(&around, &job, &view, &pods)?;
        Ok((view, watching))
    });
    begun.await.map_err(|error| error.to_string())?
}

fn watch(
    around: &Surroundings,
    job: &Job,
    view: &View,
    pods: &[(ProbePod, Attachment)],
) -> Result<Watching, String> {
    let own = NetNs::current().map_err(|error| error.to_string())?;
    let mut watching = Watching { captures: Watch::default(), from: None };
    for link in view.links() {
        let place = Place::Node(around.node.to_string());
        capture(&mut watching.captures, &own, place, link, job, view.vxlan_port)?;
    }
    for (index, (pod, attachment)) in pods.iter().enumerate() {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let namespace = namespace(&name, attachment, &around.netns_dir)?;
        let link = LinkName::new(attachment.id.ifname.as_str()).map_err(|error| error.to_string())?;
        let place = Place::Pod(name);
        capture(&mut watching.captures, &namespace, place, link, job, view.vxlan_port)?;
        if job.sends == Some(Some(index)) {
            watching.from = Some(namespace);
        }
    }
    if job.sends == Some(None) {
        watching.from = Some(own);
    }
    Ok(watching)
}

/// The namespace of a pod, by the node's end of its veth pair.
fn namespace(name: &str, attachment: &Attachment, directory: &Path) -> Result<NetNs, String> {
    let host = attachment.id.host_link();
    let mut node = RouteSocket::open().map_err(|error| error.to_string())?;
    let link = pod::interface(&mut node, &host).map_err(|error| error.to_string())?;
    let link = link.ok_or_else(|| format!("pod {name} has no port {host} on this node"))?;
    // Kubernetes' runtimes tell the plugin whose pod it is.
    if link.alias != pod::alias(name) {
        return Err(format!("pod {name}: its port {host} is that of another, \"{}\"", link.alias));
    }
    let found = pod::namespace_of(&mut node, &link, directory).map_err(|error| error.to_string())?;
    found.ok_or_else(|| {
        format!(
            "pod {name}: its network namespace is not in {}; name the container runtime's directory with --netns-dir",
            directory.display()
        )
    })
}

/// Captures the probe's own packets on a link.
fn capture(
    watch: &mut Watch,
    namespace: &NetNs,
    place: Place,
    link: LinkName,
    job: &Job,
    vxlan_port: u16,
) -> Result<(), String> {
    let filter = filter(job.transport, job.mark, job.port, vxlan_port);
    let options = Options { filter, snap_length: SNAP, buffer: BUFFER, ..Options::on(link.clone()) };
    let opened = netns::run_in(namespace, || Capture::open(&options)).map_err(|error| error.to_string())?;
    watch.add(place, &link, opened, LIMITS).map_err(|error| error.to_string())
}

/// Waits for the others, sends if it is this node's turn, and says what was seen.
async fn follow(
    around: &Surroundings,
    probe: &Probe,
    job: &Job,
    view: &View,
    mut watching: Watching,
    status: &mut watch::Receiver<ProbeStatus>,
) -> Result<(), String> {
    let ready = ProbeReport {
        underlay: probe::underlay_out(&view.underlay),
        ..ProbeReport::new(around.node.as_str(), ProbePhase::Ready)
    };
    write(around, probe, &ready).await?;
    let end = Instant::now() + LOOK;
    let next = loop {
        match job.next(&status.borrow_and_update()) {
            Next::Wait => {}
            next => break next,
        }
        match timeout_at(end, status.changed()).await {
            Ok(Ok(())) => {}
            // It is deleted, and nobody waits.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(format!("it was not sent within {} seconds", LOOK.as_secs())),
        }
    };
    let from = watching.from.take();
    let reply = match (next, from) {
        (Next::Send, Some(from)) => Some(send_from(from, job.clone()).await?),
        (Next::GiveUp(reason), _) => {
            tracing::info!(reason, "a probe is not sent");
            return Ok(());
        }
        _ => None,
    };
    let done = ProbeReport { phase: ProbePhase::Done, reply: reply.as_ref().map(probe::reply_out), ..ready };
    let (job, view) = (job.clone(), view.clone());
    let told = tokio::task::spawn_blocking(move || tell(watching, &job, &view, done));
    write(around, probe, &told.await.map_err(|error| error.to_string())??).await
}

async fn write(around: &Surroundings, probe: &Probe, report: &ProbeReport) -> Result<(), String> {
    kube_source::report_probe(&around.client, probe, report).await.map_err(|error| error.to_string())
}

async fn send_from(from: NetNs, job: Job) -> Result<Reply, String> {
    let sent = tokio::task::spawn_blocking(move || {
        let ports = std::iter::once(job.port);
        netns::run_in(&from, || send(job.to, job.transport, job.mark, ports, PATIENCE))
    });
    sent.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Ends the captures and adds what was seen to a report.
fn tell(watching: Watching, job: &Job, view: &View, mut report: ProbeReport) -> Result<ProbeReport, String> {
    let tunnels = Tunnels { vxlan_port: view.vxlan_port };
    let stopped = watching.captures.stop(&[job.mark], &tunnels);
    let (mut seen, incomplete) = stopped.map_err(|error| error.to_string())?;
    report.incomplete = incomplete;
    let seen = seen.remove(&job.mark).unwrap_or_default();
    report.sightings = seen.iter().map(probe::sighting_out).collect();
    Ok(report)
}
