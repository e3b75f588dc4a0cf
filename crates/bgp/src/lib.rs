//! A BGP speaker (RFC 4271): a core without clock, socket or runtime, and the transport around it.
//!
//! The core is [`Speaker`]: it is told what happened and when ([`Input`], [`Moment`]) and answers with what is to be
//! done ([`Output`]). The same inputs lead to the same outputs, so a session can be recorded and replayed
//! ([`record`]). [`transport`] joins it to TCP.
//!
//! Messages are encoded and decoded, and a connection's states are walked, by the crates `rustbgpd-wire` and
//! `rustbgpd-fsm`; none of their types appears in this crate's interface.

mod adj_out;
mod attributes;
pub mod bfd;
mod collision;
mod config;
mod connection;
mod decision;
mod event;
mod export;
mod families;
mod filter;
mod import;
mod intern;
mod jitter;
mod moment;
mod name;
mod nlri;
mod notification;
mod prefix_map;
pub mod record;
mod rib;
mod speaker;
mod status;
pub mod transport;
mod usual;
mod wire;

pub use attributes::{Attributes, Community, LargeCommunity, Origin, OtherAttribute, ParseCommunityError};
pub use config::{
    ConfigError, Export, Import, ImportNextHop, MaxPrefixes, OwnAddresses, PeerConfig, SpeakerConfig,
};
pub use event::{BestPath, ConnectionId, Input, LocalRoute, Output, RibChange, SessionEvent};
pub use families::Families;
pub use filter::{FilterRule, PrefixFilter};
pub use moment::Moment;
pub use name::PeerName;
pub use speaker::Speaker;
pub use status::{PeerStatus, SessionState};
