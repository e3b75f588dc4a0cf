use super::bench::*;
use super::*;
use crate::agent::bgp::{News, Wanted};

const BGP: &str = r#"{"podRanges": ["10.244.0.0/16"], "routeSource": "bgp"}"#;

/// What the speaker was told: whom to speak with.
fn told(bench: &mut Bench) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(wanted) = bench.speech.1.try_recv() {
        all.push(match wanted {
            Wanted::Speaker(Some(speaker), _) => {
                speaker.sessions.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            Wanted::Speaker(None, _) => "nobody".to_owned(),
            Wanted::Services(all) => format!("{} services", all.len()),
            Wanted::ServicesChanged(changes) => format!("{changes:?}"),
        });
    }
    all
}

#[test]
fn the_speaker_is_told_once_the_kernel_is_as_planned_and_when_it_should_be_another() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.mtu = Some(1500));
    let kernel = bench.kernel.clone();
    bench.events(vec![network(BGP), node("a", 1), node("b", 2), Event::Synced]);
    bench.turn(move |_| {
        assert_eq!(kernel.with(|state| state.record.clone()), ["reconcile"]);
        Heard::Nothing
    });
    bench.events(vec![node("c", 3)]);
    bench.events(vec![service()]);
    bench.run();
    assert_eq!(told(&mut bench), ["0 services", "node/b", "node/b node/c"]);

    let mut bench = Bench::new();
    bench.events(vec![network(BGP), node("b", 2), Event::Synced]);
    bench.run();
    assert_eq!(told(&mut bench), Vec::<String>::new(), "without a plan nobody is spoken with");
}

#[test]
fn without_anybody_to_speak_with_that_is_told_too() {
    let mut bench = Bench::new();
    bench.events(cluster());
    bench.run();
    assert_eq!(told(&mut bench), ["0 services", "nobody"]);
}

#[test]
fn what_is_wrong_with_the_speaker_is_a_problem() {
    let mut bench = Bench::new();
    bench.events(cluster());
    bench.turn(|inbox| {
        inbox.send(Message::Bgp(News::Problems(vec!["BGP: cannot listen".to_owned()]))).unwrap();
        Heard::Nothing
    });
    bench.run();
    let status: serde_json::Value = serde_json::from_str(&bench.read("run/status.json").unwrap()).unwrap();
    assert_eq!(status["problems"], serde_json::json!(["BGP: cannot listen"]));
}

/// The speaker was asked before, and answers late.
#[test]
fn that_nobody_has_told_anything_counts_for_the_source_of_routes_that_was_meant() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.mtu = Some(1500));
    bench.events(cluster());
    let route = Key::Route("10.244.2.0/24".parse().unwrap());
    let kernel = bench.kernel.clone();
    bench.turn(move |inbox| {
        assert!(kernel.with(|state| state.entries.contains_key(&route)));
        inbox.send(Message::Cluster(network(BGP), Instant::now())).unwrap();
        inbox.send(Message::Bgp(News::Converged(0))).unwrap();
        Heard::Nothing
    });
    let kernel = bench.kernel.clone();
    let route = Key::Route("10.244.2.0/24".parse().unwrap());
    bench.turn(move |inbox| {
        assert!(kernel.with(|state| state.entries.contains_key(&route)));
        inbox.send(Message::Bgp(News::Converged(1))).unwrap();
        Heard::Nothing
    });
    bench.run();
    assert_eq!(told(&mut bench), ["0 services", "nobody", "node/b"]);
    assert!(!bench.kernel.with(|state| state.entries.keys().any(|key| matches!(key, Key::Route(_)))));
}

#[test]
fn what_is_learned_is_a_route_and_the_kernel_is_compared_once_all_is_learned() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.mtu = Some(1500));
    bench.events(vec![network(BGP), node("a", 1), node("b", 2), Event::Synced]);
    let prefix: ipnet::IpNet = "10.244.2.0/24".parse().unwrap();
    let path =
        plan::LearnedPath { next_hop: "192.0.2.2".parse().unwrap(), peer: "node/b".into(), stale: false };
    bench.turn(move |inbox| {
        inbox.send(Message::Bgp(News::Routes(vec![(prefix, vec![path.clone()])]))).unwrap();
        Heard::Nothing
    });
    bench.turn(|inbox| {
        inbox.send(Message::Bgp(News::Converged(0))).unwrap();
        Heard::Nothing
    });
    let kernel = bench.kernel.clone();
    bench.turn(move |inbox| {
        assert!(kernel.with(|state| state.entries.contains_key(&Key::Route(prefix))));
        inbox.send(Message::Bgp(News::Routes(vec![(prefix, Vec::new())]))).unwrap();
        Heard::Nothing
    });
    bench.run();
    let record = bench.record();
    assert!(record.ends_with(&["apply", "reconcile", "apply"]), "{record:?}");
    assert!(!bench.kernel.with(|state| state.entries.contains_key(&Key::Route(prefix))));
}
