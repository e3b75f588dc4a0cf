//! Measures what the agent of one node costs in a big cluster: its memory, the time from its start until the node is as
//! planned, and that of a change. The API is the lab's, in this process; the agent is one of its own, in a namespace
//! without a way out. Objects are as big as real ones: what nobody needs of them passes through the agent too.
//!
//! `cargo run --release -p cambric --example agent -- PATH-OF-CAMBRIC nodes|services [COUNT]`. Exits with a failure if
//! the agent needs more memory or time than it may.

#![allow(clippy::unwrap_used)]

mod cluster;
mod metrics;
mod nodes;
mod place;
mod process;
mod service_objects;
mod services;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kernel::netns;

use place::Place;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let program = PathBuf::from(arguments.next().unwrap());
    let what = arguments.next().unwrap();
    let count: Option<u32> = arguments.next().map(|text| text.parse().unwrap());
    let place = Place::new();
    let within = netns::run_in(&place.namespace, || match &*what {
        "nodes" => nodes::measure(&place, &program, count.unwrap_or(5_000)),
        "services" => services::measure(&place, &program, count.unwrap_or(10_000)),
        _ => panic!("{what} is neither \"nodes\" nor \"services\""),
    });
    if within.unwrap() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(what: &str, time: Duration, note: &str) {
    println!("{what:<20} {:>9.3} ms  {note}", ms(time));
}

/// Whether a goal is met; says so if it is not.
fn goal(what: &str, is: f64, most: f64) -> bool {
    if is > most {
        println!("goal missed: {what}: {is:.2}, not {most} or less");
    }
    is <= most
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
