//! Flows and clients that an endpoint has left behind find another.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::pods;
use common::services::{
    PATIENCE, PORT, Scene, accept, ask, cluster_address, connect, endpoint, external_address, ready, service,
    slices,
};
use common::wire::Wire;
use kernel::Verb;
use model::{Family, Protocol, Service};
use plan::Input;

/// Enough draws that three endpoints are all reached but once in 10^15.
const DRAWS: usize = 90;

fn at(number: u8, family: Family) -> SocketAddr {
    SocketAddr::new(cluster_address(number, family), PORT)
}

/// A service whose clients stay with an endpoint for so many seconds.
fn sticky(seconds: u64) -> Service {
    let affinity = Some(Duration::from_secs(seconds));
    Service { affinity, ..service(10, &[Protocol::Tcp, Protocol::Udp]) }
}

/// How many flows the node keeps track of.
fn flows(scene: &Scene, family: Family) -> usize {
    let name = if family == Family::V4 { "ipv4" } else { "ipv6" };
    scene.node.run(&format!("conntrack -L -f {name} -p udp")).lines().count()
}

#[test]
fn a_flow_moves_when_its_endpoint_goes_and_only_then() {
    let mut scene = Scene::new(4);
    let service = service(10, &[Protocol::Tcp, Protocol::Udp]);
    scene.serve(&service, &[0, 1, 2]);
    for family in Family::BOTH {
        scene.serve(&service, &[0, 1, 2]);
        let servers = scene.udp_servers(&[0, 1, 2], family);
        let clients: Vec<UdpSocket> = (0..12).map(|_| scene.client(3, family)).collect();
        let before: Vec<usize> =
            clients.iter().map(|client| ask(client, at(10, family), &servers).0).collect();
        let moving = before.iter().filter(|which| **which == 2).count();

        let report = scene.serve(&service, &[0, 1]);
        assert_eq!(report.flows_removed, moving, "{before:?}");
        let told = report.steps.counts.get(&("flow", Verb::Removed)).copied().unwrap_or_default();
        assert_eq!(told, moving, "{}", report.steps);
        for (client, before) in clients.iter().zip(&before) {
            let (after, _) = ask(client, at(10, family), &servers);
            assert!(after < 2 && (*before == 2 || after == *before), "{before} became {after}");
        }
        // One more endpoint moves nobody.
        let now: Vec<usize> = clients.iter().map(|client| ask(client, at(10, family), &servers).0).collect();
        assert_eq!(scene.serve(&service, &[0, 1, 2]).flows_removed, 0);
        for (client, before) in clients.iter().zip(now) {
            assert_eq!(ask(client, at(10, family), &servers).0, before);
        }
        // None at all: all flows go, and the client is told.
        assert_eq!(scene.serve(&service, &[]).flows_removed, clients.len());
        clients[0].connect(at(10, family)).unwrap();
        clients[0].send(b"anybody there?").unwrap();
        assert_eq!(clients[0].recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_flow_from_before_the_service_finds_it() {
    let mut scene = Scene::new(2);
    let outside = {
        let _guard = scene.world.enter();
        Wire::open("wire")
    };
    let went_out = || while !outside.receive().ends_with(b"question") {};
    for family in Family::BOTH {
        let number = 20 + u8::from(family == Family::V6);
        let mut exposed = service(number, &[Protocol::Udp]);
        exposed.external_addresses = vec![external_address(number, family)];
        let to = SocketAddr::new(external_address(number, family), PORT);
        let servers = scene.udp_servers(&[0], family);
        let client = scene.client(1, family);
        // Nobody has the address, so it goes wherever the route leads.
        client.send_to(b"question", to).unwrap();
        went_out();
        assert_eq!(flows(&scene, family), 1);
        assert_eq!(scene.serve(&exposed, &[0]).flows_removed, 1);
        assert_eq!(ask(&client, to, &servers).0, 0);

        // The service goes: so does the flow that was rewritten for its sake.
        let gone = scene.update([Input::ServiceGone(exposed.name.clone())]);
        assert_eq!(gone.flows_removed, 1);
        client.send_to(b"question", to).unwrap();
        went_out();
    }
}

#[test]
fn what_was_left_behind_while_nobody_looked_is_cleared_at_the_start() {
    let mut scene = Scene::new(4);
    let (kept, dropped) = (sticky(600), service(11, &[Protocol::Udp]));
    scene.serve(&kept, &[0, 1]);
    scene.serve(&dropped, &[0]);
    let mut asked = Vec::new();
    for family in Family::BOTH {
        let servers = scene.udp_servers(&[0, 1], family);
        let client = scene.client(3, family);
        let (which, _) = ask(&client, at(10, family), &servers);
        let other = scene.client(3, family);
        ask(&other, at(11, family), &servers);
        asked.push((client, which, servers));
    }
    // The next to come finds another cluster: each family's endpoint is gone, and one service.
    let endpoints = Family::BOTH.into_iter().zip(&asked).map(|(family, (_, which, _))| {
        endpoint(scene.pods[1 - which].address(family), &common::cluster::name(0))
    });
    let changes: Vec<Input> =
        slices(&kept, endpoints.collect()).into_iter().chain([Input::ServiceGone(dropped.name)]).collect();
    for input in changes {
        scene.planner.update(input);
    }
    scene.restart();
    let report = scene.reconcile();
    assert_eq!(report.flows_removed, 4, "{report}");
    for (family, (client, which, servers)) in Family::BOTH.into_iter().zip(&asked) {
        assert_eq!(ask(client, at(10, family), servers).0, 1 - which);
    }
    scene.restart();
    assert!(scene.reconcile().is_quiet());
}

#[test]
fn clients_stay_with_their_endpoint_while_it_is_there() {
    let mut scene = Scene::new(4);
    let others = |which: usize| -> Vec<usize> { (0..3).filter(|other| *other != which).collect() };
    scene.serve(&sticky(600), &[0, 1, 2]);
    for family in Family::BOTH {
        scene.serve(&sticky(600), &[0, 1, 2]);
        let (to, client) = (at(10, family), &scene.pods[3].test);
        let servers = scene.tcp_servers(&[0, 1, 2], family);
        let reached = |scene: &Scene| -> BTreeSet<usize> {
            let once = || {
                let _stream = connect(&scene.pods[3].test, to).unwrap();
                accept(&servers).0
            };
            (0..DRAWS).map(|_| once()).collect()
        };
        let _stream = connect(client, to).unwrap();
        let which = accept(&servers).0;
        assert_eq!(reached(&scene), [which].into());

        // Others go and come.
        let left = [which, others(which)[0]];
        assert_eq!(scene.serve(&sticky(600), &left).flows_removed, 0);
        assert_eq!(reached(&scene), [which].into());
        scene.serve(&sticky(600), &[0, 1, 2]);
        assert_eq!(reached(&scene), [which].into());

        // Its own goes, and the client stays with another from then on, even when it is back.
        scene.serve(&sticky(600), &others(which));
        let moved = reached(&scene);
        assert!(moved.len() == 1 && !moved.contains(&which), "{which} became {moved:?}");
        scene.serve(&sticky(600), &[0, 1, 2]);
        assert_eq!(reached(&scene), moved);

        // Without affinity all are reached again, and nobody is remembered.
        scene.serve(&service(10, &[Protocol::Tcp, Protocol::Udp]), &[0, 1, 2]);
        assert_eq!(reached(&scene), [0, 1, 2].into());
        let table = if family == Family::V4 { "ip" } else { "ip6" };
        let map = scene.node.run(&format!("nft list map {table} cambric-services affinity"));
        assert!(!map.contains("elements"), "{map}");
    }
}

/// A client that gets no answer goes on to try. Its packets must not tie it anew to the endpoint that is gone.
#[test]
fn a_client_that_nobody_answers_is_let_go_with_its_endpoint() {
    let mut scene = Scene::new(4);
    for family in Family::BOTH {
        scene.serve(&sticky(600), &[0, 1]);
        let servers = scene.udp_servers(&[0, 1, 2], family);
        let silent = scene.client(3, family);
        silent.send_to(b"anybody", at(10, family)).unwrap();
        let which = ready(&servers, PATIENCE).unwrap();
        servers[which].recv_from(&mut [0; 64]).unwrap();

        // Between the two steps of a removal the client sends again; here, after the element alone is gone.
        let table = if family == Family::V4 { "ip" } else { "ip6" };
        scene.node.run(&format!("nft flush map {table} cambric-services affinity"));
        silent.send_to(b"anybody", at(10, family)).unwrap();
        assert_eq!(ready(&servers, PATIENCE), Some(which), "its flow is where it was");
        servers[which].recv_from(&mut [0; 64]).unwrap();
        let map = scene.node.run(&format!("nft list map {table} cambric-services affinity"));
        assert!(!map.contains("elements"), "remembered by a packet that was not the first: {map}");

        scene.serve(&sticky(600), &[2]);
        let reached = ask(&scene.client(3, family), at(10, family), &servers).0;
        assert_eq!(reached, 2);
        scene.serve(&sticky(600), &[0, 1]);
    }
}

/// A shorter time counts from the client's next connection on.
#[test]
fn clients_are_let_go_after_their_time() {
    let mut scene = Scene::new(4);
    for family in Family::BOTH {
        scene.serve(&sticky(600), &[0, 1, 2]);
        let servers = scene.udp_servers(&[0, 1, 2], family);
        let table = if family == Family::V4 { "ip" } else { "ip6" };
        let remembered = |scene: &Scene| {
            let map = scene.node.run(&format!("nft list map {table} cambric-services affinity"));
            map.contains("elements")
        };
        let first = ask(&scene.client(3, family), at(10, family), &servers).0;
        assert!(remembered(&scene));
        scene.serve(&sticky(1), &[0, 1, 2]);
        let again = ask(&scene.client(3, family), at(10, family), &servers).0;
        assert_eq!(again, first);
        // The kernel says nothing when an element runs out, so there is only to look again.
        let start = Instant::now();
        while remembered(&scene) {
            assert!(start.elapsed() < Duration::from_secs(60), "the time is one second now");
        }
    }
}

#[test]
fn established_connections_outlive_all_changes_around_them() {
    let mut scene = Scene::new(4);
    let service = service(10, &[Protocol::Tcp, Protocol::Udp]);
    scene.serve(&service, &[0, 1, 2]);
    for family in Family::BOTH {
        scene.serve(&service, &[0, 1, 2]);
        let servers = scene.tcp_servers(&[0, 1, 2], family);
        let mut stream = connect(&scene.pods[3].test, at(10, family)).unwrap();
        let (which, _, mut end) = accept(&servers);
        let mut talk = |what: &str| {
            stream.write_all(what.as_bytes()).unwrap();
            let mut heard = vec![0; what.len()];
            end.read_exact(&mut heard).unwrap();
            end.write_all(&heard).unwrap();
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(heard, what.as_bytes());
        };
        talk("at first");
        let others: Vec<usize> = (0..3).filter(|other| *other != which).collect();
        scene.serve(&service, &[which]);
        talk("the others have gone");
        scene.serve(&common::services::service(11, &[Protocol::Tcp]), &[0]);
        scene.update([Input::ServiceGone(common::services::service(11, &[]).name)]);
        talk("another service has come and gone");
        scene.serve(&sticky(600), &[0, 1, 2]);
        talk("there is affinity now");
        // Its own endpoint takes no more connections, and ends this one in its own time.
        scene.serve(&service, &others);
        talk("the endpoint has gone");
        scene.update([Input::ServiceGone(service.name.clone())]);
        talk("the service has gone");
        scene.restart();
        scene.reconcile();
        talk("after a restart");
    }
}

#[test]
fn a_flow_of_somebody_else_stays() {
    let mut scene = Scene::new(3);
    scene.serve(&service(10, &[Protocol::Udp]), &[0]);
    for family in Family::BOTH {
        let servers = scene.udp_servers(&[0, 1], family);
        // Straight to an endpoint that the service is going to lose.
        let client = scene.client(2, family);
        ask(&client, servers[0].local_addr().unwrap(), &servers);
        let stranger: IpAddr = pods::STRANGER[usize::from(family == Family::V6)].parse().unwrap();
        client.send_to(b"question", (stranger, PORT)).unwrap();
        assert_eq!(flows(&scene, family), 2);
    }
    assert_eq!(scene.serve(&service(10, &[Protocol::Udp]), &[1]).flows_removed, 0);
    assert_eq!(scene.update([Input::ServiceGone(service(10, &[]).name)]).flows_removed, 0);
    for family in Family::BOTH {
        assert_eq!(flows(&scene, family), 2);
    }
}
