//! Flows as they come and go.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use model::flow::{TrackedFlow, Tuple};

use super::{Conntrack, News, decode};
use crate::netlink::NetlinkSocket;
use crate::waker::{Waker, ready};
use crate::{Error, Result};

/// Room for what arrives while nobody reads, in bytes: some 20,000 messages.
const BUFFER: usize = 16 * 1024 * 1024;
/// Listing takes no more than one part in so many of the time.
const SHARE: u32 = 20;
/// The shortest time between listings, when messages are lost again and again.
const PAUSE: Duration = Duration::from_millis(500);

const GROUPS: [libc::c_int; 3] =
    [libc::NFNLGRP_CONNTRACK_NEW, libc::NFNLGRP_CONNTRACK_UPDATE, libc::NFNLGRP_CONNTRACK_DESTROY];

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The flow was there already when the following began.
    Listed(TrackedFlow),
    /// It has begun.
    Begun(TrackedFlow),
    /// Something of it is another now.
    Changed(TrackedFlow),
    /// It is known no more; this is the last that was known of it.
    Ended(TrackedFlow),
    /// There was no room for so many messages. What they said is listed next, but for flows that have come and gone
    /// meanwhile.
    Lost(u32),
}

/// Follows the flows of the network namespace in which it was opened.
///
/// The kernel tells of its own accord when flows begin, change and end. Its counters it tells only at the end, and of flows
/// that have begun when nobody listened it tells nothing (`net.netfilter.nf_conntrack_events`). So all flows are listed now
/// and then. All of them are kept here, each in some 300 bytes.
pub struct Follower {
    news: NetlinkSocket,
    conntrack: Conntrack,
    waker: Waker,
    every: Duration,
    known: HashMap<Key, Known>,
    /// The listing in which, or since which, flows were seen last.
    round: u64,
    next: Instant,
    drops: u32,
    buffer: Vec<u8>,
}

/// What makes it the same flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    id: u32,
    zone: u16,
    protocol: u8,
    original: Tuple,
}

impl Key {
    fn of(TrackedFlow { flow, .. }: &TrackedFlow) -> Key {
        Key { id: flow.id, zone: flow.zone, protocol: flow.protocol, original: flow.original }
    }
}

struct Known {
    flow: TrackedFlow,
    round: u64,
}

impl Follower {
    /// Opens one that lists all flows at first, and again after `every`: that is how old counters can be.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel does not track flows, or this process may not listen (CAP_NET_ADMIN).
    pub fn open(every: Duration) -> Result<Follower> {
        Follower::with_buffer(every, BUFFER)
    }

