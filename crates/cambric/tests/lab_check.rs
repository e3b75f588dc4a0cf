//! `cambric lab check` on real labs: it proves what is so, and notices what is not.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab_common::{CAMBRIC, Lab, succeed};
use serde_json::Value;

/// The verdicts of a check by title, and the whole report.
fn check(lab: &Lab) -> (bool, Vec<(u64, String, String)>, Value) {
    let output = lab.command("check", &["--json"]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {err}"));
    let row = |row: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (row["row"].as_u64().unwrap(), text(&row["title"]), text(&row["verdict"]["is"]))
    };
    let rows = report["rows"].as_array().unwrap().iter().map(row).collect();
    (output.status.success(), rows, report)
}

/// Proves a lab, in the rows that every lab can have; how packets between pods of different nodes were carried, as the
/// report has it.
fn assert_proved(topology: &str, families: usize) -> BTreeSet<String> {
    assert_rows_proved(topology, families, &[])
}

/// The same with more rows. Of those that are not, a lab without routes from BGP has none.
fn assert_rows_proved(topology: &str, families: usize, more: &[u64]) -> BTreeSet<String> {
    let lab = Lab::up(topology);
    let (carried, rows) = assert_lab_proved(&lab, families, more);
    // And again by the fast path: nothing is otherwise.
    let nodes = lab.nodes();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    lab.set_fast_path(&nodes, true);
    assert_eq!(assert_lab_proved(&lab, families, more), (carried.clone(), rows));
    lab.await_hits(&nodes);
    carried
}

