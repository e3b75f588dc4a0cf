//! The controllers: news come in, decisions are made from all that is known, writes go out.
//!
//! One loop for all of them. What a write answers is known before the next decision, so no decision is made twice;
//! what a write fails with is looked at again.

use std::collections::BTreeSet;
use std::time::Duration;

use apiserver::api::{DeleteOptions, ListOptions, WatchEvent, WatchOptions};
use apiserver::patch::Patch;
use apiserver::{Api, ApiError};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::balancer::balance;
use super::deployment::deployment;
use super::endpoints::endpoint_slices;
use super::object::{Write, is_active, is_deleting, list, name, namespace, text};
use super::replicas::{daemon_set, replica_set};
use super::schedule::{node_for, unschedulable};
use super::world::{Key, Resource, Task, World};

/// How soon what failed is looked at again.
const AGAIN: Duration = Duration::from_millis(500);
/// How many news may wait to be taken.
const WAITING: usize = 1024;

/// Something new in the cluster.
enum News {
    /// All objects of a resource.
    List(Resource, Vec<Value>),
    /// One of them.
    Event(Resource, WatchEvent),
}

/// The label with the zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Runs the controllers, for ever. Load-balanced services get addresses of `balanced`.
pub(super) async fn run(api: Api, balanced: Vec<IpNet>) {
    let (sender, mut news) = mpsc::channel(WAITING);
    let mut watches = JoinSet::new();
    for resource in Resource::ALL {
        watches.spawn(watch(api.clone(), resource, sender.clone()));
    }
    drop(sender);
    let mut world = World::default();
    let mut unlisted = BTreeSet::from(Resource::ALL);
    let mut failed = BTreeSet::new();
    loop {
        let first = tokio::select! {
            first = news.recv() => first,
            () = tokio::time::sleep(AGAIN), if !failed.is_empty() => {
                world.due.append(&mut failed);
                None
            }
        };
        // Everything that is known is taken before anything is decided.
        for one in first.into_iter().chain(std::iter::from_fn(|| news.try_recv().ok())) {
            match one {
                News::List(resource, items) => {
                    unlisted.remove(&resource);
                    world.list(resource, items);
                }
                News::Event(resource, WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    world.changed(resource, object);
                }
                News::Event(resource, WatchEvent::Deleted(object)) => world.removed(resource, &object),
            }
        }
        // With a part of the cluster still unknown, too much would seem to be missing.
        if !unlisted.is_empty() {
            continue;
        }
        while let Some(task) = world.due.pop_first() {
            let writes = decide(&world, &task, &balanced);
            if !carry_out(&api, &mut world, writes) {
                failed.insert(task);
            }
        }
    }
}

