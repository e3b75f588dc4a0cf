//! The cluster: the API, its network and its nodes.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use apiserver::patch::Patch;
use apiserver::{Api, Config, Server};
use serde_json::{Value, json};

/// The namespace is this program's own, so the port is free.
const API: &str = "127.0.0.1:6443";

/// Serves the API of a cluster with so many nodes; the API from inside, and how clients reach it.
pub(crate) fn serve(directory: &Path, nodes: u32) -> (Api, PathBuf) {
    let server = Server::open(Config::new(directory.join("api"))).unwrap();
    let kubeconfig = directory.join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig(&format!("https://{API}"))).unwrap();
    let api = server.api().clone();
    populate(&api, nodes);
    let listener = TcpListener::bind(API).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.serve(vec![listener], std::future::pending())).unwrap();
    });
    (api, kubeconfig)
}

fn populate(api: &Api, nodes: u32) {
    for crd in kube_source::crds() {
        let crd = serde_json::to_value(crd).unwrap();
        api.create("customresourcedefinitions.apiextensions.k8s.io", "", crd).unwrap();
    }
    let network = json!({
        "apiVersion": "cambric.io/v1alpha1", "kind": "ClusterNetwork", "metadata": {"name": "default"},
        "spec": {"podRanges": ["10.128.0.0/9", "fd00:10::/32"], "serviceRanges": ["10.96.0.0/12"]},
    });
    api.create("clusternetworks.cambric.io", "", network).unwrap();
    for number in 0..nodes {
        register(api, number);
        give_addresses(api, number);
    }
}

pub(crate) fn name(number: u32) -> String {
    format!("node-{number}")
}

/// Makes a node as it is before its kubelet has said where it is.
pub(crate) fn register(api: &Api, number: u32) {
    let (high, low) = (number / 256, number % 256);
    let ranges = [format!("10.{}.{low}.0/24", 128 + high), format!("fd00:10:{high:x}:{low:x}::/64")];
    let labels: BTreeMap<String, String> =
        (0..10).map(|label| (format!("example.com/label-{label}"), format!("value-{label}"))).collect();
    let metadata = json!({"name": name(number), "labels": labels});
    let node = json!({"metadata": metadata, "spec": {"podCIDR": ranges[0], "podCIDRs": ranges}});
    api.create("nodes", "", node).unwrap();
}

/// Says where a node is, with all else that a kubelet says.
pub(crate) fn give_addresses(api: &Api, number: u32) {
    let (high, low) = (number / 250, number % 250 + 1);
    let addresses = [format!("172.16.{high}.{low}"), format!("2001:db8::{high:x}:{low:x}")];
    let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
    let image = |image| {
        let name = format!("registry.example.com/team/image-{image}");
        json!({"names": [format!("{name}@sha256:{image:064x}"), format!("{name}:v1")], "sizeBytes": 123_456_789})
    };
    let images: Vec<Value> = (0..50).map(image).collect();
    let condition = |kind| {
        json!({"type": kind, "status": "False", "lastHeartbeatTime": "2030-01-01T00:00:00Z",
            "reason": format!("KubeletHasNo{kind}"), "message": format!("kubelet has no {kind}")})
    };
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(condition);
    let status = json!({"addresses": addresses, "images": images, "conditions": conditions});
    api.patch_status("nodes", "", &name(number), &Patch::Merge(json!({"status": status}))).unwrap();
}
