//! Captures on several links, and what comes of them all.

use std::collections::BTreeMap;

use model::LinkName;

use super::{Frame, Mark, Sighting, sightings};
use crate::capture::{Capture, CaptureError, Limits, Recorder, Tunnels};
use crate::journey::Place;

/// Captures that run.
#[derive(Debug, Default)]
pub struct Watch {
    recorders: Vec<(Place, String, Recorder)>,
}

impl Watch {
    /// Records what was opened on a link of a place. Where there is no such link nothing can be seen: a node has the tunnels
    /// of its families only.
    ///
    /// # Errors
    /// Why it could not be opened, or no thread can be started.
    pub fn add(
        &mut self,
        place: Place,
        link: &LinkName,
        opened: Result<Capture, CaptureError>,
        limits: Limits,
    ) -> Result<(), CaptureError> {
        match opened.and_then(|capture| Recorder::start(capture, limits)) {
            Ok(recorder) => self.recorders.push((place, link.to_string(), recorder)),
            Err(CaptureError::NoLink { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends the captures; what was seen by its mark, in the order of time, and whether anything was missed.
    ///
    /// # Errors
    /// What a capture ended with.
    pub fn stop(
        self,
        marks: &[Mark],
        tunnels: &Tunnels,
    ) -> Result<(BTreeMap<Mark, Vec<Sighting>>, bool), CaptureError> {
        let mut incomplete = false;
        let mut frames = Vec::new();
        for (place, link, recorder) in self.recorders {
            let recording = recorder.stop()?;
            incomplete |= recording.incomplete;
            let frame = |captured| Frame { place: place.clone(), link: link.clone(), captured };
            frames.extend(recording.frames.into_iter().map(frame));
        }
        Ok((sightings(frames, marks, tunnels), incomplete))
    }
}
