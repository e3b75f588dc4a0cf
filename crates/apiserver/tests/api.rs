//! The rules of the API's objects, through the in-process interface.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use apiserver::admission::{Admission, Operation, Request};
use apiserver::api::{Api, DeleteOptions, ListOptions, Propagation, WatchEvent, WatchOptions};
use apiserver::patch::Patch;
use apiserver::{ApiError, Config, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Lab {
    _directory: TempDir,
    server: Server,
}

impl Lab {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path());
        adjust(&mut config);
        let server = Server::open(config).unwrap();
        Self { _directory: directory, server }
    }

    fn api(&self) -> &Api {
        self.server.api()
    }
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

fn owned(name: &str, owners: &[&Value]) -> Value {
    let references: Vec<Value> = owners
        .iter()
        .map(|owner| {
            json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"],
                "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]})
        })
        .collect();
    json!({"metadata": {"name": name, "ownerReferences": references}})
}

fn names(api: &Api, resource: &str) -> BTreeSet<String> {
    let list = api.list(resource, &ListOptions::default()).unwrap();
    list.items.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn delete(api: &Api, resource: &str, namespace: &str, name: &str) -> Option<Value> {
    api.delete(resource, namespace, name, &DeleteOptions::default()).unwrap()
}

/// What the watch has to tell up to the present.
fn drain(api: &Api, options: &WatchOptions, resource: &str) -> Result<Vec<(&'static str, String)>, ApiError> {
    let mut watcher = api.watch(resource, options)?;
    // Something for the watch to end with, which it selects.
    let label = options.labels.trim_start_matches("app=");
    let end = api.create(
        resource,
        "default",
        json!({"metadata": {"generateName": "end-", "labels": {"app": label}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    )?;
    let end = end["metadata"]["name"].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut told = Vec::new();
    runtime.block_on(async {
        loop {
            let (verb, object) = match watcher.next().await? {
                WatchEvent::Added(object) => ("added", object),
                WatchEvent::Modified(object) => ("modified", object),
                WatchEvent::Deleted(object) => ("deleted", object),
            };
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if name == end {
                return Ok(told);
            }
            told.push((verb, name));
        }
    })
}

#[test]
fn metadata_is_the_servers() {
    let lab = Lab::new();
    let api = lab.api();
    let mut object = config_map("a");
    object["metadata"]["uid"] = "made-up".into();
    let created = api.create("configmaps", "default", object).unwrap();
    assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let error = api.create("configmaps", "default", config_map("a")).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "AlreadyExists"));
    let generated = api.create("configmaps", "default", json!({"metadata": {"generateName": "x-"}})).unwrap();
    assert!(generated["metadata"]["name"].as_str().unwrap().starts_with("x-"));
    let error = api.create("configmaps", "nowhere", config_map("a")).unwrap_err();
    assert_eq!(error.message, "namespaces \"nowhere\" not found");
    let error = api.create("configmaps", "default", json!({"kind": "Pod"})).unwrap_err();
    assert_eq!(error.code, 400);
}

#[test]
fn writers_with_stale_versions_conflict() {
    let lab = Lab::new();
    let api = lab.api();
    let first = api.create("configmaps", "default", config_map("a")).unwrap();
    let mut change = first.clone();
    change["data"]["a"] = "2".into();
    let second = api.update("configmaps", "default", "a", change.clone()).unwrap();
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let error = api.update("configmaps", "default", "a", change).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    // An update that changes nothing is no event, and one without a version is unconditional.
    assert_eq!(api.update("configmaps", "default", "a", second.clone()).unwrap(), second);
    api.update("configmaps", "default", "a", config_map("a")).unwrap();
    let stale = Patch::Merge(json!({"metadata": {"resourceVersion": "1"}}));
    assert_eq!(api.patch("configmaps", "default", "a", &stale).unwrap_err().code, 409);
}

#[test]
fn status_and_specification_are_apart() {
    let lab = Lab::new();
    let api = lab.api();
    let deployment = json!({"metadata": {"name": "web"}, "status": {"replicas": 9}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let created = api.create("deployments.apps", "default", deployment).unwrap();
    assert_eq!((&created["status"], &created["metadata"]["generation"]), (&json!({}), &json!(1)));
    let both = Patch::Merge(json!({"spec": {"replicas": 3}, "status": {"replicas": 3}}));
    let object = api.patch_status("deployments.apps", "default", "web", &both).unwrap();
    assert_eq!((&object["spec"]["replicas"], &object["status"]["replicas"]), (&json!(1), &json!(3)));
    assert_eq!(object["metadata"]["generation"], 1);
    let both = Patch::Merge(json!({"spec": {"replicas": 5}, "status": {"replicas": 5}}));
    let object = api.patch("deployments.apps", "default", "web", &both).unwrap();
    assert_eq!((&object["spec"]["replicas"], &object["status"]["replicas"]), (&json!(5), &json!(3)));
    assert_eq!(object["metadata"]["generation"], 2);
    let object = api.patch(
        "deployments.apps",
        "default",
        "web",
        &Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}})),
    );
    assert_eq!(object.unwrap()["metadata"]["generation"], 2);
}

