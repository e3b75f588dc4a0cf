//! One container: started, probed, started again, stopped.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::container::{Given, Program, plan};
use super::pod::{Live, until};
use super::probe::Readiness;
use super::process::{Place, Process};
use super::record::{ContainerState, Ended, now};
use super::sandbox;
use super::status::restarts;

/// How long to wait before a container is started again: at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A container that lived so long is started again as if for the first time.
const LIVED: Duration = Duration::from_secs(60);
/// The exit code of a container that could not be started (as `sh` has it).
const NOT_STARTED: i32 = 127;
/// The exit code of a container whose end nobody saw.
const UNSEEN: i32 = 137;

/// What the pod has the container for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Has to succeed before others are started.
    Init,
    /// Runs beside the others.
    Sidecar,
    /// One of the pod's containers.
    Main,
}

/// How one life of a container ended.
enum End {
    /// By itself, with the exit code.
    Code(i32),
    /// The pod has to stop.
    Stopped,
}

/// Runs a container until it has ended for good or the pod has to stop; whether it has succeeded.
pub(super) async fn supervise(
    live: Arc<Live>,
    pod: Arc<Pod>,
    container: Container,
    kind: Kind,
    given: Arc<Given>,
) -> bool {
    let name = container.name.clone();
    let mut delay = BACK_OFF.0;
    loop {
        let before = live.record().container(&name).state;
        if let ContainerState::Ended(Ended { code, .. }) = before {
            return code == 0;
        }
        let begun = Instant::now();
        let since = match before {
            ContainerState::Running { since, .. } => since,
            _ => now(),
        };
        let end = one_life(&live, &pod, &container, kind, &given, &since).await;
        let stopped = matches!(end, End::Stopped);
        let code = match end {
            End::Code(code) => code,
            End::Stopped => 128 + libc::SIGTERM,
        };
        let again = !stopped
            && match kind {
                Kind::Main => restarts(&pod, code),
                Kind::Init => code != 0 && restarts(&pod, code),
                Kind::Sidecar => true,
            };
        let ended = Ended { code, started: since, finished: now() };
        live.update(|record| {
            let record = record.containers.entry(name.clone()).or_default();
            record.ready = false;
            if again {
                let message = format!("started again in {} s", delay.as_secs());
                record.state = ContainerState::Waiting { reason: "CrashLoopBackOff".into(), message };
                record.last = Some(ended);
                record.restarts += 1;
            } else {
                record.state = ContainerState::Ended(ended);
            }
        });
        if !again {
            return code == 0;
        }
        if begun.elapsed() > LIVED {
            delay = BACK_OFF.0;
        }
        if !live.pause(delay).await {
            return false;
        }
        delay = (delay * 2).min(BACK_OFF.1);
    }
}

async fn one_life(
    live: &Live,
    pod: &Pod,
    container: &Container,
    kind: Kind,
    given: &Given,
    since: &str,
) -> End {
    let recorded = live.record().process(&container.name);
    let mut process = match recorded {
        Some(id) => match Process::hold(id) {
            Ok(Some(process)) => process,
            _ => return End::Code(UNSEEN),
        },
        None => match start(live, pod, container, kind, given) {
            Ok(Some(process)) => process,
            Ok(None) => return End::Code(0),
            Err(error) => {
                let record = live.record();
                tracing::warn!(%error, pod = record.name, container = container.name, "cannot be started");
                return End::Code(NOT_STARTED);
            }
        },
    };
    let set_ready = |ready| {
        live.update(|record| record.containers.entry(container.name.clone()).or_default().ready = ready);
    };
    if recorded.is_none() {
        let (process, since) = (process.id, since.to_owned());
        live.update(|record| {
            let record = record.containers.entry(container.name.clone()).or_default();
            (record.state, record.ready) = (ContainerState::Running { process, since }, false);
        });
    }
    let pod_ip = given.pod_ips.first().map_or("127.0.0.1", String::as_str);
    let probe = Readiness::of(container, pod_ip);
    let serving = process.serving();
    let readiness = async {
        serving.await;
        match probe {
            Some(probe) => probe.watch(set_ready).await,
            None => set_ready(true),
        }
        std::future::pending::<()>().await;
    };
    let end = async {
        tokio::select! {
            code = process.ended() => return End::Code(code),
            _ = live.stopped() => {}
        }
        stop(live, container, &mut process).await;
        End::Stopped
    };
    // A container that is being stopped serves for as long as it runs, and may become unready.
    tokio::select! {
        end = end => end,
        () = readiness => End::Stopped,
    }
}

fn start(
    live: &Live,
    pod: &Pod,
    container: &Container,
    kind: Kind,
    given: &Given,
) -> crate::Result<Option<Process>> {
    let plan = plan(pod, container, kind == Kind::Init, given);
    if plan.program == Program::Nothing {
        return Ok(None);
    }
    let (uid, netns) = {
        let record = live.record();
        (record.uid.clone(), record.sandbox.as_ref().map(|sandbox| sandbox.attachment.netns.clone()))
    };
    let namespace = match &netns {
        Some(path) => Some(sandbox::open(path).ok_or_else(|| {
            crate::Error::Other(format!("the pod's network namespace {} is gone", path.display()))
        })?),
        None => None,
    };
    let place = Place {
        executable: &live.shared.executable,
        log: &live.shared.logs.join(uid).join(format!("{}.log", container.name)),
        namespace: namespace.as_ref(),
    };
    Process::start(&plan, &place)
}

/// SIGTERM, after the wait that `preStop` asks for, and SIGKILL when the time is over.
async fn stop(live: &Live, container: &Container, process: &mut Process) {
    let over = until(live.stop.subscribe());
    tokio::pin!(over);
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let seconds =
        hook.and_then(|hook| hook.sleep.as_ref()).and_then(|sleep| u64::try_from(sleep.seconds).ok());
    if let Some(seconds) = seconds {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            () = &mut over => {}
            _ = process.ended() => return,
        }
    }
    process.signal(libc::SIGTERM);
    tokio::select! {
        _ = process.ended() => return,
        () = over => {}
    }
    process.signal(libc::SIGKILL);
    process.ended().await;
}
