//! The BGP speaker of the agent: it is started when there is somebody to speak with, and kept as the worker wants it.
//!
//! It lives in the runtime beside the API's watches. When the agent ends it is not told to stop: peers then keep the
//! routes, as the kernel keeps its own (graceful restart, RFC 4724).

mod neighbours;
mod speaker;
mod status;
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bgp::bfd::{Change, Reachability};
use bgp::transport::Event;
use bgp::{BestPath, RibChange};
use ipnet::IpNet;
use plan::LearnedPath;
use plan::bgp::Speaker;
use plan::site::Contact;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

pub(crate) use status::{BgpStatus, SessionStatus};

use super::metrics::Metrics;
use super::persist;
use crate::files::publish;
use crate::paths::RunDir;
use neighbours::Neighbours;
use speaker::Running;

/// When something that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// After an event others are waited for, so that a thousand of them are one look.
const SETTLE: Duration = Duration::from_millis(200);
/// How often is looked at how things stand, whether or not anything was heard.
const LOOK: Duration = Duration::from_secs(10);

/// What the worker wants.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// This speaker; none if there is nobody to speak with. With another number it is to be started anew: who waits for
    /// all that there is to learn is told once after each start that it is there.
    Speaker(Option<Arc<Speaker>>, u64),
    /// These addresses of services are to be told.
    Services(BTreeSet<IpAddr>),
    /// Of these addresses some are to be told from now on, and some no more.
    ServicesChanged(BTreeMap<IpAddr, bool>),
}

/// What the worker is told.
#[derive(Debug)]
pub(crate) enum News {
    /// The paths to prefixes that peers have told are others now, the best first; none if a prefix is gone.
    Routes(Vec<(IpNet, Vec<LearnedPath>)>),
    /// What their best paths say of who tells them; none for what nobody tells any more.
    Contacts(Vec<(IpNet, Option<Contact>)>),
    /// All peers have sent what they have: what an earlier speaker has learned, and this one has not, is no more. With the
    /// number that came with the speaker.
    Converged(u64),
    /// All that is wrong with the speaker as a whole, in words.
    Problems(Vec<String>),
}

/// Speaks as it is wanted, for as long as somebody wants something.
pub(crate) async fn serve(
    mut wanted: UnboundedReceiver<Wanted>,
    run_dir: RunDir,
    metrics: Arc<Metrics>,
    tell: impl Fn(News),
) {
    let mut task = Task {
        restarting: persist::is_of_this_boot(&run_dir.bgp_boot()),
        status_file: run_dir.bgp(),
        boot_file: run_dir.bgp_boot(),
        metrics,
        tell,
        wanted: None,
        epoch: 0,
        services: BTreeSet::new(),
        running: None,
        neighbours: Neighbours::default(),
        learned: BTreeSet::new(),
        unheard: None,
        problems: Vec::new(),
        status: BgpStatus::default(),
        retry_at: None,
        look_at: Some(Instant::now()),
    };
    loop {
        let due = task.retry_at.into_iter().chain(task.look_at).min();
        let timer = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = wanted.recv() => match told {
                Some(told) => task.obey(told).await,
                None => return,
            },
            events = next(&mut task.running) => task.hear(events).await,
            change = task.neighbours.next() => task.noticed(change).await,
            () = timer => {}
        }
        task.see_to_what_is_due().await;
    }
}

async fn next(running: &mut Option<Running>) -> Vec<Event> {
    match running {
        Some(running) => running.events().await,
        None => std::future::pending().await,
    }
}

/// What a plan can go by.
fn learned(change: &RibChange) -> (IpNet, Vec<LearnedPath>) {
    let path = |path: &BestPath| {
        Some(LearnedPath {
            next_hop: path.attributes.next_hop,
            peer: path.peer.as_ref()?.as_str().into(),
            stale: path.stale,
        })
    };
    (change.prefix, change.paths.iter().filter_map(path).collect())
}