#[test]
fn pods_on_nodes_go_when_their_kubelet_says_so() {
    let lab = Lab::new();
    let api = lab.api();
    api.create("pods", "default", pod("nowhere", "")).unwrap();
    assert_eq!(delete(api, "pods", "default", "nowhere"), None);
    api.create("pods", "default", pod("here", "node-1")).unwrap();
    let left = delete(api, "pods", "default", "here").unwrap();
    assert_eq!(left["metadata"]["deletionGracePeriodSeconds"], 30);
    let soon = DeleteOptions { grace_period: Some(5), ..DeleteOptions::default() };
    let left = api.delete("pods", "default", "here", &soon).unwrap().unwrap();
    assert_eq!(left["metadata"]["deletionGracePeriodSeconds"], 5);
    let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
    assert_eq!(api.delete("pods", "default", "here", &now).unwrap(), None);
    assert_eq!(api.read("pods", "default", "here").unwrap_err().code, 404);
}

#[test]
fn finalizers_hold_an_object() {
    let lab = Lab::new();
    let api = lab.api();
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["lab/x"]);
    api.create("configmaps", "default", object).unwrap();
    assert!(delete(api, "configmaps", "default", "a").is_some());
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["lab/x", "lab/y"]}}));
    assert_eq!(api.patch("configmaps", "default", "a", &more).unwrap_err().code, 422);
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("configmaps", "default", "a", &none).unwrap();
    assert_eq!(names(api, "configmaps"), BTreeSet::new());
}

#[test]
fn dependents_follow_their_owners() {
    let lab = Lab::new();
    let api = lab.api();
    let one = api.create("configmaps", "default", config_map("one")).unwrap();
    let two = api.create("configmaps", "default", config_map("two")).unwrap();
    api.create("secrets", "default", owned("of-one", &[&one])).unwrap();
    api.create("secrets", "default", owned("of-both", &[&one, &two])).unwrap();
    // A long chain must not be a deep recursion.
    let mut last = one.clone();
    for number in 0..2000 {
        last = api.create("secrets", "default", owned(&format!("chain-{number}"), &[&last])).unwrap();
    }
    delete(api, "configmaps", "default", "one");
    assert_eq!(names(api, "secrets"), BTreeSet::from(["of-both".to_owned()]));
    let left = api.read("secrets", "default", "of-both").unwrap();
    assert_eq!(left["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    // Whoever comes too late goes too.
    api.create("secrets", "default", owned("late", &[&one])).unwrap();
    assert_eq!(names(api, "secrets"), BTreeSet::from(["of-both".to_owned()]));
    let orphan = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
    api.delete("configmaps", "default", "two", &orphan).unwrap();
    assert_eq!(names(api, "secrets"), BTreeSet::from(["of-both".to_owned()]));
}

#[test]
fn foreground_deletion_waits_for_dependents() {
    let lab = Lab::new();
    let api = lab.api();
    let owner = api.create("configmaps", "default", config_map("owner")).unwrap();
    let mut dependent = pod("dependent", "node-1");
    dependent["metadata"]["ownerReferences"] = owned("x", &[&owner])["metadata"]["ownerReferences"].clone();
    api.create("pods", "default", dependent).unwrap();
    let foreground = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
    let left = api.delete("configmaps", "default", "owner", &foreground).unwrap().unwrap();
    assert_eq!(left["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let pod = api.read("pods", "default", "dependent").unwrap();
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
    api.delete("pods", "default", "dependent", &now).unwrap();
    assert_eq!(names(api, "configmaps"), BTreeSet::new());
}

#[test]
fn namespaces_go_with_their_content() {
    let lab = Lab::new();
    let api = lab.api();
    api.create("namespaces", "", json!({"metadata": {"name": "x"}})).unwrap();
    api.create("configmaps", "x", config_map("a")).unwrap();
    api.create("pods", "x", pod("p", "node-1")).unwrap();
    let left = delete(api, "namespaces", "", "x").unwrap();
    assert_eq!(left["status"]["phase"], "Terminating");
    assert_eq!(names(api, "configmaps"), BTreeSet::new());
    let error = api.create("configmaps", "x", config_map("b")).unwrap_err();
    assert_eq!((error.code, error.reason), (403, "Forbidden"));
    let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
    api.delete("pods", "x", "p", &now).unwrap();
    assert!(!names(api, "namespaces").contains("x"));
}

#[test]
fn watches_resume_and_follow_selections() {
    let lab = Lab::with(|config| config.history = 100_000);
    let api = lab.api();
    let start = api.revision();
    api.create("pods", "default", pod("a", "node-1")).unwrap();
    api.create("pods", "default", pod("b", "node-2")).unwrap();
    let labels = |labels: Value| Patch::Merge(json!({"metadata": {"labels": labels}}));
    api.patch("pods", "default", "a", &labels(json!({"app": "x"}))).unwrap();
    api.patch("pods", "default", "a", &labels(json!({"app": "y"}))).unwrap();
    let since =
        |since, labels: &str| WatchOptions { since, labels: labels.into(), ..WatchOptions::default() };
    let told = drain(api, &since(Some(start), ""), "pods").unwrap();
    let a = |verb| (verb, "a".to_owned());
    assert_eq!(told, [a("added"), ("added", "b".to_owned()), a("modified"), a("modified")]);
    let told = drain(api, &since(Some(start), "app=x"), "pods").unwrap();
    assert_eq!(told, [a("added"), a("deleted")]);
    let told = drain(api, &since(None, "app=y"), "pods").unwrap();
    assert_eq!(told, [a("added")]);
}

#[test]
fn compacted_history_is_gone() {
    let lab = Lab::new();
    let api = lab.api();
    let start = api.revision();
    api.create("configmaps", "default", config_map("a")).unwrap();
    let middle = api.revision();
    api.create("configmaps", "default", config_map("b")).unwrap();
    api.compact(middle).unwrap();
    let since = |since| WatchOptions { since: Some(since), ..WatchOptions::default() };
    let error = api.watch("configmaps", &since(start)).err().unwrap();
    assert_eq!((error.code, error.reason), (410, "Expired"));
    let error = api.watch("configmaps", &since(middle + 1000)).err().unwrap();
    assert_eq!(error.code, 410, "a revision from another life of the cluster");
    assert_eq!(drain(api, &since(middle), "configmaps").unwrap(), [("added", "b".to_owned())]);
}

/// A list may have a change a moment before watches are told of it.
#[test]
fn a_watch_begins_where_a_list_ended() {
    let lab = Lab::new();
    let api = lab.api();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..300 {
                api.create("configmaps", "default", config_map(&format!("m-{number}"))).unwrap();
            }
        });
        while !writer.is_finished() {
            let list = api.list("configmaps", &ListOptions::default()).unwrap();
            let since = WatchOptions { since: Some(list.revision), ..WatchOptions::default() };
            assert!(api.watch("configmaps", &since).is_ok(), "after revision {}", list.revision);
        }
    });
}

