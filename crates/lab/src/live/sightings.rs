//! Captures on the links of a lab that packets may come by.

use std::collections::{BTreeMap, BTreeSet};

use kernel::netns;
use model::LinkName;
use trace::capture::{Capture, CaptureError, Limits, Options, Recorder, Tunnels};
use trace::journey::{Journey, Place};
use trace::live::{Frame, Mark, Sighting, sightings};

use super::Stage;
use crate::{Error, Result};

/// The link of a pod.
const POD_LINK: &str = "eth0";

/// The running captures.
pub(super) struct Watch {
    recorders: Vec<(Place, String, Recorder)>,
    tunnels: Tunnels,
}

impl Watch {
    /// Captures on the bridges, tunnels and uplinks of the nodes, and in the pods, that journeys may lead to.
    pub(super) fn start(stage: &Stage, journeys: &[Journey]) -> Result<Watch> {
        let points = journeys.iter().flat_map(|journey| &journey.ways);
        let points = points.flat_map(|way| way.points.iter().chain(&way.points_back));
        let places: BTreeSet<&Place> = points.map(|point| &point.place).collect();
        let mut recorders = Vec::new();
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
                let of = LinkName::new(link.as_str()).map_err(|error| Error::Other(error.to_string()))?;
                let capture = netns::run_in(&namespace, || Capture::open(&Options::on(of)))
                    .map_err(Error::kernel(name.as_str()))?;
                let capture = match capture {
                    // A node has the tunnels of its families only.
                    Err(CaptureError::NoLink { .. }) => continue,
                    capture => capture.map_err(failed)?,
                };
                let recorder = Recorder::start(capture, Limits::default()).map_err(failed)?;
                recorders.push((place.clone(), link, recorder));
            }
        }
        let vxlan_port = stage.scene.cluster.network.encapsulation.vxlan.port.value();
        Ok(Watch { recorders, tunnels: Tunnels { vxlan_port } })
    }

    /// Ends the captures; what was seen by its mark, in the order of time, and whether anything was missed.
    pub(super) fn stop(self, marks: &[Mark]) -> Result<(BTreeMap<Mark, Vec<Sighting>>, bool)> {
        let mut blind = false;
        let mut frames = Vec::new();
        for (place, link, recorder) in self.recorders {
            let recording = recorder.stop().map_err(|error| Error::Other(error.to_string()))?;
            blind |= recording.incomplete;
            frames.extend(recording.frames.into_iter().map(|captured| Frame {
                place: place.clone(),
                link: link.clone(),
                captured,
            }));
        }
        Ok((sightings(frames, marks, &self.tunnels), blind))
    }
}
