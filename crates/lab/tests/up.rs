//! Labs whose processes do not come up: what is said, and that nothing stays.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process;
use std::sync::{Mutex, PoisonError};

use lab::Error;
use lab::paths::LabName;
use lab::progress::Progress;
use lab::signals::Interrupts;
use lab::up::{Options, Source, up};

/// One at a time: a file that is being written cannot be executed, and a process that another test has just forked may
/// still have it open.
static ONE: Mutex<()> = Mutex::new(());

/// Brings a lab up whose processes all run this script, and checks that nothing of it stays.
fn up_with(name: &str, script: &str) -> Error {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    let executable = directory.path().join("cambric");
    fs::write(&executable, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();
    let name = LabName::new(format!("{name}{}", process::id())).unwrap();
    let options = Options {
        name: name.clone(),
        topology: Source::default(),
        executable: Some(executable.clone()),
        plugin: Some(PathBuf::from("/bin/true")),
    };
    let error = up(&options, &Interrupts::hold().unwrap(), &mut Progress::silent()).unwrap_err();

    assert!(!name.paths().root().exists());
    let left = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name.namespace("")));
    assert_eq!(left.count(), 0);
    let executable = executable.to_string_lossy().into_owned();
    let runs = |pid: &str| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&executable))
    };
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    assert_eq!(pids.filter(|pid| runs(pid)).collect::<Vec<_>>(), Vec::<String>::new());
    error
}

const READY: &str = "echo > /proc/self/fd/$CAMBRIC_READY_FD";

#[test]
fn an_api_server_that_ends_is_told_with_its_log() {
    let error = up_with("a", "echo the port is taken; exit 1").to_string();
    assert_eq!(
        error,
        "the API server ended before the lab was ready; the end of its log:\nthe port is taken"
    );
}

#[test]
fn an_agent_that_ends_while_its_kubelet_waits_is_told() {
    let script = format!(
        "case \"$1 $2\" in 'lab serve') {READY};; 'agent --node-name') echo \"no kernel for $3\"; exit 1;; esac; exec sleep 100"
    );
    let error = up_with("b", &script).to_string();
    assert!(error.starts_with("the agent of node-"), "{error}");
    assert!(
        error.contains("ended before the lab was ready") && error.contains("no kernel for node-"),
        "{error}"
    );
}

#[test]
fn a_kubelet_that_ends_is_told() {
    let script =
        format!("case \"$1 $2\" in 'lab serve') {READY};; 'lab kubelet') exit 3;; esac; exec sleep 100");
    let error = up_with("c", &script).to_string();
    assert!(error.starts_with("the kubelet of node-") && error.contains("(the log is empty)"), "{error}");
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    let options = Options {
        name: LabName::new(format!("d{}", process::id())).unwrap(),
        topology: Source::default(),
        executable: None,
        plugin: Some(PathBuf::from("/nonexistent/cambric-cni")),
    };
    let error = up(&options, &Interrupts::hold().unwrap(), &mut Progress::silent()).unwrap_err().to_string();
    assert!(error.starts_with("there is no CNI plugin at /nonexistent/cambric-cni; build it"), "{error}");
}
