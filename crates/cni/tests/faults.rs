//! Whatever fails, and wherever the plugin is killed, nothing stays behind and nothing is given twice.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{DUAL, PLUGIN, TestNode, TestNs};
use kernel::netns;
use serde_json::Value;

/// The system calls that do something that matters. Each is made to fail, and to be the plugin's last, in turn.
const CALLS: [&str; 12] = [
    "openat",
    "flock",
    "getdents64",
    "write",
    "renameat2",
    "rename",
    "socket",
    "setns",
    "sendto",
    "sendmsg",
    "recvfrom",
    "unlink",
];

/// Runs a command of the plugin under strace, which interferes with the n-th call of a kind. `None` if there is no
/// such call.
fn interfere(
    node: &TestNode,
    pod: &TestNs,
    command: &str,
    call: &str,
    number: u32,
    how: &str,
) -> Option<std::process::Output> {
    let log = node.directory.path().join("strace.log");
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{how}:when={number}"));
    let log_text = log.to_str().unwrap();
    let program = ["strace", "-f", "-o", log_text, "-e", &trace, "-e", &inject, PLUGIN];
    let mut plugin = node.plugin(&program, command, "c1", &pod.path);
    plugin.env("PATH", std::env::var_os("PATH").unwrap());
    let output = node.feed(&mut plugin, &node.config("1.1.0"));
    let log = fs::read_to_string(&log).unwrap();
    let struck = log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL +++");
    assert!(struck || log.contains("+++ exited with"), "{log}");
    struck.then_some(output)
}

/// A node with one pod that must come through it all, and that pod's result.
fn bystander() -> (TestNode, TestNs, Value) {
    let (node, pod) = (TestNode::new("node", DUAL), TestNs::new("bystander"));
    let result = node.add("c0", &pod).unwrap();
    (node, pod, result)
}

#[test]
fn an_add_that_fails_anywhere_leaves_nothing() {
    let (node, other, result) = bystander();
    let before = node.traces();
    let mut failures = 0;
    for call in CALLS {
        for number in 1.. {
            let pod = TestNs::new("pod");
            let Some(output) = interfere(&node, &pod, "ADD", call, number, "error=EIO") else {
                node.del("c1", &pod).unwrap();
                break;
            };
            if output.status.success() {
                // The call did not matter, so the pod is as it should be.
                let made: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(node.check("c1", &pod, &made), Ok(Value::Null), "{call} {number}");
                node.del("c1", &pod).unwrap();
            } else {
                failures += 1;
                let text = String::from_utf8_lossy(&output.stdout);
                // It ends by itself, without a word, only where it could not come back from the pod's namespace.
                if output.status.code().is_none() {
                    assert_eq!(call, "setns");
                } else if call != "write" || !text.is_empty() {
                    assert!(text.contains("\"code\":"), "{call} {number}: {text}");
                }
                assert!(!pod.try_run("ip link show eth0").status.success(), "{call} {number}: {text}");
            }
            assert_eq!(node.traces(), before, "{call} {number}");
        }
    }
    assert!(failures > 30, "only {failures} failures");
    assert_eq!(node.check("c0", &other, &result), Ok(Value::Null));
}

#[test]
fn an_add_that_is_killed_anywhere_is_undone_by_del_and_done_by_another_add() {
    let (node, other, result) = bystander();
    let before = node.traces();
    let mut killed = 0;
    for call in CALLS {
        for number in 1.. {
            let pod = TestNs::new("pod");
            if interfere(&node, &pod, "ADD", call, number, "signal=SIGKILL").is_none() {
                node.del("c1", &pod).unwrap();
                break;
            }
            killed += 1;
            if number % 2 == 0 && !pod.try_run("ip link show eth0").status.success() {
                let made = node.add("c1", &pod).unwrap();
                assert_eq!(node.check("c1", &pod, &made), Ok(Value::Null), "{call} {number}");
            }
            node.del("c1", &pod).unwrap();
            assert_eq!(node.traces(), before, "{call} {number}");
        }
    }
    assert!(killed > 30, "only {killed} kills");
    assert_eq!(node.check("c0", &other, &result), Ok(Value::Null));
}

