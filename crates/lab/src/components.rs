//! The processes of a lab by what they do: starting and ending them.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use kernel::netns::NetNs;
use nix::poll::{PollFd, PollFlags, poll};

use crate::fabric::namespace_path;
use crate::paths::AGENT_PORT;
use crate::process::{Launch, Launched, until, wait_ended};
use crate::signals::Interrupts;
use crate::state::{Lab, Process, ProcessRole};
use crate::{Error, Result};

/// How long a process may take until it is ready.
const READY_TIME: Duration = Duration::from_secs(60);
/// How long a process may take to end after SIGTERM before it is killed.
const TERM_TIME: Duration = Duration::from_secs(10);
/// How long a process may take to end after SIGKILL: it may have to wait for a disk.
pub(crate) const KILL_TIME: Duration = Duration::from_secs(30);
/// How much of a log is shown with an error, in lines.
const LOG_LINES: usize = 20;

/// A process as it is named on the command line: `api`, `agent/NODE`, `kubelet/NODE` or `bgp/ROUTER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub ProcessRole);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            None if text == "api" => Ok(Target(ProcessRole::Api)),
            Some(("agent", node)) if !node.is_empty() => Ok(Target(ProcessRole::Agent(node.to_owned()))),
            Some(("kubelet", node)) if !node.is_empty() => Ok(Target(ProcessRole::Kubelet(node.to_owned()))),
            Some(("bgp", router)) if !router.is_empty() => {
                Ok(Target(ProcessRole::Speaker(router.to_owned())))
            }
            _ => Err("use api, agent/NODE, kubelet/NODE or bgp/ROUTER".to_owned()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ProcessRole::Api => f.write_str("api"),
            ProcessRole::Agent(node) => write!(f, "agent/{node}"),
            ProcessRole::Kubelet(node) => write!(f, "kubelet/{node}"),
            ProcessRole::Speaker(router) => write!(f, "bgp/{router}"),
        }
    }
}

/// Starts a process of the lab. The record has it before it runs.
///
/// # Errors
/// [`Error::Run`] if it cannot be started, [`Error::Kernel`] if its machine's namespace is gone.
pub fn start(lab: &mut Lab, role: &ProcessRole) -> Result<Launched> {
    let executable = lab.state().executable.clone();
    let (arguments, machine, log) = match role {
        ProcessRole::Api => (texts(["lab", "serve", "--name", lab.name.as_str()]), None, lab.paths.api_log()),
        ProcessRole::Agent(node) => {
            (agent_arguments(lab, node), Some(node), lab.paths.node(node).agent_log())
        }
        ProcessRole::Kubelet(node) => {
            let arguments = texts(["lab", "kubelet", "--name", lab.name.as_str(), "--node", node]);
            (arguments, Some(node), lab.paths.node(node).kubelet_log())
        }
        ProcessRole::Speaker(router) => {
            let arguments = texts(["lab", "speaker", "--name", lab.name.as_str(), "--router", router]);
            (arguments, Some(router), lab.paths.speaker_log(router))
        }
    };
    let namespace = match machine {
        Some(machine) => {
            let path = namespace_path(&lab.name.namespace(machine));
            Some(NetNs::open(path).map_err(Error::kernel(machine))?)
        }
        None => None,
    };
    let launch = Launch {
        what: role.to_string(),
        program: &executable,
        arguments,
        namespace: namespace.as_ref(),
        log,
    };
    launch.start(|id| {
        lab.record(|state| match state.processes.iter_mut().find(|process| process.role == *role) {
            Some(process) => process.id = id,
            None => state.processes.push(Process { role: role.clone(), id }),
        })
    })
}