    /// Opens one with room for `bytes` of unread messages.
    ///
    /// # Errors
    /// As [`Follower::open`].
    pub fn with_buffer(every: Duration, bytes: usize) -> Result<Follower> {
        let news = NetlinkSocket::open(libc::NETLINK_NETFILTER)?;
        news.set_buffers(4096, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))?;
        GROUPS.into_iter().try_for_each(|group| news.listen(group))?;
        Ok(Follower {
            news,
            conntrack: Conntrack::open()?,
            waker: Waker::new()?,
            every,
            known: HashMap::new(),
            round: 0,
            next: Instant::now(),
            drops: 0,
            buffer: Vec::new(),
        })
    }

    /// A handle with which other threads can end a wait.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Tells what has happened: waits until something does, the waker is used, or the time is over. The first wait tells of
    /// the flows that are there.
    ///
    /// # Errors
    /// As [`Conntrack::all`], or [`Error::System`] if a socket fails.
    pub fn wait(&mut self, timeout: Option<Duration>, each: &mut dyn FnMut(Change)) -> Result<()> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let told = Cell::new(false);
        let mut each = |change| {
            told.set(true);
            each(change);
        };
        loop {
            if Instant::now() >= self.next {
                self.list(&mut each)?;
            }
            if told.get() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
            let until = deadline.map_or(self.next, |deadline| deadline.min(self.next));
            let [news, woken] = ready([self.news.as_fd(), self.waker.as_fd()], Some(until))?;
            if news {
                self.drain(&mut each)?;
            }
            if woken {
                self.waker.calm();
                return Ok(());
            }
        }
    }

    /// Takes in all flows there are. What is not among them, and has not begun since, is gone.
    fn list(&mut self, each: &mut dyn FnMut(Change)) -> Result<()> {
        self.drain(each)?;
        let first = self.round == 0;
        self.round += 1;
        let begin = Instant::now();
        let (known, round) = (&mut self.known, self.round);
        let listed = self.conntrack.all(&mut |flow| {
            let new = if first { Change::Listed } else { Change::Begun };
            each_of(note(known, round, flow, new), each);
        });
        self.next = begin + self.every.max(SHARE * begin.elapsed());
        match listed {
            // There will be a better moment, and flows that are gone can wait for it.
            Err(Error::Unstable { .. }) => return Ok(()),
            listed => listed?,
        }
        // What has begun since the listing came by is told by messages, which are here by now.
        self.drain(each)?;
        self.known.retain(|_, known| {
            let here = known.round == round;
            if !here {
                each(Change::Ended(known.flow.clone()));
            }
            here
        });
        Ok(())
    }

    /// Takes in what the kernel has told.
    fn drain(&mut self, each: &mut dyn FnMut(Change)) -> Result<()> {
        loop {
            let received = match self.news.receive(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.overrun(each)?;
                    continue;
                }
                Err(source) => return Err(Error::System { what: "read the kernel's news".into(), source }),
            };
            for (news, flow) in decode(received) {
                let change = match news {
                    News::Begun => note(&mut self.known, self.round, flow, Change::Begun),
                    News::Changed => note(&mut self.known, self.round, flow, Change::Changed),
                    News::Ended => {
                        let known = self.known.remove(&Key::of(&flow));
                        Some(Change::Ended(completed(flow, known.as_ref().map(|known| &known.flow))))
                    }
                };
                each_of(change, each);
            }
        }
    }

    fn overrun(&mut self, each: &mut dyn FnMut(Change)) -> Result<()> {
        let counted = self.news.drops();
        let drops = counted.map_err(|source| Error::System { what: "count what was lost".into(), source })?;
        each(Change::Lost(drops.wrapping_sub(self.drops).max(1)));
        self.drops = drops;
        self.next = self.next.min(Instant::now() + PAUSE);
        Ok(())
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

fn each_of(change: Option<Change>, each: &mut dyn FnMut(Change)) {
    if let Some(change) = change {
        each(change);
    }
}

/// Takes in what was said of a flow; what that changes, if anything. `new` is what it means if the flow is not known.
fn note(
    known: &mut HashMap<Key, Known>,
    round: u64,
    flow: TrackedFlow,
    new: fn(TrackedFlow) -> Change,
) -> Option<Change> {
    match known.entry(Key::of(&flow)) {
        Entry::Vacant(entry) => {
            entry.insert(Known { flow: flow.clone(), round });
            Some(new(flow))
        }
        Entry::Occupied(mut entry) => {
            let known = entry.get_mut();
            known.round = round;
            // What a flow has been through stays in its status, so with less of it this was said before.
            let [before, now] = [known.flow.flow.status.0, flow.flow.status.0];
            let flow = completed(flow, Some(&known.flow));
            if before & !now != 0 || flow == known.flow {
                return None;
            }
            known.flow = flow.clone();
            Some(Change::Changed(flow))
        }
    }
}

/// A flow with what was known of it and is not said again.
fn completed(flow: TrackedFlow, known: Option<&TrackedFlow>) -> TrackedFlow {
    let Some(known) = known else { return flow };
    TrackedFlow {
        connection: flow.connection.or(known.connection),
        counters: flow.counters.or(known.counters),
        begun: flow.begun.or(known.begun),
        flow: flow.flow,
    }
}
