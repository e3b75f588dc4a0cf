//! The real kubectl, every one that `scripts/kubectl.sh` finds, against the server on loopback.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;

use apiserver::api::{DeleteOptions, WatchEvent, WatchOptions};
use apiserver::patch::Patch;
use common::{Kubectl, kubectls};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web, stage: test}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example/web:1
        ports: [{containerPort: 80}]
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
      - name: side
        image: example/side:1
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec:
  containers: [{name: c, image: example/c, ports: [{containerPort: 8080}]}]
"#;

fn for_each(test: impl Fn(&Kubectl)) {
    for program in kubectls() {
        test(&Kubectl::new(program));
    }
}

fn object(kubectl: &Kubectl, arguments: &[&str]) -> Value {
    let text = kubectl.ok(&[&["get", "-o", "json"], arguments].concat());
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

#[test]
fn apply_creates_changes_and_removes_fields() {
    for_each(|kubectl| {
        let out = kubectl.ok_with(&["apply", "-f", "-"], MANIFEST);
        assert!(out.contains("deployment.apps/web created") && out.contains("service/web created"), "{out}");
        let out = kubectl.ok_with(&["apply", "-f", "-"], MANIFEST);
        assert!(out.contains("deployment.apps/web unchanged"), "{out}");

        // A field that another client sets stays; one that the manifest drops goes.
        kubectl.ok(&["patch", "deployment", "web", "-p", r#"{"spec":{"paused":true}}"#]);
        let changed = MANIFEST
            .replace("example/web:1", "example/web:2")
            .replace(r#"{name: A, value: "1"}, "#, "")
            .replace(", stage: test", "")
            .replace("      - name: side\n        image: example/side:1\n", "");
        let out = kubectl.ok_with(&["apply", "-f", "-"], &changed);
        assert!(out.contains("deployment.apps/web configured"), "{out}");
        let web = object(kubectl, &["deployment", "web"]);
        let containers = web["spec"]["template"]["spec"]["containers"].as_array().expect("a list");
        assert_eq!(containers.len(), 1);
        assert_eq!(containers[0]["image"], "example/web:2");
        assert_eq!(containers[0]["env"], json!([{"name": "B", "value": "2"}]));
        assert_eq!(containers[0]["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));
        assert_eq!(web["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(web["spec"]["paused"], true);
        assert_eq!(web["metadata"]["generation"], 3);

        let out = kubectl.ok_with(&["apply", "--dry-run=server", "-f", "-"], MANIFEST);
        assert!(out.contains("configured (server dry run)"), "{out}");
        assert_eq!(object(kubectl, &["deployment", "web"]), web);
    });
}

/// Newer clients send these in the binary form.
#[test]
fn create_by_words() {
    for_each(|kubectl| {
        for words in [
            &["namespace", "words"][..],
            &["configmap", "words", "--from-literal=a=b", "--from-literal=c="],
            &["secret", "generic", "words", "--from-literal=a=b"],
            &["serviceaccount", "words"],
            &["service", "clusterip", "words", "--tcp=80:8080", "--tcp=443:https"],
            &["service", "nodeport", "more-words", "--tcp=80", "--node-port=30080"],
            &["service", "externalname", "other-words", "--external-name=example.net"],
            &["deployment", "words", "--image=example/a:1", "--image=example/b:1", "--replicas=3"],
        ] {
            let command = [&["create"], words].concat();
            let expected = kubectl.ok(&[&command[..], &["--dry-run=client", "-o", "json"]].concat());
            let expected: Value = serde_json::from_str(&expected).expect("kubectl prints JSON");
            let made = kubectl.ok(&[&command[..], &["-o", "json"]].concat());
            let made: Value = serde_json::from_str(&made).expect("kubectl prints JSON");
            contains(&made, &expected, &words.join(" "));
        }
    });
}

/// Fails if `made` lacks anything of `expected`; what the server fills in does not count.
fn contains(made: &Value, expected: &Value, place: &str) {
    match (made, expected) {
        (Value::Object(made), Value::Object(expected)) => {
            for (key, value) in
                expected.iter().filter(|(key, _)| !matches!(key.as_str(), "status" | "creationTimestamp"))
            {
                contains(made.get(key).unwrap_or(&Value::Null), value, &format!("{place}.{key}"));
            }
        }
        (Value::Array(made), Value::Array(expected)) => {
            assert_eq!(made.len(), expected.len(), "{place}");
            made.iter().zip(expected).for_each(|(made, expected)| contains(made, expected, place));
        }
        (made, expected) if *expected == json!({}) => assert!(made.is_null(), "{place}: {made}"),
        (made, expected) => assert_eq!(made, expected, "{place}"),
    }
}

#[test]
fn server_side_apply() {
    for_each(|kubectl| {
        let out = kubectl.ok_with(&["apply", "--server-side", "-f", "-"], MANIFEST);
        assert!(out.contains("deployment.apps/web serverside-applied"), "{out}");
        let less = MANIFEST.replace(r#"{name: A, value: "1"}, "#, "");
        kubectl.ok_with(&["apply", "--server-side", "-f", "-"], &less);
        let web = object(kubectl, &["deployment", "web"]);
        let env = &web["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(*env, json!([{"name": "B", "value": "2"}]));
        let other = less.replace("replicas: 2", "replicas: 4");
        let complaint =
            kubectl.fails(&["apply", "--server-side", "--field-manager=other", "-f", "-"], &other);
        assert!(complaint.contains("conflict with \"kubectl\": .spec.replicas"), "{complaint}");
    });
}

#[test]
fn tables_show_what_users_know() {
    for_each(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], MANIFEST);
        kubectl.ok_with(&["create", "-f", "-"], POD);
        let words = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let pods = words(&kubectl.ok(&["get", "pods"]));
        assert_eq!(pods[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        assert_eq!(pods[1][..4], ["one", "0/1", "Pending", "0"]);
        let wide = kubectl.ok(&["get", "pods", "-o", "wide"]);
        assert!(
            wide.lines().next().is_some_and(|head| head.contains("IP") && head.contains("NODE")),
            "{wide}"
        );
        let services = words(&kubectl.ok(&["get", "svc"]));
        assert_eq!(services[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
        assert_eq!(services[1][..5], ["web", "ClusterIP", "<none>", "<none>", "80/TCP"]);
        let deployments = words(&kubectl.ok(&["get", "deploy"]));
        assert_eq!(deployments[1][..4], ["web", "0/2", "0", "0"]);
        let namespaces = words(&kubectl.ok(&["get", "ns"]));
        assert_eq!(namespaces[1][..2], ["default", "Active"]);
        let all = kubectl.ok(&["get", "all"]);
        assert!(all.contains("pod/one") && all.contains("deployment.apps/web"), "{all}");
        assert_eq!(kubectl.ok(&["get", "pods", "-l", "app=one", "-o", "name"]), "pod/one\n");
        assert_eq!(kubectl.ok(&["get", "pods", "-l", "app notin (one)", "-o", "name"]), "");
        assert_eq!(
            kubectl.ok(&["get", "pods", "--field-selector", "status.phase=Running", "-o", "name"]),
            ""
        );
        let everywhere = kubectl.ok(&["get", "pods", "-A", "--sort-by", ".metadata.name"]);
        assert!(everywhere.starts_with("NAMESPACE"), "{everywhere}");
    });
}

#[test]
fn patches_of_each_type() {
    for_each(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], MANIFEST);
        for (kind, patch) in [
            (
                "strategic",
                r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"example/side:2"}]}}}}"#,
            ),
            ("merge", r#"{"metadata":{"labels":{"stage":null,"new":"yes"}}}"#),
            ("json", r#"[{"op":"replace","path":"/spec/replicas","value":7}]"#),
        ] {
            let out = kubectl.ok(&["patch", "deployment", "web", "--type", kind, "-p", patch]);
            assert!(out.contains("patched"), "{out}");
        }
        let web = object(kubectl, &["deployment", "web"]);
        let containers = &web["spec"]["template"]["spec"]["containers"];
        assert_eq!(
            (&containers[0]["image"], &containers[1]["image"]),
            (&json!("example/web:1"), &json!("example/side:2"))
        );
        assert_eq!(web["metadata"]["labels"], json!({"app": "web", "new": "yes"}));
        assert_eq!(web["spec"]["replicas"], 7);
        let complaint = kubectl.fails(
            &[
                "patch",
                "deployment",
                "web",
                "--type",
                "json",
                "-p",
                r#"[{"op":"test","path":"/spec/replicas","value":1}]"#,
            ],
            "",
        );
        assert!(complaint.contains("the test failed"), "{complaint}");
    });
}

#[test]
fn edit_scale_label_annotate_describe() {
    for_each(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], MANIFEST);
        kubectl.ok_with(&["create", "-f", "-"], POD);
        let editor = kubectl.file("editor.sh", "#!/bin/sh\nsed -i 's/replicas: 2/replicas: 3/' \"$1\"\n");
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755))
            .expect("the mode can be set");
        let edited = kubectl.command(&["edit", "deployment", "web"]).env("KUBE_EDITOR", &editor).output();
        let edited = edited.expect("kubectl runs");
        assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
        assert_eq!(object(kubectl, &["deployment", "web"])["spec"]["replicas"], 3);

        kubectl.ok(&["scale", "deployment", "web", "--replicas=5"]);
        assert_eq!(object(kubectl, &["deployment", "web"])["spec"]["replicas"], 5);
        kubectl.fails(&["scale", "deployment", "web", "--current-replicas=2", "--replicas=1"], "");
        kubectl.ok(&["label", "pod", "one", "tier=front"]);
        kubectl.ok(&["annotate", "pod", "one", "example.net/why=because"]);
        kubectl.ok(&["set", "image", "deployment/web", "side=example/side:9"]);
        let pod = object(kubectl, &["pod", "one"]);
        assert_eq!(pod["metadata"]["labels"]["tier"], "front");
        assert_eq!(pod["metadata"]["annotations"]["example.net/why"], "because");

        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "one.1", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "one", "uid": pod["metadata"]["uid"]},
            "reason": "Wired", "message": "address assigned", "type": "Normal",
            "source": {"component": "lab"}, "firstTimestamp": "2025-01-01T00:00:00Z",
            "lastTimestamp": "2025-01-01T00:00:00Z", "count": 1,
        });
        kubectl.ok_with(&["create", "-f", "-"], &event.to_string());
        let described = kubectl.ok(&["describe", "pod", "one"]);
        assert!(described.contains("address assigned") && described.contains("tier=front"), "{described}");
        let described = kubectl.ok(&["describe", "deployment", "web"]);
        assert!(described.contains("5 desired"), "{described}");
        for kind in ["service/web", "namespace/default"] {
            kubectl.ok(&["describe", kind]);
        }
        assert!(kubectl.ok(&["get", "events"]).contains("pod/one"));
        assert!(kubectl.ok(&["auth", "can-i", "create", "pods"]).starts_with("yes"));
    });
}

