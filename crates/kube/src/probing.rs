//! Probes, asked for and answered over the API.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use model::Pod;
use serde_json::json;

use crate::pod::PodLite;
use crate::probe::{Probe, ProbeReport, ProbeSpec};
use crate::source::{PAGE, chain, config};

/// The API does not do what is asked of a probe.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The user has not the right.
    #[error(
        "the API refuses to {what}: {message}; it takes the rights of the ClusterRole cambric-trace (deploy/daemonset.yaml)"
    )]
    Forbidden {
        /// What was asked for.
        what: &'static str,
        /// What the API says.
        message: String,
    },
    /// The cluster does not know probes.
    #[error(
        "the cluster has no resource probes.cambric.io; bring it up to date: cambric crd | kubectl apply -f -"
    )]
    Undefined,
    /// Anything else.
    #[error("cannot {what}: {message}")]
    Other {
        /// What was asked for.
        what: &'static str,
        /// What the API or the connection says.
        message: String,
    },
}

fn failed(what: &'static str) -> impl Fn(kube::Error) -> ProbeError {
    move |error| match &error {
        kube::Error::Api(status) if status.code == 401 || status.code == 403 => {
            ProbeError::Forbidden { what, message: status.message.clone() }
        }
        kube::Error::Api(status) if status.code == 404 && what == "create a Probe" => ProbeError::Undefined,
        error => ProbeError::Other { what, message: chain(error) },
    }
}

/// Makes a probe, under a name that the API chooses.
///
/// # Errors
/// [`ProbeError`].
pub async fn create_probe(client: &Client, spec: ProbeSpec) -> Result<Probe, ProbeError> {
    let metadata = ObjectMeta { generate_name: Some("trace-".to_owned()), ..ObjectMeta::default() };
    let probe = Probe { metadata, spec, status: None };
    let probes = Api::<Probe>::all(client.clone());
    probes.create(&PostParams::default(), &probe).await.map_err(failed("create a Probe"))
}

/// Deletes a probe. One that is gone already is no error.
///
/// # Errors
/// [`ProbeError`].
pub async fn delete_probe(client: &Client, probe: &Probe) -> Result<(), ProbeError> {
    let this = Preconditions { uid: probe.uid(), ..Preconditions::default() };
    let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    match Api::<Probe>::all(client.clone()).delete(&probe.name_any(), &params).await {
        // A conflict is another of the same name.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        result => result.map(drop).map_err(failed("delete the Probe")),
    }
}

/// A probe as it changes; `None` when it is gone.
pub fn follow_probe(
    client: &Client,
    probe: &Probe,
) -> impl Stream<Item = Result<Option<Probe>, ProbeError>> + use<> {
    let watched = watcher::watch_object(Api::<Probe>::all(client.clone()), &probe.name_any());
    watched.map(|item| {
        item.map_err(|error| match error {
            watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
                failed("watch the Probe")(error)
            }
            error => ProbeError::Other { what: "watch the Probe", message: chain(&error) },
        })
    })
}

/// All probes of the cluster, for as long as it is polled; what fails is tried again with a growing delay.
pub fn watch_probes(client: &Client) -> impl Stream<Item = Result<watcher::Event<Probe>, String>> + use<> {
    let watched = watcher(Api::<Probe>::all(client.clone()), config(PAGE)).default_backoff();
    watched.map(|item| item.map_err(|error| chain(&error)))
}

/// Writes what a node says of a probe, and nothing of what others say. If the probe is gone nobody waits for it, and that
/// is no error.
///
/// # Errors
/// [`ProbeError`].
pub async fn report_probe(client: &Client, probe: &Probe, report: &ProbeReport) -> Result<(), ProbeError> {
    let patch = json!({
        "apiVersion": Probe::api_version(&()),
        "kind": Probe::kind(&()),
        "metadata": {"name": probe.name_any(), "uid": probe.uid()},
        "status": {"nodes": [report]},
    });
    let params = PatchParams::apply(&format!("cambric-{}", report.node)).force();
    let probes = Api::<Probe>::all(client.clone());
    match probes.patch_status(&probe.name_any(), &params, &Patch::Apply(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).map_err(failed("write the status of the Probe")),
    }
}

/// The pod of a name, if it has an address.
///
/// # Errors
/// [`ProbeError`].
pub async fn find_pod(client: &Client, namespace: &str, name: &str) -> Result<Option<Pod>, ProbeError> {
    let pods = Api::<PodLite>::namespaced(client.clone(), namespace);
    Ok(pods.get_opt(name).await.map_err(failed("look up a Pod"))?.and_then(|pod| pod.read()))
}

/// How long ago a probe was made, by this machine's clock; nothing if that is in the future.
pub fn probe_age(probe: &Probe) -> Duration {
    let Some(made) = probe.meta().creation_timestamp.as_ref() else { return Duration::ZERO };
    Duration::try_from(Timestamp::now().duration_since(made.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> kube::Error {
        let status = json!({"status": "Failure", "code": code, "message": message, "reason": "x"});
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn who_may_not_is_told_which_rights_it_takes() {
        let message = "probes.cambric.io is forbidden: User \"eve\" cannot create resource \"probes\"";
        let error = failed("create a Probe")(refused(403, message)).to_string();
        assert!(error.contains(message) && error.contains("ClusterRole cambric-trace"), "{error}");
        let error = failed("create a Probe")(refused(404, "the server could not find it")).to_string();
        assert!(error.contains("cambric crd | kubectl apply"), "{error}");
        let error = failed("watch the Probe")(refused(500, "boom")).to_string();
        assert!(error.starts_with("cannot watch the Probe: ") && error.contains("boom"), "{error}");
    }
}
