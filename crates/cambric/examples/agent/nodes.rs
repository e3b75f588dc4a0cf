//! Many nodes: a start among them, another that joins, and another network.

use std::path::Path;
use std::time::{Duration, Instant};

use apiserver::Api;
use apiserver::patch::Patch;
use kernel::{Event, Monitor};
use plan::Key;
use serde_json::json;

use crate::metrics::Metrics;
use crate::place::Place;
use crate::process::Setup;
use crate::{PATIENCE, cluster, goal, ms, report};

/// The most memory that the agent may ever have, in KiB.
const MEMORY: u32 = 60 * 1024;
/// The most time that it may take, once it has heard of all nodes, to plan and to make the kernel hold the plan.
const TIME: Duration = Duration::from_millis(1500);

const JOINS: u32 = 50;
/// How many times everything is compared, before the memory is looked at again.
const COMPARISONS: u64 = 5;

/// Measures the agent among so many nodes; whether the goals are met.
pub(crate) fn measure(place: &Place, program: &Path, nodes: u32) -> bool {
    println!("an agent among {nodes} nodes, IPv4 and IPv6");
    let directory = place.directory.path();
    let (api, kubeconfig) = cluster::serve(directory, nodes);
    let setup = Setup { program, kubeconfig: &kubeconfig, directory, sync_period: "1s" };
    let (agent, time) = setup.start_from_nothing();

    let mut monitor = Monitor::open().unwrap();
    let mut times: Vec<Duration> =
        (nodes..nodes + JOINS).map(|number| join(&api, &mut monitor, number)).collect();
    times.sort_unstable();
    let worst = format!("worst of {JOINS}: {:?}", times[times.len() - 1]);
    report("one node joins", times[times.len() / 2], &worst);
    drop(monitor);
    wait_for_comparisons();
    agent.memory("after some comparisons");

    // Every entry is another then: both tunnel devices are made anew, and what is on them.
    agent.forget();
    let network = json!({"spec": {"encapsulation": {"vni": 7}}});
    let start = Instant::now();
    api.patch("clusternetworks.cambric.io", "", "default", &Patch::Merge(network)).unwrap();
    let (applied, _) = agent.says("applied a change of the cluster");
    report("another network", applied - start, "a new network identifier");
    wait_for_comparisons();
    let most = agent.memory("after that");
    goal("memory in KiB", most as f64, MEMORY.into()) & goal("plan and apply in ms", ms(time), ms(TIME))
}

/// The time from the write of a new node's addresses until the last route to its pods is there.
fn join(api: &Api, monitor: &mut Monitor, number: u32) -> Duration {
    cluster::register(api, number);
    let start = Instant::now();
    cluster::give_addresses(api, number);
    let mut missing = 2;
    while missing > 0 {
        let events = monitor.wait(Some(PATIENCE)).unwrap();
        assert!(
            !events.is_empty() && !events.contains(&Event::Overrun),
            "no route to {}",
            cluster::name(number)
        );
        let route = |event: &&Event| matches!(event, Event::Entry { key: Key::Route(_), found: Some(_) });
        missing -= events.iter().filter(route).count();
    }
    start.elapsed()
}

fn wait_for_comparisons() {
    const COUNTER: &str = "cambric_reconciles_total";
    Metrics::when(COUNTER, Metrics::read().number(COUNTER) + COMPARISONS);
}
