//! Clients other than kubectl: the kube crate, which agents use, and bare requests.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::pin::pin;
use std::time::Duration;

use common::{Running, start};
use futures_util::{Stream, StreamExt, TryStreamExt};
use hyper::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{
    Api, DeleteParams, EvictParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    directory: TempDir,
    server: Option<Running>,
    client: Client,
}

impl Lab {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = start(directory.path(), "127.0.0.1:0", |_| {});
        let client = client(&server.kubeconfig).await;
        Self { directory, server: Some(server), client }
    }

    fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    /// The code and the body that a bare request gets.
    async fn bare(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let request = request.body(kube::client::Body::from(body)).unwrap();
        let response = self.client.send(request).await.unwrap();
        let code = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "1"}})).unwrap()
}

fn pod(name: &str, node: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}}))
    .unwrap()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("nothing takes that long")
}

async fn next<K>(events: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin)) -> Event<K> {
    within(events.next()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_list_then_watch() {
    let lab = Lab::new().await;
    let api: Api<ConfigMap> = Api::namespaced(lab.client.clone(), "default");
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = pin!(kube::runtime::watcher(api.clone(), config));
        assert!(matches!(next(&mut events).await, Event::Init));
        assert!(matches!(next(&mut events).await, Event::InitApply(map) if map.name_any() == "a"));
        assert!(matches!(next(&mut events).await, Event::InitDone));
        api.create(&PostParams::default(), &config_map("b")).await.unwrap();
        assert!(matches!(next(&mut events).await, Event::Apply(map) if map.name_any() == "b"));
        api.delete("b", &DeleteParams::default()).await.unwrap();
        assert!(matches!(next(&mut events).await, Event::Delete(map) if map.name_any() == "b"));
    }
    let metadata: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(lab.client.clone(), "default");
    let mut metadata = pin!(kube::runtime::watcher(metadata, watcher::Config::default()));
    assert!(matches!(next(&mut metadata).await, Event::Init));
    assert!(matches!(next(&mut metadata).await, Event::InitApply(map) if map.name_any() == "a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_survive_a_restart_of_the_server() {
    let mut lab = Lab::new().await;
    let api: Api<ConfigMap> = Api::namespaced(lab.client.clone(), "default");
    let events = kube::runtime::watcher(api.clone(), watcher::Config::default());
    // While the server is away the watcher reports errors; what counts is what it tells afterwards.
    let events = events.filter_map(|event| std::future::ready(event.ok().map(Ok::<_, watcher::Error>)));
    let mut events = pin!(events);
    assert!(matches!(next(&mut events).await, Event::Init));
    assert!(matches!(next(&mut events).await, Event::InitDone));
    api.create(&PostParams::default(), &config_map("before")).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::Apply(map) if map.name_any() == "before"));

    let address = lab.server().address.to_string();
    lab.server = None;
    let server = start(lab.directory.path(), &address, |_| {});
    server.api.create("configmaps", "default", json!({"metadata": {"name": "after"}})).unwrap();
    // No new list: the watch goes on where it was.
    assert!(matches!(next(&mut events).await, Event::Apply(map) if map.name_any() == "after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_watches_and_lists_say_so() {
    let lab = Lab::new().await;
    let api: Api<ConfigMap> = Api::namespaced(lab.client.clone(), "default");
    for number in 0..5 {
        api.create(&PostParams::default(), &config_map(&format!("m{number}"))).await.unwrap();
    }
    let page = api.list(&ListParams::default().limit(2)).await.unwrap();
    let resume = page.metadata.continue_.unwrap();
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (2, Some(3)));
    // A page shows the state that the first page showed.
    api.create(&PostParams::default(), &config_map("m9")).await.unwrap();
    api.delete("m3", &DeleteParams::default()).await.unwrap();
    let rest = api.list(&ListParams::default().limit(10).continue_token(&resume)).await.unwrap();
    let names: Vec<String> = rest.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["m2", "m3", "m4"]);
    assert_eq!(rest.metadata.resource_version, page.metadata.resource_version);

    lab.server().api.compact(lab.server().api.revision()).unwrap();
    let error = api.list(&ListParams::default().continue_token(&resume)).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 410 && status.reason == "Expired"));
    let begin = api.watch(&WatchParams::default(), "1").await;
    let code = match begin {
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
        Ok(stream) => match within(pin!(stream).try_next()).await {
            Ok(Some(WatchEvent::Error(status))) => status.code,
            Err(kube::Error::Api(status)) => status.code,
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(code, 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookmarks_come_on_quiet_watches() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), "127.0.0.1:0", |config| {
        config.bookmark_interval = Duration::from_millis(100);
    });
    let api: Api<ConfigMap> = Api::namespaced(client(&server.kubeconfig).await, "default");
    let since = server.api.revision().to_string();
    let mut events = pin!(api.watch(&WatchParams::default().timeout(10), &since).await.unwrap());
    server.api.create("namespaces", "", json!({"metadata": {"name": "elsewhere"}})).unwrap();
    loop {
        match within(events.try_next()).await.unwrap() {
            Some(WatchEvent::Bookmark(bookmark)) if bookmark.metadata.resource_version != since => break,
            Some(WatchEvent::Bookmark(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_objects_and_subresources() {
    let lab = Lab::new().await;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.0.0/24", "fd00:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}]}});
    let node = nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    assert_eq!(node.status.unwrap().addresses.unwrap().len(), 2);
    let params = PatchParams::apply("lab").force();
    let wanted = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "annotations": {"a": "b"}}});
    let node = nodes.patch("node-1", &params, &Patch::Apply(wanted)).await.unwrap();
    assert_eq!(node.annotations()["a"], "b");
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    nodes.patch_status("node-1", &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    let status = nodes.get_status("node-1").await.unwrap().status.unwrap();
    assert_eq!((status.conditions.unwrap().len(), status.addresses.unwrap().len()), (1, 2));

    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), "default");
    pods.create(&PostParams::default(), &pod("a", "")).await.unwrap();
    let path = "/api/v1/namespaces/default/pods/a/binding";
    let binding =
        json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "node-1"}}).to_string();
    assert_eq!(lab.bare("POST", path, "application/json", binding.clone().into_bytes()).await.0, 201);
    assert_eq!(lab.bare("POST", path, "application/json", binding.into_bytes()).await.0, 409);
    let on_node = pods.list(&ListParams::default().fields("spec.nodeName=node-1")).await.unwrap();
    assert_eq!(on_node.items.len(), 1);
    pods.evict("a", &EvictParams::default()).await.unwrap();
    assert!(pods.get("a").await.unwrap().metadata.deletion_timestamp.is_some());

    let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), "default");
    let web = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    deployments.create(&PostParams::default(), &serde_json::from_value(web).unwrap()).await.unwrap();
    let more = Patch::Merge(json!({"spec": {"replicas": 4}}));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &more).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(4));
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("a=b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_say_what_is_wrong() {
    let lab = Lab::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for (method, path, kind, body, code, reason, words) in [
        ("POST", maps, "application/json", "{\"a\": 1,\n x}", 400, "BadRequest", "line 2 column"),
        ("POST", maps, "application/json", "[]", 400, "BadRequest", "array is not an object"),
        ("POST", maps, "application/vnd.kubernetes.protobuf", "k8s", 400, "BadRequest", "protobuf"),
        ("POST", maps, "application/json", "{}", 422, "Invalid", "metadata.name: Required value"),
        (
            "PATCH",
            "/api/v1/namespaces/default",
            "text/plain",
            "{}",
            415,
            "UnsupportedMediaType",
            "merge-patch",
        ),
        ("GET", "/api/v1/configmaps?labelSelector=a+in+(b", "", "", 400, "BadRequest", "closing"),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.no%3D1",
            "",
            "",
            400,
            "BadRequest",
            "field label not supported",
        ),
        ("GET", "/api/v1/configmaps?continue=x", "", "", 400, "BadRequest", "continue key"),
        ("GET", "/api/v1/nothing", "", "", 404, "NotFound", "could not find"),
        ("PUT", "/version", "", "", 405, "MethodNotAllowed", "PUT"),
        ("POST", "/api/v1/configmaps", "application/json", "{}", 405, "MethodNotAllowed", "POST"),
    ] {
        let (got, status) = lab.bare(method, path, kind, body.into()).await;
        assert_eq!((got, status["reason"].as_str()), (code, Some(reason)), "{method} {path}: {status}");
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)));
        assert!(status["message"].as_str().unwrap().contains(words), "{method} {path}: {status}");
    }
    let huge = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(3 * 1024 * 1024));
    let (code, status) = lab.bare("POST", maps, "application/json", huge.into_bytes()).await;
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")));
    let yaml = "metadata:\n  name: from-yaml\n";
    assert_eq!(lab.bare("POST", maps, "application/yaml", yaml.into()).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_token_opens_the_door() {
    let lab = Lab::new().await;
    let good = &lab.server().kubeconfig;
    for line in ["    token: wrong\n", "    token: \"\"\n"] {
        let from = good.find("    token: ").unwrap();
        let to = from + good[from..].find('\n').unwrap() + 1;
        let stranger = client(&format!("{}{line}{}", &good[..from], &good[to..])).await;
        let api: Api<ConfigMap> = Api::all(stranger.clone());
        let error = api.list(&ListParams::default()).await.unwrap_err();
        assert!(
            matches!(error, kube::Error::Api(status) if status.code == 401 && status.reason == "Unauthorized")
        );
        // Whether there is a server at all is no secret.
        stranger.apiserver_version().await.unwrap();
    }
}
