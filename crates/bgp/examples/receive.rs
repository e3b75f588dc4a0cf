//! How long 100,000 routes take to be received and decided on, and the memory they take: this speaker, BIRD and
//! GoBGP in turns. Root is needed for the namespaces.
//!
//!     cargo run --release -p bgp --example receive [ROUTES] [ROUNDS]

#![allow(clippy::unwrap_used)]

mod beside;

use bgp::Families;
use bgp::transport::Event;
use model::Family;

use beside::common::Wire;
use beside::{Load, Receiver, SHARED_BY, mib, millis};

fn main() {
    let (is_receiver, load) = beside::load(Families::only(Family::V4));
    if is_receiver {
        return receiver(load);
    }
    println!("{} routes, {} sets of attributes", load.routes, load.routes.div_ceil(SHARED_BY));
    let [ours, bird, gobgp] = beside::measure(load, cambric, beside::bird, beside::gobgp);
    println!(
        "goal: complete when BIRD is, or a tenth later: {:.1} ms to {:.1} ms",
        millis(ours.took),
        millis(bird.took)
    );
    println!(
        "goal: less than half of GoBGP's memory: {:.1} MiB to {:.1} MiB",
        mib(ours.memory),
        mib(gobgp.memory)
    );
    if ours.took > bird.took * 11 / 10 || ours.memory * 2 > gobgp.memory {
        std::process::exit(1);
    }
}

fn cambric(wire: &Wire, load: Load) -> Receiver {
    let (running, process, log) = beside::cambric(wire, load);
    let count = move || {
        let said = std::fs::read_to_string(&log).unwrap();
        if said.contains("complete") { load.routes } else { 0 }
    };
    Receiver { running, process, count: Box::new(count) }
}

/// The receiver's process: a speaker whose user keeps a count, as one who installs routes would.
fn receiver(load: Load) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut events = beside::receiver(load.families).await;
        let mut count = 0;
        while let Some(batch) = events.recv().await {
            count += batch.iter().filter(|event| matches!(event, Event::Rib(_))).count() as u32;
            if count == load.routes {
                println!("complete");
            }
        }
    });
}
