//! One namespace's network, seen and changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use model::{LinkName, PerFamily};
use plan::services::ServicePlan;
use plan::{Change, Entries, Entry, Key};

use crate::Result;
use crate::apply::Apply;
use crate::diff::{Op, Unplanned, diff};
use crate::fast_path::{FastPath, FastPathState};
use crate::ipip::Counters;
use crate::link::{self, Links};
use crate::monitor::Hush;
use crate::observed::Observed;
use crate::report::Report;
use crate::rtnl::RouteSocket;
use crate::services::Services;
use crate::tables::Tables;
use crate::tunnel::Tunnel;

/// How often a plan is compared with what is there, if carrying it out had side effects.
const ROUNDS: usize = 3;

/// The way to the network of one namespace: that of the thread that opened it.
///
/// Kernel settings have no socket; they are those of the namespace of the thread that calls.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) socket: RouteSocket,
    pub(crate) tables: Tables,
    pub(crate) services: Services,
    pub(crate) tunnel: Tunnel,
    pub(crate) fast_path: FastPath,
}

impl Kernel {
    /// Opens the sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System) if the kernel has no rtnetlink or no nftables.
    pub fn open() -> Result<Kernel> {
        Ok(Kernel {
            socket: RouteSocket::open()?,
            tables: Tables::open()?,
            services: Services::open()?,
            tunnel: Tunnel::default(),
            fast_path: FastPath::default(),
        })
    }

    /// Says where the programs of IP in IP are to be pinned, and with that, that they are to be: without it the tunnel's
    /// entries of a plan are left alone. A BPF file system is mounted on the directory if it has none.
    pub fn pin_in(&mut self, directory: &Path) {
        self.tunnel.pin_in(directory);
        self.fast_path.pin_in(directory);
    }

    /// Has the fast path, if there is one, forget all flows: somebody else may have changed what becomes of them.
    ///
    /// # Errors
    /// If it cannot be told; then there is none any more.
    pub fn doubt_flows(&mut self) -> Result<()> {
        self.fast_path.doubt()
    }

    /// Has the fast path, if there is one, go on for [`crate::fast::ATTENTION`].
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn attend(&mut self) -> Result<()> {
        self.fast_path.attend()
    }

