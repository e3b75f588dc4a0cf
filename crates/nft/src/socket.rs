//! The client: commits batches and lists what is in force.

use std::os::fd::{AsFd, BorrowedFd};

use crate::attr::{Attrs, Message, Messages, Writer, read_str, read_u32_ne};
use crate::batch::Batch;
use crate::decode::{self, ListedRule};
use crate::describe;
use crate::error::{Error, Failure, Rejected};
use crate::netlink::{NetlinkSocket, Received};
use crate::set::{Element, Set};
use crate::table::{Chain, Table};
use crate::uapi::*;

/// How often a listing that was disturbed by a change is repeated.
const ATTEMPTS: u32 = 16;

/// How many refusals of one batch are told.
const MOST_FAILURES: usize = 64;

/// A connection to nftables in one network namespace: that of the thread which opened it. It may be used from any
/// thread.
#[derive(Debug)]
pub struct Socket {
    netlink: NetlinkSocket,
    seq: u32,
}

/// A table with all in it, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The generation at that moment, for [`Socket::commit_at_generation`].
    pub generation: u32,
    /// Whether the table exists; all else is empty if not.
    pub exists: bool,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Its rules, those of a chain in their order.
    pub rules: Vec<ListedRule>,
    /// Its named sets and maps with their elements.
    pub sets: Vec<(Set, Vec<Element>)>,
}

impl Socket {
    /// Connects to nftables in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`]. Lack of privilege (CAP_NET_ADMIN) shows only in the first request.
    pub fn open() -> Result<Socket, Error> {
        Ok(Socket { netlink: NetlinkSocket::open()?, seq: 0 })
    }

    /// The number by which notifications name this socket as the origin of a change ([`crate::Event`]).
    pub fn port_id(&self) -> u32 {
        self.netlink.port_id()
    }

