//! The agent's process, and what can be seen of it from outside.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use kernel::Kernel;
use serde_json::Value;

use crate::{PATIENCE, cluster, report};

/// How often the agent starts on a node that has nothing yet. The quickest start counts: others' work on the machine
/// blurs the clock.
const STARTS: usize = 3;
/// What the agent says when the node is as planned.
const COMPARED: &str = "compared the kernel with the plan for the first time";

/// How agents are started.
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a Path,
    pub(crate) kubeconfig: &'a Path,
    /// Where each has a directory of its own.
    pub(crate) directory: &'a Path,
    pub(crate) sync_period: &'static str,
}

impl Setup<'_> {
    /// Starts the agent where nothing of ours is, some times over: the last one, and how long it took to plan and apply
    /// when it was quickest.
    pub(crate) fn start_from_nothing(&self) -> (Agent, Duration) {
        let mut best = Duration::MAX;
        for start in 1.. {
            // Not the directory of the agent before, or this one would know what it knew.
            let directory = tempfile::tempdir_in(self.directory).unwrap().keep();
            let pins = directory.join("--run-dir/bpf");
            let agent = self.start(directory);
            best = best.min(agent.follow_start("from nothing"));
            if start == STARTS {
                return (agent, best);
            }
            drop(agent);
            let mut kernel = Kernel::open().unwrap();
            kernel.pin_in(&pins);
            let outcome = kernel.cleanup().unwrap();
            assert!(outcome.tunnel.is_none(), "{outcome}");
            assert!(outcome.failures.is_empty(), "{}", outcome.failures[0]);
            assert!(outcome.services.is_none(), "{outcome}");
        }
        unreachable!("the last start returns");
    }

    /// Starts the agent in this directory, which may be that of one before.
    pub(crate) fn start(&self, directory: PathBuf) -> Agent {
        let started = Instant::now();
        let mut command = Command::new(self.program);
        command.args(["agent", "--node-name", &cluster::name(0), "--log-format", "json"]);
        command.args(["--sync-period", self.sync_period]).arg("--kubeconfig").arg(self.kubeconfig);
        for option in ["--run-dir", "--cni-conf-dir", "--cni-data-dir"] {
            let path = directory.join(option);
            fs::create_dir_all(&path).unwrap();
            command.arg(option).arg(path);
        }
        let mut process = command.env_remove("RUST_LOG").stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| sender.send((Instant::now(), line)))
        });
        Agent { process, log, started, directory }
    }
}

/// The agent's process, ended when dropped, and what it says with the time at which it did.
pub(crate) struct Agent {
    process: Child,
    log: Receiver<(Instant, String)>,
    started: Instant,
    pub(crate) directory: PathBuf,
}

impl Agent {
    /// Waits until the node is as planned; how long it took to plan and apply.
    pub(crate) fn follow_start(&self, note: &str) -> Duration {
        let (listed, _) = self.says("the API has listed all objects");
        let before = self.processor_time();
        let (compared, line) = self.says(COMPARED);
        let processor = self.processor_time() - before;
        self.says("ready");
        report("start to list", listed - self.started, "over TLS, in pages");
        let time = compared - listed;
        report("plan and apply", time, &format!("{note}; {processor:?} of processor time"));
        report("start to end", compared - self.started, &format!("entries: {}", line["entries"]));
        self.memory("after the start");
        time
    }

    /// Waits until the agent says this; when it did, and what else.
    pub(crate) fn says(&self, message: &str) -> (Instant, Value) {
        loop {
            let (at, line) = self.log.recv_timeout(PATIENCE).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            sound(&line);
            if line["message"] == message {
                return (at, line);
            }
        }
    }

    /// Passes over what it has said up to now.
    pub(crate) fn forget(&self) {
        self.log.try_iter().for_each(|(_, line)| sound(&serde_json::from_str(&line).unwrap()));
    }

    /// The processor time that its threads have used (`/proc/PID/task/TID/schedstat`, in nanoseconds).
    pub(crate) fn processor_time(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let time = |thread: PathBuf| -> u64 {
            let text = fs::read_to_string(thread.join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        Duration::from_nanos(threads.map(|thread| time(thread.unwrap().path())).sum())
    }

    /// What the kernel says of the process' memory (proc_pid_status(5)), in KiB.
    pub(crate) fn status(&self) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let number = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.strip_suffix(" kB")?.trim().parse().ok()?))
        };
        text.lines().filter_map(number).collect()
    }

    /// Prints how much memory it has; the most that it has had, in KiB.
    pub(crate) fn memory(&self, when: &str) -> u64 {
        let status = self.status();
        println!(
            "{:<20} {:>9} KiB {when} (most: {} KiB; {} KiB of it are the program's)",
            "memory", status["VmRSS"], status["VmHWM"], status["RssFile"]
        );
        status["VmHWM"]
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Nothing may go wrong while something is measured.
fn sound(line: &Value) {
    assert!(!["ERROR", "WARN"].iter().any(|level| line["level"] == **level), "{line}");
}
