//! What `cambric status routes` shows: the planned routes with their reasons.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use ipnet::IpNet;
use plan::{Explained, Origin, Tunnel};
use serde::{Deserialize, Serialize};

use super::core::Core;
use super::scribe::Scribe;
use crate::files::replace;

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteStatus {
    pub(crate) destination: IpNet,
    /// The object that asks for it, or "BGP".
    pub(crate) source: String,
    /// The peers that have told it, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) peers: Vec<String>,
    pub(crate) hops: Vec<HopStatus>,
    /// The largest packet that fits, in bytes; none for that of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    pub(crate) tunnel: Tunnel,
    pub(crate) why: String,
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HopStatus {
    pub(crate) via: IpAddr,
    pub(crate) link: String,
}

impl RouteStatus {
    fn of(explained: &Explained<'_>) -> RouteStatus {
        let Explained { route, origin, paths, tunnel, why } = explained;
        let hop = |hop: &plan::Hop| HopStatus { via: hop.via, link: hop.link.to_string() };
        RouteStatus {
            destination: route.destination,
            source: match origin {
                Origin::Learned(_) => "BGP".to_owned(),
                origin => origin.to_string(),
            },
            peers: paths.iter().map(|path| path.peer.to_string()).collect(),
            hops: route.hops.iter().map(hop).collect(),
            mtu: route.mtu,
            tunnel: *tunnel,
            why: why.clone(),
        }
    }
}

/// Writes the routes when they are others.
#[derive(Debug)]
pub(crate) struct RoutesFile {
    path: PathBuf,
    scribe: Scribe,
}

impl RoutesFile {
    pub(crate) fn new(path: PathBuf) -> RoutesFile {
        RoutesFile { path, scribe: Scribe::new("the list of routes") }
    }

    /// Begins to write what is new, if it is time.
    pub(crate) fn keep(&mut self, core: &Core, now: Instant) {
        let revision = core.has_plan().then(|| core.routes_revision());
        let path = &self.path;
        self.scribe.keep(revision, now, || {
            let routes: Vec<RouteStatus> = core.routes().map(|route| RouteStatus::of(&route)).collect();
            let path = path.clone();
            Some(move || write(&path, &routes))
        });
    }

    /// When there is something to do next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.scribe.deadline()
    }
}

fn write(path: &std::path::Path, routes: &[RouteStatus]) -> Result<()> {
    replace(path, 0o600, |file| serde_json::to_writer(file, routes).map_err(io::Error::from))
}
