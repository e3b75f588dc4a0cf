//! DELs that are called at once: one does the work of all that wait, and each answers only when its own is done.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{DUAL, PLUGIN, TestNode, TestNs, V4, V6, converse};
use kernel::netns;
use kernel::pod::{self, Guard};
use kernel::rtnl::RouteSocket;
use model::AttachmentId;
use serde_json::Value;

const PODS: usize = 12;
/// The group that the plugin uses if nobody else does.
const GROUP: u32 = 0x6362_7600;

fn id(container: &str) -> AttachmentId {
    AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

fn container(number: usize) -> String {
    format!("c{number}")
}

/// Attaches pods `c0`, `c1` and so on; each with its result.
fn attached(node: &TestNode, count: usize) -> Vec<(TestNs, Value)> {
    let attach = |number| {
        let pod = TestNs::new("pod");
        let result = node.add(&container(number), &pod).unwrap();
        (pod, result)
    };
    (0..count).map(attach).collect()
}

/// Starts a DEL under strace, which writes down what sockets it opens.
fn start(node: &TestNode, container: &str, pod: &TestNs, config: &Value) -> (Child, PathBuf) {
    let log = node.directory.path().join(format!("{container}.log"));
    let program = ["strace", "-f", "-o", log.to_str().unwrap(), "-e", "trace=socket", PLUGIN];
    let mut plugin: Command = node.plugin(&program, "DEL", container, &pod.path);
    plugin.env("PATH", std::env::var_os("PATH").unwrap());
    let child = netns::run_in(&node.ns.ns, || {
        let mut child = plugin.spawn().unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), config).unwrap();
        child
    });
    (child.unwrap(), log)
}

/// Waits until so many attachments are announced.
fn announced(store: &cni::ipam::Locked<'_>, count: usize) {
    let until = Instant::now() + Duration::from_secs(60);
    while store.departures().unwrap().announced().len() != count {
        assert!(Instant::now() < until, "{:?} are announced", store.departures().unwrap().announced());
        std::thread::yield_now();
    }
}

fn succeeds(child: Child) {
    common::succeeded("DEL", &child.wait_with_output().unwrap());
}

#[test]
fn one_does_the_work_of_all_that_wait() {
    for (ranges, unlinked) in [(V4, 0), (V6, 0), (DUAL, 0), (DUAL, 3), (DUAL, PODS)] {
        let node = TestNode::new("node", ranges);
        // A link of somebody else that is in the group already, for whatever reason.
        node.ns.run("ip link add other type veth peer name end");
        node.ns.run(&format!("ip link set other group {GROUP}"));
        let bystander = TestNs::new("bystander");
        let result = node.add("bystander", &bystander).unwrap();
        let before = node.traces();
        let pods = attached(&node, PODS);
        for (_, result) in &pods[..unlinked] {
            node.ns.run(&format!("ip link del {}", result["interfaces"][0]["name"].as_str().unwrap()));
        }
        let store = node.store();
        let locked = store.lock().unwrap();
        let started: Vec<_> = (0..PODS)
            .map(|number| start(&node, &container(number), &pods[number].0, &node.config("1.1.0")))
            .collect();
        announced(&locked, PODS);
        drop(locked);
        let mut at_work = 0;
        for (child, log) in started {
            succeeds(child);
            at_work += usize::from(fs::read_to_string(log).unwrap().contains("AF_NETLINK"));
        }
        assert_eq!(at_work, 1);
        assert_eq!(node.traces(), before);
        for (pod, _) in &pods {
            assert!(!pod.try_run("ip link show eth0").status.success());
        }
        node.ns.run("ip link show other");
        assert_eq!(node.check("bystander", &bystander, &result), Ok(Value::Null));
    }
}

#[test]
fn what_is_in_the_way_of_one_is_told_to_that_one() {
    let node = TestNode::new("node", DUAL);
    let pods = attached(&node, PODS);
    let host = pods[4].1["interfaces"][0]["name"].as_str().unwrap();
    node.ns.run(&format!("ip link set {host} alias somebody-elses"));
    let store = node.store();
    let locked = store.lock().unwrap();
    let started: Vec<_> = (0..PODS)
        .map(|number| start(&node, &container(number), &pods[number].0, &node.config("1.1.0")))
        .collect();
    announced(&locked, PODS);
    drop(locked);
    for (number, (child, _)) in started.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.success(), number != 4, "{number}: {text}");
        assert_eq!(text.contains("is in the way and is not ours"), number == 4, "{number}: {text}");
    }
    assert_eq!(node.traces(), [format!("link {host}")]);
}

