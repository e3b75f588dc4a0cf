use super::bench::*;
use super::*;

#[test]
fn a_run_without_the_api_goes_by_the_state_of_the_last() {
    let mut first = Bench::new();
    first.events([vec![service()], cluster()].concat());
    first.run();
    let entries = first.kernel.with(|state| state.entries.clone());
    let services = first.kernel.with(|state| state.services.clone());
    assert_eq!(services.frontends.len(), 2);

    let mut second = Bench::new();
    second.leave(&first);
    second.api_patience = Duration::ZERO;
    second.turn(|_| Heard::Nothing);
    second.run();
    assert_eq!(second.record(), ["reconcile"]);
    assert_eq!(second.kernel.with(|state| state.entries.clone()), entries);
    assert_eq!(second.kernel.with(|state| state.services.clone()), services);
}

#[test]
fn a_service_that_is_refused_at_the_start_stays_as_the_last_run_left_it() {
    let mut first = Bench::new();
    first.events([vec![service()], cluster()].concat());
    first.run();
    let services = first.kernel.with(|state| state.services.clone());

    let mut second = Bench::new();
    second.leave(&first);
    let object = kube_source::Object { kind: "Service", name: "shop/web".to_owned() };
    let refused = Event::Refused { object, reason: "Service shop/web: spec.ports".to_owned() };
    second.events([vec![refused], cluster()].concat());
    second.run();
    assert_eq!(second.kernel.with(|state| state.services.clone()), services);
    // It is kept for the run after this one too.
    assert_eq!(second.read("run/state.json"), first.read("run/state.json"));
}

#[test]
fn what_came_before_the_end_is_kept() {
    let mut first = Bench::new();
    first.events([vec![service()], cluster()].concat());
    first.events(vec![node("c", 3), Event::ServiceGone(model::ObjectName::new("shop", "web"))]);
    first.run();
    let entries = first.kernel.with(|state| state.entries.clone());
    assert_eq!(first.record(), ["reconcile", "apply"]);

    let mut second = Bench::new();
    second.leave(&first);
    second.api_patience = Duration::ZERO;
    second.turn(|_| Heard::Nothing);
    second.run();
    assert_eq!(second.kernel.with(|state| state.entries.clone()), entries);
    assert_eq!(second.kernel.with(|state| state.services.frontends.len()), 0);
}