#[test]
fn errors_are_the_ones_users_know() {
    for_each(|kubectl| {
        let complaint = kubectl.fails(&["get", "pod", "none"], "");
        assert_eq!(complaint, "Error from server (NotFound): pods \"none\" not found\n");
        kubectl.ok_with(&["create", "-f", "-"], POD);
        let complaint = kubectl.fails(&["create", "-f", "-"], POD);
        assert!(complaint.contains("(AlreadyExists)") && complaint.contains("pods \"one\" already exists"));
        let complaint = kubectl.fails(&["create", "-f", "-"], &POD.replace("one", "Big_Name"));
        assert!(complaint.contains("The Pod \"Big_Name\" is invalid"), "{complaint}");
        let complaint = kubectl.fails(&["create", "-n", "nowhere", "-f", "-"], POD);
        assert!(complaint.contains("namespaces \"nowhere\" not found"), "{complaint}");
        let complaint = kubectl.fails(&["apply", "-f", "-"], &POD.replace("8080", "8081"));
        assert!(complaint.contains("pod updates may not change fields"), "{complaint}");
        let complaint = kubectl.fails(&["--token", "wrong", "get", "pods"], "");
        assert!(complaint.contains("Unauthorized") || complaint.contains("logged in"), "{complaint}");
        let complaint = kubectl.fails(&["get", "--raw", "/api/v1/pods?resourceVersion=99999"], "");
        assert!(complaint.contains("Too large resource version: 99999"), "{complaint}");
        let complaint = kubectl.fails(&["logs", "one"], "");
        assert!(complaint.contains("could not find the requested resource"), "{complaint}");
    });
}

