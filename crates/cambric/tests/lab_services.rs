//! The control plane of a lab treats services and their endpoints as that of a cluster does.

#![allow(missing_docs, clippy::unwrap_used)]

mod lab_common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns;
use lab::flows::{Event, Flows, What, of_lab};
use lab_common::{CAMBRIC, Lab, Pod, succeed};
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
    flows_have_names(&lab, &client, &frontends);
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

/// `cambric flows` knows who has talked to whom by the service: listed, and followed.
fn flows_have_names(lab: &Lab, client: &Pod, frontends: &[IpAddr]) {
    let flows = |arguments: &[&str]| {
        let mut command = Command::new(CAMBRIC);
        command.args(["flows", "--lab", &lab.name]).args(arguments);
        command
    };
    let to = |flow: &Value, frontend: &IpAddr| {
        flow["destination"]["address"] == frontend.to_string().as_str()
            && flow["service"] == "default/gated"
            && flow["client"]["name"] == "default/client"
            && flow["client"]["address"].as_str().unwrap().parse::<IpAddr>().unwrap().is_ipv4()
                == frontend.is_ipv4()
            && flow["backend"]["name"] == "default/gated"
            && flow["backend"]["port"] == 8080
            && flow["node"] == "node-2"
            && flow["seenAs"] == Value::Null
    };
    let parsed =
        |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let listed = parsed(&succeed(&mut flows(&["--json", "--service", "gated", "--pod", "client"])));
    let bytes = |flow: &Value, field: &str| flow["traffic"][field].as_u64().unwrap();
    for frontend in frontends {
        let answered: Vec<&Value> = listed.iter().filter(|flow| to(flow, frontend)).collect();
        let sound = |flow: &&Value| bytes(flow, "sentBytes") > 100 && bytes(flow, "receivedBytes") > 100;
        assert!(answered.iter().any(sound), "{frontend}: {listed:#?}");
    }
    assert!(
        listed.iter().all(|flow| flow["client"]["node"] == "node-2"),
        "one node tells of each: {listed:#?}"
    );

    // On the node itself, by its own kubeconfig.
    let inside =
        |arguments: &[&str]| lab.run("exec", &[&["node-1", "--", CAMBRIC, "flows"], arguments].concat());
    let seen = parsed(&inside(&["--json", "--pod", "client", "--port", "8080"]));
    assert!(!seen.is_empty(), "the endpoint's node tracks them too");
    assert!(
        seen.iter().all(|flow| flow["node"] == "node-1" && flow["destination"]["name"] == "default/gated")
    );
    let text = succeed(&mut flows(&["--service", "gated", "--family", "6"]));
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("> service/default/gated > default/gated:8080"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let unknown = flows(&["--service", "gate"]).output().unwrap();
    let error = String::from_utf8(unknown.stderr).unwrap();
    assert!(!unknown.status.success() && error.contains("or service/default/gated"), "{error}");

    let mut follower =
        flows(&["--follow", "--json", "--service", "gated"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    // It listens once it tells of what was there.
    assert_eq!(next()["event"], "listed");
    for frontend in frontends {
        assert!(answers(client, (*frontend, 80)), "{frontend} does not answer");
        let begun =
            std::iter::repeat_with(&mut next).find(|flow| flow["event"] == "begun" && to(flow, frontend));
        assert_eq!(begun.unwrap()["verdict"], "new");
    }
    follower.kill().unwrap();
    follower.wait().unwrap();

    // For others in the same process: it ends when it is dropped, whatever still waits to be read.
    let (places, mut look) = of_lab(&lab.name.parse().unwrap(), None).unwrap();
    let scene = look().unwrap();
    let mut followed = Flows::follow(places, &scene, look, Duration::from_millis(200)).unwrap();
    let first = followed.next(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(first, Some(Event::Flow(What::Listed, _))), "{first:?}");
    drop(followed);
}

#[test]
fn what_a_service_cannot_have_is_refused_with_the_reason() {
    let lab = Lab::up("vxlan-v4.yaml");
    let refused = |manifest: &str| {
        let mut command = lab.command("kubectl", &["--", "create", "-f", "-"]);
        let (input, output) = (Stdio::piped(), Stdio::piped());
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
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
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
