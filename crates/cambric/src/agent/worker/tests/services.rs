use super::bench::*;
use super::*;

#[test]
fn node_ports_follow_the_nodes_addresses() {
    let mut bench = Bench::new();
    let mut events = cluster();
    events[0] = network(r#"{"podRanges": ["10.244.0.0/16"], "nodePortAddresses": ["198.51.100.0/24"]}"#);
    events.insert(3, service());
    bench.kernel.with(|state| state.addresses = Ok(vec!["198.51.100.1".parse().unwrap()]));
    bench.events(events);
    let ports = |kernel: &Pretended| {
        kernel.with(|state| state.services.frontends.keys().map(ToString::to_string).collect::<Vec<_>>())
    };
    let kernel = bench.kernel.clone();
    bench.turn(move |_| {
        assert_eq!(ports(&kernel), ["10.96.0.7:80 TCP", "198.51.100.1:30080 TCP"]);
        kernel.with(|state| state.addresses = Ok(vec!["198.51.100.2".parse().unwrap()]));
        Heard::Change(Vec::new())
    });
    bench.run();
    assert_eq!(ports(&bench.kernel), ["10.96.0.7:80 TCP", "198.51.100.2:30080 TCP"]);
}

#[test]
fn without_the_nodes_addresses_nothing_is_compared() {
    let mut bench = Bench::new();
    let unreadable = Failure { error: "no buffer".to_owned(), origin: String::new() };
    bench.kernel.with(|state| state.addresses = Err(unreadable));
    bench.events(cluster());
    let (kernel, health, metrics) = (bench.kernel.clone(), bench.health.clone(), bench.metrics.clone());
    bench.turn(move |_| {
        assert!(health.ready().unwrap_err().contains("no buffer"));
        assert!(health.services().unwrap_err().contains("not been compared"));
        assert_eq!(metrics.services_in_force.get(), 0);
        assert_eq!(kernel.with(|state| state.record.clone()), Vec::<&str>::new());
        kernel.with(|state| state.addresses = Ok(Vec::new()));
        Heard::Change(Vec::new())
    });
    bench.run();
    assert_eq!(bench.record(), ["reconcile"]);
    assert_eq!((bench.health.ready(), bench.health.services()), (Ok(()), Ok(())));
    assert_eq!(bench.metrics.services_in_force.get(), 1);
}

#[test]
fn a_comparison_that_is_not_made_says_nothing_of_services() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.services_error = Some("table full".to_owned()));
    bench.events(cluster());
    let kernel = bench.kernel.clone();
    bench.turn(move |_| {
        let unreadable = Failure { error: "no buffer".to_owned(), origin: String::new() };
        kernel.with(|state| (state.services_error, state.addresses) = (None, Err(unreadable)));
        Heard::Change(Vec::new())
    });
    bench.turn(|_| Heard::Nothing);
    bench.run();
    assert_eq!(bench.record(), ["reconcile"]);
    assert!(bench.health.ready().unwrap_err().contains("no buffer"));
    assert_eq!(bench.health.services(), Err("table full".to_owned()));
    assert_eq!(bench.metrics.services_in_force.get(), 0);
}

#[test]
fn load_balancers_are_told_once_the_plan_is_carried_out() {
    let mut bench = Bench::new();
    let Event::Service(everywhere) = service() else { unreachable!() };
    let here = model::Service {
        external_policy: model::TrafficPolicy::Local,
        health_check_port: Some(32000),
        ..everywhere.clone()
    };
    let told = bench.checks.subscribe();
    let ports = move || told.borrow().keys().copied().collect::<Vec<u16>>();
    bench.events([vec![Event::Service(here)], cluster()].concat());
    let (kernel, told) = (bench.kernel.clone(), ports.clone());
    bench.turn(move |_| {
        assert_eq!(kernel.with(|state| state.record.clone()), ["reconcile"]);
        assert_eq!(told(), [32000]);
        Heard::Nothing
    });
    bench.events(vec![Event::Service(everywhere)]);
    bench.run();
    assert_eq!(ports(), Vec::<u16>::new());
}

#[test]
fn services_that_are_not_as_planned_are_told_apart_from_all_else() {
    let mut bench = Bench::new();
    bench.kernel.with(|state| state.services_error = Some("table full".to_owned()));
    bench.events(cluster());
    let (kernel, health) = (bench.kernel.clone(), bench.health.clone());
    bench.turn(move |_| {
        assert_eq!(health.services(), Err("table full".to_owned()));
        kernel.with(|state| (state.services_error, state.refuse) = (None, true));
        Heard::Change(Vec::new())
    });
    bench.turn(|_| Heard::Nothing);
    bench.run();
    assert!(bench.health.ready().is_err());
    assert_eq!(bench.health.services(), Ok(()));
}

#[test]
fn a_port_for_health_checks_that_is_taken_is_a_problem_until_it_is_free() {
    let mut bench = Bench::new();
    bench.events(cluster());
    let problems = |text: &str| -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_str(text).unwrap();
        status["problems"].clone()
    };
    bench.turn(|inbox| {
        inbox.send(Message::HealthPorts(vec!["port 32000 is taken".to_owned()])).unwrap();
        Heard::Nothing
    });
    let status = bench.dir.path().join("run/status.json");
    bench.turn(move |inbox| {
        let text = std::fs::read_to_string(&status).unwrap();
        assert_eq!(problems(&text), serde_json::json!(["port 32000 is taken"]));
        inbox.send(Message::HealthPorts(Vec::new())).unwrap();
        Heard::Nothing
    });
    bench.run();
    assert_eq!(problems(&bench.read("run/status.json").unwrap()), serde_json::json!([]));
}
