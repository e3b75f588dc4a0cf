//! What the agent tells: load balancers that ask for its endpoints, whoever asks what is in the kernel, and the live page.

#![allow(clippy::unwrap_used)]

mod agent_common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use agent_common::{Node, SOON, START};
use apiserver::api::DeleteOptions;
use serde_json::{Value, json};

const SLICES: &str = "endpointslices.discovery.k8s.io";
const PORT: u16 = 31000;
/// Where the live page is.
const PAGE: &str = "127.0.0.1:9470";
/// The node's own addresses.
const OVER: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A service for whose endpoints load balancers ask.
fn put_web(node: &Node, health_port: u16) {
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": health_port,
        "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack", "sessionAffinity": "ClientIP",
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
    });
    node.api().create("services", "default", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
}

/// A slice of it, with these endpoints and the nodes they are on.
fn put_slice(node: &Node, name: &str, endpoints: &[(&str, &str)]) {
    let _ = node.api().delete(SLICES, "default", name, &DeleteOptions::default());
    let family = if endpoints[0].0.contains(':') { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    node.api().create(SLICES, "default", slice).unwrap();
}

fn put_slices(node: &Node) {
    put_slice(node, "web-4", &[("10.244.1.2", "a"), ("10.244.1.3", "a"), ("10.244.2.2", "b")]);
    put_slice(node, "web-6", &[("fd00:10:244:1::2", "a"), ("fd00:10:244:2::2", "b")]);
}

fn remove_web(node: &Node) {
    node.api().delete("services", "default", "web", &DeleteOptions::default()).unwrap();
}

/// Status and weight, if there is an answer, which must be about the service.
fn asked(node: &Node, over: &str, port: u16) -> Option<(u16, usize)> {
    let over: IpAddr = over.parse().unwrap();
    let text = node.inside(|| {
        let mut stream = TcpStream::connect((over, port)).ok()?;
        write!(stream, "GET / HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if body.is_empty() {
        // Nobody asks any more, and the port is about to be closed.
        return None;
    }
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["service"], json!({"namespace": "default", "name": "web"}));
    assert_eq!(body["serviceProxyHealthy"], true, "{text}");
    let weight = head.lines().find_map(|line| line.strip_prefix("x-load-balancing-endpoint-weight: "));
    let weight: usize = weight.unwrap().parse().unwrap();
    assert_eq!(body["localEndpoints"], weight);
    Some((head.split(' ').nth(1)?.parse().unwrap(), weight))
}

fn problems(node: &Node) -> Value {
    let status = std::fs::read(node.dir.path().join("run/status.json")).unwrap();
    serde_json::from_slice::<Value>(&status).unwrap()["problems"].clone()
}

#[test]
fn load_balancers_are_told_how_many_endpoints_are_here() {
    let node = Node::ready();
    assert_eq!(asked(&node, OVER[0], PORT), None);
    put_slices(&node);
    put_web(&node, PORT);
    let says = |port: u16, answers: [Option<(u16, usize)>; 2]| {
        node.eventually(SOON, &format!("port {port} says {answers:?}"), || {
            OVER.map(|over| asked(&node, over, port)) == answers
        });
    };
    says(PORT, [Some((200, 2)), Some((200, 1))]);
    assert_eq!(asked(&node, "127.0.0.1", PORT), Some((200, 2)));

    put_slice(&node, "web-4", &[("10.244.2.2", "b")]);
    says(PORT, [Some((503, 0)), Some((200, 1))]);
    put_slice(&node, "web-4", &[("10.244.1.9", "a")]);
    says(PORT, [Some((200, 1)), Some((200, 1))]);

    // One that has been talking for a while is not kept when the port is gone.
    let mut open = node.inside(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))).unwrap();
    remove_web(&node);
    says(PORT, [None, None]);
    open.set_read_timeout(Some(SOON)).unwrap();
    assert!(open.read(&mut [0; 1]).is_ok_and(|read| read == 0), "it is closed");
    put_web(&node, PORT + 1);
    says(PORT + 1, [Some((200, 1)), Some((200, 1))]);
    assert_eq!(asked(&node, OVER[0], PORT), None);
    assert_eq!(node.metric("cambric_services_in_force"), 1.0);
    assert!(node.metric("cambric_service_elements_changed_total") > 0.0);
}

#[test]
fn a_port_that_somebody_else_has_is_told_and_taken_when_it_is_free() {
    let node = Node::ready();
    let other = node.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap();
    put_slices(&node);
    put_web(&node, PORT);
    let told = "Service default/web: cannot listen on spec.healthCheckNodePort 31000";
    let tells =
        || problems(&node).as_array().unwrap().iter().any(|each| each.as_str().unwrap().contains(told));
    node.eventually(SOON, "it is told", tells);
    drop(other);
    node.eventually(START, "it is answered", || {
        OVER.map(|over| asked(&node, over, PORT)) == [Some((200, 2)), Some((200, 1))]
    });
    node.eventually(SOON, "it is solved", || !tells());
}