#[test]
fn one_that_is_killed_while_it_waits_is_left_alone() {
    let node = TestNode::new("node", DUAL);
    let pods = attached(&node, PODS);
    let store = node.store();
    let locked = store.lock().unwrap();
    let mut started: Vec<_> = (0..PODS)
        .map(|number| {
            let mut plugin = node.plugin(&[PLUGIN], "DEL", &container(number), &pods[number].0.path);
            netns::run_in(&node.ns.ns, || {
                let mut child = plugin.spawn().unwrap();
                serde_json::to_writer(child.stdin.take().unwrap(), &node.config("1.1.0")).unwrap();
                child
            })
            .unwrap()
        })
        .collect();
    announced(&locked, PODS);
    for child in &mut started[..3] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    announced(&locked, PODS - 3);
    drop(locked);
    started.drain(..3).for_each(drop);
    started.into_iter().for_each(succeeds);
    for (number, (pod, result)) in pods.iter().enumerate().take(3) {
        assert_eq!(node.check(&container(number), pod, result), Ok(Value::Null));
        node.del(&container(number), pod).unwrap();
    }
    assert_eq!(node.traces(), [] as [String; 0]);
}

#[test]
fn nodes_that_share_a_data_directory_do_not_do_each_others_work() {
    let nodes = [TestNode::new("one", V4), TestNode::new("another", V4)];
    let config = nodes[0].config("1.1.0");
    let store = nodes[0].store();
    let pods: Vec<TestNs> = (0..6).map(|_| TestNs::new("pod")).collect();
    let node = |number: usize| &nodes[number % 2];
    for (number, pod) in pods.iter().enumerate() {
        node(number).call("ADD", &container(number), &pod.path, &config).unwrap();
    }
    let locked = store.lock().unwrap();
    let started: Vec<_> = (0..pods.len())
        .map(|number| start(node(number), &container(number), &pods[number], &config))
        .collect();
    announced(&locked, pods.len());
    drop(locked);
    started.into_iter().for_each(|(child, _)| succeeds(child));
    for node in &nodes {
        assert_eq!(node.traces(), [] as [String; 0]);
    }
}

/// Whatever is left of an attachment, in the namespace of the calling thread.
fn left(store: &cni::ipam::Store, id: &AttachmentId) -> Vec<String> {
    let mut left = Vec::new();
    let mut socket = RouteSocket::open().unwrap();
    left.extend(pod::interface(&mut socket, &id.host_link()).unwrap().map(|link| format!("{link:?}")));
    left.extend(store.lock().unwrap().addresses(id).unwrap().iter().map(ToString::to_string));
    let admitted = Guard::open().unwrap().admitted().unwrap();
    left.extend(
        admitted
            .iter()
            .filter(|element| *element.link() == id.host_link())
            .map(|element| format!("{element:?}")),
    );
    left
}

#[test]
fn each_answers_when_its_own_work_is_done_whoever_is_killed() {
    const CROWD: usize = 60;
    let node = TestNode::new("node", DUAL);
    let bystander = TestNs::new("bystander");
    let result = node.add("bystander", &bystander).unwrap();
    let before = node.traces();
    let store = node.store();
    for round in 0..3 {
        let pods = attached(&node, CROWD);
        let barrier = Barrier::new(CROWD);
        let killed: BTreeSet<usize> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..CROWD)
                .map(|number| {
                    let (node, store, pod, barrier) = (&node, &store, &pods[number].0, &barrier);
                    scope.spawn(move || {
                        let _inside = node.ns.ns.enter().unwrap();
                        let mut plugin = node.plugin(&[PLUGIN], "DEL", &container(number), &pod.path);
                        barrier.wait();
                        // Every fourth is struck at a moment of its own, some of them too late.
                        if number % 4 == 0 {
                            let mut child = plugin.spawn().unwrap();
                            let input = node.config("1.1.0").to_string();
                            let _ =
                                std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
                            let until = Instant::now()
                                + Duration::from_micros(700 * (number + round * 13) as u64 % 60_000);
                            while Instant::now() < until {
                                std::thread::yield_now();
                            }
                            child.kill().unwrap();
                            if !child.wait().unwrap().success() {
                                return Some(number);
                            }
                        } else {
                            let output = converse(&mut plugin, &node.config("1.1.0").to_string());
                            common::succeeded("DEL", &output);
                        }
                        assert_eq!(left(store, &id(&container(number))), [] as [String; 0]);
                        None
                    })
                })
                .collect();
            workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect()
        });
        for number in killed {
            node.del(&container(number), &pods[number].0).unwrap();
        }
        assert_eq!(node.traces(), before);
    }
    assert_eq!(node.check("bystander", &bystander, &result), Ok(Value::Null));
}