struct Task<T> {
    /// Whether the routes of an earlier speaker are in the kernel.
    restarting: bool,
    status_file: PathBuf,
    boot_file: PathBuf,
    metrics: Arc<Metrics>,
    tell: T,
    wanted: Option<Arc<Speaker>>,
    /// The number that came with it.
    epoch: u64,
    services: BTreeSet<IpAddr>,
    running: Option<Running>,
    neighbours: Neighbours,
    /// The prefixes that the worker knows from peers.
    learned: BTreeSet<IpNet>,
    /// Those of them that a speaker which has taken another's place has not heard of yet.
    unheard: Option<BTreeSet<IpNet>>,
    problems: Vec<String>,
    status: BgpStatus,
    retry_at: Option<Instant>,
    look_at: Option<Instant>,
}

impl<T: Fn(News)> Task<T> {
    async fn obey(&mut self, told: Wanted) {
        match told {
            Wanted::Speaker(speaker, epoch) => {
                self.wanted = speaker;
                let anew = std::mem::replace(&mut self.epoch, epoch) != epoch;
                self.adjust(anew).await;
            }
            Wanted::Services(all) => {
                let gone = self.services.difference(&all).map(|address| (*address, false));
                let new = all.difference(&self.services).map(|address| (*address, true));
                let changes = gone.chain(new).collect();
                self.change_services(changes).await;
            }
            Wanted::ServicesChanged(changes) => self.change_services(changes).await,
        }
        self.look_soon();
    }

    async fn change_services(&mut self, changes: BTreeMap<IpAddr, bool>) {
        for (address, told) in changes {
            let new = if told { self.services.insert(address) } else { self.services.remove(&address) };
            if let Some(running) = self.running.as_ref().filter(|_| new) {
                running.set_service(address, told).await;
            }
        }
    }

    /// Makes what runs as it is wanted; with `anew`, by another speaker.
    async fn adjust(&mut self, anew: bool) {
        self.problems.clear();
        self.retry_at = None;
        let Some(wanted) = self.wanted.clone() else { return self.fall_silent().await };
        if let Some(running) = self.running.as_mut().filter(|running| !anew && running.fits(&wanted)) {
            self.problems.extend(running.adjust(wanted.clone()).await);
        } else {
            self.start(wanted.clone()).await;
        }
        if let Some(running) = &mut self.running {
            self.problems.extend(running.listen().await.cloned());
        }
        self.problems.extend(self.neighbours.adjust(&wanted).await);
        if !self.problems.is_empty() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        (self.tell)(News::Problems(self.problems.clone()));
    }

