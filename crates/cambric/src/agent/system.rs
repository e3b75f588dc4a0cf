//! The real kernel and the real address files behind what the worker asks for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use cni::ipam::Store;
use kernel::ipip::Counters;
use kernel::{Event, FastPathState, Found, Kernel, Monitor, Report, Unplanned};
use model::{Family, PerFamily};
use plan::services::ServicePlan;
use plan::{Change, Entries, Entry, Key};

use super::machine::{AttachmentWork, Ear, Failure, Heard, Machine, Outcome, Surroundings};
use super::words;
use crate::paths::{self, RunDir};

pub(crate) use kernel::Waker;

/// The kernel of the namespace that the agent was started in.
pub(crate) struct System {
    kernel: Kernel,
    store: Store,
}

/// The kernel's news.
pub(crate) struct News {
    monitor: Monitor,
}

/// Opens the kernel; the waker ends a wait for news.
pub(crate) fn open(run_dir: &RunDir, cni_data_dir: &Path) -> Result<(System, News, Waker)> {
    // The monitor first, so that nothing happens between a look at the kernel and the listening.
    let mut monitor =
        Monitor::open().context("cannot listen to the kernel; the agent needs CAP_NET_ADMIN")?;
    let mut kernel = Kernel::open().context("cannot open the kernel; the agent needs CAP_NET_ADMIN")?;
    monitor
        .ignore_port(kernel.tables_port())
        .context("cannot leave our own changes out of the kernel's news")?;
    kernel.hush(monitor.hush());
    kernel.pin_in(&run_dir.pins());
    let waker = monitor.waker();
    Ok((System { kernel, store: Store::new(cni_data_dir, paths::NETWORK) }, News { monitor }, waker))
}

/// Removes all that is marked as ours; how many entries that was, and what could not be removed.
pub(crate) fn remove_from_kernel(run_dir: &RunDir) -> Result<(usize, Vec<String>)> {
    let mut kernel = Kernel::open()?;
    kernel.pin_in(&run_dir.pins());
    let report = kernel.cleanup()?;
    let others =
        report.services.iter().chain(&report.tunnel).chain(&report.fast_path).map(ToString::to_string);
    Ok((report.removed, report.failures.iter().map(ToString::to_string).chain(others).collect()))
}

impl Machine for System {
    fn apply(&mut self, change: &Change) -> Outcome {
        outcome(self.kernel.apply(change))
    }

    fn reconcile(&mut self, entries: &Entries, services: &ServicePlan, unplanned: Unplanned) -> Outcome {
        let mut done = outcome(self.kernel.reconcile_but(unplanned, entries));
        // It has tried again itself; what is open still is among the failures.
        done.reconcile_needed = false;
        let services = self.kernel.reconcile_services(services);
        let unreadable = services.as_ref().err().map(ToString::to_string);
        done.extend(outcome(services));
        done.services_error = unreadable.or(done.services_error);
        done
    }

    fn heard(&mut self, within: Duration) -> BTreeSet<(IpAddr, Family)> {
        let last = match self.kernel.tunnel_heard() {
            Some(Ok(last)) => last,
            Some(Err(error)) => {
                tracing::warn!(%error, "who was heard through tunnels is not known");
                return BTreeSet::new();
            }
            None => return BTreeSet::new(),
        };
        let of_late = |(address, silence): (IpAddr, PerFamily<Duration>)| {
            let heard = move |family: &Family| silence.of(*family).is_some_and(|silence| *silence < within);
            Family::BOTH.into_iter().filter(heard).map(move |family| (address, family))
        };
        last.into_iter().flat_map(of_late).collect()
    }

    fn tunnel_counters(&mut self) -> Option<Counters> {
        self.kernel.tunnel_counters()?.inspect_err(|error| tracing::warn!(%error, "not counted")).ok()
    }

    fn doubt_flows(&mut self) {
        if let Err(error) = self.kernel.doubt_flows() {
            tracing::error!(%error, "there is no fast path until the next comparison");
        }
    }