#[test]
fn what_is_in_the_kernel_is_shown_and_what_is_damaged_marked() {
    let node = Node::ready();
    let run = |words: &[&str]| {
        let output = node.command("status").arg("services").args(words).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    put_slices(&node);
    put_web(&node, PORT);
    node.put_network(&json!({
        "podRanges": ["10.244.0.0/16", "fd00:10:244::/48"], "serviceRanges": ["10.96.0.0/12", "fd00:96::/108"],
    }));
    node.comes("nft list set ip cambric-services service-ranges", "10.96.0.0/12");
    node.comes("nft list map ip6 cambric-services outside-services", "stick-outside-1");
    node.comes("nft list map ip cambric-services services", "stick-3");
    let (sound, text) = run(&[]);
    let expected = "\
default/web TCP
  cluster     10.96.0.7:80
  goes to     one of 3 at random; a client stays 10800 s, 0 do now
              10.244.1.2:8080, 10.244.1.3:8080, 10.244.2.2:8080
  node        192.0.2.1:30080
  goes to     one of 3 at random; a client stays 10800 s, 0 do now
              10.244.1.2:8080, 10.244.1.3:8080, 10.244.2.2:8080
  outside     one of 2 at random
              10.244.1.2:8080, 10.244.1.3:8080
  cluster     [fd00:96::7]:80
  goes to     one of 2 at random; a client stays 10800 s, 0 do now
              [fd00:10:244:1::2]:8080, [fd00:10:244:2::2]:8080
  node        [2001:db8::1]:30080
  goes to     one of 2 at random; a client stays 10800 s, 0 do now
              [fd00:10:244:1::2]:8080, [fd00:10:244:2::2]:8080
  outside     the one endpoint
              [fd00:10:244:1::2]:8080
";
    assert_eq!((sound, text.as_str()), (true, expected));
    assert_eq!(run(&["default/web"]), (true, text));
    let (found, said) = run(&["default/other"]);
    assert!(!found && said.contains("has no service default/other"), "{said}");

    // Else the agent would repair it before anybody looks.
    node.signal("STOP");
    node.exec("nft delete element ip cambric-services backends { 10.96.0.7 . tcp . 80 . 2 }");
    node.exec("nft flush chain ip6 cambric-services balance");
    let (sound, text) = run(&[]);
    for line in [
        "  wrong       services says goto stick-3, but backends has only 2 of these\n              endpoints\n",
        "wrong         chain balance in table ip6 cambric-services has other rules\n",
    ] {
        assert!(!sound && text.contains(line), "{line}{text}");
    }
    let (sound, json) = run(&["--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(!sound && json["sound"] == false);
    assert_eq!(json["services"][0]["addresses"][0]["target"]["endpoints"].as_array().unwrap().len(), 2);
    node.signal("CONT");
    node.eventually(SOON, "it is mended", || run(&[]).0);
}

/// What the page is answered on the node: the status, and the body.
fn page(node: &Node, path: &str, token: &str) -> (u16, String) {
    let answer = node.inside(|| {
        let mut stream = TcpStream::connect(PAGE).unwrap();
        let head = format!("Host: {PAGE}\r\nAuthorization: Bearer {token}\r\nConnection: close");
        write!(stream, "GET {path} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn the_live_page_is_for_those_who_can_read_its_token() {
    let mut node = Node::new();
    node.put_node("b", 2);
    node.start_agent_with(&["--ui-listen", PAGE]);
    node.wait_ready();
    let file = node.dir.path().join("run/ui-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap();
    assert!(!node.log().contains(&token));
    assert_eq!(page(&node, "/", "").0, 200);
    assert_eq!(page(&node, "/api/picture", "").0, 401);

    let json = |path: &str| {
        let (status, body) = page(&node, path, &token);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let picture = json("/api/picture");
    let ids: Vec<&str> =
        picture["machines"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["node/a", "node/b"]);
    assert_eq!(picture["subnets"].as_array().unwrap().len(), 1, "{picture:#}");
    let traced = json("/api/trace?from=node%2Fa&to=node%2Fb");
    assert_eq!(traced["journey"]["delivered"], true, "{traced:#}");
    assert_eq!(traced["ways"][0]["there"].as_array().unwrap().len(), 5, "{traced:#}");
    let findings = json("/api/findings");
    assert_eq!(findings[0]["node"], "a", "{findings:#}");
    // The doctor has looked.
    assert!(
        findings[0]["unchecked"].as_array().unwrap().iter().all(|one| one["check"] != "doctor"),
        "{findings:#}"
    );
    assert!(json("/api/bgp").is_array());
}