#[test]
fn watch_tells_what_happens() {
    for_each(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], POD);
        let mut watching = kubectl.spawn(&["get", "pods", "-w", "--output-watch-events"]);
        let output = watching.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(output).lines().map(|line| line.expect("kubectl prints text"));
        let mut next = || lines.next().expect("kubectl goes on watching");
        assert!(next().starts_with("EVENT"));
        assert!(next().starts_with("ADDED"));
        kubectl.ok(&["label", "pod", "one", "a=b"]);
        assert!(next().starts_with("MODIFIED"));
        kubectl.ok(&["delete", "pod", "one"]);
        assert!(next().starts_with("DELETED"));
        watching.kill().expect("kubectl can be killed");
        watching.wait().expect("kubectl ends");
    });
}

#[test]
fn deletes_wait_and_cascade() {
    for_each(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], MANIFEST);
        let owner = object(kubectl, &["deployment", "web"])["metadata"]["uid"].clone();
        let reference = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": owner}]);
        let dependent = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "dependent", "ownerReferences": reference}});
        kubectl.ok_with(&["create", "-f", "-"], &dependent.to_string());
        kubectl.ok(&["delete", "deployment", "web", "--wait"]);
        kubectl.fails(&["get", "configmap", "dependent"], "");

        // A pod on a node stays until its kubelet is done with it, and kubectl waits for that.
        let api = &kubectl.server.api;
        kubectl.ok_with(&["create", "-f", "-"], &POD.replace("spec:", "spec:\n  nodeName: node-1"));
        let mut pods = api.watch("pods", &WatchOptions::default()).expect("pods can be watched");
        let mut deleting = kubectl.command(&["delete", "pod", "one"]).spawn().expect("kubectl starts");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
        runtime.block_on(async {
            while !matches!(pods.next().await.expect("the watch goes on"), WatchEvent::Modified(pod)
                if pod["metadata"]["deletionGracePeriodSeconds"] == 30)
            {}
        });
        assert!(kubectl.ok(&["get", "pods"]).contains("Terminating"));
        let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
        api.delete("pods", "default", "one", &now).expect("the pod can be deleted");
        assert!(deleting.wait().expect("kubectl ends").success());

        kubectl.ok(&["create", "namespace", "temporary"]);
        kubectl.ok_with(&["create", "-n", "temporary", "-f", "-"], MANIFEST);
        kubectl.ok(&["delete", "namespace", "temporary"]);
        kubectl.fails(&["get", "namespace", "temporary"], "");
        assert_eq!(kubectl.ok(&["get", "services", "-A", "-o", "name"]), "service/web\n");
        let complaint = kubectl.fails(&["delete", "namespace", "default"], "");
        assert!(complaint.contains("may not be deleted"), "{complaint}");
        kubectl.ok(&["delete", "services", "--all"]);
        assert_eq!(kubectl.ok(&["get", "services", "-A", "-o", "name"]), "");
    });
}

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: peers.lab.example.net}
spec:
  group: lab.example.net
  scope: Namespaced
  names: {plural: peers, kind: Peer, shortNames: [pr]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: ASN, type: integer, jsonPath: .spec.asn}
    - {name: State, type: string, jsonPath: .status.state}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [asn]
            properties:
              asn: {type: integer, minimum: 1, maximum: 4294967295}
              mode: {type: string, enum: [active, passive], default: active}
          status:
            type: object
            properties: {state: {type: string}}
