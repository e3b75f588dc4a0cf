//! The control plane of a lab treats services and their endpoints as that of a cluster does.

#![allow(missing_docs, clippy::unwrap_used)]

mod lab_common;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns;
use lab_common::{Lab, Pod};
use serde_json::{Value, json};

/// A server that is ready when somebody says so, and serves for some seconds after it was told to stop.
const GATED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: gated, labels: {app: gated}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 20
  readinessGates: [{conditionType: example.com/open}]
  containers:
    - name: c
      image: echo
      ports: [{name: web, containerPort: 8080}]
      lifecycle: {preStop: {sleep: {seconds: 10}}}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: node-2
  containers: [{name: c, image: echo}]
---
apiVersion: v1
kind: Service
metadata: {name: gated}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  selector: {app: gated}
  ports: [{port: 80, targetPort: web}]
";

#[test]
fn endpoints_follow_their_pods() {
    let lab = Lab::up("vxlan.yaml");
    let object = |arguments: &[&str]| -> Value {
        let all = [&["--", "get", "-o", "json"], arguments].concat();
        serde_json::from_str(&lab.run("kubectl", &all)).unwrap()
    };
    create(&lab, GATED);
    lab.run("kubectl", &["--", "wait", "--for=condition=ContainersReady", "pod/gated", "--timeout=60s"]);
    lab.run("kubectl", &["--", "wait", "--for=condition=Ready", "pod/client", "--timeout=60s"]);
    let service = object(&["service", "gated"]);
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().unwrap();
    let addresses: Vec<&str> = ingress.iter().map(|one| one["ip"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["203.0.113.1", "2001:db8:ff::1"]);
    assert!(service["spec"]["healthCheckNodePort"].as_u64().unwrap() >= 30_000);

    let conditions = || -> Vec<Value> {
        let slices = object(&["endpointslices", "-l", "kubernetes.io/service-name=gated"]);
        let slices = slices["items"].as_array().unwrap();
        slices.iter().flat_map(|slice| slice["endpoints"].as_array().unwrap().clone()).collect::<Vec<Value>>()
    };
    let all = |ready: bool, serving: bool, terminating: bool| {
        let wanted = json!({"ready": ready, "serving": serving, "terminating": terminating});
        let is_so = || {
            let endpoints = conditions();
            endpoints.len() == 2 && endpoints.iter().all(|endpoint| endpoint["conditions"] == wanted)
        };
        eventually(is_so, || format!("{wanted} is not so: {:#?}", conditions()));
    };
    all(false, false, false);
    let open = r#"{"status": {"conditions": [{"type": "example.com/open", "status": "True"}]}}"#;
    lab.run("kubectl", &["--", "patch", "pod", "gated", "--subresource=status", "-p", open]);
    all(true, true, false);
    assert!(conditions().iter().all(|endpoint| endpoint["nodeName"] == "node-1"));

    // A pod that is going serves until the end, and its service leads to it as long as there is no other one.
    let (client, gated) = (lab.pod("client"), lab.pod("gated"));
    let frontends: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    for to in
        gated.addresses.iter().map(|address| (*address, 8080)).chain(frontends.iter().map(|one| (*one, 80)))
    {
        eventually(|| answers(&client, to), || format!("{to:?} does not answer"));
    }
    lab.run("kubectl", &["--", "delete", "pod", "gated", "--wait=false"]);
    all(false, true, true);
    for to in
        gated.addresses.iter().map(|address| (*address, 8080)).chain(frontends.iter().map(|one| (*one, 80)))
    {
        assert!(answers(&client, to), "{to:?} does not answer any more");
    }
    lab.run("kubectl", &["--", "delete", "pod", "gated", "--now"]);
    eventually(|| conditions().is_empty(), || format!("endpoints stay: {:#?}", conditions()));

    let shown = lab.run("kubectl", &["--", "describe", "service", "gated"]);
    assert!(shown.contains("203.0.113.1") && shown.contains("HealthCheck NodePort"), "{shown}");
    let wide = lab.run("kubectl", &["--", "get", "services", "-o", "wide"]);
    assert!(wide.contains("203.0.113.1,2001:db8:ff::1") && wide.contains("app=gated"), "{wide}");
}

#[test]
fn what_a_service_cannot_have_is_refused_with_the_reason() {
    let lab = Lab::up("vxlan-v4.yaml");
    let refused = |manifest: &str| {
        let mut command = lab.command("kubectl", &["--", "create", "-f", "-"]);
        let (input, output) = (std::process::Stdio::piped(), std::process::Stdio::piped());
        let mut child = command.stdin(input).stderr(output).spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{manifest}");
        String::from_utf8(output.stderr).unwrap()
    };
    let service = |name: &str, spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    };
    let port = "ports: [{port: 80, nodePort: 30080}]";
    create(&lab, &service("first", &format!("type: NodePort, {port}")));
    for (spec, reason) in [
        (format!("type: NodePort, {port}"), "another service has it for TCP"),
        ("ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]".to_owned(), "IPv4 only"),
        ("type: NodePort, ports: [{port: 80, nodePort: 80}]".to_owned(), "30000-32767"),
        ("externalIPs: [127.0.0.1], ports: [{port: 80}]".to_owned(), "loopback"),
    ] {
        let error = refused(&service("second", &spec));
        assert!(error.contains(reason), "{spec}: {error}");
    }
}

fn create(lab: &Lab, manifest: &str) {
    let mut command = lab.command("kubectl", &["--", "create", "-f", "-"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Waits until something is so; `otherwise` says what is instead.
fn eventually(is_so: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{}", otherwise());
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the pod `gated` answers at an address.
fn answers(from: &Pod, to: (IpAddr, u16)) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /json HTTP/1.1\r\nHost: gated\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    netns::run_in(&from.enter(), ask).unwrap().is_ok_and(|answer| answer.contains("\"pod\":\"gated\""))
}
