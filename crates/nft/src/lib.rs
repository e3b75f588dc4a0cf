//! A small typed nftables client: it speaks the kernel's netlink language itself and runs no program.

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
