//! Pods of the check's own, for a lab that has not the ones that it takes, and the namespace of all that it makes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::conditions::{is_deleted, is_pod_running};
use kube::runtime::wait::{Condition, await_condition};
use model::NodeName;
use serde_json::json;
use tokio::time::timeout;

use super::view::api;
use crate::{Error, Result};

/// The namespace of the check's own pods and services.
pub(super) const NAMESPACE: &str = "cambric-check";

/// How long a pod may take to be ready, or to be gone.
const POD_TIME: Duration = Duration::from_secs(30);
/// The most nodes that get pods, and how many pods each.
const PLACES: (usize, usize) = (5, 2);

/// Makes the namespace of all that the check makes.
///
/// # Errors
/// [`Error::Other`] if the API refuses it.
pub(super) async fn create_namespace(client: &kube::Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = object(json!({"metadata": {"name": NAMESPACE}}))?;
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(drop).map_err(api("make the namespace cambric-check")),
    }
}

/// Makes pods with two echo containers each, and waits until they are ready.
///
/// # Errors
/// [`Error::Other`] if the API refuses one, or one is not ready in time. [`remove`] is to be called in any case.
pub(super) async fn create(client: &kube::Client, nodes: impl Iterator<Item = &NodeName>) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut names = Vec::new();
    for node in nodes.take(PLACES.0) {
        for number in 1..=PLACES.1 {
            let name = format!("probe-{node}-{number}");
            match pods.create(&PostParams::default(), &probe(&name, node)?).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                result => drop(result.map_err(api("make a pod"))?),
            }
            names.push(name);
        }
    }
    for name in names {
        wait(&pods, &name, is_ready, "ready").await?;
    }
    Ok(())
}

/// Removes the pods and their namespace, and waits until the pods are gone.
///
/// # Errors
/// [`Error::Other`] if something stays.
pub(super) async fn remove(client: &kube::Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = pods.list(&Default::default()).await.map_err(api("list the pods of the check"))?;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    for pod in &listed.items {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match pods.delete(name, &now).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result.map_err(api("delete a pod of the check"))?),
        }
    }
    for pod in &listed.items {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        wait(&pods, name, is_deleted(uid), "gone").await?;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.delete(NAMESPACE, &now).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).map_err(api("delete the namespace cambric-check")),
    }
}

fn probe(name: &str, node: &NodeName) -> Result<Pod> {
    let container = |name: &str, port: u16| {
        json!({
            "name": name,
            "image": "echo",
            "ports": [
                {"containerPort": port, "protocol": "TCP"},
                {"containerPort": port, "protocol": "UDP"},
            ],
        })
    };
    object(json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [container("left", 8081), container("right", 8082)],
        },
    }))
}

pub(super) fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::Other(error.to_string()))
}

fn is_ready(pod: Option<&Pod>) -> bool {
    let conditions = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
    is_pod_running().matches_object(pod)
        && conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

async fn wait(pods: &Api<Pod>, name: &str, condition: impl Condition<Pod>, what: &str) -> Result<()> {
    match timeout(POD_TIME, await_condition(pods.clone(), name, condition)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::Other(format!("pod {NAMESPACE}/{name}: {error}"))),
        Err(_) => {
            let seconds = POD_TIME.as_secs();
            Err(Error::Other(format!("pod {NAMESPACE}/{name} is not {what} after {seconds} s")))
        }
    }
}
