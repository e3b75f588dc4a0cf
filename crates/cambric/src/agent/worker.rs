//! The thread that owns the plan and the kernel.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use kernel::Unplanned;
use kube_source::Event;
use plan::site::{HOLD, KEEPALIVE_INTERVAL};
use plan::{Change, Input, Key, Underlay};

use super::bgp;
use super::core::{Core, Todo};
use super::debounce::Debounce;
use super::health::Health;
use super::journal::{self, Why};
use super::machine::{Ear, Failure, Heard, Machine, Outcome, Surroundings};
use super::metrics::{Metrics, Resource};
use super::probes;
use super::publish::{Publisher, Report};
use crate::clock::unix_now;

/// What the worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The API said something, at this time.
    Cluster(Event, Instant),
    /// These ports for health checks cannot be listened on, in words; all others can.
    HealthPorts(Vec<String>),
    /// The BGP speaker said something.
    Bgp(bgp::News),
    /// A probe needs to know of the node.
    Look(probes::Ask),
    /// The process ends. What is in the kernel stays there.
    Stop,
}

/// The worker shows at least this often that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// With more entries than this the comparison is as quick.
const MOST_SINGLES: usize = 1000;
/// The first delay before what the kernel refused is tried again; it doubles up to the sync period.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Of this many changes that wait for a comparison it is known since when.
const MOST_WAITING: usize = 10_000;

/// How long the worker waits for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Everything is compared at least this often.
    pub(crate) sync_period: Duration,
    /// If the API is not heard for this long after the start, the state that an earlier run has left is gone by.
    pub(crate) api_patience: Duration,
}

/// Keeps the kernel as the plan says.
pub(crate) struct Worker<M, E> {
    core: Core,
    machine: M,
    ear: E,
    inbox: Receiver<Message>,
    publisher: Publisher,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    times: Times,
    debounce: Debounce,
    /// When an earlier run's state is read, if nothing better came.
    restore_at: Option<Instant>,
    /// When all is compared next, whatever happens; `None` until there is a plan.
    next_sync: Option<Instant>,
    /// When is looked up next who is heard through NAT gateways; `None` while there are none.
    listen_at: Option<Instant>,
    retry: Duration,
    /// Whether all has been compared once. Before, changes would be applied to a kernel that nobody has looked at.
    compared: bool,
    /// Why the next comparison does what it does.
    why: Why,
    /// When the API told of changes that a comparison will bring into the kernel.
    uncommitted: Vec<Instant>,
    report: Report,
}

/// Whether the worker goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

