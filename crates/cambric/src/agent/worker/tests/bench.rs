//! A worker with a pretended kernel, and a cluster to tell it of.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use clap::{Args, FromArgMatches};
use kernel::ipip::Counters;
use kernel::{FastPathState, Unplanned};
use kube_source::ClusterNetworkSpec;
use model::{Attachment, Family, LinkName, NetworkConfig, Node, NodeName, PerFamily};
use plan::services::ServicePlan;
use plan::{Entries, Entry, Key};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::super::*;
use crate::agent::bgp::Wanted;
use crate::agent::keepalives::Keepalives;
use crate::agent::machine::AttachmentWork;
use crate::agent::options::AgentOptions;
use crate::agent::service_health::Checks;

/// A kernel that holds what it is told, and keeps a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Pretended(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) entries: Entries,
    pub(super) record: Vec<&'static str>,
    pub(super) refuse: bool,
    pub(super) services_error: Option<String>,
    /// What comes of the next change instead of its being applied.
    pub(super) hindered: Option<Outcome>,
    pub(super) mtu: Option<u32>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) services: ServicePlan,
    pub(super) addresses: Result<Vec<IpAddr>, Failure>,
    /// How often the fast path was made to forget, and to go on.
    pub(super) doubts: usize,
    pub(super) attended: usize,
}

impl Default for State {
    fn default() -> State {
        State {
            entries: Entries::new(),
            record: Vec::new(),
            refuse: false,
            services_error: None,
            hindered: None,
            mtu: None,
            attachments: Vec::new(),
            doubts: 0,
            attended: 0,
            services: ServicePlan::default(),
            addresses: Ok(Vec::new()),
        }
    }
}

impl Pretended {
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Machine for Pretended {
    fn apply(&mut self, change: &Change) -> Outcome {
        self.with(|state| {
            state.record.push("apply");
            if let Some(outcome) = state.hindered.take() {
                return outcome;
            }
            for (key, planned) in &change.keys {
                match planned {
                    Some(planned) => state.entries.insert(key.clone(), planned.clone()),
                    None => state.entries.remove(key),
                };
            }
            Outcome::default()
        })
    }

    fn reconcile(&mut self, plan: &Entries, services: &ServicePlan, _: Unplanned) -> Outcome {
        self.with(|state| {
            state.record.push("reconcile");
            if state.refuse {
                let failure = Failure { error: "no such device".to_owned(), origin: String::new() };
                return Outcome { failed: vec![failure], ..Outcome::default() };
            }
            state.entries = plan.clone();
            state.services = services.clone();
            Outcome { services_error: state.services_error.clone(), ..Outcome::default() }
        })
    }

    fn heard(&mut self, _: Duration) -> BTreeSet<(IpAddr, Family)> {
        BTreeSet::new()
    }

    fn tunnel_counters(&mut self) -> Option<Counters> {
        None
    }

    fn doubt_flows(&mut self) {
        self.with(|state| state.doubts += 1);
    }

    fn attend(&mut self) {
        self.with(|state| state.attended += 1);
    }

    fn fast_path(&mut self) -> Option<FastPathState> {
        None
    }

    fn doubt_services(&mut self) {}

    fn surroundings(&mut self, underlay: &PerFamily<IpAddr>) -> Result<Surroundings, Failure> {
        self.with(|state| {
            let found = |address: Option<IpAddr>, prefix| {
                let net = format!("{}/{prefix}", address?).parse().unwrap();
                Some(Underlay { link: LinkName::new("eth0").unwrap(), net, mtu: state.mtu? })
            };
            let underlay = PerFamily { v4: found(underlay.v4, 24), v6: found(underlay.v6, 64) };
            let addresses = state.addresses.clone()?;
            Ok(Surroundings { underlay, missing: None, addresses })
        })
    }

    fn with_attachments(&mut self, work: &mut AttachmentWork<'_>) {
        let attachments = self.with(|state| state.attachments.clone());
        work(self, Ok(attachments));
    }
}

/// What is heard, turn by turn; at each turn the script may do something first. At the end the worker is stopped.
struct Script {
    turns: VecDeque<Turn>,
    inbox: Sender<Message>,
}

type Turn = Box<dyn FnMut(&Sender<Message>) -> Heard + Send>;

impl Ear for Script {
    fn wait(&mut self, timeout: Duration, _: &dyn Fn(&Key) -> Option<Entry>) -> Heard {
        if timeout < Duration::from_millis(100) {
            // What is due is done before the next turn.
            std::thread::sleep(timeout);
            return Heard::Nothing;
        }
        match self.turns.pop_front() {
            Some(mut turn) => turn(&self.inbox),
            None => {
                self.inbox.send(Message::Stop).unwrap();
                Heard::Nothing
            }
        }
    }
}

pub(super) struct Bench {
    pub(super) kernel: Pretended,
    pub(super) dir: tempfile::TempDir,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) wanted: watch::Receiver<bool>,
    condition: Option<watch::Sender<bool>>,
    pub(super) checks: watch::Sender<Checks>,
    pub(super) speech: (UnboundedSender<Wanted>, UnboundedReceiver<Wanted>),
    keepalives: watch::Sender<Keepalives>,
    turns: VecDeque<Turn>,
    pub(super) api_patience: Duration,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let (condition, wanted) = watch::channel(false);
        Bench {
            kernel: Pretended::default(),
            dir: tempfile::tempdir().unwrap(),
            health: Arc::new(Health::new(Duration::from_secs(60))),
            metrics: Arc::new(Metrics::new()),
            wanted,
            condition: Some(condition),
            checks: watch::Sender::new(Checks::new()),
            speech: unbounded_channel(),
            keepalives: watch::channel(Keepalives::new()).0,
            turns: VecDeque::new(),
            api_patience: Duration::from_secs(600),
        }
    }

    pub(super) fn turn(&mut self, turn: impl FnMut(&Sender<Message>) -> Heard + Send + 'static) {
        self.turns.push_back(Box::new(turn));
    }

    pub(super) fn events(&mut self, events: Vec<Event>) {
        let mut events = Some(events);
        self.turn(move |inbox| {
            for event in events.take().unwrap_or_default() {
                inbox.send(Message::Cluster(event, Instant::now())).unwrap();
            }
            Heard::Nothing
        });
    }

    pub(super) fn run(&mut self) {
        let (sender, inbox) = channel();
        let ear = Script { turns: std::mem::take(&mut self.turns), inbox: sender };
        let options = options(self.dir.path());
        let local = NodeName::new("a").unwrap();
        let condition = self.condition.take().unwrap();
        let publisher = Publisher::new(
            local.clone(),
            &options,
            condition,
            self.checks.clone(),
            self.speech.0.clone(),
            self.keepalives.clone(),
        );
        let worker = Worker::new(
            Core::new(local),
            self.kernel.clone(),
            ear,
            inbox,
            publisher,
            self.health.clone(),
            self.metrics.clone(),
            Times { sync_period: options.sync_period, api_patience: self.api_patience },
        );
        worker.run();
    }

    /// Leaves the state of another run.
    pub(super) fn leave(&self, other: &Bench) {
        std::fs::create_dir_all(self.dir.path().join("run")).unwrap();
        std::fs::write(self.dir.path().join("run/state.json"), other.read("run/state.json").unwrap())
            .unwrap();
    }

    pub(super) fn record(&self) -> Vec<&'static str> {
        self.kernel.with(|state| state.record.clone())
    }

    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join(path)).ok()
    }
}

