//! A small typed nftables client: it speaks the kernel's netlink language itself, blocking, and runs no program.
//!
//! # The parts
//!
//! - [`Table`], [`Chain`], [`Rule`], [`Set`] and [`Element`] describe what is to be. A rule is built from conditions
//!   ([`Match`]) and statements; conditions are asked of a [`Field`], and fields come from modules named as in nft's
//!   language ([`meta`], [`ip`], [`ip6`], [`th`], [`ct`], [`fib`], [`numgen`], [`hash`], …). Registers are taken care
//!   of: a key is a list of fields.
//! - A [`Batch`] collects changes and turns them into messages; no input or output happens there, and nothing fails
//!   there. What cannot be put to the kernel is said by the commit.
//! - A [`Socket`] commits batches, all or nothing, and lists what is in force. Refusals name the operation and its
//!   object, down to the element ([`Failure`]).
//! - A [`Monitor`] hears of changes, whoever makes them.
//!
//! Both sockets belong to the network namespace of the thread that opens them, and need CAP_NET_ADMIN there.
//!
//! # What `nft list` shows
//!
//! All of it in nft's own words: types of concatenated keys, comments, and for keys with a drawn number ([`Type::Index`]),
//! which has no name as a type, a `typeof`. Each rule carries a tag, by which it is known again ([`Rule::tag`],
//! [`ListedRule::tag`]); nft does not show it.
//!
//! # Keeping up with others
//!
//! [`Socket::snapshot`] lists a table as it was at one moment, with the generation it belongs to;
//! [`Socket::commit_at_generation`] then commits only if nobody else has committed since, and
//! [`Error::Stale`] means to look again. The kernel lists a hash set in time that grows with the square of its size
//! (100,000 elements: some 2.5 s, against 0.4 s to add them), so list large sets at the start and after
//! [`Event::Overrun`], and in between know what you have committed.
//!
//! # Limits
//!
//! A key has at most 5 fields (nft's type numbers have no room for more) and 64 bytes (the kernel's registers). In
//! tables of families `inet` and `bridge` rules must ask for the protocol before they read its header; nothing is added
//! behind the scenes. Names that are words of nft's language (`fwd`, `dup`) work, but nft does not load its own listing
//! of them.
//!
//! # Example
//!
//! Services as two maps: rules that never change, and a few elements for each service.
//!
//! ```no_run
//! use nft::{Batch, Chain, ChainType, Element, Family, Hook, Nat, Rule, Set, Socket, Table, Type, Value, Verdict};
//! use nft::{ip, meta, numgen, priority, th};
//! use std::net::Ipv4Addr;
//!
//! # fn main() -> Result<(), nft::Error> {
//! let table = Table::new(Family::Ip, "cambric");
//! let services = Set::verdict_map(&table, "services", [Type::Ipv4Addr, Type::InetProto, Type::InetService]);
//! let backends = Set::map(
//!     &table,
//!     "backends",
//!     [Type::Ipv4Addr, Type::InetProto, Type::InetService, Type::Index],
//!     [Type::Ipv4Addr, Type::InetService],
//! );
//! let pre = Chain::base(&table, "pre", ChainType::Nat, Hook::Prerouting, priority::DSTNAT);
//! let pick = Chain::new(&table, "pick-2");
//!
//! let mut batch = Batch::new();
//! batch.add_table(&table);
//! batch.add_set(&services);
//! batch.add_set(&backends);
//! batch.add_chain(&pre);
//! batch.add_chain(&pick);
//! // ip daddr . meta l4proto . th dport vmap @services
//! batch.add_rule(&Rule::new(&pre).vmap([ip::daddr(), meta::l4proto(), th::dport()], "services"));
//! // dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @backends
//! let key = [ip::daddr(), meta::l4proto(), th::dport(), numgen::random(2)];
//! batch.add_rule(&Rule::new(&pick).dnat(Nat::map_with_port(Family::Ip, key, "backends")));
//!
//! let service = [Ipv4Addr::new(10, 96, 0, 1).into(), Value::proto(6), Value::port(443)];
//! batch.add_elements(&services, [Element::new(service).data(Verdict::goto("pick-2")).comment("default/api")]);
//! let [address, proto, port] = service;
//! for (index, endpoint) in [(0, Ipv4Addr::new(10, 244, 0, 2)), (1, Ipv4Addr::new(10, 244, 1, 2))] {
//!     let key = [address, proto, port, Value::index(index)];
//!     batch.add_elements(&backends, [Element::new(key).data([endpoint.into(), Value::port(6443)])]);
//! }
//! Socket::open()?.commit(batch)?;
//! # Ok(())
//! # }
//! ```

mod attr;
mod batch;
mod comment;
mod decode;
mod describe;
mod encode;
mod error;
mod expr;
mod field;
mod fields;
mod monitor;
mod netlink;
mod rule;
mod set;
mod socket;
mod table;
mod uapi;
mod udata;
mod value;
mod verdict;

#[cfg(test)]
mod properties;

pub use batch::Batch;
pub use comment::Comment;
pub use decode::{Counter, ListedRule};
pub use error::{Error, Failure, Rejected};
pub use field::{Field, Match};
pub use fields::{arp, ct, daddr, ether, fib, hash, icmp, ip, ip6, meta, numgen, saddr, tcp, th};
pub use monitor::{Change, Event, Monitor, Object, decode_events};
pub use rule::{Nat, PortChoice, Reject, Rule};
pub use set::{Data, Element, MapData, Set};
pub use socket::{Snapshot, Socket};
pub use table::{Base, Chain, ChainType, Family, Hook, Policy, Table, priority};
pub use value::{Key, Type, Value};
pub use verdict::Verdict;