impl<M: Machine, E: Ear> Worker<M, E> {
    /// A worker that has done nothing yet.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        core: Core,
        machine: M,
        ear: E,
        inbox: Receiver<Message>,
        publisher: Publisher,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        times: Times,
    ) -> Worker<M, E> {
        Worker {
            core,
            machine,
            ear,
            inbox,
            publisher,
            health,
            metrics,
            times,
            debounce: Debounce::default(),
            restore_at: Some(Instant::now() + times.api_patience),
            next_sync: None,
            listen_at: None,
            retry: FIRST_RETRY,
            compared: false,
            why: Why::Start,
            uncommitted: Vec::new(),
            report: Report::default(),
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        self.publisher.contacts.restore(&mut self.core);
        self.show();
        loop {
            let patience = self.patience(Instant::now());
            match self.ear.wait(patience, &|key| self.core.planned(key).map(|planned| planned.entry.clone()))
            {
                Heard::Nothing => {}
                Heard::Change(keys) => {
                    self.machine.doubt_flows();
                    self.put_right(keys);
                    self.debounce.note(Instant::now());
                }
                Heard::Services(keys) => {
                    self.machine.doubt_flows();
                    self.machine.doubt_services();
                    self.put_right(keys);
                    self.debounce.note(Instant::now());
                }
                Heard::Overrun => {
                    self.machine.doubt_flows();
                    self.machine.doubt_services();
                    tracing::warn!("kernel events were lost; comparing everything");
                    self.metrics.overruns.inc();
                    self.debounce.at_once(Instant::now());
                }
            }
            if self.hear() == Next::Stop {
                self.publisher.saver.finish(&self.core);
                self.publisher.contacts.finish(&self.core);
                return;
            }
            self.restore_if_alone();
            // Before the first comparison: who has a tunnel is not to take it from himself.
            self.listen();
            let now = Instant::now();
            if self.debounce.due(now) || self.next_sync.is_some_and(|at| at <= now) {
                self.compare();
            }
            self.machine.attend();
            self.show();
            // After all else, and for the most part by another thread.
            self.publisher.saver.keep(&self.core, Instant::now());
            self.publisher.contacts.keep(&self.core, Instant::now());
            self.publisher.routes.keep(&self.core, Instant::now());
        }
    }

    /// How long there is nothing to do.
    fn patience(&self, now: Instant) -> Duration {
        let kept = self.publisher.saver.deadline();
        let (told, listed) = (self.publisher.contacts.deadline(), self.publisher.routes.deadline());
        let own = [self.debounce.deadline(), self.next_sync, self.restore_at, self.listen_at];
        let times = own.into_iter().chain([kept, told, listed]);
        let next = times.flatten().min();
        next.map_or(BEAT, |next| next.saturating_duration_since(now).min(BEAT))
    }

    /// Takes in all that the API has said meanwhile, as one change.
    fn hear(&mut self) -> Next {
        let mut change = Change::default();
        let mut received = Vec::new();
        loop {
            match self.inbox.try_recv() {
                Ok(Message::Stop) | Err(TryRecvError::Disconnected) => return Next::Stop,
                Err(TryRecvError::Empty) => break,
                Ok(Message::HealthPorts(problems)) => {
                    self.report.health_ports = problems;
                    self.report.fresh = true;
                }
                Ok(Message::Bgp(news)) => change.extend(self.hear_of_bgp(news)),
                // Whoever asked may have gone.
                Ok(Message::Look(answer)) => drop(answer.send(self.core.view())),
                Ok(Message::Cluster(event, at)) => {
                    if let Event::Disconnected { watched, .. } = &event {
                        let resource = Resource { resource: watched.to_string() };
                        self.metrics.watch_errors.get_or_create(&resource).inc();
                    }
                    // What is refused, and whether the API is heard, is shown before the next comparison.
                    self.report.fresh |= matches!(
                        event,
                        Event::Refused { .. }
                            | Event::Accepted(_)
                            | Event::Disconnected { .. }
                            | Event::Connected(_)
                            | Event::NodeReady(..)
                    );
                    if event == Event::Synced && self.core.needs_earlier() {
                        self.publisher.saver.restore(&mut self.core);
                    }
                    match self.core.take(event) {
                        Todo::Nothing => {}
                        Todo::Reconcile => {
                            if self.compared {
                                self.why = Why::Change;
                            }
                            self.restore_at = None;
                            self.debounce.at_once(Instant::now());
                        }
                        Todo::Apply(more) => {
                            change.extend(more);
                            received.push(at);
                        }
                    }
                }
            }
        }
        change.extend(self.core.new_contacts());
        if !change.is_empty() {
            if self.apply(&change) {
                self.committed(received);
            } else {
                let room = MOST_WAITING.saturating_sub(self.uncommitted.len());
                self.uncommitted.extend(received.into_iter().take(room));
            }
        }
        Next::GoOn
    }

    fn hear_of_bgp(&mut self, news: bgp::News) -> Change {
        let mut change = Change::default();
        match news {
            bgp::News::Problems(problems) => {
                self.report.bgp = problems;
                self.report.fresh = true;
            }
            bgp::News::Contacts(contacts) => self.core.hear_contacts(contacts),
            bgp::News::Routes(changes) => {
                for (prefix, paths) in changes {
                    change.extend(self.core.observe(Input::Learned(prefix, paths)));
                }
                // What is not taken is a problem, or is one no more.
                self.report.fresh = true;
            }
            // It was asked for before routes began to come from elsewhere, and those that do now are still to be told.
            bgp::News::Converged(epoch) if epoch != self.core.epoch() => {}
            bgp::News::Converged(_) => {
                change = self.core.observe(Input::Converged);
                self.core.forget_earlier_contacts();
                if self.compared {
                    self.why = Why::Change;
                }
                // What an earlier run has learned and this one has not is in the kernel and in no plan.
                self.debounce.at_once(Instant::now());
            }
        }
        change
    }

    /// Says whether all of it is in the kernel now; if not, a comparison follows.
    fn apply(&mut self, change: &Change) -> bool {
        if !self.compared {
            self.debounce.at_once(Instant::now());
            return false;
        }
        let outcome = self.machine.apply(change);
        journal::done(&outcome, Why::Change, &self.metrics);
        if let Some(error) = &outcome.services_error {
            // A change without services tries none, so that only a comparison can tell that this is over.
            self.report.services_error = Some(error.clone());
        }
        if let Some(error) = &outcome.fast_path_error {
            self.report.fast_path_error = Some(error.clone());
            self.debounce.note(Instant::now());
        }
        if outcome.reconcile_needed {
            // The change is finished by a comparison, and what that does is no repair.
            self.why = Why::Change;
            self.debounce.at_once(Instant::now());
        }
        if !outcome.failed.is_empty() {
            self.failed(&outcome, Instant::now());
        }
        // Addresses of this node may be on another link now; its MTU is looked up when all is compared.
        if self.core.local_node().map(|node| &node.addresses) != self.report.addresses.as_ref() {
            self.debounce.at_once(Instant::now());
        }
        self.publish();
        outcome.failed.is_empty() && !outcome.reconcile_needed
    }

    fn committed(&self, received: Vec<Instant>) {
        for at in received {
            self.metrics.observe_programming(at.elapsed());
        }
    }

    /// Compares the whole plan with the kernel and applies the difference.
    fn compare(&mut self) {
        self.debounce.clear();
        if !self.core.has_plan() {
            // Without a plan nothing is touched, and nothing is to be kept up.
            self.next_sync = None;
            return;
        }
        let started = Instant::now();
        let outcome = match self.look_around() {
            Ok(()) => self.reconcile(),
            // With the addresses of nobody knows when, node ports would be taken away. Nothing is known of the rest.
            Err(failure) => {
                let outcome = Outcome { failed: vec![failure], ..Outcome::default() };
                journal::failures(&outcome);
                outcome
            }
        };
        let now = Instant::now();
        let took = now - started;
        if outcome.failed.is_empty() {
            let waited = std::mem::take(&mut self.uncommitted);
            self.committed(waited);
            self.report.failures.clear();
            self.report.ever_clean = true;
            self.retry = FIRST_RETRY;
            self.next_sync = Some(now + self.times.sync_period);
            self.metrics.last_success.set(unix_now().as_secs_f64());
        } else {
            self.failed(&outcome, now);
        }
        self.debounce.rest(now, took);
        if outcome.reconcile_needed {
            self.debounce.note(now);
        }
        self.publish();
        self.report.fresh = true;
    }

    /// Puts single entries right at once. The comparison that follows finds what the kernel did not tell: routes that
    /// went with an address, for instance. What cannot be put right by itself is left to it too.
    fn put_right(&mut self, keys: Vec<Key>) {
        if !self.compared || keys.is_empty() || keys.len() > MOST_SINGLES {
            return;
        }
        let keeps = self.core.unplanned() == Unplanned::Learned;
        let planned = |key: Key| {
            let planned = self.core.planned(&key).cloned();
            let stays = keeps && planned.is_none() && matches!(key, Key::Route(_));
            (!stays).then_some((key, planned))
        };
        let change = Change { keys: keys.into_iter().filter_map(planned).collect(), ..Change::default() };
        let outcome = self.machine.apply(&change);
        if outcome.failed.is_empty() && !outcome.reconcile_needed {
            journal::done(&outcome, Why::Drift, &self.metrics);
            self.report.repairs.note(&outcome.done);
        }
    }

    fn failed(&mut self, outcome: &Outcome, now: Instant) {
        self.metrics.failures.inc_by(outcome.failed.len() as u64);
        self.report.failures = outcome.failed.iter().map(|failure| failure.error.clone()).collect();
        self.next_sync = Some(now + self.retry);
        self.retry = (self.retry * 2).min(self.times.sync_period.max(FIRST_RETRY));
    }

    /// Looks up the node's addresses, and how big packets can be that leave it.
    fn look_around(&mut self) -> Result<(), Failure> {
        let Some(own) = self.core.local_node().map(|node| node.addresses.clone()) else { return Ok(()) };
        let Surroundings { underlay: found, missing, addresses } = self.machine.surroundings(&own)?;
        // What is on no link now may be on its way from one to another: it stays what it was.
        let mut underlay = self.core.underlay().clone();
        underlay.v4 = found.v4.or(underlay.v4);
        underlay.v6 = found.v6.or(underlay.v6);
        if underlay != *self.core.underlay() {
            for Underlay { link, net, mtu } in underlay.iter() {
                tracing::info!(%link, address = %net, mtu, "the underlay");
            }
            self.core.observe(Input::Underlay(underlay));
        }
        if addresses != self.core.addresses() {
            self.core.observe(Input::Addresses(addresses));
        }
        self.report.underlay_error = missing;
        self.report.addresses = Some(own);
        Ok(())
    }

    /// Compares under the lock of the addresses: the CNI plugin changes its files and the kernel under the same one,
    /// so neither undoes the other's work.
    fn reconcile(&mut self) -> Outcome {
        let started = Instant::now();
        let Worker { core, machine, report, .. } = self;
        let mut outcome = Outcome::default();
        machine.with_attachments(&mut |machine, attachments| {
            report.attachments_error = None;
            match attachments {
                Ok(attachments) if attachments != core.attachments() => {
                    core.observe(Input::Attachments(attachments));
                }
                Ok(_) => {}
                // The last ones stay in the plan.
                Err(error) => report.attachments_error = Some(error),
            }
            report.count(core.entries());
            outcome = machine.reconcile(core.entries(), core.services(), core.unplanned());
        });
        self.metrics.reconciles.inc();
        self.metrics.reconcile_time.observe(started.elapsed().as_secs_f64());
        let why = std::mem::replace(&mut self.why, Why::Drift);
        journal::done(&outcome, why, &self.metrics);
        if why == Why::Drift {
            self.report.repairs.note(&outcome.done);
        }
        self.compared = true;
        self.report.services_error.clone_from(&outcome.services_error);
        self.report.tunnel_error.clone_from(&outcome.tunnel_error);
        self.report.tunnel = self.machine.tunnel_counters();
        self.metrics.count_tunnel(self.report.tunnel);
        self.report.fast_path_error.clone_from(&outcome.fast_path_error);
        self.report.fast_path = self.machine.fast_path();
        self.metrics.count_fast_path(self.report.fast_path.as_ref());
        outcome
    }

    /// Looks up who is heard through NAT gateways, if there are any.
    fn listen(&mut self) {
        if !self.core.has_sites() {
            self.listen_at = None;
            return;
        }
        let now = Instant::now();
        if self.listen_at.is_some_and(|at| at > now) {
            return;
        }
        self.listen_at = Some(now + KEEPALIVE_INTERVAL);
        let heard = self.machine.heard(HOLD);
        if heard != *self.core.heard() {
            let change = self.core.observe(Input::Heard(heard));
            self.report.fresh = true;
            self.apply(&change);
        }
    }

    fn restore_if_alone(&mut self) {
        if self.restore_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.restore_at = None;
        if self.publisher.saver.restore(&mut self.core) {
            tracing::warn!("the API has not been heard; going by the state that the last run has left");
            // It is part of what the comparison finds.
            self.core.new_contacts();
            self.debounce.at_once(Instant::now());
        }
    }

    /// Writes what the CNI plugin and the container runtime read, and says that the node's network is available.
    fn publish(&mut self) {
        let file = self.core.node_file();
        self.report.has_range = file.is_some();
        let Some(file) = file.filter(|_| self.compared) else { return };
        self.report.publish_error = match self.publisher.publish(&file, self.report.ever_clean) {
            Ok(()) => None,
            Err(error) => {
                let error = format!("{error:#}");
                if self.report.publish_error.as_ref() != Some(&error) {
                    tracing::error!(error, "pods cannot be networked");
                }
                Some(error)
            }
        };
    }

    /// Lets others see how things stand.
    fn show(&mut self) {
        // Peers are not told to send here before there is something to take what they send.
        if self.compared && self.core.has_plan() {
            self.report.fresh |= self.core.is_speaker_stale();
            self.publisher.speak(&mut self.core);
            self.publisher.keep_alive(&self.core.keepalives());
        }
        let not_ready = self.report.not_ready(&self.core);
        self.publisher.want_condition(not_ready.is_none() && self.core.wants_condition());
        self.metrics.nodes.set(self.core.nodes().len() as i64);
        let services = self.core.services();
        self.metrics.services.set(services.frontends.len() as i64);
        self.metrics.endpoints.set(services.endpoints() as i64);
        self.metrics.attachments.set(self.core.attachments().len() as i64);
        self.metrics.ready.set(i64::from(not_ready.is_none()));
        let services_error = match self.compared {
            true => self.report.services_error.clone(),
            false => Some("services have not been compared with the plan yet".to_owned()),
        };
        self.metrics.services_in_force.set(i64::from(services_error.is_none()));
        let problems = self.publisher.show(&self.core, &mut self.report, not_ready.as_deref());
        if let Some(problems) = problems {
            self.metrics.problems.set(problems as i64);
        }
        self.health.beat(not_ready, services_error);
        // After all else: who asks because of the new answer finds what it rests on.
        self.publisher.answer(&self.core.services().health_checks);
    }
}

#[cfg(test)]
mod tests;