"#;

#[test]
fn custom_resources() {
    for_each(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], DEFINITION);
        kubectl.ok(&["wait", "--for=condition=established", "--timeout=20s", "crd/peers.lab.example.net"]);
        let peer = |asn: &str| {
            format!(
                "apiVersion: lab.example.net/v1\nkind: Peer\nmetadata: {{name: a}}\nspec: {{asn: {asn}, no: 1}}\n"
            )
        };
        let complaint = kubectl.fails(&["create", "-f", "-"], &peer("0"));
        let expected = "spec.asn: Invalid value: 0: spec.asn in body should be greater than or equal to 1";
        assert!(complaint.contains(expected), "{complaint}");
        let complaint = kubectl.fails(&["create", "-f", "-"], &peer("many"));
        assert!(complaint.contains("spec.asn: Invalid value: \"string\""), "{complaint}");
        kubectl.ok_with(&["apply", "-f", "-"], &peer("64512"));
        kubectl.ok_with(&["apply", "-f", "-"], &peer("64513"));
        let peer = object(kubectl, &["pr", "a"]);
        assert_eq!(peer["spec"], json!({"asn": 64513, "mode": "active"}));
        let status = Patch::Merge(json!({"status": {"state": "up"}, "spec": {"asn": 1}}));
        let api = &kubectl.server.api;
        api.patch_status("peers.lab.example.net", "default", "a", &status)
            .expect("the status can be patched");
        let table = kubectl.ok(&["get", "peers"]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows, [["NAME", "ASN", "STATE"], ["a", "64513", "up"]]);
        kubectl.ok(&["delete", "crd", "peers.lab.example.net"]);
        kubectl.fails(&["get", "peers"], "");
    });
}
