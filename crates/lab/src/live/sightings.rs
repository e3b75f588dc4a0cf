//! Captures on the links of a lab that packets may come by.

use std::collections::{BTreeMap, BTreeSet};

use kernel::netns;
use model::LinkName;
use trace::capture::{Capture, CaptureError, Limits, Options, Tunnels};
use trace::journey::{Journey, Place};
use trace::live::{self, Mark, Sighting};

use super::Stage;
use crate::{Error, Result};

/// The link of a pod.
const POD_LINK: &str = "eth0";

/// The running captures.
pub(super) struct Watch {
    captures: live::Watch,
    tunnels: Tunnels,
}

impl Watch {
    /// Captures on the bridges, tunnels and uplinks of the nodes, and in the pods, that journeys may lead to.
    pub(super) fn start(stage: &Stage, journeys: &[Journey]) -> Result<Watch> {
        let points = journeys.iter().flat_map(|journey| &journey.ways);
        let points = points.flat_map(|way| way.points.iter().chain(&way.points_back));
        let places: BTreeSet<&Place> = points.map(|point| &point.place).collect();
        let mut captures = live::Watch::default();
        for place in places {
            let (name, links) = match place {
                Place::Pod(name) => (name, vec![POD_LINK.to_owned()]),
                Place::Node(name) => {
                    let own =
                        stage.topology.machine(name).into_iter().flat_map(|machine| &machine.interfaces);
                    let own = own.map(|interface| interface.link.clone());
                    let ours = [LinkName::bridge(), LinkName::vxlan_v4(), LinkName::vxlan_v6()];
                    (name, own.chain(ours.map(|link| link.to_string())).collect())
                }
            };
            let namespace = crate::enter::open(&stage.lab, name)?;
            for link in links {
                let failed = |error: CaptureError| Error::Other(format!("{name}: {error}"));
                let link = LinkName::new(link.as_str()).map_err(|error| Error::Other(error.to_string()))?;
                let opened = netns::run_in(&namespace, || Capture::open(&Options::on(link.clone())))
                    .map_err(Error::kernel(name.as_str()))?;
                captures.add(place.clone(), &link, opened, Limits::default()).map_err(failed)?;
            }
        }
        let vxlan_port = stage.scene.cluster.network.encapsulation.vxlan.port.value();
        Ok(Watch { captures, tunnels: Tunnels { vxlan_port } })
    }

    /// Ends the captures; what was seen by its mark, in the order of time, and whether anything was missed.
    pub(super) fn stop(self, marks: &[Mark]) -> Result<(BTreeMap<Mark, Vec<Sighting>>, bool)> {
        self.captures.stop(marks, &self.tunnels).map_err(|error| Error::Other(error.to_string()))
    }
}
