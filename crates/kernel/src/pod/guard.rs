//! The set elements that let pods send from their own addresses (`plan::source_guard`), over nfnetlink
//! (linux/netfilter/nfnetlink.h, nf_tables.h).

use std::io;

use model::{Attachment, LinkName};
use plan::{Entry, Member, Table, Value, source_guard};

use crate::netlink::{NetlinkSocket, attributes, frames, i32_at};
use crate::{Error, Result};

const NFPROTO_BRIDGE: u8 = libc::NFPROTO_BRIDGE as u8;
const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const NEW_ELEMENT: u16 = SUBSYSTEM << 8 | 12;
const GET_ELEMENT: u16 = SUBSYSTEM << 8 | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM << 8 | 14;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// `NLA_F_NESTED`.
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// The sets of the bridge's table that hold what pods may send.
const SETS: [&str; 3] = ["pod-macs", "pod-addresses", "pod-addresses6"];

/// A socket to the nftables of the calling thread's namespace.
pub struct Guard {
    socket: NetlinkSocket,
    received: Vec<u8>,
}

/// An element of a set of the bridge's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    set: String,
    key: Vec<u8>,
}

impl Admitted {
    fn of(member: &Member) -> Admitted {
        Admitted { set: member.set.0.to_owned(), key: member.key.iter().flat_map(padded).collect() }
    }

    /// The link that the element is about.
    pub fn link(&self) -> Option<LinkName> {
        let name = self.key.get(..libc::IFNAMSIZ)?.split(|byte| *byte == 0).next()?;
        LinkName::new(str::from_utf8(name).ok()?).ok()
    }
}

impl Guard {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel has no nfnetlink or the process no descriptor left.
    pub fn open() -> Result<Guard> {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER)?;
        Ok(Guard { socket, received: Vec::new() })
    }

    /// Whether the agent's table is there.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not.
    pub fn ready(&mut self) -> Result<()> {
        let mut message = Message::new(GET_TABLE, 0, NFPROTO_BRIDGE);
        message.text(1, Table::NAME);
        let mut datagram = Vec::new();
        message.end(1, &mut datagram);
        self.exchange(&datagram, "look for the pods' rules", true, &mut |_| {})
    }

    /// Lets a pod send from its addresses.
    ///
    /// # Errors
    /// [`Error::Missing`] if the agent has not made the table.
    pub fn admit(&mut self, attachment: &Attachment) -> Result<()> {
        let elements = elements(attachment);
        self.commit(&elements, NEW_ELEMENT, &format!("let pod interface {} send", attachment.id))
    }

    /// Takes back what a pod may send. What is not there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn withdraw(&mut self, attachment: &Attachment) -> Result<()> {
        self.remove(&elements(attachment))
    }

    /// Removes elements. What is not there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&mut self, elements: &[Admitted]) -> Result<()> {
        let what = "take back what a pod may send";
        match self.commit(elements, DELETE_ELEMENT, what) {
            Err(Error::Missing { .. }) => {}
            result => return result,
        }
        // One that is missing keeps all from going. Those that are there go one by one.
        for element in elements {
            match self.commit(std::slice::from_ref(element), DELETE_ELEMENT, what) {
                Err(Error::Missing { .. }) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// All elements that are about pods' links; none if there is no table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn members(&mut self) -> Result<Vec<Admitted>> {
        let mut found = Vec::new();
        for set in SETS {
            let mut message = Message::new(GET_ELEMENT, DUMP, NFPROTO_BRIDGE);
            message.text(1, Table::NAME);
            message.text(2, set);
            let mut datagram = Vec::new();
            message.end(1, &mut datagram);
            let listed = self.exchange(&datagram, "list what pods may send", true, &mut |body| {
                found.extend(keys(body).map(|key| Admitted { set: set.to_owned(), key: key.to_vec() }));
            });
            match listed {
                Err(Error::Missing { .. }) => {}
                result => result?,
            }
        }
        Ok(found)
    }

    /// What a pod may not send although it should.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn missing(&mut self, attachment: &Attachment) -> Result<Vec<Member>> {
        let there = self.members()?;
        let mut members = members(attachment);
        members.retain(|member| !there.contains(&Admitted::of(member)));
        Ok(members)
    }

    fn commit(&mut self, elements: &[Admitted], kind: u16, what: &str) -> Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let mut datagram = Vec::new();
        Message::new(BATCH_BEGIN, 0, 0).subsystem().end(0, &mut datagram);
        let create = if kind == NEW_ELEMENT { CREATE } else { 0 };
        for (sequence, element) in (1..).zip(elements) {
            let mut message = Message::new(kind, ACK | create, NFPROTO_BRIDGE);
            message.text(1, Table::NAME);
            message.text(2, &element.set);
            message.nest(3, |list| list.nest(1, |entry| entry.nest(1, |key| key.attribute(1, &element.key))));
            message.end(sequence, &mut datagram);
        }
        Message::new(BATCH_END, 0, 0).subsystem().end(0, &mut datagram);
        self.exchange(&datagram, what, false, &mut |_| {})
    }

    /// Sends a datagram and takes all that comes back: the kernel has queued it when the send returns, but for dumps.
    fn exchange(
        &mut self,
        datagram: &[u8],
        what: &str,
        waits: bool,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let failed = |source| Error::System { what: what.to_owned(), source };
        self.socket.send(datagram).map_err(failed)?;
        let mut outcome = Ok(());
        let flags = if waits { 0 } else { libc::MSG_DONTWAIT };
        loop {
            let received = match self.socket.receive(&mut self.received, flags) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return outcome,
                Err(error) => return Err(failed(error)),
            };
            for frame in frames(received) {
                match frame.kind {
                    NLMSG_ERROR => {
                        let code = i32_at(frame.body, 0).unwrap_or_default();
                        if code != 0 && outcome.is_ok() {
                            outcome = Err(refused(what, -code));
                        }
                        if waits {
                            return outcome;
                        }
                    }
                    NLMSG_DONE => return outcome,
                    _ => {
                        each(frame.body.get(4..).unwrap_or_default());
                        if waits && frame.flags & libc::NLM_F_MULTI as u16 == 0 {
                            return outcome;
                        }
                    }
                }
            }
        }
    }
}

