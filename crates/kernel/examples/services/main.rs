//! Measures services: what it takes to program them, to change one, and to connect through one. Runs in namespaces of
//! its own, on two fixed cores.
//!
//! `cargo run --release -p kernel --example services [ENDPOINTS-PER-SERVICE]`. Exits with a failure if a goal is missed:
//! 10,000 services with 10 endpoints each from nothing in 0.7 s and 120 MiB, one change of an endpoint in 3 ms (99th
//! percentile), and a round trip through one of 30,000 services within 3 % of that through the only one.

#![allow(clippy::unwrap_used)]

#[path = "../../tests/common/cluster.rs"]
mod cluster;
mod connect;
mod fixture;
mod measure;
mod reference;
#[path = "../usage/mod.rs"]
mod usage;

use std::process::ExitCode;

use kernel::netns;

/// How many services are measured.
const SIZES: [u32; 4] = [1, 1_000, 10_000, 30_000];

fn main() -> ExitCode {
    // Each size is measured in a process of its own, so that its memory is its own.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, size, endpoints] = &arguments[..]
        && command == "one"
    {
        let (size, endpoints) = (size.parse().unwrap(), endpoints.parse().unwrap());
        let sound = isolated("program", || measure::measure(size, endpoints));
        return if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let endpoints: u32 = arguments.first().map_or(10, |text| text.parse().unwrap());
    measure::pin(&[0, 1]);
    println!("services with {endpoints} endpoints each, IPv4; times in ms unless said otherwise");
    measure::heading();
    let program = std::env::current_exe().unwrap();
    let mut sound = true;
    for size in SIZES {
        let status = std::process::Command::new(&program)
            .args(["one", &size.to_string(), &endpoints.to_string()])
            .status()
            .unwrap();
        sound &= status.success();
    }
    isolated("reference", || reference::measure(1_000, endpoints));
    sound &= isolated("connect", || connect::measure(&SIZES, endpoints));
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does something in a fresh namespace, which goes afterwards whatever happens.
fn isolated<T: Send>(kind: &str, work: impl FnOnce() -> T + Send + std::panic::UnwindSafe) -> T {
    let path = format!("{}/services-{kind}-{}", netns::NAMED, std::process::id());
    let namespace = netns::create_named(&path).unwrap();
    let result = std::panic::catch_unwind(|| netns::run_in(&namespace, work).unwrap());
    netns::remove_named(&path).unwrap();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