    /// Puts a batch into force, all or nothing.
    ///
    /// # Errors
    /// [`Error::Rejected`] names what the kernel refused; [`Error::Invalid`] what was not even sent.
    pub fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        self.commit_batch(batch, None)
    }

    /// Puts a batch into force if nothing has changed in this namespace's rule set since a generation.
    ///
    /// # Errors
    /// [`Error::Stale`] if something has; otherwise as [`Socket::commit`].
    pub fn commit_at_generation(&mut self, batch: Batch, generation: u32) -> Result<(), Error> {
        self.commit_batch(batch, Some(generation))
    }

    fn commit_batch(&mut self, mut batch: Batch, generation: Option<u32>) -> Result<(), Error> {
        let first = self.next_seq(batch.count + 2);
        batch.seal(first.wrapping_add(1))?;
        if batch.count == 0 {
            return Ok(());
        }
        let last = first.wrapping_add(batch.count);
        let begin = envelope(NFNL_MSG_BATCH_BEGIN, first, generation);
        let end = envelope(NFNL_MSG_BATCH_END, last.wrapping_add(1), None);
        // The kernel counts twice the size that is asked for, and wants a little more than the batch.
        self.netlink.reserve_send(batch.byte_len() / 2 + 4096)?;
        self.netlink.send(&[&begin, &batch.messages.buf, &end])?;

        let mut failures = Vec::new();
        let mut others = 0;
        let mut finished = false;
        loop {
            let datagram = match self.netlink.receive()? {
                Received::Datagram(datagram) => datagram,
                Received::Empty => break,
                Received::Overrun => {
                    others += 1;
                    continue;
                }
            };
            for message in Messages::new(datagram) {
                let message = message?;
                let position = message.seq.wrapping_sub(first);
                if message.ty != NLMSG_ERROR || position > batch.count {
                    continue;
                }
                finished |= position == 0 || position == batch.count;
                let Some(answer) = Answer::read(&message)? else { continue };
                if position == 0
                    && answer.errno == libc::ERESTART
                    && let Some(expected) = generation
                {
                    return Err(Error::Stale { expected });
                }
                if failures.len() == MOST_FAILURES {
                    others += 1;
                } else {
                    failures.push(answer.failure(&batch, position));
                }
            }
        }
        if !failures.is_empty() {
            return Err(Error::Rejected(Rejected { failures, others }));
        }
        if !finished {
            return Err(no_answer());
        }
        Ok(())
    }

    /// The number of the rule set's generation in this namespace; each commit, of anyone, makes a new one.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let mut request = Writer::default();
        let start = request.begin_message(NFT_MSG_GETGEN, 0, 0);
        request.end_message(start);
        let mut generation = None;
        self.request(request, || "read the generation".into(), &mut |message| {
            if message.nft_type() == Some(NFT_MSG_NEWGEN) {
                generation = Some(decode::generation(message)?);
            }
            Ok(())
        })?;
        generation.ok_or_else(no_answer)
    }

    /// The tables of all families that this crate handles.
    pub fn tables(&mut self) -> Result<Vec<Table>, Error> {
        self.list(NFT_MSG_GETTABLE, NFT_MSG_NEWTABLE, 0, None, "list tables", decode::table_object)
    }

    /// The chains of a table; none if there is no such table. Chains of types or hooks that this crate does not handle
    /// are left out.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<Chain>, Error> {
        let what = format!("list the chains of {table}");
        let filter = Some((NFTA_CHAIN_TABLE, &table.name[..]));
        let family = table.family as u8;
        let mut chains: Vec<Chain> =
            self.list(NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, family, filter, &what, decode::chain)?;
        // Kernels list the chains of all tables, whatever is asked for.
        chains.retain(|chain| chain.table == *table);
        Ok(chains)
    }

    /// The rules of a table, those of a chain in their order; none if there is no such table.
    pub fn rules(&mut self, table: &Table) -> Result<Vec<ListedRule>, Error> {
        let what = format!("list the rules of {table}");
        let filter = Some((NFTA_RULE_TABLE, &table.name[..]));
        self.list(NFT_MSG_GETRULE, NFT_MSG_NEWRULE, table.family as u8, filter, &what, decode::rule)
    }

    /// The named sets and maps of a table; none if there is no such table.
    pub fn sets(&mut self, table: &Table) -> Result<Vec<Set>, Error> {
        let what = format!("list the sets of {table}");
        let filter = Some((NFTA_SET_TABLE, &table.name[..]));
        match self.list(NFT_MSG_GETSET, NFT_MSG_NEWSET, table.family as u8, filter, &what, decode::set) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            result => result,
        }
    }

    /// The elements of a set or map, by key. A catch-all element is left out.
    ///
    /// # Errors
    /// [`Error::Request`] with ENOENT if there is no such set.
    pub fn elements(&mut self, set: &Set) -> Result<Vec<Element>, Error> {
        let what = || format!("list the elements of {set}");
        for _ in 0..ATTEMPTS {
            let mut request = Writer::default();
            let start = request.begin_message(NFT_MSG_GETSETELEM, NLM_F_DUMP, set.table.family as u8);
            request.put_str(NFTA_SET_ELEM_LIST_TABLE, &set.table.name);
            request.put_str(NFTA_SET_ELEM_LIST_SET, &set.name);
            request.end_message(start);
            let mut raw = Vec::new();
            self.dump(request, what, &mut |step| match step {
                Step::Restart => {
                    raw.clear();
                    Ok(())
                }
                Step::Message(message) if message.nft_type() == Some(NFT_MSG_NEWSETELEM) => {
                    decode::elements(message, &mut raw)
                }
                Step::Message(_) => Ok(()),
            })?;
            if let Some(elements) = decode::join(set, raw) {
                return Ok(elements);
            }
        }
        Err(Error::Unsettled { what: what(), attempts: ATTEMPTS })
    }

    /// A table with all in it, as it was at one moment.
    ///
    /// # Errors
    /// [`Error::Unsettled`] if the rule set keeps changing.
    pub fn snapshot(&mut self, table: &Table) -> Result<Snapshot, Error> {
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let exists = self.tables()?.contains(table);
            let mut snapshot =
                Snapshot { generation, exists, chains: Vec::new(), rules: Vec::new(), sets: Vec::new() };
            if exists {
                snapshot.chains = self.chains(table)?;
                snapshot.rules = self.rules(table)?;
                match self.sets_with_elements(table) {
                    // A set went away since its name was read.
                    Err(error) if error.is_not_found() => continue,
                    sets => snapshot.sets = sets?,
                }
            }
            if self.generation()? == generation {
                return Ok(snapshot);
            }
        }
        Err(Error::Unsettled { what: format!("list {table}"), attempts: ATTEMPTS })
    }

    fn sets_with_elements(&mut self, table: &Table) -> Result<Vec<(Set, Vec<Element>)>, Error> {
        self.sets(table)?
            .into_iter()
            .map(|set| {
                let elements = self.elements(&set)?;
                Ok((set, elements))
            })
            .collect()
    }

    /// Lists objects of one kind. `filter` is the attribute with the name of the table.
    fn list<T>(
        &mut self,
        message: u8,
        answer: u8,
        family: u8,
        filter: Option<(u16, &str)>,
        what: &str,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut request = Writer::default();
        let start = request.begin_message(message, NLM_F_DUMP, family);
        if let Some((attribute, table)) = filter {
            request.put_str(attribute, table);
        }
        request.end_message(start);
        let mut objects = Vec::new();
        self.dump(request, || what.into(), &mut |step| {
            match step {
                Step::Restart => objects.clear(),
                Step::Message(message) if message.nft_type() == Some(answer) => {
                    objects.extend(decode(message)?);
                }
                Step::Message(_) => {}
            }
            Ok(())
        })?;
        Ok(objects)
    }

    /// Runs a dump to its end, again if the rule set changed on the way.
    ///
    /// The kernel sends a dump in portions and finds its place again by counting, so objects must not come and go
    /// meanwhile. It says so itself (NLM_F_DUMP_INTR) only for some kinds of objects, and not of a commit that has
    /// made its generation but is still taking out what it deletes.
    fn dump(
        &mut self,
        request: Writer,
        what: impl Fn() -> String,
        each: &mut dyn FnMut(Step<'_, '_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            each(Step::Restart)?;
            self.wait_for_commits()?;
            let before = self.generation()?;
            let disturbed =
                self.request(request.clone(), &what, &mut |message| each(Step::Message(message)))?;
            if !disturbed && self.generation()? == before {
                return Ok(());
            }
        }
        Err(Error::Unsettled { what: what(), attempts: ATTEMPTS })
    }

    /// Returns when the commits under way have come to their end: an empty batch makes no generation, but waits for
    /// them as any batch does.
    fn wait_for_commits(&mut self) -> Result<(), Error> {
        let seq = self.next_seq(2);
        let begin = envelope(NFNL_MSG_BATCH_BEGIN, seq, None);
        let end = envelope(NFNL_MSG_BATCH_END, seq.wrapping_add(1), None);
        self.netlink.send(&[&begin, &end])
    }

    /// Sends a request and hands on its answers until the kernel has no more. Returns whether a dump was disturbed by
    /// a change.
    fn request(
        &mut self,
        mut request: Writer,
        what: impl Fn() -> String,
        each: &mut dyn FnMut(&Message<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let seq = self.next_seq(1);
        request.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.netlink.send(&[&request.buf])?;
        let dump = request.buf[7] & (NLM_F_DUMP >> 8) as u8 != 0;
        let mut disturbed = false;
        let mut result = Ok(());
        let mut finished = false;
        while !finished || !dump {
            let datagram = match self.netlink.receive()? {
                Received::Datagram(datagram) => datagram,
                Received::Empty if dump => return Err(no_answer()),
                Received::Empty => break,
                Received::Overrun => continue,
            };
            for message in Messages::new(datagram) {
                let message = message?;
                if message.seq != seq {
                    continue;
                }
                disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
                if matches!(message.ty, NLMSG_ERROR | NLMSG_DONE) {
                    finished = true;
                    if let Some(answer) = Answer::read(&message)? {
                        let failure = answer.unnamed();
                        result = Err(Error::Request { what: what(), failure });
                    }
                } else if result.is_ok() {
                    // The dump is read to its end in any case, so that the next request finds the socket empty.
                    result = each(&message);
                }
            }
        }
        result.map(|()| disturbed)
    }

    /// Takes as many sequence numbers, and returns the first. 0 is what notifications carry.
    fn next_seq(&mut self, count: u32) -> u32 {
        let first = self.seq.wrapping_add(1);
        self.seq = self.seq.wrapping_add(count);
        first
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

enum Step<'m, 'a> {
    Restart,
    Message(&'m Message<'a>),
}

/// The message that opens or closes a batch.
fn envelope(ty: u16, seq: u32, generation: Option<u32>) -> Vec<u8> {
    let mut w = Writer::default();
    let start = w.begin_raw_message(ty, 0, 0, NFNL_SUBSYS_NFTABLES);
    if let Some(generation) = generation {
        w.put_u32(NFNL_BATCH_GENID, generation);
    }
    w.end_message(start);
    w.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
    w.buf
}

fn no_answer() -> Error {
    Error::Malformed { what: "no answer to the request" }
}

/// An error that the kernel answered with.
struct Answer {
    errno: i32,
    message: Option<String>,
    attribute: Option<usize>,
}

impl Answer {
    /// Reads an NLMSG_ERROR or NLMSG_DONE; `None` if it says success (`struct nlmsgerr`, `enum nlmsgerr_attrs`).
    fn read(message: &Message<'_>) -> Result<Option<Answer>, Error> {
        let code = read_u32_ne(message.payload).ok_or(Error::Malformed { what: "error message" })? as i32;
        if code >= 0 {
            return Ok(None);
        }
        let mut answer = Answer { errno: code.saturating_neg(), message: None, attribute: None };
        if message.flags & NLM_F_ACK_TLVS != 0 {
            for attr in Attrs::new(answer_attributes(message)) {
                match attr? {
                    (NLMSGERR_ATTR_MSG, text) => answer.message = Some(read_str(text)),
                    (NLMSGERR_ATTR_OFFS, value) => {
                        answer.attribute = read_u32_ne(value).map(|offset| offset as usize);
                    }
                    _ => {}
                }
            }
        }
        Ok(Some(answer))
    }

    fn failure(self, batch: &Batch, position: u32) -> Failure {
        let Some(index) = position.checked_sub(1) else {
            return Failure { operation: "the batch as a whole".into(), ..self.unnamed() };
        };
        let operation = describe::operation(batch, index, self.attribute);
        Failure { index: Some(index as usize), operation, ..self.unnamed() }
    }

    fn unnamed(self) -> Failure {
        Failure { index: None, operation: String::new(), errno: self.errno, message: self.message }
    }
}

/// What follows the code: of NLMSG_ERROR the header of the message it is about, and the rest of that message unless
/// capped; then the attributes.
fn answer_attributes<'a>(message: &Message<'a>) -> &'a [u8] {
    let rest = message.payload.get(4..).unwrap_or(&[]);
    if message.ty == NLMSG_DONE {
        return rest;
    }
    let quoted = if message.flags & NLM_F_CAPPED != 0 {
        NLMSG_HDRLEN
    } else {
        read_u32_ne(rest).map_or(NLMSG_HDRLEN, |len| (len as usize).next_multiple_of(4))
    };
    rest.get(quoted..).unwrap_or(&[])
}