    fn attend(&mut self) {
        if let Err(error) = self.kernel.attend() {
            tracing::warn!(%error, "the fast path will stop");
        }
    }

    fn fast_path(&mut self) -> Option<FastPathState> {
        self.kernel.fast_path()?.inspect_err(|error| tracing::warn!(%error, "not counted")).ok()
    }

    fn doubt_services(&mut self) {
        self.kernel.doubt_services();
    }

    fn surroundings(&mut self, underlay: &PerFamily<IpAddr>) -> Result<Surroundings, Failure> {
        let found = self.kernel.surroundings(underlay).map_err(|error| failure(&error))?;
        let nowhere = |address: &&IpAddr| found.underlay.of(Family::of(address)).is_none();
        let missing = underlay.iter().find(nowhere).map(words::nowhere);
        Ok(Surroundings { underlay: found.underlay, missing, addresses: found.addresses })
    }

    fn with_attachments(&mut self, work: &mut AttachmentWork<'_>) {
        let store = self.store.clone();
        match store.lock() {
            // The lock lives until the work is done.
            Ok(locked) => work(self, locked.attachments().map_err(|error| error.to_string())),
            Err(error) => work(self, Err(error.to_string())),
        }
    }
}

impl Ear for News {
    fn wait(&mut self, timeout: Duration, planned: &dyn Fn(&Key) -> Option<Entry>) -> Heard {
        let events = match self.monitor.wait(Some(timeout)) {
            Ok(events) => events,
            Err(error) => {
                // What was missed is unknown. The pause keeps a socket that fails for good from spinning.
                tracing::error!(%error, "the kernel's news cannot be read");
                std::thread::sleep(Duration::from_secs(1));
                return Heard::Overrun;
            }
        };
        if events.contains(&Event::Overrun) {
            return Heard::Overrun;
        }
        // A link that is not ours may be the one that has this node's address: its MTU counts.
        let concerns = |event: &Event| match event {
            Event::Link { state, .. } if state.as_ref().is_none_or(|state| !state.ours) => true,
            Event::Address { .. } => true,
            event => event.contradicts(planned),
        };
        let news: Vec<&Event> = events.iter().filter(|event| concerns(event)).collect();
        let services = news.iter().any(|event| matches!(event, Event::Services));
        match news.iter().map(|event| single(event)).collect::<Option<Vec<Key>>>() {
            Some(keys) if keys.is_empty() => Heard::Nothing,
            keys if services => Heard::Services(keys.unwrap_or_default()),
            keys => Heard::Change(keys.unwrap_or_default()),
        }
    }
}

/// The entry that an event is about, if it can be put right by itself: it stands on nothing that the event says is
/// gone, and nobody else's is in its place.
fn single(event: &Event) -> Option<Key> {
    match event {
        Event::Entry { found: Some(Found::Other(_) | Found::Foreign), .. } => None,
        Event::Entry { key, .. } => Some(key.clone()),
        _ => None,
    }
}

fn outcome(report: kernel::Result<Report>) -> Outcome {
    match report {
        Ok(report) => {
            let entries = report.failures.iter().map(|failure| Failure {
                error: failure.error.to_string(),
                origin: failure.origin.as_ref().map(ToString::to_string).unwrap_or_default(),
            });
            let services = report
                .services
                .iter()
                .map(|error| Failure { error: error.to_string(), origin: "services".to_owned() });
            Outcome {
                done: report.steps,
                reconcile_needed: report.reconcile_needed,
                services_error: report.services.as_ref().map(ToString::to_string),
                tunnel_error: report.tunnel.as_ref().map(ToString::to_string),
                fast_path_error: report.fast_path.as_ref().map(ToString::to_string),
                failed: entries.chain(services).collect(),
            }
        }
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &kernel::Error) -> Outcome {
    Outcome { failed: vec![failure(error)], ..Outcome::default() }
}

fn failure(error: &kernel::Error) -> Failure {
    Failure { error: error.to_string(), origin: String::new() }
}