    async fn start(&mut self, wanted: Arc<Speaker>) {
        if let Some(before) = self.running.take() {
            self.unheard.get_or_insert_with(|| self.learned.clone());
            before.leave().await;
        }
        match Running::start(wanted, &self.services, self.restarting).await {
            Ok((running, problems)) => {
                self.running = Some(running);
                self.problems.extend(problems);
                if let Err(error) = persist::note_boot(&self.boot_file) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a restart of BGP will not be a graceful one"
                    );
                }
                self.restarting = true;
            }
            Err(error) => self.problems.push(format!("BGP cannot be spoken: {error}")),
        }
    }

    /// There is nobody to speak with any more.
    async fn fall_silent(&mut self) {
        if let Some(running) = self.running.take() {
            running.finish().await;
        }
        // Not before the sessions: one whose neighbour is silent while it seems to be up cannot be reached.
        self.neighbours = Neighbours::default();
        self.unheard = None;
        let gone = std::mem::take(&mut self.learned);
        self.tell_gone(gone);
        (self.tell)(News::Problems(Vec::new()));
        // Nothing will be learned, so all is.
        (self.tell)(News::Converged(self.epoch));
    }

    async fn hear(&mut self, events: Vec<Event>) {
        let mut changes = Vec::new();
        let mut contacts = Vec::new();
        for event in events {
            match event {
                Event::Rib(change) => {
                    let from_peers = change.paths.iter().any(|path| path.peer.is_some());
                    if let Some(unheard) = &mut self.unheard {
                        unheard.remove(&change.prefix);
                    }
                    let known = match from_peers {
                        true => !self.learned.insert(change.prefix),
                        false => self.learned.remove(&change.prefix),
                    };
                    // A route that begins here is nothing new to the worker.
                    if from_peers || known {
                        contacts.push((change.prefix, self.contact(&change)));
                        changes.push(learned(&change));
                    }
                }
                Event::Session(session) => {
                    tracing::debug!(peer = %session.peer, down = session.down, "session");
                }
                Event::Converged => {
                    if let Some(gone) = self.unheard.take() {
                        self.learned.retain(|prefix| !gone.contains(prefix));
                        self.tell_gone(gone);
                    }
                    self.tell_routes(&mut changes, &mut contacts);
                    (self.tell)(News::Converged(self.epoch));
                }
            }
        }
        self.tell_routes(&mut changes, &mut contacts);
        self.look_soon();
    }

    /// What is known of somebody comes before the routes that lead there.
    fn tell_routes(
        &self,
        changes: &mut Vec<(IpNet, Vec<LearnedPath>)>,
        contacts: &mut Vec<(IpNet, Option<Contact>)>,
    ) {
        if !changes.is_empty() {
            (self.tell)(News::Contacts(std::mem::take(contacts)));
            (self.tell)(News::Routes(std::mem::take(changes)));
        }
    }

    fn contact(&self, change: &RibChange) -> Option<Contact> {
        let (best, asn) = (change.paths.iter().find(|path| path.peer.is_some())?, self.wanted.as_ref()?.asn);
        let heard = translate::heard(asn, &change.prefix, &best.attributes);
        Some(Contact { seen: best.attributes.next_hop, heard })
    }

    fn tell_gone(&self, gone: BTreeSet<IpNet>) {
        if !gone.is_empty() {
            (self.tell)(News::Contacts(gone.iter().map(|prefix| (*prefix, None)).collect()));
            (self.tell)(News::Routes(gone.into_iter().map(|prefix| (prefix, Vec::new())).collect()));
        }
    }

    /// BFD has something to say.
    async fn noticed(&mut self, change: Change) {
        self.neighbours.note(change);
        if let Some(running) = &self.running {
            match change.reachability {
                Reachability::Up => running.reachable(change.neighbour).await,
                Reachability::Down(_) => running.lost(change.neighbour, change.independent).await,
                Reachability::Unknown => {}
            }
        }
        self.look_soon();
    }

    fn look_soon(&mut self) {
        let soon = Instant::now() + SETTLE;
        self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
    }

    async fn see_to_what_is_due(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.adjust(false).await;
            self.look_soon();
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look().await;
        }
    }

    /// Shows how things stand.
    async fn look(&mut self) {
        self.look_at = self.running.is_some().then(|| Instant::now() + LOOK);
        let status = match (&self.running, &self.wanted) {
            (Some(running), Some(wanted)) => {
                let Some(peers) = running.status().await else { return };
                let bfd = |name: &str| {
                    let session = running.session(name)?;
                    session.bfd.map(|_| self.neighbours.state(session.address))
                };
                BgpStatus::new(wanted, self.problems.clone(), &peers, bfd, &self.status)
            }
            _ => BgpStatus { problems: self.problems.clone(), ..BgpStatus::default() },
        };
        self.metrics.bgp(status.sessions.len(), status.up(), |family| {
            let prefixes = status.prefixes(family);
            (prefixes.received, prefixes.advertised)
        });
        let json = serde_json::to_vec(&status).unwrap_or_default();
        if let Err(error) = publish(&self.status_file, &json, 0o600) {
            tracing::warn!(error = format!("{error:#}"), "the status of BGP cannot be written");
        }
        self.status = status;
    }
}
