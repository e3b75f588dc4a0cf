//! ADD and DEL side by side with the reference plugins `bridge` and `host-local`: in one run, in turns, on the same
//! cores, in namespaces of this program's own.
//!
//! `cargo run --release -p cni --example bench -- PATH-OF-CAMBRIC-CNI [ROUNDS]`. Exits with a failure if a call
//! failed, an address was given twice, something was left behind, or the median ADD or the median DEL takes more than
//! a third of the reference's, be it alone or one of 100 at once.
//!
//! A call is waited for until the plugin has ended and all of its output is read. A DEL of ours ends when link,
//! elements and addresses can be seen no more; that of the reference also waits until the kernel has freed the link.
//! What goes on afterwards is told in a line of its own, and waited for before the next call.

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{DUAL, TestNode, TestNs, V4};
use serde_json::{Value, json};

const REFERENCE: &str = "/usr/lib/cni";
const PARALLEL: usize = 100;
/// The part of the reference's time that is enough for ours.
const GOAL: f64 = 1.0 / 3.0;

/// One of the two that are compared.
struct Side {
    label: &'static str,
    node: TestNode,
    program: PathBuf,
    config: Value,
    pods: Vec<TestNs>,
    add: Vec<Duration>,
    del: Vec<Duration>,
    /// From the first start to the last end of a round's ADDs, and of its DELs.
    whole: [Vec<Duration>; 2],
    /// From the first start until no process of a plugin is left, of a round's DELs.
    rest: Vec<Duration>,
    failures: usize,
    duplicates: usize,
}

impl Side {
    fn new(
        label: &'static str,
        program: PathBuf,
        ranges: &[&str],
        config: impl Fn(&TestNode) -> Value,
    ) -> Side {
        let node = TestNode::new(label, ranges);
        let config = config(&node);
        let pods = (0..PARALLEL).map(|_| TestNs::new("pod")).collect();
        let (add, del, whole, rest) = Default::default();
        Side { label, node, program, config, pods, add, del, whole, rest, failures: 0, duplicates: 0 }
    }