fn options(dir: &Path) -> AgentOptions {
    std::fs::create_dir_all(dir.join("net.d")).unwrap();
    let run = dir.join("run").display().to_string();
    let conf = dir.join("net.d").display().to_string();
    let data = dir.join("networks").display().to_string();
    let arguments = ["agent", "--run-dir", &run, "--cni-conf-dir", &conf, "--cni-data-dir", &data];
    let command = AgentOptions::augment_args(clap::Command::new("agent"));
    AgentOptions::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
}

pub(super) fn node(name: &str, number: u8) -> Event {
    let (ip, cidr) = (format!("192.0.2.{number}"), format!("10.244.{number}.0/24"));
    Event::Node(Node::parse(NodeName::new(name).unwrap(), [ip.as_str()], [cidr.as_str()]).unwrap())
}

pub(super) fn network(spec: &str) -> Event {
    let spec: ClusterNetworkSpec = serde_json::from_str(spec).unwrap();
    Event::Network(NetworkConfig::try_from(&spec).unwrap())
}

pub(super) fn cluster() -> Vec<Event> {
    vec![
        network(r#"{"podRanges": ["10.244.0.0/16"]}"#),
        node("a", 1),
        node("b", 2),
        Event::LocalNode { says_available: false },
        Event::Synced,
    ]
}

/// A service that is reached at a cluster address and a node port.
pub(super) fn service() -> Event {
    let port = model::ServicePort {
        name: "".into(),
        protocol: model::Protocol::Tcp,
        port: 80,
        node_port: Some(30080),
    };
    Event::Service(model::Service {
        name: model::ObjectName::new("shop", "web"),
        cluster_addresses: vec!["10.96.0.7".parse().unwrap()],
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        balancer_sources: Vec::new(),
        ports: vec![port],
        internal_policy: model::TrafficPolicy::Cluster,
        external_policy: model::TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    })
}
