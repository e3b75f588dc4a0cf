use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use clap::{Args, FromArgMatches};
use kube_source::ClusterNetworkSpec;
use model::{Attachment, NetworkConfig, Node, NodeName, PerFamily};
use plan::services::ServicePlan;
use plan::{Entries, Entry, Key};
use tokio::sync::watch;

use super::super::machine::{AttachmentWork, Failure};
use super::super::options::AgentOptions;
use super::*;
use crate::agent::service_health::Checks;

/// A kernel that holds what it is told, and keeps a record.
#[derive(Debug, Clone, Default)]
struct Pretended(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    entries: Entries,
    record: Vec<&'static str>,
    refuse: bool,
    services_error: Option<String>,
    mtu: Option<u32>,
    attachments: Vec<Attachment>,
    services: ServicePlan,
    addresses: Result<Vec<IpAddr>, Failure>,
}

impl Default for State {
    fn default() -> State {
        State {
            entries: Entries::new(),
            record: Vec::new(),
            refuse: false,
            services_error: None,
            mtu: None,
            attachments: Vec::new(),
            services: ServicePlan::default(),
            addresses: Ok(Vec::new()),
        }
    }
}

impl Pretended {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Machine for Pretended {
    fn apply(&mut self, change: &Change) -> Outcome {
        self.with(|state| {
            state.record.push("apply");
            for (key, planned) in &change.keys {
                match planned {
                    Some(planned) => state.entries.insert(key.clone(), planned.clone()),
                    None => state.entries.remove(key),
                };
            }
        });
        Outcome::default()
    }

