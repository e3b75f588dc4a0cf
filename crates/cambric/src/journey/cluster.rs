//! A trace on a cluster: what the API holds, and with `--live` what the nodes' agents send and see.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::StreamExt;
use kube_source::{Probe, ProbeSpec, ProbeStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use trace::journey::{Journey, Query, Scene};
use trace::live::{Comparison, compare};

use super::ask::{self, Progress};

/// How long the agents may take for all of it: less than those look that wait for another, which would then be the one to
/// name.
const PATIENCE: Duration = Duration::from_secs(10);

/// The journey that a question leads to, and with `live` what was seen of it.
pub(super) fn trace(
    kubeconfig: Option<&std::path::Path>,
    live: bool,
    query: impl FnOnce(&Scene) -> Result<Query>,
) -> Result<(Journey, Option<Comparison>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = kube_source::client(kubeconfig).await?;
        let snapshot = kube_source::snapshot(&client).await.context("the Kubernetes API")?;
        for refused in &snapshot.refused {
            eprintln!("cambric: left out {}: {}", refused.object, refused.reason);
        }
        let mut scene = Scene::assumed(snapshot.cluster, snapshot.pods);
        let query = query(&scene)?;
        let journey = scene.journey(&query)?;
        if !live {
            return Ok((journey, None));
        }
        let spec = ask::spec(&scene, &journey).map_err(|reason| anyhow!(reason))?;
        let status = probed(&client, &spec).await?;
        // Once more, now that the nodes have told their links.
        scene.learn(ask::links(&status));
        let journey = scene.journey(&query)?;
        let transport = journey.packet.transport().context("this protocol cannot be sent")?;
        let comparison = compare(&journey, &ask::observation(transport, &status));
        Ok((journey, Some(comparison)))
    })
}

/// Has a packet sent, and waits for all that the agents say of it. The probe is deleted in any case.
async fn probed(client: &kube::Client, spec: &ProbeSpec) -> Result<ProbeStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let probe = kube_source::create_probe(client, spec.clone()).await?;
    let answered = tokio::select! {
        answered = answers(client, &probe) => answered,
        _ = interrupt.recv() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("interrupted")),
    };
    let deleted = kube_source::delete_probe(client, &probe).await;
    let status = answered?;
    deleted?;
    Ok(status)
}

async fn answers(client: &kube::Client, probe: &Probe) -> Result<ProbeStatus> {
    let mut status = ProbeStatus::default();
    let waiting = async {
        let mut changes = pin!(kube_source::follow_probe(client, probe));
        while let Some(change) = changes.next().await {
            let Some(probe) = change? else {
                bail!(
                    "somebody has deleted the Probe; an agent does if its clock is a minute ahead (cambric doctor there)"
                )
            };
            status = probe.status.unwrap_or_default();
            match ask::progress(&probe.spec, &status) {
                Progress::Waiting(_) => {}
                Progress::Refused(reason) => bail!(reason),
                Progress::Done => return Ok(()),
            }
        }
        bail!("the watch of the Probe has ended by itself")
    };
    match timeout(PATIENCE, waiting).await {
        Ok(result) => result.map(|()| status),
        Err(_) => Err(late(&probe.spec, &status)),
    }
}

fn late(spec: &ProbeSpec, status: &ProbeStatus) -> anyhow::Error {
    let silent = ask::silent(spec, status);
    let who = match (silent.is_empty(), ask::progress(spec, status)) {
        (false, _) => silent.join(", "),
        (true, Progress::Waiting(nodes)) => nodes.join(", "),
        (true, _) => "any node".to_owned(),
    };
    anyhow!(
        "no answer of the agent of {who} within {} seconds; does it run there (cambric status), and may it watch probes \
         (deploy/daemonset.yaml)?",
        PATIENCE.as_secs()
    )
}
