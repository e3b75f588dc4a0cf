//! Measures the server on this machine: writes per second and how long a watch takes to tell.
//!
//! Usage: `measure [disk]`; with `disk`, writes are synced to the disk.

use std::error::Error;
use std::time::{Duration, Instant};

use apiserver::api::{ListOptions, WatchOptions};
use apiserver::{Config, Durability, Server};
use serde_json::{Value, json};

const WRITES: usize = 5000;
const WATCHERS: usize = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("apiserver-measure-{}", std::process::id()));
    let mut config = Config::new(&directory);
    if std::env::args().nth(1).as_deref() == Some("disk") {
        config.durability = Durability::Disk;
    }
    let server = Server::open(config)?;
    let done = measure(&server);
    drop(server);
    let opening = Instant::now();
    drop(Server::open(Config::new(&directory))?);
    println!("open again: {:?}", opening.elapsed());
    std::fs::remove_dir_all(&directory)?;
    done
}

fn pod(number: usize) -> Value {
    json!({"metadata": {"name": format!("pod-{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": format!("node-{}", number % 100),
            "containers": [{"name": "web", "image": "example/web:1", "ports": [{"containerPort": 80}]}]}})
}

fn measure(server: &Server) -> Result<(), Box<dyn Error>> {
    let api = server.api();
    let started = Instant::now();
    for number in 0..WRITES {
        api.create("pods", "default", pod(number))?;
    }
    let took = started.elapsed();
    println!("creates: {:.0}/s ({:?} each)", WRITES as f64 / took.as_secs_f64(), took / WRITES as u32);
    let started = Instant::now();
    let found = api.list("pods", &ListOptions::default())?.items.len();
    println!("list of {found} pods: {:?}", started.elapsed());

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..WATCHERS {
            let options = WatchOptions {
                since: Some(api.revision()),
                fields: format!("spec.nodeName=node-{number}"),
                ..WatchOptions::default()
            };
            let mut watcher = api.watch("pods", &options)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while watcher.next().await.is_ok() {
                    if sender.send(Instant::now()).is_err() {
                        return;
                    }
                }
            });
        }
        let mut latencies = Vec::new();
        for number in 0..500 {
            let mut pod = pod(WRITES + number);
            pod["spec"]["nodeName"] = format!("node-{}", number % WATCHERS).into();
            api.create("pods", "default", pod)?;
            let written = Instant::now();
            let told = told.recv().await.ok_or("the watchers are gone")?;
            latencies.push(told.saturating_duration_since(written));
        }
        latencies.sort();
        let at =
            |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or(Duration::ZERO);
        println!(
            "watch, one of {WATCHERS} told after the write returned: median {:?}, 99 % {:?}",
            at(50),
            at(99)
        );
        Ok(())
    })
}
