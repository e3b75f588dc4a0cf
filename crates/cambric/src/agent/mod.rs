//! `cambric agent`: the cluster's state in, this node's kernel as it should be.
//!
//! Two threads. The first runs the API's watches, speaks BGP and answers HTTP, load balancers' health checks included; the second
//! owns the plan and the kernel and never waits for the network. A queue with a wake-up joins them. A third comes and
//! goes: it writes down what is known of the cluster, for a start without the API.

mod bgp;
mod condition;
mod contacts;
mod contacts_file;
mod core;
mod debounce;
mod health;
mod http;
mod journal;
mod keepalives;
mod machine;
mod metrics;
mod options;
mod persist;
mod probes;
mod publish;
mod routes;
mod saver;
mod scribe;
mod service_health;
mod summary;
mod system;
mod ui;
mod words;
mod worker;

use std::fs;
use std::sync::mpsc::Sender;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kube_source::Source;
use model::NodeName;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc as channel, oneshot, watch};

pub(crate) use bgp::{BgpStatus, SessionStatus};
pub(crate) use options::{AgentOptions, LogFormat};
pub(crate) use publish::{FastPathStatus, Status};
pub(crate) use routes::{HopStatus, RouteStatus};
pub(crate) use summary::{ClusterStatus, Happened};
pub(crate) use system::remove_from_kernel;
pub(crate) use words::{entry as entry_words, nowhere};

pub(crate) use self::core::Core;
use crate::files::make_private_dir;
use crate::lock::{AgentLock, Locked};
use crate::paths::RunDir;
use health::Health;
use metrics::Metrics;
use publish::Publisher;
use worker::{Message, Times, Worker};

/// How long the API may take to answer at the start before the state of the last run is gone by.
const API_PATIENCE: Duration = Duration::from_secs(5);

/// Runs until a signal ends it, or the kernel's thread fails.
pub(crate) fn run(options: AgentOptions) -> Result<()> {
    let node = node_name(&options)?;
    make_private_dir(&options.run_dir)?;
    let lock = match AgentLock::take(&RunDir(options.run_dir.clone()).lock())? {
        Locked::Ours(lock) => lock,
        Locked::Theirs(pid) => bail!(
            "an agent runs on this node already, with process id {pid} and run directory {}; end it first",
            options.run_dir.display()
        ),
    };
    tracing::info!(%node, version = env!("CARGO_PKG_VERSION"), "starting");
    // One thread is enough for a few watches, sessions and requests, and a small agent is a good neighbour.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(node, &options));
    // A name look-up that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(lock);
    result
}