fn refused(what: &str, errno: i32) -> Error {
    if errno == libc::ENOENT {
        let missing = format!("nftables table bridge {} with its sets, or the element", Table::NAME);
        return Error::Missing { what: what.to_owned(), missing };
    }
    Error::Refused { what: what.to_owned(), source: io::Error::from_raw_os_error(errno), detail: None }
}

fn members(attachment: &Attachment) -> Vec<Member> {
    let member = |entry| match entry {
        Entry::Member(member) => Some(member),
        _ => None,
    };
    source_guard(attachment).into_iter().filter_map(member).collect()
}

fn elements(attachment: &Attachment) -> Vec<Admitted> {
    members(attachment).iter().map(Admitted::of).collect()
}

/// A field of a concatenation: its bytes, filled up to a multiple of four.
fn padded(value: &Value) -> Vec<u8> {
    let mut bytes = match value {
        Value::Link(name) => {
            let mut bytes = name.as_str().as_bytes().to_vec();
            bytes.resize(libc::IFNAMSIZ, 0);
            bytes
        }
        Value::Mac(mac) => mac.0.to_vec(),
        Value::Address(std::net::IpAddr::V4(address)) => address.octets().to_vec(),
        Value::Address(std::net::IpAddr::V6(address)) => address.octets().to_vec(),
        _ => Vec::new(),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The keys in an `NFT_MSG_NEWSETELEM`.
fn keys(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let within =
        |bytes, kind| attributes(bytes).filter(move |(found, _)| *found == kind).map(|(_, value)| value);
    within(body, 3)
        .flat_map(move |list| within(list, 1))
        .flat_map(move |entry| within(entry, 1))
        .flat_map(move |key| within(key, 1))
}

/// A message in the making.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16, family: u8) -> Message {
        let mut bytes = vec![0; 20];
        bytes.splice(4..6, kind.to_ne_bytes());
        bytes.splice(6..8, (flags | REQUEST).to_ne_bytes());
        bytes.splice(16..17, [family]);
        Message { bytes }
    }

    fn subsystem(mut self) -> Message {
        self.bytes.splice(18..20, SUBSYSTEM.to_be_bytes());
        self
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes.splice(start..start + 2, length.to_ne_bytes());
    }

    fn end(mut self, sequence: u32, datagram: &mut Vec<u8>) {
        let length = self.bytes.len() as u32;
        self.bytes.splice(0..4, length.to_ne_bytes());
        self.bytes.splice(8..12, sequence.to_ne_bytes());
        datagram.extend(self.bytes);
    }
}