#[test]
fn a_del_that_fails_or_is_killed_anywhere_is_done_by_another() {
    let (node, other, result) = bystander();
    let before = node.traces();
    let pod = TestNs::new("pod");
    let mut struck = 0;
    for how in ["error=EIO", "signal=SIGKILL"] {
        for call in CALLS {
            for number in 1.. {
                node.add("c1", &pod).unwrap();
                let output = interfere(&node, &pod, "DEL", call, number, how);
                if let Some(output) = &output {
                    struck += 1;
                    let done = output.status.success();
                    assert!(!done || node.traces() == before, "{call} {number} {how}");
                }
                node.del("c1", &pod).unwrap();
                assert_eq!(node.traces(), before, "{call} {number} {how}");
                if output.is_none() {
                    break;
                }
            }
        }
    }
    assert!(struck > 40, "only {struck} faults");
    assert_eq!(node.check("c0", &other, &result), Ok(Value::Null));
}

#[test]
fn two_hundred_at_once_and_some_of_them_killed() {
    const PODS: usize = 200;
    let node = TestNode::new("node", DUAL);
    let pods: Vec<TestNs> = (0..PODS).map(|_| TestNs::new("pod")).collect();
    let id = |number: usize| format!("c{number}");
    let start = |number: usize| -> Child {
        let mut command: Command = node.plugin(&[PLUGIN], "ADD", &id(number), &pods[number].path);
        let mut child = command.spawn().unwrap();
        let config = node.config("1.1.0").to_string();
        child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        child
    };
    let results: Mutex<Vec<(usize, Option<Value>)>> = Mutex::default();
    let next = Mutex::new(0..PODS);
    std::thread::scope(|scope| {
        for worker in 0..20u64 {
            let (results, next, start) = (&results, &next, &start);
            let namespace = &node.ns.ns;
            scope.spawn(move || {
                netns::run_in(namespace, || {
                    loop {
                        let Some(number) = next.lock().unwrap().next() else { return };
                        let mut child = start(number);
                        // Every third is struck at a moment of its own, some of them too late.
                        if number % 3 == 0 {
                            let until = Instant::now()
                                + Duration::from_micros(500 * (worker + number as u64) % 30_000);
                            while Instant::now() < until {
                                std::thread::yield_now();
                            }
                            child.kill().unwrap();
                        }
                        let output = child.wait_with_output().unwrap();
                        let result =
                            output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap());
                        assert!(
                            result.is_some() || number % 3 == 0,
                            "{}",
                            String::from_utf8_lossy(&output.stdout)
                        );
                        results.lock().unwrap().push((number, result));
                    }
                })
                .unwrap();
            });
        }
    });

    let results = results.into_inner().unwrap();
    let made: Vec<_> =
        results.iter().filter_map(|(number, result)| Some((*number, result.as_ref()?))).collect();
    let killed = PODS - made.len();
    assert!(killed > 5 && made.len() >= PODS - PODS.div_ceil(3), "{killed} were killed");
    let mut addresses = BTreeSet::new();
    for (_, result) in &made {
        for ip in result["ips"].as_array().unwrap() {
            assert!(addresses.insert(ip["address"].as_str().unwrap()), "{ip} twice");
        }
    }
    let valid: Vec<String> = made.iter().map(|(number, _)| id(*number)).collect();
    node.gc(&valid.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    // A link, four elements and two files for each, and nothing else.
    assert_eq!(node.traces().len(), made.len() * 7);
    for (number, result) in &made {
        assert_eq!(node.check(&id(*number), &pods[*number], result), Ok(Value::Null));
    }
    node.gc(&[]).unwrap();
    assert_eq!(node.traces(), [] as [String; 0]);
}