    /// How the fast path fares; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn fast_path(&self) -> Option<Result<FastPathState>> {
        self.fast_path.state()
    }

    /// How many packets met which fate in the programs of IP in IP; `None` if there are none.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn tunnel_counters(&self) -> Option<Result<Counters>> {
        self.tunnel.counters()
    }

    /// For how long nothing was heard of each node in IP in IP, by the family of what it sent; `None` if there are no
    /// programs.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn tunnel_heard(&mut self) -> Option<Result<BTreeMap<IpAddr, PerFamily<Duration>>>> {
        self.tunnel.heard()
    }

    /// The netlink port that changes of tables come from, for [`Monitor::ignore_port`](crate::Monitor::ignore_port).
    pub fn tables_port(&self) -> u32 {
        self.tables.port()
    }

    /// Has a monitor not listen while many elements are committed. What others change meanwhile is noticed by the number of
    /// commits, and asks for a comparison.
    pub fn hush(&mut self, hush: Hush) {
        self.services.hush(hush);
    }

    /// Says that somebody else may have changed the services' tables: the next
    /// [`Kernel::reconcile_services`] lists them.
    pub fn doubt_services(&mut self) {
        self.services.doubt();
    }

    /// Reads all that is ours but the services' tables. The plan says which settings are of interest and what the tables
    /// should hold.
    ///
    /// # Errors
    /// If the kernel cannot be read, or changes during each attempt.
    pub fn observe(&mut self, plan: &Entries) -> Result<Observed> {
        Observed::read(&mut self.socket, &mut self.tables, &mut self.tunnel, plan)
    }

    /// Makes the kernel hold what the plan says, and nothing else of ours. If it does already, nothing is written.
    ///
    /// # Errors
    /// If the kernel cannot be read. What cannot be written is in the report.
    pub fn reconcile(&mut self, plan: &Entries) -> Result<Report> {
        self.reconcile_but(Unplanned::Nothing, plan)
    }

    /// Makes the kernel hold what the plan says, and leaves some of what the plan does not have alone.
    ///
    /// # Errors
    /// As [`Kernel::reconcile`].
    pub fn reconcile_but(&mut self, unplanned: Unplanned, plan: &Entries) -> Result<Report> {
        let done = self.bring_to(unplanned, plan);
        let mut report = done.inspect_err(|_| {
            // What was done before it failed counts too. If that cannot be said, there is no fast path any more.
            let _ = self.fast_path.doubt();
        })?;
        self.fast_path.follow(plan, &mut report);
        Ok(report)
    }

    fn bring_to(&mut self, unplanned: Unplanned, plan: &Entries) -> Result<Report> {
        let mut report = Report::default();
        self.tunnel.plan(plan);
        for _ in 0..ROUNDS {
            let observed = self.observe(plan)?;
            let ops = diff(plan, &observed, unplanned);
            // A link that changes loses neighbours, an address that goes takes routes with it, and what goes may
            // make room for what failed.
            let side_effects = ops.iter().any(|op| match op {
                Op::Make(planned) | Op::Change(planned) => matches!(planned.entry, Entry::Link(_)),
                Op::Remove(key) => matches!(key, Key::Address(..)),
                Op::Rebuild(_) | Op::RemoveLink(_) => true,
                Op::RemoveRoute(_) | Op::RemoveDouble(_) | Op::RemoveTable(_) => false,
            });
            let links = observed.links.clone();
            report.then(Apply::new(&mut self.socket, &mut self.tables, &mut self.tunnel, links).run(&ops));
            if !side_effects && !report.reconcile_needed {
                break;
            }
        }
        self.tunnel.tidy(plan, &mut report);
        Ok(report)
    }

    /// Makes the services' tables hold what the plan says. If they do already, nothing is written, and if they are known
    /// to do, nothing is read.
    ///
    /// # Errors
    /// If the tables cannot be read. What cannot be written is in the report.
    pub fn reconcile_services(&mut self, plan: &ServicePlan) -> Result<Report> {
        let mut report = Report::default();
        let done = self.services.reconcile(&mut self.tables.socket, plan, &mut report);
        // What was done before it failed counts too.
        if report.writes() > 0 || report.flows_removed > 0 || done.is_err() {
            report.fast_path = self.fast_path.doubt().err();
        }
        done.map(|()| report)
    }

    /// Carries out a change of the plan without looking at the rest of the kernel's state: the cost is that of the
    /// change.
    ///
    /// A change of a link or a table is not made here, but asks for [`Kernel::reconcile`] in the report, because
    /// what stands on it changes too.
    ///
    /// # Errors
    /// If the kernel cannot be read. What cannot be written is in the report.
    pub fn apply(&mut self, change: &Change) -> Result<Report> {
        if change.keys.keys().any(|key| matches!(key, Key::Link(_) | Key::Table(_) | Key::FastPath)) {
            return Ok(Report { reconcile_needed: true, ..Report::default() });
        }
        let mut links = Links::default();
        for name in links_of(change) {
            if let Some(state) = link::read(&mut self.socket, name)? {
                links.insert(state);
            }
        }
        let makes = change.keys.values().flatten().map(Op::Make);
        let removals = change.keys.iter().rev().filter(|(_, planned)| planned.is_none());
        let ops: Vec<Op<'_>> = makes.chain(removals.map(|(key, _)| Op::Remove(key))).collect();
        self.tunnel.change(change);
        let mut report = Apply::new(&mut self.socket, &mut self.tables, &mut self.tunnel, links).run(&ops);
        self.services.apply(&mut self.tables.socket, &change.services, &mut report);
        self.fast_path.change(change, &mut report);
        Ok(report)
    }
}

/// The links on which something changes.
fn links_of(change: &Change) -> BTreeSet<&LinkName> {
    let mut names = BTreeSet::new();
    for (key, planned) in &change.keys {
        match (key, planned.as_ref().map(|planned| &planned.entry)) {
            (Key::Address(link, _) | Key::Forwarding(link, _) | Key::Neighbour(link, _), _) => {
                names.insert(link);
            }
            (_, Some(Entry::Route(route))) => names.extend(route.hops.iter().map(|hop| &hop.link)),
            (_, Some(Entry::Port { link, bridge })) => names.extend([link, bridge]),
            _ => {}
        }
    }
    names
}