/// Reports a resource: all of it, and then every change; all of it again if changes were missed.
async fn watch(api: Api, resource: Resource, news: mpsc::Sender<News>) {
    loop {
        let since = match api.list(resource.name(), &ListOptions::default()) {
            Ok(listed) => {
                if news.send(News::List(resource, listed.items)).await.is_err() {
                    return;
                }
                listed.revision
            }
            Err(error) => {
                tracing::error!(%error, resource = resource.name(), "cannot be listed; trying again");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let options = WatchOptions { since: Some(since), ..Default::default() };
        let Ok(mut watcher) = api.watch(resource.name(), &options) else { continue };
        while let Ok(event) = watcher.next().await {
            if news.send(News::Event(resource, event)).await.is_err() {
                return;
            }
        }
    }
}

/// What is to be written. Pure.
fn decide(world: &World, task: &Task, balanced: &[IpNet]) -> Vec<Write> {
    let (resource, key) = match task {
        Task::Pod(key) => return pod(world, key),
        Task::Object(resource, key) => (*resource, key),
    };
    let Some(object) = world.object(resource, key) else { return Vec::new() };
    let own = namespace(object);
    match resource {
        Resource::Deployments => deployment(object, world.within(Resource::ReplicaSets, own), &now()),
        Resource::ReplicaSets => replica_set(object, world.within(Resource::Pods, own)),
        Resource::DaemonSets => {
            let nodes: Vec<&Value> = world.all(Resource::Nodes).collect();
            daemon_set(object, &nodes, world.within(Resource::Pods, own))
        }
        Resource::Services => {
            let slices = world.within(Resource::EndpointSlices, own);
            let zone = |node: &str| {
                let node = world.object(Resource::Nodes, &(String::new(), node.to_owned()));
                node.map_or("", |node| text(&node["metadata"]["labels"][ZONE]))
            };
            let mut writes = endpoint_slices(object, world.within(Resource::Pods, own), slices, &zone);
            writes.extend(balance(object, world.all(Resource::Services), balanced));
            writes
        }
        Resource::Nodes | Resource::Pods | Resource::EndpointSlices => Vec::new(),
    }
}

/// A pod without a node gets one; a pod whose node is gone goes too.
fn pod(world: &World, key: &Key) -> Vec<Write> {
    let Some(pod) = world.object(Resource::Pods, key) else { return Vec::new() };
    let assigned = text(&pod["spec"]["nodeName"]);
    if !assigned.is_empty() {
        let there = world.object(Resource::Nodes, &(String::new(), assigned.to_owned())).is_some();
        return match Write::delete("pods", pod) {
            Write::Delete { resource, namespace, name, uid, .. } if !there => {
                vec![Write::Delete { resource, namespace, name, uid, now: true }]
            }
            _ => Vec::new(),
        };
    }
    if !is_active(pod) || is_deleting(pod) || text(&pod["spec"]["schedulerName"]) != "default-scheduler" {
        return Vec::new();
    }
    let nodes: Vec<&Value> = world.all(Resource::Nodes).collect();
    match node_for(pod, &nodes, world.all(Resource::Pods)) {
        Ok(node) => {
            let (namespace, name) = (namespace(pod).into(), name(pod).into());
            vec![Write::Bind { namespace, name, node: node.into() }]
        }
        Err(why) => {
            let conditions = list(&pod["status"]["conditions"]);
            let known =
                conditions.iter().any(|one| one["type"] == "PodScheduled" && one["message"] == why.as_str());
            if known {
                return Vec::new();
            }
            let others = conditions.iter().filter(|one| one["type"] != "PodScheduled").cloned();
            let conditions: Vec<Value> = others.chain([unschedulable(&why, &now())]).collect();
            Write::status("pods", pod, json!({"conditions": conditions})).into_iter().collect()
        }
    }
}

/// Writes; whether all could be written or need not be written any more.
fn carry_out(api: &Api, world: &mut World, writes: Vec<Write>) -> bool {
    let mut all = true;
    for write in writes {
        let target = target(&write);
        match apply(api, world, write) {
            Ok(()) => {}
            // Somebody else was first, or the namespace is going: the watch brings what there is to know.
            Err(error) if matches!(error.code, 404 | 409) => {}
            Err(error) => {
                tracing::warn!(%error, target, "a controller's write failed; trying again");
                all = false;
            }
        }
    }
    all
}

fn target(write: &Write) -> String {
    match write {
        Write::Create { resource, namespace, object } => {
            let generated = text(&object["metadata"]["generateName"]);
            format!("{resource} {namespace}/{}{generated}", name(object))
        }
        Write::Patch { resource, namespace, name, .. }
        | Write::Status { resource, namespace, name, .. }
        | Write::Delete { resource, namespace, name, .. } => format!("{resource} {namespace}/{name}"),
        Write::Bind { namespace, name, .. } => format!("pods {namespace}/{name}"),
    }
}

fn apply(api: &Api, world: &mut World, write: Write) -> Result<(), ApiError> {
    let (resource, object) = match write {
        Write::Create { resource, namespace, object } => {
            (resource, api.create(resource, &namespace, object)?)
        }
        Write::Patch { resource, namespace, name, patch } => {
            (resource, api.patch(resource, &namespace, &name, &Patch::Merge(patch))?)
        }
        Write::Status { resource, namespace, name, patch } => {
            (resource, api.patch_status(resource, &namespace, &name, &Patch::Merge(patch))?)
        }
        Write::Bind { namespace, name, node } => ("pods", api.bind_pod(&namespace, &name, &node)?),
        Write::Delete { resource, namespace, name, uid, now } => {
            let options =
                DeleteOptions { uid: Some(uid), grace_period: now.then_some(0), ..Default::default() };
            match api.delete(resource, &namespace, &name, &options)? {
                Some(object) => (resource, object),
                None => {
                    if let Some(resource) = Resource::of(resource) {
                        world.deleted(resource, &(namespace, name));
                    }
                    return Ok(());
                }
            }
        }
    };
    if let Some(resource) = Resource::of(resource) {
        world.changed(resource, object);
    }
    Ok(())
}

/// The time as the API writes it (RFC 3339, UTC, whole seconds).
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> (tempfile::TempDir, apiserver::Server) {
        let directory = tempfile::tempdir().unwrap();
        let server = apiserver::Server::open(apiserver::Config::new(directory.path())).unwrap();
        (directory, server)
    }

    fn ready(node: &str) -> Value {
        json!({"metadata": {"name": node}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn listed(api: &Api, resource: &str) -> Vec<Value> {
        api.list(resource, &ListOptions::default()).unwrap().items
    }

    /// Decides and writes until there is nothing left to do.
    fn settle(api: &Api) {
        let mut world = World::default();
        let balanced: Vec<IpNet> =
            ["203.0.113.0/30", "2001:db8:ff::/64"].map(|one| one.parse().unwrap()).into();
        for _ in 0..20 {
            for resource in Resource::ALL {
                world.list(resource, listed(api, resource.name()));
            }
            if world.due.is_empty() {
                return;
            }
            while let Some(task) = world.due.pop_first() {
                let writes = decide(&world, &task, &balanced);
                assert!(carry_out(api, &mut world, writes));
            }
        }
        panic!("the controllers do not come to rest: {:?}", world.due);
    }

    #[test]
    fn a_deployment_becomes_pods_on_all_nodes_and_endpoints() {
        let (_directory, server) = api();
        let api = server.api();
        for node in ["a", "b", "c"] {
            api.create("nodes", "", ready(node)).unwrap();
        }
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
        let web = json!({"metadata": {"name": "web"},
            "spec": {"replicas": 6, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
        api.create("deployments.apps", "default", web).unwrap();
        settle(api);
        let pods = listed(api, "pods");
        assert_eq!(pods.len(), 6);
        for node in ["a", "b", "c"] {
            assert_eq!(pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count(), 2, "{node}");
        }
        for (number, pod) in pods.iter().enumerate() {
            let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": format!("10.244.0.{number}")}],
                "conditions": [{"type": "Ready", "status": "True"}]}});
            api.patch_status("pods", "default", name(pod), &Patch::Merge(status)).unwrap();
        }
        let service = json!({"metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}});
        api.create("services", "default", service).unwrap();
        settle(api);
        let deployment = api.read("deployments.apps", "default", "web").unwrap();
        assert_eq!(deployment["status"]["availableReplicas"], 6);
        assert_eq!(list(&listed(api, "endpointslices.discovery.k8s.io")[0]["endpoints"]).len(), 6);

        let scale = Patch::Merge(json!({"spec": {"replicas": 0}}));
        api.patch("deployments.apps", "default", "web", &scale).unwrap();
        settle(api);
        // The kubelets have the pods now.
        assert!(listed(api, "pods").iter().all(is_deleting));
        api.delete("nodes", "", "a", &DeleteOptions::default()).unwrap();
        settle(api);
        assert_eq!(listed(api, "pods").len(), 4);
    }

    #[test]
    fn daemon_sets_have_one_pod_a_node_and_unschedulable_pods_say_why() {
        let (_directory, server) = api();
        let api = server.api();
        api.create("nodes", "", ready("a")).unwrap();
        let spec = json!({"containers": [{"name": "c", "image": "x"}]});
        let set = json!({"metadata": {"name": "client"}, "spec": {"selector": {"matchLabels": {"app": "client"}},
            "template": {"metadata": {"labels": {"app": "client"}}, "spec": spec}}});
        api.create("daemonsets.apps", "default", set).unwrap();
        let mut lonely = json!({"metadata": {"name": "lonely"}, "spec": spec});
        lonely["spec"]["nodeSelector"] = json!({"disk": "fast"});
        api.create("pods", "default", lonely).unwrap();
        settle(api);
        let lonely = api.read("pods", "default", "lonely").unwrap();
        assert_eq!(lonely["status"]["conditions"][0]["reason"], "Unschedulable");
        assert_eq!(lonely["status"]["phase"], "Pending");
        let mut fast = ready("b");
        fast["metadata"]["labels"] = json!({"disk": "fast"});
        api.create("nodes", "", fast).unwrap();
        settle(api);
        assert_eq!(api.read("pods", "default", "lonely").unwrap()["spec"]["nodeName"], "b");
        let daemons =
            listed(api, "pods").into_iter().filter(|pod| pod["metadata"]["labels"]["app"] == "client");
        let mut nodes: Vec<String> = daemons.map(|pod| text(&pod["spec"]["nodeName"]).to_owned()).collect();
        nodes.sort();
        assert_eq!(nodes, ["a", "b"]);
    }

    #[test]
    fn load_balanced_services_wait_for_an_address_and_lose_it_with_the_type() {
        let (_directory, server) = api();
        let api = server.api();
        let service = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"],
                "selector": {"app": "web"}, "ports": [{"port": 80}]}})
        };
        for name in ["a", "b", "c"] {
            api.create("services", "default", service(name)).unwrap();
        }
        settle(api);
        let ingress = |name: &str| {
            api.read("services", "default", name).unwrap()["status"]["loadBalancer"]["ingress"].clone()
        };
        assert_eq!(ingress("a"), json!([{"ip": "203.0.113.1", "ipMode": "VIP"}]));
        assert_eq!(ingress("b"), json!([{"ip": "203.0.113.2", "ipMode": "VIP"}]));
        assert_eq!(ingress("c"), Value::Null, "the range is used up");
        let plain = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
        api.patch("services", "default", "a", &plain).unwrap();
        assert_eq!(ingress("a"), Value::Null);
        settle(api);
        assert_eq!(ingress("c"), json!([{"ip": "203.0.113.1", "ipMode": "VIP"}]));
    }

    #[test]
    fn a_node_that_moves_to_another_zone_takes_its_endpoints_along() {
        let (_directory, server) = api();
        let api = server.api();
        let mut node = ready("a");
        node["metadata"]["labels"] = json!({ZONE: "west"});
        api.create("nodes", "", node).unwrap();
        let pod = json!({"metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "x"}]}});
        api.create("pods", "default", pod).unwrap();
        let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status("pods", "default", "web", &Patch::Merge(status)).unwrap();
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ipFamilies": ["IPv4"],
            "ports": [{"port": 80}], "trafficDistribution": "PreferSameZone"}});
        api.create("services", "default", service).unwrap();
        settle(api);
        let endpoint = || listed(api, "endpointslices.discovery.k8s.io")[0]["endpoints"][0].clone();
        assert_eq!(endpoint()["hints"], json!({"forZones": [{"name": "west"}]}));
        let moved = Patch::Merge(json!({"metadata": {"labels": {ZONE: "east"}}}));
        api.patch("nodes", "", "a", &moved).unwrap();
        settle(api);
        assert_eq!(endpoint()["zone"], "east");
        assert_eq!(endpoint()["hints"], json!({"forZones": [{"name": "east"}]}));
    }
}
