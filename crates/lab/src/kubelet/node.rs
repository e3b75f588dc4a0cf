//! The node itself: whether its network is there, and what the API is told about it.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::cni::NetworkList;
use super::record::now;
use crate::{Error, Result};

/// How often the node's state is looked at and reported without a reason.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How soon a network that is not ready is asked again. There is no event to wait for: the plugin answers only when
/// asked.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Keeps the network of the node and the node's condition `Ready` up to date, for ever.
pub(super) async fn run(shared: &Shared, network: &watch::Sender<Option<Arc<NetworkList>>>) -> Result<()> {
    let mut directory = Directory::watch(&shared.conf)?;
    let mut transition = (None, now());
    loop {
        let (found, verdict) = look(shared).await;
        network.send_if_modified(|current| {
            let changes = *current != found;
            *current = found;
            changes
        });
        let ready = verdict.is_ok();
        if transition.0.replace(ready) != Some(ready) {
            transition.1 = now();
            match &verdict {
                Ok(()) => tracing::info!("the network is ready"),
                Err(why) => tracing::info!(why, "the network is not ready"),
            }
        }
        let reported = report(shared, &verdict, &transition.1).await;
        match &reported {
            Ok(()) if ready => crate::process::ready(),
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "the node's status could not be written"),
        }
        if ready && reported.is_ok() {
            // Whether a change or the time is the reason makes no difference.
            let _ = timeout(HEARTBEAT, directory.changed()).await;
        } else {
            sleep(ASK_AGAIN).await;
        }
    }
}

/// The network if it takes pods, and why the node is not ready if it does not.
async fn look(shared: &Shared) -> (Option<Arc<NetworkList>>, Result<(), String>) {
    let network = match NetworkList::load(&shared.conf) {
        Ok(Some(network)) => network,
        Ok(None) => return (None, Err(format!("no CNI configuration in {}", shared.conf.display()))),
        Err(error) => return (None, Err(error.to_string())),
    };
    match shared.runtime.status(&network).await {
        Ok(()) => (Some(Arc::new(network)), Ok(())),
        Err(error) => (None, Err(error.to_string())),
    }
}

async fn report(shared: &Shared, verdict: &Result<(), String>, since: &str) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let patch = Patch::Strategic(json!({"status": {
        "conditions": [condition(verdict, since)],
        "nodeInfo": {
            "kubeletVersion": concat!("cambric-", env!("CARGO_PKG_VERSION")),
            "containerRuntimeVersion": "cambric://processes",
            "operatingSystem": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "osImage": "network namespace",
            "kernelVersion": nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
        },
    }}));
    nodes.patch_status(&shared.node, &PatchParams::default(), &patch).await.map(drop)
}

fn condition(verdict: &Result<(), String>, since: &str) -> Value {
    let (status, reason, message) = match verdict {
        Ok(()) => ("True", "KubeletReady", "the network takes pods"),
        Err(why) => ("False", "NetworkNotReady", why.as_str()),
    };
    json!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "lastHeartbeatTime": now()})
}

/// A directory whose changes are told.
struct Directory {
    events: AsyncFd<Events>,
}

struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Directory {
    fn watch(path: &Path) -> Result<Self> {
        let failed = |error: nix::Error| Error::system(format!("watch {}", path.display()), error);
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(failed)?;
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(path, flags).map_err(failed)?;
        // SAFETY: the value owns the descriptor, which is open and the same until it is dropped.
        let events = unsafe { AsyncFd::register(Events(inotify)) };
        let events = events.map_err(|error| Error::system("watch a directory", error))?;
        Ok(Self { events })
    }

    /// Waits for a change since the last call.
    async fn changed(&mut self) {
        while let Ok(mut guard) = self.events.readable_mut().await {
            let read = guard.try_io(|events| Ok(events.get_ref().0.read_events()?));
            if read.is_ok() {
                return;
            }
        }
    }
}