#[test]
fn history_is_kept_to_its_length() {
    let lab = Lab::with(|config| config.history = 50);
    let api = lab.api();
    let start = api.revision();
    for number in 0..200 {
        api.create("configmaps", "default", config_map(&format!("m-{number}"))).unwrap();
    }
    let since = |since| WatchOptions { since: Some(since), ..WatchOptions::default() };
    assert_eq!(drain(api, &since(api.revision() - 40), "configmaps").unwrap().len(), 40);
    // What a fresh server knows is what is on disk.
    let directory = lab._directory;
    drop(lab.server);
    let mut config = Config::new(directory.path());
    config.history = 50;
    let server = Server::open(config).unwrap();
    assert_eq!(server.api().watch("configmaps", &since(start)).err().map(|e| e.code), Some(410));
    assert_eq!(names(server.api(), "configmaps").len(), 201);
}

/// Gives services addresses: the lowest that no stored service has.
struct Addresses;

impl Admission for Addresses {
    fn admit(&self, request: &mut Request<'_, '_>) -> Result<(), ApiError> {
        if request.kind.plural != "services" || request.operation != Operation::Create {
            return Ok(());
        }
        let mut taken = BTreeSet::new();
        request.for_each("", "services", |service| {
            taken.insert(service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned());
        })?;
        let free = (1..=3).map(|n| Ipv4Addr::new(10, 96, 0, n).to_string()).find(|ip| !taken.contains(ip));
        let free = free.ok_or_else(|| ApiError::bad_request("no cluster address is free"))?;
        request.object["spec"]["clusterIP"] = free.into();
        Ok(())
    }
}

#[test]
fn admission_completes_objects() {
    let lab = Lab::with(|config| config.admission.push(Box::new(Addresses)));
    let api = lab.api();
    let service =
        |name: &str, port: u32| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": port}]}});
    // One that is refused takes no address with it.
    assert_eq!(api.create("services", "default", service("bad", 0)).unwrap_err().code, 422);
    for number in 1..=3 {
        let made = api.create("services", "default", service(&format!("s{number}"), 80)).unwrap();
        assert_eq!(made["spec"]["clusterIP"], format!("10.96.0.{number}"));
    }
    let error = api.create("services", "default", service("s4", 80)).unwrap_err();
    assert_eq!(error.message, "no cluster address is free");
    delete(api, "services", "default", "s2");
    assert_eq!(
        api.create("services", "default", service("s5", 80)).unwrap()["spec"]["clusterIP"],
        "10.96.0.2"
    );
}

#[test]
fn a_directory_has_one_server() {
    let lab = Lab::new();
    assert!(Server::open(Config::new(lab._directory.path())).is_err());
}
