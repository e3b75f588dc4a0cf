//! What a lab's API holds from the beginning: nodes, the ClusterNetwork, BgpPeers, and the definitions of both.

use apiserver::patch::Patch;
use apiserver::{Api, ApiError};
use kube::Resource as _;
use kube_source::{BgpPeer, ClusterNetwork, SINGLETON, crds};
use serde_json::{Value, json};

use crate::topology::{Machine, SUBNET_LABEL, Topology};
use crate::{Error, Result};

/// Puts into the API what a topology has. What is there already keeps what others have changed of it.
pub(super) fn register(api: &Api, topology: &Topology) -> Result<()> {
    let failed =
        |what: &'static str| move |error: ApiError| Error::Other(format!("cannot register {what}: {error}"));
    for definition in crds() {
        let definition = value(&definition)?;
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        ensure(api, "customresourcedefinitions.apiextensions.k8s.io", definition.clone())
            .map_err(failed("the definition of a resource"))?;
        let spec = Patch::Merge(json!({"spec": definition["spec"]}));
        api.patch("customresourcedefinitions.apiextensions.k8s.io", "", &name, &spec)
            .map_err(failed("the definition of a resource"))?;
    }
    let network = json!({
        "apiVersion": ClusterNetwork::api_version(&()),
        "kind": ClusterNetwork::kind(&()),
        "metadata": {"name": SINGLETON},
        "spec": value(&topology.network.spec)?,
    });
    ensure(api, &resource::<ClusterNetwork>(), network).map_err(failed("the ClusterNetwork"))?;
    for (name, spec) in &topology.peers {
        let peer = json!({
            "apiVersion": BgpPeer::api_version(&()),
            "kind": BgpPeer::kind(&()),
            "metadata": {"name": name},
            "spec": value(spec)?,
        });
        ensure(api, &resource::<BgpPeer>(), peer).map_err(failed("a BgpPeer"))?;
    }
    for machine in topology.nodes() {
        let node = node(topology, machine);
        let addresses = Patch::Merge(json!({"status": {"addresses": node["status"]["addresses"]}}));
        ensure(api, "nodes", node).map_err(failed("a node"))?;
        api.patch_status("nodes", "", &machine.name, &addresses).map_err(failed("a node"))?;
    }
    Ok(())
}

fn value(object: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(object).map_err(|error| Error::Other(error.to_string()))
}

/// What the API calls a kind.
fn resource<K: kube::Resource<DynamicType = ()>>() -> String {
    format!("{}.{}", K::plural(&()), K::group(&()))
}

/// Creates an object unless there is one of its name.
fn ensure(api: &Api, resource: &str, object: Value) -> Result<(), ApiError> {
    match api.create(resource, "", object) {
        Err(error) if error.reason != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

fn node(topology: &Topology, machine: &Machine) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": machine.name,
        "kubernetes.io/os": std::env::consts::OS,
        "kubernetes.io/arch": if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" },
    });
    let subnet = machine.interfaces.first().and_then(|uplink| topology.subnets.get(uplink.subnet));
    labels[SUBNET_LABEL] = subnet.map(|subnet| subnet.name.as_str()).into();
    for (key, value) in &machine.labels {
        labels[key.as_str()] = value.clone().into();
    }
    let mut list = Vec::new();
    for (kind, addresses) in [("InternalIP", machine.addresses()), ("ExternalIP", topology.external(machine))]
    {
        list.extend(addresses.iter().map(|address| json!({"type": kind, "address": address})));
    }
    list.push(json!({"type": "Hostname", "address": machine.name}));
    let room = json!({"pods": "250", "cpu": "2", "memory": "4Gi"});
    json!({
        "metadata": {"name": machine.name, "labels": labels},
        "spec": {},
        "status": {"addresses": list, "capacity": room, "allocatable": room},
    })
}
