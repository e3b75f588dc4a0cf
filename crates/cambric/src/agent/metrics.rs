//! What Prometheus reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kernel::FastPathState;
use kernel::ipip::Counters;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A kind of entry, as `route`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub(crate) kind: String,
}

/// What became of packets, as `decapsulated`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Fate {
    pub(crate) fate: String,
}

/// A watched resource, as `nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Resource {
    pub(crate) resource: String,
}

/// An address family, as `IPv4`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Af {
    pub(crate) family: String,
}

/// The agent's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) programming: Histogram,
    pub(crate) reconcile_time: Histogram,
    pub(crate) reconciles: Counter,
    pub(crate) overruns: Counter,
    pub(crate) repairs: Family<Kind, Counter>,
    pub(crate) failures: Counter,
    pub(crate) nodes: Gauge,
    pub(crate) services: Gauge,
    pub(crate) endpoints: Gauge,
    pub(crate) service_elements: Counter,
    pub(crate) service_failures: Counter,
    pub(crate) services_in_force: Gauge,
    pub(crate) attachments: Gauge,
    pub(crate) problems: Gauge,
    pub(crate) ready: Gauge,
    pub(crate) last_success: Gauge<f64, AtomicU64>,
    pub(crate) watch_errors: Family<Resource, Counter>,
    tunnel: Family<Fate, Counter>,
    fast_path: Family<Fate, Counter>,
    fast_path_flows: Gauge,
    fast_path_evicted: Counter,
    bgp_sessions: Gauge,
    bgp_sessions_up: Gauge,
    bgp_received: Family<Af, Gauge>,
    bgp_advertised: Family<Af, Gauge>,
    resident: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        // 0.5 ms to 16 s, and 1 ms to 8 s.
        let programming = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let reconcile_time = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let mut metrics = Metrics {
            registry: Registry::with_prefix("cambric"),
            programming,
            reconcile_time,
            reconciles: Counter::default(),
            overruns: Counter::default(),
            repairs: Family::default(),
            failures: Counter::default(),
            nodes: Gauge::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
            service_elements: Counter::default(),
            service_failures: Counter::default(),
            services_in_force: Gauge::default(),
            attachments: Gauge::default(),
            problems: Gauge::default(),
            ready: Gauge::default(),
            last_success: Gauge::default(),
            watch_errors: Family::default(),
            tunnel: Family::default(),
            fast_path: Family::default(),
            fast_path_flows: Gauge::default(),
            fast_path_evicted: Counter::default(),
            bgp_sessions: Gauge::default(),
            bgp_sessions_up: Gauge::default(),
            bgp_received: Family::default(),
            bgp_advertised: Family::default(),
            resident: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let all = &mut self.registry;
        all.register_with_unit(
            "programming_latency",
            "From an event of the API to the kernel's commit",
            Unit::Seconds,
            self.programming.clone(),
        );
        all.register_with_unit(
            "reconcile_duration",
            "Comparing the whole plan with the kernel and applying the difference",
            Unit::Seconds,
            self.reconcile_time.clone(),
        );
        all.register("reconciles", "Comparisons of the whole plan with the kernel", self.reconciles.clone());
        all.register("kernel_event_overruns", "Times that kernel events were lost", self.overruns.clone());
        all.register("repairs", "Entries that were not as planned, by kind", self.repairs.clone());
        all.register("failures", "Entries that the kernel refused", self.failures.clone());
        all.register("nodes", "Nodes of the cluster, this one included", self.nodes.clone());
        all.register("services", "Addresses and ports at which services are reached", self.services.clone());
        all.register("endpoints", "Endpoints behind those, each counted for each", self.endpoints.clone());
        all.register(
            "service_elements_changed",
            "Elements of the services' tables that were made or removed",
            self.service_elements.clone(),
        );
        all.register(
            "service_failures",
            "Times that services could not be programmed",
            self.service_failures.clone(),
        );
        all.register(
            "services_in_force",
            "1 if services are in the kernel as planned",
            self.services_in_force.clone(),
        );
        all.register("attachments", "Interfaces of pods on this node", self.attachments.clone());
        all.register("problems", "What is wrong now, as cambric status shows it", self.problems.clone());
        all.register("ready", "1 if /readyz says so", self.ready.clone());
        all.register(
            "last_success_timestamp_seconds",
            "When the kernel was last found or made as planned",
            self.last_success.clone(),
        );
        all.register("api_watch_errors", "Failed watches of the API", self.watch_errors.clone());
        all.register(
            "ipip_packets",
            "Packets of IP in IP by what became of them, as of the last comparison",
            self.tunnel.clone(),
        );
        all.register(
            "fast_path_packets",
            "Packets between pods by what became of them in the fast path, as of the last comparison",
            self.fast_path.clone(),
        );
        all.register("fast_path_flows", "Flows that the fast path remembers", self.fast_path_flows.clone());
        all.register(
            "fast_path_evicted",
            "Flows that had to make room for others",
            self.fast_path_evicted.clone(),
        );
        all.register("bgp_sessions", "BGP sessions that there should be", self.bgp_sessions.clone());
        all.register("bgp_sessions_up", "BGP sessions that are established", self.bgp_sessions_up.clone());
        all.register(
            "bgp_prefixes_received",
            "Prefixes that BGP peers have told and that were taken, each counted for each peer",
            self.bgp_received.clone(),
        );
        all.register(
            "bgp_prefixes_advertised",
            "Prefixes that BGP peers were told, each counted for each peer",
            self.bgp_advertised.clone(),
        );
        all.register_with_unit("resident_memory", "Memory in use", Unit::Bytes, self.resident.clone());
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    pub(crate) fn text(&self) -> String {
        self.resident.set(resident_bytes().unwrap_or_default());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Takes over what the programs of IP in IP have counted, which began before this process.
    pub(crate) fn count_tunnel(&self, counters: Option<Counters>) {
        for (fate, count) in counters.iter().flat_map(Counters::by_fate) {
            let fate = self.tunnel.get_or_create(&Fate { fate: fate.to_owned() });
            fate.inner().store(count, Ordering::Relaxed);
        }
    }

    /// Takes over what the fast path has counted since it was put in force.
    pub(crate) fn count_fast_path(&self, state: Option<&FastPathState>) {
        self.fast_path_flows.set(state.map_or(0, |state| state.counters.flows() as i64));
        let Some(state) = state else { return };
        for (fate, count) in state.counters.counted() {
            let fate = self.fast_path.get_or_create(&Fate { fate: fate.to_owned() });
            fate.inner().store(count, Ordering::Relaxed);
        }
        self.fast_path_evicted.inner().store(state.counters.of("evicted"), Ordering::Relaxed);
    }

    /// Sets what is known of BGP; `prefixes` are those received and advertised in a family.
    pub(crate) fn bgp(&self, sessions: usize, up: usize, prefixes: impl Fn(model::Family) -> (usize, usize)) {
        self.bgp_sessions.set(sessions as i64);
        self.bgp_sessions_up.set(up as i64);
        for family in model::Family::BOTH {
            let (received, advertised) = prefixes(family);
            let label = Af { family: family.to_string() };
            self.bgp_received.get_or_create(&label).set(received as i64);
            self.bgp_advertised.get_or_create(&label).set(advertised as i64);
        }
    }

    pub(crate) fn observe_programming(&self, latency: Duration) {
        self.programming.observe(latency.as_secs_f64());
    }
}

/// VmRSS of /proc/self/status, which is in KiB (proc_pid_status(5)).
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<i64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.repairs.get_or_create(&Kind { kind: "route".to_owned() }).inc();
        metrics.observe_programming(Duration::from_millis(3));
        metrics.last_success.set(1.5);
        metrics.bgp(3, 2, |family| if family == model::Family::V4 { (5, 1) } else { (0, 0) });
        let text = metrics.text();
        for line in [
            "cambric_repairs_total{kind=\"route\"} 1",
            "cambric_programming_latency_seconds_count 1",
            "cambric_last_success_timestamp_seconds 1.5",
            "cambric_bgp_sessions 3",
            "cambric_bgp_sessions_up 2",
            "cambric_bgp_prefixes_received{family=\"IPv4\"} 5",
            "cambric_bgp_prefixes_advertised{family=\"IPv6\"} 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let resident = text.lines().find(|line| line.starts_with("cambric_resident_memory_bytes "));
        assert!(resident.is_some_and(|line| !line.ends_with(" 0")), "{text}");
    }
}
