//! Kubernetes watches into the model, the `ClusterNetwork` resource, and the little that is written back.
//!
//! Objects are read as slim types that keep a name and the fields in use, so 5,000 nodes cost what they say about
//! the network and nothing more. A [`Source`] turns five watches, and one for each Secret that is needed, into [`Event`]s; what a lost connection means is
//! decided there: nothing. Objects are removed only when the API says that they are gone.

mod bgp_peer;
mod cluster_network;
mod conversion;
mod error;
mod namespaced;
mod objects;
mod overview;
mod peer_conversion;
mod pod;
mod probe;
mod probing;
mod secrets;
mod service;
mod slice;
mod snapshot;
mod source;
mod status;
mod track;
mod write;

pub use bgp_peer::{Action, BgpPeer, BgpPeerSpec, FilterRule, NodeSelector, PasswordSecret};
pub use cluster_network::{
    AddressKind, BfdSpec, BgpSpec, ClusterNetwork, ClusterNetworkSpec, ClusterNetworkStatus, Condition,
    EncapsulationSpec, MtuSpec, Protocol, RouteSource, SINGLETON, When, crds,
};
pub use error::{ConnectError, PeerError, SpecError, WriteError};
pub use overview::{NodeOverview, Overview, overview};
pub use peer_conversion::peer;
pub use probe::{
    MOST_WATCHERS, PROBE_LIFETIME, Probe, ProbeOuter, ProbePacket, ProbePhase, ProbePod, ProbeProtocol,
    ProbeReply, ProbeReplyKind, ProbeReport, ProbeSender, ProbeSighting, ProbeSpec, ProbeStatus,
    ProbeUnderlay, ProbeWatcher,
};
pub use probing::{
    ProbeError, create_probe, delete_probe, find_pod, follow_probe, probe_age, report_probe, watch_probes,
};
pub use snapshot::{Refused, Snapshot, SnapshotError, snapshot};
pub use source::{Source, client};
pub use status::{Verdict, verdict};
pub use track::{Event, Object, Watched};
pub use write::set_network_available;