    fn reconcile(&mut self, plan: &Entries, services: &ServicePlan) -> Outcome {
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

    fn doubt_services(&mut self) {}

    fn surroundings(&mut self, underlay: &PerFamily<IpAddr>) -> Result<Surroundings, Failure> {
        self.with(|state| {
            let mtu = PerFamily { v4: underlay.v4.and(state.mtu), v6: underlay.v6.and(state.mtu) };
            let addresses = state.addresses.clone()?;
            Ok(Surroundings { mtu, missing: None, addresses })
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

struct Bench {
    kernel: Pretended,
    dir: tempfile::TempDir,
    health: Arc<Health>,
    wanted: watch::Receiver<bool>,
    condition: Option<watch::Sender<bool>>,
    checks: watch::Sender<Checks>,
    turns: VecDeque<Turn>,
    api_patience: Duration,
}

impl Bench {
    fn new() -> Bench {
        let (condition, wanted) = watch::channel(false);
        Bench {
            kernel: Pretended::default(),
            dir: tempfile::tempdir().unwrap(),
            health: Arc::new(Health::new(Duration::from_secs(60))),
            wanted,
            condition: Some(condition),
            checks: watch::Sender::new(Checks::new()),
            turns: VecDeque::new(),
            api_patience: Duration::from_secs(600),
        }
    }

    fn turn(&mut self, turn: impl FnMut(&Sender<Message>) -> Heard + Send + 'static) {
        self.turns.push_back(Box::new(turn));
    }

    fn events(&mut self, events: Vec<Event>) {
        let mut events = Some(events);
        self.turn(move |inbox| {
            for event in events.take().unwrap_or_default() {
                inbox.send(Message::Cluster(event, Instant::now())).unwrap();
            }
            Heard::Nothing
        });
    }

    fn run(&mut self) {
        let (sender, inbox) = channel();
        let ear = Script { turns: std::mem::take(&mut self.turns), inbox: sender };
        let options = options(self.dir.path());
        let local = NodeName::new("a").unwrap();
        let condition = self.condition.take().unwrap();
        let publisher = Publisher::new(local.clone(), &options, condition, self.checks.clone());
        let worker = Worker::new(
            Core::new(local),
            self.kernel.clone(),
            ear,
            inbox,
            publisher,
            self.health.clone(),
            Arc::new(Metrics::new()),
            Times { sync_period: options.sync_period, api_patience: self.api_patience },
        );
        worker.run();
    }

    fn record(&self) -> Vec<&'static str> {
        self.kernel.with(|state| state.record.clone())
    }

    fn read(&self, path: &str) -> Option<String> {
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

fn node(name: &str, number: u8) -> Event {
    let (ip, cidr) = (format!("192.0.2.{number}"), format!("10.244.{number}.0/24"));
    Event::Node(Node::parse(NodeName::new(name).unwrap(), [ip.as_str()], [cidr.as_str()]).unwrap())
}

fn network(spec: &str) -> Event {
    let spec: ClusterNetworkSpec = serde_json::from_str(spec).unwrap();
    Event::Network(NetworkConfig::try_from(&spec).unwrap())
}

fn cluster() -> Vec<Event> {
    vec![
        network(r#"{"podRanges": ["10.244.0.0/16"]}"#),
        node("a", 1),
        node("b", 2),
        Event::LocalNode { says_available: false },
        Event::Synced,
    ]
}

#[test]
fn nothing_is_touched_before_the_cluster_is_known() {
    let mut bench = Bench::new();
    bench.turn(|_| Heard::Change(Vec::new()));
    bench.turn(|_| Heard::Overrun);
    bench.events(vec![node("a", 1), Event::Synced]);
    bench.turn(|_| Heard::Overrun);
    bench.run();
    assert_eq!(bench.record(), Vec::<&str>::new());
    assert!(bench.health.ready().unwrap_err().contains("no ClusterNetwork"));
    assert_eq!(bench.read("net.d/10-cambric.conflist"), None);
}

#[test]
fn a_change_is_applied_and_not_compared() {
    let mut bench = Bench::new();
    bench.events(cluster());
    bench.events(vec![node("c", 3)]);
    bench.run();
    assert_eq!(bench.record(), ["reconcile", "apply"]);
    assert_eq!(bench.health.ready(), Ok(()));
}

#[test]
fn a_single_entry_is_put_right_before_all_is_compared() {
    let mut bench = Bench::new();
    bench.events(cluster());
    let kernel = bench.kernel.clone();
    let key = Key::Route("10.244.2.0/24".parse().unwrap());
    let lost = key.clone();
    bench.turn(move |_| {
        kernel.with(|state| state.entries.remove(&lost)).unwrap();
        Heard::Change(vec![lost.clone(), Key::Route("10.9.0.0/24".parse().unwrap())])
    });
    bench.run();
    assert_eq!(bench.record(), ["reconcile", "apply", "reconcile"]);
    assert!(bench.kernel.with(|state| state.entries.contains_key(&key)));
}

#[test]
fn events_of_the_kernel_are_compared_together() {
    let mut bench = Bench::new();
    bench.events(cluster());
    for _ in 0..3 {
        bench.turn(|_| Heard::Change(Vec::new()));
    }
    bench.turn(|_| Heard::Overrun);
    bench.run();
    let record = bench.record();
    assert!(record.len() >= 3 && record.iter().all(|what| *what == "reconcile"), "{record:?}");
}

#[test]
fn the_files_are_published_when_all_is_in_place() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| {
        state.mtu = Some(9000);
        state.refuse = true;
    });
    bench.events(cluster());
    let (kernel, path, health) =
        (bench.kernel.clone(), bench.dir.path().join("net.d/10-cambric.conflist"), bench.health.clone());
    bench.turn(move |_| {
        // The kernel refuses: the plugin may know of the node, the container runtime not of the plugin.
        assert!(!path.exists());
        assert!(health.ready().unwrap_err().contains("no such device"));
        kernel.with(|state| state.refuse = false);
        Heard::Change(Vec::new())
    });
    bench.run();
    let file: serde_json::Value = serde_json::from_str(&bench.read("run/node.json").unwrap()).unwrap();
    assert_eq!(file["mtu"], 8950);
    assert_eq!(file["podRanges"], serde_json::json!(["10.244.1.0/24"]));
    let list: serde_json::Value =
        serde_json::from_str(&bench.read("net.d/10-cambric.conflist").unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["type"], "cambric");
    assert_eq!(list["plugins"][0]["nodeFile"].as_str(), bench.dir.path().join("run/node.json").to_str());
    assert_eq!(bench.health.ready(), Ok(()));
    assert!(*bench.wanted.borrow());
    let status: serde_json::Value = serde_json::from_str(&bench.read("run/status.json").unwrap()).unwrap();
    assert_eq!(status["nodes"], 2);
    assert_eq!(status["problems"], serde_json::json!([]));
}

#[test]
fn a_node_without_pod_ranges_is_not_ready_and_says_so() {
    let mut bench = Bench::new();
    let own = Node::parse(NodeName::new("a").unwrap(), ["192.0.2.1"], []).unwrap();
    bench.events(vec![network(r#"{"podRanges": ["10.244.0.0/16"]}"#), Event::Node(own), Event::Synced]);
    bench.run();
    assert!(bench.health.ready().unwrap_err().contains("Node a has no spec.podCIDRs"));
    assert_eq!(bench.read("run/node.json"), None);
}

#[test]
fn a_change_of_the_own_addresses_looks_up_the_underlay_again() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.mtu = Some(1500));
    bench.events(cluster());
    let kernel = bench.kernel.clone();
    bench.turn(move |_| {
        kernel.with(|state| state.mtu = Some(1400));
        Heard::Nothing
    });
    bench.events(vec![node("a", 9)]);
    bench.run();
    assert_eq!(bench.record(), ["reconcile", "apply", "reconcile"]);
    let file: serde_json::Value = serde_json::from_str(&bench.read("run/node.json").unwrap()).unwrap();
    assert_eq!((&file["mtu"], &file["podRanges"][0]), (&1350.into(), &"10.244.9.0/24".into()));
}

#[test]
fn pods_of_the_node_are_part_of_the_plan() {
    let mut bench = Bench::new();
    let id = model::AttachmentId { container_id: "x".to_owned(), ifname: "eth0".to_owned() };
    let attachment = Attachment { id: id.clone(), addresses: vec!["10.244.1.2".parse().unwrap()] };
    bench.kernel.with(|state| state.attachments = vec![attachment]);
    bench.events(cluster());
    bench.run();
    assert!(bench.kernel.with(|state| state.entries.contains_key(&Key::Port(id.host_link()))));
}

#[test]
fn a_run_without_the_api_goes_by_the_state_of_the_last() {
    let mut first = Bench::new();
    first.events([vec![service()], cluster()].concat());
    first.run();
    let entries = first.kernel.with(|state| state.entries.clone());
    let services = first.kernel.with(|state| state.services.clone());
    assert_eq!(services.frontends.len(), 2);

    let mut second = Bench::new();
    std::fs::create_dir_all(second.dir.path().join("run")).unwrap();
    std::fs::write(second.dir.path().join("run/state.json"), first.read("run/state.json").unwrap()).unwrap();
    second.api_patience = Duration::ZERO;
    second.turn(|_| Heard::Nothing);
    second.run();
    assert_eq!(second.record(), ["reconcile"]);
    assert_eq!(second.kernel.with(|state| state.entries.clone()), entries);
    assert_eq!(second.kernel.with(|state| state.services.clone()), services);
}

/// A service that is reached at a cluster address and a node port.
fn service() -> Event {
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

#[test]
fn node_ports_follow_the_nodes_addresses() {
    let mut bench = Bench::new();
    let mut events = cluster();
    events[0] = network(r#"{"podRanges": ["10.244.0.0/16"], "nodePortAddresses": ["198.51.100.0/24"]}"#);
    events.insert(3, service());
    bench.kernel.with(|state| state.addresses = Ok(vec!["198.51.100.1".parse().unwrap()]));
    bench.events(events);
    let ports = |kernel: &Pretended| {
        kernel.with(|state| state.services.frontends.keys().map(ToString::to_string).collect::<Vec<_>>())
    };
    let kernel = bench.kernel.clone();
    bench.turn(move |_| {
        assert_eq!(ports(&kernel), ["10.96.0.7:80 TCP", "198.51.100.1:30080 TCP"]);
        kernel.with(|state| state.addresses = Ok(vec!["198.51.100.2".parse().unwrap()]));
        Heard::Change(Vec::new())
    });
    bench.run();
    assert_eq!(ports(&bench.kernel), ["10.96.0.7:80 TCP", "198.51.100.2:30080 TCP"]);
}

#[test]
fn without_the_nodes_addresses_nothing_is_compared() {
    let mut bench = Bench::new();
    let unreadable = Failure { error: "no buffer".to_owned(), origin: String::new() };
    bench.kernel.with(|state| state.addresses = Err(unreadable));
    bench.events(cluster());
    let (kernel, health) = (bench.kernel.clone(), bench.health.clone());
    bench.turn(move |_| {
        assert!(health.ready().unwrap_err().contains("no buffer"));
        assert_eq!(kernel.with(|state| state.record.clone()), Vec::<&str>::new());
        kernel.with(|state| state.addresses = Ok(Vec::new()));
        Heard::Change(Vec::new())
    });
    bench.run();
    assert_eq!(bench.record(), ["reconcile"]);
    assert_eq!(bench.health.ready(), Ok(()));
}

#[test]
fn what_is_refused_is_shown_before_the_next_comparison() {
    let mut bench = Bench::new();
    bench.events(cluster());
    let object = kube_source::Object { kind: "Service", name: "shop/web".to_owned() };
    bench.events(vec![Event::Refused { object, reason: "Service shop/web: spec.ports".to_owned() }]);
    bench.run();
    assert_eq!(bench.record(), ["reconcile"]);
    let status: serde_json::Value = serde_json::from_str(&bench.read("run/status.json").unwrap()).unwrap();
    assert_eq!(status["problems"], serde_json::json!(["Service shop/web: spec.ports"]));
}

#[test]
fn load_balancers_are_told_once_the_plan_is_carried_out() {
    let mut bench = Bench::new();
    let Event::Service(everywhere) = service() else { unreachable!() };
    let here = model::Service {
        external_policy: model::TrafficPolicy::Local,
        health_check_port: Some(32000),
        ..everywhere.clone()
    };
    let told = bench.checks.subscribe();
    let ports = move || told.borrow().keys().copied().collect::<Vec<u16>>();
    bench.events([vec![Event::Service(here)], cluster()].concat());
    let (kernel, told) = (bench.kernel.clone(), ports.clone());
    bench.turn(move |_| {
        assert_eq!(kernel.with(|state| state.record.clone()), ["reconcile"]);
        assert_eq!(told(), [32000]);
        Heard::Nothing
    });
    bench.events(vec![Event::Service(everywhere)]);
    bench.run();
    assert_eq!(ports(), Vec::<u16>::new());
}

#[test]
fn services_that_are_not_as_planned_are_told_apart_from_all_else() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.services_error = Some("table full".to_owned()));
    bench.events(cluster());
    let (kernel, health) = (bench.kernel.clone(), bench.health.clone());
    bench.turn(move |_| {
        assert_eq!(health.services(), Err("table full".to_owned()));
        kernel.with(|state| (state.services_error, state.refuse) = (None, true));
        Heard::Change(Vec::new())
    });
    bench.turn(|_| Heard::Nothing);
    bench.run();
    assert!(bench.health.ready().is_err());
    assert_eq!(bench.health.services(), Ok(()));
}

#[test]
fn a_port_for_health_checks_that_is_taken_is_a_problem_until_it_is_free() {
    let mut bench = Bench::new();
    bench.events(cluster());
    let problems = |text: &str| -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_str(text).unwrap();
        status["problems"].clone()
    };
    bench.turn(|inbox| {
        inbox.send(Message::HealthPorts(vec!["port 32000 is taken".to_owned()])).unwrap();
        Heard::Nothing
    });
    let status = bench.dir.path().join("run/status.json");
    bench.turn(move |inbox| {
        let text = std::fs::read_to_string(&status).unwrap();
        assert_eq!(problems(&text), serde_json::json!(["port 32000 is taken"]));
        inbox.send(Message::HealthPorts(Vec::new())).unwrap();
        Heard::Nothing
    });
    bench.run();
    assert_eq!(problems(&bench.read("run/status.json").unwrap()), serde_json::json!([]));
}