    /// Calls the plugin for so many pods at once.
    fn call(&mut self, command: &str, count: usize) {
        let barrier = Barrier::new(count);
        let this = &*self;
        let calls: Vec<(Instant, Instant, Option<Value>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = this.pods[..count]
                .iter()
                .enumerate()
                .map(|(number, pod)| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let id = format!("c{number}");
                        let program = [this.program.to_str().unwrap()];
                        let mut plugin = this.node.plugin(&program, command, &id, &pod.path);
                        plugin.env("CNI_PATH", REFERENCE);
                        let input = this.config.to_string();
                        let _inside = this.node.ns.ns.enter().unwrap();
                        barrier.wait();
                        let start = Instant::now();
                        let output = common::converse(&mut plugin, &input);
                        let end = Instant::now();
                        let done = output.status.success();
                        let value = done.then(|| serde_json::from_slice(&output.stdout).unwrap_or_default());
                        if !done {
                            eprintln!(
                                "{} {command}: {}",
                                this.label,
                                String::from_utf8_lossy(&output.stdout)
                            );
                        }
                        (start, end, value)
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let times = calls.iter().map(|(start, end, _)| *end - *start);
        if command == "ADD" {
            self.add.extend(times);
        } else {
            self.del.extend(times);
        }
        let start = calls.iter().map(|(start, ..)| *start).min().unwrap();
        let end = calls.iter().map(|(_, end, _)| *end).max().unwrap();
        self.whole[usize::from(command == "DEL")].push(end - start);
        // What goes on behind the plugin's back counts too, and must not count for the next call.
        reap();
        if command == "DEL" {
            self.rest.push(start.elapsed());
        }
        self.failures += calls.iter().filter(|(.., value)| value.is_none()).count();
        let mut seen = BTreeSet::new();
        for value in calls.iter().filter_map(|(.., value)| value.as_ref()) {
            for ip in value["ips"].as_array().into_iter().flatten() {
                self.duplicates += usize::from(!seen.insert(ip["address"].to_string()));
            }
        }
    }

    /// What is left when all is detached: host links, set elements, address files.
    fn leaks(&self) -> usize {
        let veths = self.node.ns.json("ip -j link show type veth");
        let veths = veths.as_array().unwrap().iter().filter(|link| link["link_netnsid"].is_u64()).count();
        let elements = self.node.traces().iter().filter(|trace| trace.starts_with("element")).count();
        let files = fs::read_dir(self.node.data_dir().join("net")).map_or(0, |files| {
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != "lock" && !name.starts_with("last_reserved_ip.")).count()
        });
        veths + elements + files
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(program) =
        arguments.next().map(PathBuf::from).filter(|path| path.is_absolute() && path.exists())
    else {
        eprintln!("usage: bench PATH-OF-CAMBRIC-CNI [ROUNDS]; the path is absolute");
        return ExitCode::FAILURE;
    };
    let rounds = arguments.next().map_or(100, |text| text.parse().unwrap());
    adopt();
    let cores = pin();
    println!("cores {cores}; medians in ms; reference: bridge + host-local ({REFERENCE})");
    println!(
        "{:<28} {:>9} {:>9} {:>7}   {:>9} {:>9} {:>7}",
        "", "ADD ours", "ref.", "ratio", "DEL ours", "ref.", "ratio"
    );
    let alone = compare("IPv4, one at a time", &program, V4, 1, rounds);
    let crowd = compare("IPv4, 100 at once", &program, V4, PARALLEL, rounds.div_ceil(10));
    // The reference waits for duplicate address detection, so fewer rounds have to do.
    let dual = compare("dual-stack, one at a time", &program, DUAL, 1, rounds.div_ceil(5));
    if alone && crowd && dual { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line of the table; whether all is as it should be.
fn compare(what: &str, program: &Path, ranges: &[&str], count: usize, rounds: usize) -> bool {
    let ours = Side::new("ours", program.to_owned(), ranges, |node| node.config("1.0.0"));
    let reference = Side::new("reference", Path::new(REFERENCE).join("bridge"), ranges, |node| {
        let ranges: Vec<_> = node.ranges.iter().map(|range| json!([{ "subnet": range }])).collect();
        let routes = [json!({ "dst": "0.0.0.0/0" }), json!({ "dst": "::/0" })];
        json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "hairpinMode": true,
            "isGateway": true, "mtu": 1450,
            "ipam": { "type": "host-local", "ranges": ranges, "dataDir": node.data_dir(),
                "routes": routes[..node.ranges.len()] },
        })
    });
    // Its own bridge takes the addresses that ours has.
    reference.node.ns.run("ip link del cbr0");
    let mut sides = [ours, reference];
    for round in 0..rounds {
        for command in ["ADD", "DEL"] {
            for turn in 0..2 {
                sides[(round + turn) % 2].call(command, count);
            }
        }
    }
    let [ours, reference] = &mut sides;
    let (add, add_reference) = (median(&mut ours.add), median(&mut reference.add));
    let (del, del_reference) = (median(&mut ours.del), median(&mut reference.del));
    let ratios = [("ADD", add / add_reference), ("DEL", del / del_reference)];
    println!(
        "{what:<28} {add:>9.2} {add_reference:>9.2} {:>7.3}   {del:>9.2} {del_reference:>9.2} {:>7.3}",
        ratios[0].1, ratios[1].1
    );
    if count > 1 {
        let [mut there, mut gone] = std::mem::take(&mut ours.whole);
        let [mut there_reference, mut gone_reference] = std::mem::take(&mut reference.whole);
        let (add, add_reference) = (median(&mut there), median(&mut there_reference));
        let (del, del_reference) = (median(&mut gone), median(&mut gone_reference));
        println!(
            "{:<28} {add:>9.2} {add_reference:>9.2} {:>7.3}   {del:>9.2} {del_reference:>9.2} {:>7.3}",
            "  until all are done",
            add / add_reference,
            del / del_reference
        );
    }
    let (rest, rest_reference) = (median(&mut ours.rest), median(&mut reference.rest));
    println!(
        "{:<28} {:>9} {:>9} {:>7}   {rest:>9.2} {rest_reference:>9.2} {:>7.3}",
        "  until the kernel has freed",
        "",
        "",
        "",
        rest / rest_reference
    );
    let mut sound = true;
    for side in [&*ours, &*reference] {
        let (failures, duplicates, leaks) = (side.failures, side.duplicates, side.leaks());
        println!(
            "  {:<10} {} calls, {failures} failures, {duplicates} addresses twice, {leaks} left behind",
            side.label,
            side.add.len() + side.del.len(),
        );
        sound &= side.label != "ours" || failures + duplicates + leaks == 0;
    }
    for (command, ratio) in ratios {
        if ratio > GOAL {
            println!(
                "  missed     {command} takes {ratio:.3} of the reference's time; the goal is {GOAL:.3}"
            );
            sound = false;
        }
    }
    sound
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

/// Has processes that plugins leave behind become children of this one.
fn adopt() {
    // SAFETY: the option takes no pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Waits until all of them have ended.
fn reap() {
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
}

/// Keeps this process and all that it starts on the first two cores; their numbers.
fn pin() -> String {
    let output =
        Command::new("taskset").args(["-cp", "0-1", &std::process::id().to_string()]).output().unwrap();
    common::succeeded("taskset", &output);
    "0-1".to_owned()
}
