//! Observe, compare, apply: the only crate with privileged I/O.
//!
//! [`Kernel::reconcile`] makes the kernel hold what a plan says, [`Kernel::apply`] carries out a change of a plan, and a
//! [`Monitor`] tells what others changed. Everything here blocks, and works in the network namespace of the thread that
//! opened it.

mod address;
mod apply;
mod bpf;
mod cleanup;
mod clock;
pub mod conntrack;
pub mod counters;
mod diff;
mod error;
pub mod fast;
mod fast_path;
mod inspect;
pub mod ipip;
mod kernel;
mod leftovers;
mod link;
mod monitor;
mod neighbour;
mod netlink;
pub mod netns;
mod observed;
pub mod pod;
pub mod probe;
mod render;
mod report;
mod route;
pub mod rtnl;
mod seen;
mod services;
pub mod settled;
mod sysctl;
mod tables;
mod tunnel;
mod underlay;
mod waker;

pub use diff::{Op, Unplanned, diff};
pub use error::{Error, Result};
pub use fast_path::FastPathState;
pub use inspect::setting;
pub use kernel::Kernel;
pub use link::{ALIAS, LinkKind, LinkState, Links};
pub use monitor::{Event, Hush, Monitor};
pub use observed::{Found, Observed};
pub use report::{Failure, Report, SERVICE_ELEMENT, Step, Steps, Verb};
pub use seen::{AddressKind, SeenFrontend, SeenServices};
pub use tables::Condition;
pub use underlay::Surroundings;
pub use waker::Waker;
