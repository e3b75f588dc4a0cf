//! Pure: cluster and node in, a complete description of what that node's kernel should hold out.
//!
//! [`plan`] makes the whole description at once; a [`Planner`] keeps it and says what a change of one object
//! changes in it. Both are the same code, so they cannot disagree. Every entry knows the object it comes from.

mod across;
mod attachments;
pub mod bgp;
mod change;
mod entry;
mod explain;
pub mod fast;
pub mod ipip;
mod learned;
mod local;
mod planner;
mod problem;
mod reach;
mod remote;
mod route;
mod rules;
pub mod services;
pub mod site;
mod tables;
mod underlay;
mod way;

pub use attachments::source_guard;
pub use change::Change;
pub use entry::{Entries, Entry, Key, Link, Member, NodePlan, Origin, Planned};
pub use explain::{Explained, Tunnel};
pub use learned::{LearnedPath, Refusal};
pub use local::{ENCAPSULATION_OVERHEAD_V4, ENCAPSULATION_OVERHEAD_V6, node_file, pod_mtu};
pub use planner::{Facts, Input, Planner, plan};
pub use problem::Problem;
pub use reach::Reach;
pub use route::{Hop, Route, route_protocol, route_source};
pub use rules::{
    Action, Chain, ChainName, Field, Hook, Match, Rule, Set, SetData, SetName, Table, TableFamily, TableName,
    Value,
};
pub use underlay::{Obstacle, Underlay};