async fn serve(node: NodeName, options: &AgentOptions) -> Result<()> {
    let listen = || format!("cannot listen on {} (--listen)", options.listen);
    let listener = TcpListener::bind(options.listen).await.with_context(listen)?;
    let mut stop = Stop::new()?;
    let health = Arc::new(Health::new(options.sync_period + Duration::from_secs(60)));
    let metrics = Arc::new(Metrics::new());
    tokio::spawn(http::serve(listener, health.clone(), metrics.clone()));

    let client = kube_source::client(options.kubeconfig.as_deref()).await?;
    if let Some(address) = options.ui_listen {
        tokio::spawn(ui::open(address, &node, options, client.clone()).await?);
    }
    let (condition, wanted) = watch::channel(false);
    tokio::spawn(condition::keep(client.clone(), node.clone(), wanted));

    let (answer, checks) = watch::channel(service_health::Checks::new());
    let (speech, wanted) = channel::unbounded_channel();
    let (keep, kept) = watch::channel(keepalives::Keepalives::new());
    tokio::spawn(keepalives::serve(kept, |one| {
        kernel::ipip::send_keepalive(one.outer, one.inner).map_err(|error| error.to_string())
    }));
    let publisher = Publisher::new(node.clone(), options, condition, answer, speech, keep);
    let core = Core::new(node.clone());
    let (inbox, ended) = start_worker(core, publisher, options, health.clone(), metrics.clone())?;
    let run_dir = RunDir(options.run_dir.clone());
    let speaking = bgp::serve(wanted, run_dir, metrics, |news| inbox.send(Message::Bgp(news)));
    let health_ports =
        service_health::serve(checks, health, |problems| inbox.send(Message::HealthPorts(problems)));
    let (ask, mut asked) = channel::unbounded_channel();
    let netns_dir = options.netns_dir.clone();
    tokio::spawn(probes::serve(probes::Surroundings {
        client: client.clone(),
        node: node.clone(),
        netns_dir,
        ask,
    }));
    let passing_on = async {
        while let Some(answer) = asked.recv().await {
            inbox.send(Message::Look(answer));
        }
    };
    let source = Source::new(node).run(client, |event| inbox.send(Message::Cluster(event, Instant::now())));
    tokio::select! {
        // It ends when the worker does, and then that is what counts.
        () = async { health_ports.await; std::future::pending().await } => Ok(()),
        () = async { speaking.await; std::future::pending().await } => Ok(()),
        () = async { passing_on.await; std::future::pending().await } => Ok(()),
        () = source => Err(anyhow!("the watch of the API has ended by itself")),
        ended = ended => match ended {
            Ok(()) => Err(anyhow!("the thread that programs the kernel has ended by itself")),
            Err(_) => Err(anyhow!("the thread that programs the kernel has failed")),
        },
        signal = stop.signalled() => {
            tracing::info!(signal, "stopping; what is in the kernel stays there");
            inbox.send(Message::Stop);
            inbox.join();
            Ok(())
        }
    }
}

/// What an agent of this boot has last written down of the cluster, with the plan that comes of it; `None` if there is
/// nothing. What the kernel says of the node is not in it.
pub(crate) fn last_known(run_dir: &RunDir, node: &NodeName) -> Result<Option<Core>> {
    let Some((network, objects)) = persist::load(&run_dir.state(), node)? else { return Ok(None) };
    let mut core = Core::new(node.clone());
    core.restore(network, objects);
    Ok(Some(core))
}

/// The way to the worker.
struct Inbox {
    sender: Sender<Message>,
    waker: system::Waker,
    thread: thread::JoinHandle<()>,
}

impl Inbox {
    fn send(&self, message: Message) {
        // A worker that is gone is noticed by whoever waits for its end.
        if self.sender.send(message).is_ok() {
            self.waker.wake();
        }
    }

    fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread that programs the kernel has failed");
        }
    }
}

/// Starts the worker's thread; the receiver hears when it ends, with an error if it panics.
fn start_worker(
    core: Core,
    publisher: Publisher,
    options: &AgentOptions,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> Result<(Inbox, oneshot::Receiver<()>)> {
    let (sender, receiver) = mpsc::channel();
    let (machine, ear, waker) = system::open(&RunDir(options.run_dir.clone()), &options.cni_data_dir)?;
    let (ending, ended) = oneshot::channel();
    let times = Times { sync_period: options.sync_period, api_patience: API_PATIENCE };
    let worker = Worker::new(core, machine, ear, receiver, publisher, health, metrics, times);
    let thread = thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(move || {
            worker.run();
            // The receiver is gone if the process ends, which is no matter.
            let _ = ending.send(());
        })
        .context("cannot start a thread")?;
    Ok((Inbox { sender, waker, thread }, ended))
}

/// The signals that end the agent.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Stop> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Stop { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn signalled(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The node's name: as given, or that of the host, in lower case as the kubelet registers it.
fn node_name(options: &AgentOptions) -> Result<NodeName> {
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => {
            let path = "/proc/sys/kernel/hostname";
            let name = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            name.trim().to_ascii_lowercase()
        }
    };
    NodeName::new(name).context("this node has no usable name; give it with --node-name or NODE_NAME")
}
