//! Many services: a start among them, endpoints that come and go, and another start with everything in the kernel.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use apiserver::Api;
use kernel::{Event, Monitor};

use crate::metrics::{Metrics, programmed};
use crate::place::Place;
use crate::process::{Agent, Setup};
use crate::service_objects::{self, ENDPOINTS};
use crate::{PATIENCE, cluster, goal, ms, report};

/// The most memory that the agent may ever have, in KiB.
const MEMORY: u32 = 120 * 1024;
/// The most time that it may take, once it has heard of all services, to plan and to make the kernel hold the plan;
const TIME: Duration = Duration::from_millis(700);
/// and for 99 of 100 changes, from hearing of one to the kernel's commit.
const CHANGE: Duration = Duration::from_millis(3);

const NODES: u32 = 3;
/// How many single changes are timed.
const CHANGES: u32 = 1_000;
/// How many changes a second are sustained, if the API keeps up, and for how long.
const RATE: u32 = 500;
const SUSTAINED: Duration = Duration::from_secs(10);

/// Measures the agent with so many services; whether the goals are met.
pub(crate) fn measure(place: &Place, program: &Path, services: u32) -> bool {
    println!("an agent with {services} services of {ENDPOINTS} endpoints each, IPv4");
    let directory = place.directory.path();
    let (api, kubeconfig) = cluster::serve(directory, NODES);
    service_objects::populate(&api, services);
    let setup = Setup { program, kubeconfig: &kubeconfig, directory, sync_period: "30s" };
    let (agent, time) = setup.start_from_nothing();
    in_force(services);
    let mut sound = goal("plan and apply in ms", ms(time), ms(TIME));

    let mut changes = Changes { api: &api, services, made: 0 };
    sound &= single(&mut changes);
    agent.memory("after single changes");
    sustained(&mut changes, &agent);
    in_force(services);
    let most = agent.memory("after many changes");
    sound &= goal("memory in KiB", most as f64, MEMORY.into());

    sound & restart(&setup, agent, services)
}

/// The changes of endpoints, of services spread over all.
struct Changes<'a> {
    api: &'a Api,
    services: u32,
    made: u32,
}

impl Changes<'_> {
    fn make(&mut self) {
        let number = self.made.wrapping_mul(7919) % self.services;
        service_objects::change(self.api, number, 1 + self.made / self.services);
        self.made += 1;
    }
}

/// Makes one change at a time, the next when the kernel has the last.
fn single(changes: &mut Changes<'_>) -> bool {
    let mut monitor = Monitor::open().unwrap();
    let before = Metrics::read();
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|_| {
            let start = Instant::now();
            changes.make();
            committed(&mut monitor);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let worst = times[times.len() * 99 / 100];
    let note = format!("from the write of the API to the kernel's commit; 99 of 100: {worst:?}");
    report("one change", times[times.len() / 2], &note);
    let after = Metrics::when(&programmed(), before.programmed() + u64::from(CHANGES));
    let worst = after.programming(&before);
    report("", worst, "from the agent's hearing of it to the kernel's commit, 99 of 100");
    goal("99 of 100 changes in ms", ms(worst), ms(CHANGE))
}

/// Waits until somebody has changed the services' tables.
fn committed(monitor: &mut Monitor) {
    loop {
        let events = monitor.wait(Some(PATIENCE)).unwrap();
        assert!(!events.is_empty() && !events.contains(&Event::Overrun), "no change of services: {events:?}");
        if events.contains(&Event::Services) {
            return;
        }
    }
}

/// Makes changes as fast as the API and the rate let, and looks at what the agent needs for them.
fn sustained(changes: &mut Changes<'_>, agent: &Agent) {
    let before = Metrics::read();
    let (used, start, first) = (agent.processor_time(), Instant::now(), changes.made);
    while start.elapsed() < SUSTAINED {
        let due = first + (start.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
        while changes.made < due && start.elapsed() < SUSTAINED {
            changes.make();
        }
        thread::sleep(Duration::from_micros(500));
    }
    let (processor, elapsed) = (agent.processor_time() - used, start.elapsed());
    let made = changes.made - first;
    let after = Metrics::when(&programmed(), before.programmed() + u64::from(made));
    println!(
        "{:<20} {:>9.1} %   of one core at {:.0} changes a second (of {RATE} asked for)",
        "processor",
        100.0 * processor.as_secs_f64() / elapsed.as_secs_f64(),
        f64::from(made) / elapsed.as_secs_f64(),
    );
    report(
        "",
        after.programming(&before),
        "from the agent's hearing of one to the kernel's commit, 99 of 100",
    );
}

/// Starts the agent anew with everything in the kernel. Nothing may be written.
fn restart(setup: &Setup<'_>, agent: Agent, services: u32) -> bool {
    let directory = agent.directory.clone();
    drop(agent);
    let mut monitor = Monitor::open().unwrap();
    let agent = setup.start(directory);
    agent.follow_start("with everything in the kernel");
    in_force(services);
    let events = monitor.wait(Some(Duration::ZERO)).unwrap();
    assert_eq!(events, [], "a restart has written something");
    let most = agent.memory("after another start");
    goal("memory in KiB after another start", most as f64, MEMORY.into())
}

/// The agent has all services in the kernel, as far as it knows.
fn in_force(services: u32) {
    let metrics = Metrics::read();
    let known =
        ["services_in_force", "services", "endpoints"].map(|name| metrics.number(&format!("cambric_{name}")));
    assert_eq!(known, [1, u64::from(services), u64::from(services * ENDPOINTS)]);
}