fn agent_arguments(lab: &Lab, node: &str) -> Vec<OsString> {
    let paths = lab.paths.node(node);
    let mut arguments = texts(["agent", "--node-name", node]);
    for (option, value) in [
        ("--kubeconfig", paths.kubeconfig().into_os_string()),
        ("--run-dir", paths.run().into_os_string()),
        ("--cni-conf-dir", paths.cni_conf().into_os_string()),
        ("--cni-data-dir", paths.cni_data().into_os_string()),
        ("--listen", format!("127.0.0.1:{AGENT_PORT}").into()),
    ] {
        arguments.extend([option.into(), value]);
    }
    arguments
}

fn texts<const N: usize>(arguments: [&str; N]) -> Vec<OsString> {
    arguments.into_iter().map(OsString::from).collect()
}

/// Ends a process of the lab, if it runs, and waits until it has ended. With SIGTERM it is killed if it takes too
/// long.
///
/// # Errors
/// [`Error::System`] if it does not even end when it is killed.
pub fn stop(lab: &Lab, role: &ProcessRole, signal: i32) -> Result<()> {
    let Some(process) = lab.state().process(role) else { return Ok(()) };
    let Some(held) = process.id.hold()? else { return Ok(()) };
    let held = [held];
    held.iter().try_for_each(|process| process.signal(signal))?;
    if wait_ended(&held, TERM_TIME)? {
        return Ok(());
    }
    held.iter().try_for_each(|process| process.signal(libc::SIGKILL))?;
    match wait_ended(&held, KILL_TIME)? {
        true => Ok(()),
        false => {
            Err(Error::system(format!("end the {role}"), std::io::Error::from(std::io::ErrorKind::TimedOut)))
        }
    }
}

/// Waits until all of `waited` have said that they are ready, while none of `others` ends. `progress` is told what is
/// still waited for.
///
/// # Errors
/// [`Error::Ended`] with the end of its log for a process that ended, [`Error::NotReady`] if it takes too long,
/// [`Error::Interrupted`].
pub fn wait_ready(
    waited: Vec<Launched>,
    others: &[Launched],
    interrupts: &Interrupts,
    mut progress: impl FnMut(&[Launched]),
) -> Result<()> {
    let deadline = Instant::now() + READY_TIME;
    let mut open = waited;
    let mut done: Vec<Launched> = Vec::new();
    while let Some(first) = open.first() {
        progress(&open);
        let mut fds = vec![PollFd::new(std::os::fd::AsFd::as_fd(interrupts), PollFlags::POLLIN)];
        let all = open.iter().chain(&done).chain(others);
        fds.extend(all.map(|one| PollFd::new(std::os::fd::AsFd::as_fd(one.process()), PollFlags::POLLIN)));
        fds.extend(open.iter().map(|one| PollFd::new(one.readiness(), PollFlags::POLLIN)));
        match poll(&mut fds, until(deadline)) {
            Ok(0) => {
                let seconds = READY_TIME.as_secs();
                return Err(Error::NotReady { process: first.what.clone(), seconds, log: log_end(first) });
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(Error::system("wait for the lab's processes", error)),
        }
        let pipes = fds.len() - open.len();
        let readable: Vec<bool> =
            fds.iter().skip(pipes).map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        drop(fds);
        interrupts.check()?;
        if let Some(ended) = open.iter().chain(&done).chain(others).find(|one| one.process().ended()) {
            return Err(ended_early(ended));
        }
        let mut readable = readable.into_iter();
        let mut still = Vec::new();
        for mut one in open {
            match readable.next() {
                Some(true) if one.said_ready() => done.push(one),
                Some(true) => return Err(ended_early(&one)),
                _ => still.push(one),
            }
        }
        open = still;
    }
    Ok(())
}

fn ended_early(process: &Launched) -> Error {
    Error::Ended { process: process.what.clone(), log: log_end(process) }
}

fn log_end(process: &Launched) -> String {
    let text = match std::fs::read(&process.log) {
        Ok(text) => text,
        Err(error) => return format!("(cannot read {}: {error})", process.log.display()),
    };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    match lines.get(lines.len().saturating_sub(LOG_LINES)..) {
        None | Some([]) => "(the log is empty)".to_owned(),
        Some(last) => last.join("\n"),
    }
}