/// What was carried how, and the rows with their titles and verdicts.
fn assert_lab_proved(
    lab: &Lab,
    families: usize,
    more: &[u64],
) -> (BTreeSet<String>, Vec<(u64, String, String)>) {
    let (success, rows, report) = check(lab);
    assert!(success, "{:#}", report["rows"]);
    for wanted in (1..=7).chain(more.iter().copied()) {
        let verdicts: Vec<_> = rows.iter().filter(|(row, ..)| *row == wanted).collect();
        assert!(verdicts.iter().all(|(_, _, is)| is == "so"), "{verdicts:?}");
        assert!(!verdicts.is_empty());
    }
    for (row, title, is) in rows.iter().filter(|(row, ..)| [8, 9].contains(row) && !more.contains(row)) {
        assert_eq!(is, "impossible", "{row} {title}");
    }
    let titles: Vec<&str> = rows.iter().map(|(_, title, _)| title.as_str()).collect();
    assert!(titles.contains(&"VXLAN from a stranger"), "{titles:?}");
    assert!(titles.contains(&"IP in IP from a stranger"), "{titles:?}");
    assert!(titles.contains(&"another pod's source"), "{titles:?}");
    for title in
        ["a pod to itself", "traffic policy Local", "no endpoint: refusal", "one client, one endpoint"]
    {
        assert!(titles.contains(&title), "{title} is not in {titles:?}");
    }
    assert_eq!(report["evidence"]["families"].as_array().unwrap().len(), families);
    // What the check made for itself is gone.
    let left = lab.run("kubectl", &["--", "get", "pods,services,endpointslices", "-A", "-o", "name"]);
    assert_eq!(left.trim(), "");
    assert!(!lab.run("kubectl", &["--", "get", "namespaces", "-o", "name"]).contains("cambric-check"));
    assert!(!lab.inside("router", "ip route show proto static").contains("198.18."));
    assert!(!lab.inside("router", "ip -6 route show proto static").contains("2001:2:"));
    let exchanges = report["evidence"]["exchanges"].as_array().unwrap().iter();
    let seen = exchanges.filter(|exchange| exchange["row"] == 3).flat_map(|exchange| {
        let on_wire = exchange["wire"].as_array().unwrap().iter();
        on_wire.map(|sighting| sighting["carried"]["as"].as_str().unwrap().to_owned())
    });
    (seen.collect(), rows)
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_dual_stack_lab_is_proved() {
    assert_eq!(assert_proved("vxlan.yaml", 2), set(&["vxlan"]));
}

#[test]
fn an_ipv4_lab_is_proved() {
    assert_eq!(assert_proved("vxlan-v4.yaml", 1), set(&["vxlan"]));
}

#[test]
fn an_ipv6_lab_is_proved() {
    assert_eq!(assert_proved("vxlan-v6.yaml", 1), set(&["vxlan"]));
}

#[test]
fn a_lab_without_encapsulation_is_proved() {
    assert_eq!(assert_proved("direct-kubernetes.yaml", 2), set(&["plain"]));
}

/// Each exchange was carried as the subnets of its two nodes say, or its row would not be so.
#[test]
fn a_lab_that_encapsulates_across_subnets_only_is_proved() {
    assert_eq!(assert_proved("cross-subnet.yaml", 2), set(&["plain", "vxlan"]));
}

/// Nodes behind a router are reached in IP in IP, and so are those of the same subnet.
#[test]
fn a_lab_with_ip_in_ip_is_proved() {
    assert_eq!(assert_proved("ipip.yaml", 2), set(&["ipip"]));
}

#[test]
fn a_lab_with_ip_in_ip_across_subnets_only_is_proved() {
    assert_eq!(assert_proved("cross-subnet-ipip.yaml", 2), set(&["ipip", "plain"]));
}

#[test]
fn a_lab_whose_routes_come_from_bgp_is_proved() {
    assert_eq!(assert_rows_proved("direct.yaml", 2, &[8]), set(&["plain"]));
}

#[test]
fn a_lab_that_encapsulates_across_subnets_by_bgp_is_proved() {
    assert_eq!(assert_rows_proved("cross-subnet-bgp.yaml", 2, &[9]), set(&["plain", "vxlan"]));
}

/// With an address translation that somebody added, the far end sees another address than the pod's.
#[test]
fn what_somebody_broke_is_noticed() {
    let lab = Lab::up("vxlan.yaml");
    let shown = lab.inside("node-1", "ip -4 -o address show dev cbr0 scope global");
    let gateway = shown.split_ascii_whitespace().nth(3).unwrap().split('/').next().unwrap();
    let rules = format!(
        "add table ip intruder\n\
         add chain ip intruder post {{ type nat hook postrouting priority 50; }}\n\
         add rule ip intruder post oifname \"vxlan.cambric\" snat to {gateway}\n"
    );
    let file = std::env::temp_dir().join(format!("{}.nft", lab.name));
    std::fs::write(&file, rules).unwrap();
    lab.inside("node-1", &format!("nft -f {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    let (success, rows, report) = check(&lab);
    assert!(!success);
    let verdict = |number: u64| rows.iter().find(|(row, ..)| *row == number).unwrap().2.clone();
    assert_eq!(verdict(3), "notSo", "{report:#}");
    assert_eq!([1, 2, 5, 6, 7].map(verdict), ["so"; 5]);
    let text = String::from_utf8(lab.command("check", &[]).output().unwrap().stdout).unwrap();
    assert!(text.contains("FAILED") && text.contains("the far end saw"), "{text}");
    assert!(text.lines().take(14).all(|line| line.chars().count() <= 80), "{text}");
}

/// A node without its agent does not hear of new services, and one whose agent is stopped does not mend what is broken.
#[test]
fn services_that_a_node_does_not_serve_are_noticed() {
    let lab = Lab::up("vxlan-v4.yaml");
    lab.run("kill", &["agent/node-1"]);
    let (success, rows, report) = check(&lab);
    assert!(!success);
    let verdict = |number: u64| rows.iter().find(|(row, ..)| *row == number).unwrap().2.clone();
    assert_eq!([4, 6].map(verdict), ["notSo"; 2], "{report:#}");
    assert_eq!([1, 2, 3, 5, 7].map(verdict), ["so"; 5], "{report:#}");
}

/// Both in one test, for there is only one lab of each of these names.
#[test]
fn the_demonstration_proves_everything_and_leaves_nothing() {
    let plugin = std::env::var("CAMBRIC_CNI")
        .unwrap_or_else(|_| Path::new(CAMBRIC).with_file_name("cambric-cni").display().to_string());
    let mut command = Command::new(CAMBRIC);
    command.args(["lab", "demo", "--plugin", &plugin]);

    let mut interrupted = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(interrupted.stderr.take().unwrap()).lines();
    let waits = lines.find(|line| line.as_ref().unwrap().starts_with("waiting for 9 pods"));
    assert!(waits.is_some(), "the demonstration never waited for its pods");
    interrupt(&interrupted);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(interrupted.wait().unwrap().code(), Some(128 + libc::SIGINT), "{rest:?}");
    assert_no_demo();

    let output = command.output().unwrap();
    let (text, progress) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !text.contains("FAILED"), "{text}{progress}");
    for row in 1..=10 {
        let proved = |line: &str| line.starts_with(&format!("{row:>2}  ")) && line.ends_with("proved");
        assert!(text.lines().any(proved), "row {row}: {text}");
    }
    assert!(progress.contains("All 10 rows of the network model are proved."), "{progress}");
    assert_no_demo();
}

fn assert_no_demo() {
    // Without any lab there is no directory of labs.
    let labs = std::fs::read_dir("/run/cambric-lab").into_iter().flatten();
    let labs = labs.map(|lab| lab.unwrap().file_name().to_string_lossy().into_owned());
    let demos: Vec<String> = labs.filter(|lab| lab.starts_with("demo")).collect();
    assert!(demos.is_empty(), "{demos:?}");
    let namespaces = succeed(Command::new("ip").args(["netns", "list"]));
    assert!(!namespaces.contains("cambric-demo"), "{namespaces}");
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: the child has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
}

#[test]
fn a_capture_reads_through_the_overlay() {
    let lab = Lab::up("vxlan-v4.yaml");
    let capture = lab
        .command("capture", &["node-1", "--link", "eth0", "--count", "4000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (success, ..) = check(&lab);
    assert!(success);
    interrupt(&capture);
    let output = capture.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line.contains("VXLAN, vni 4096: IP 10.244.")), "{text}");
}
