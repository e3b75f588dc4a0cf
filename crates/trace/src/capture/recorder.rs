//! A capture that runs on a thread of its own and keeps what it sees.

use std::io;
use std::thread::{self, JoinHandle};

use super::{Capture, CaptureError, Captured, Stop};

/// How much a recorder keeps. When either is reached it takes no more and says so.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most frames.
    pub frames: usize,
    /// The most bytes in all frames.
    pub bytes: usize,
}

impl Default for Limits {
    /// 100,000 frames, 64 MiB.
    fn default() -> Limits {
        Limits { frames: 100_000, bytes: 64 << 20 }
    }
}

/// What a recorder kept.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// The frames in the order in which the kernel gave them.
    pub frames: Vec<Captured>,
    /// Whether frames are missing: the kernel dropped some, or a limit was reached.
    pub incomplete: bool,
}

/// A running recording.
#[derive(Debug)]
pub struct Recorder {
    stop: Stop,
    thread: Option<JoinHandle<Result<Recording, CaptureError>>>,
}

impl Recorder {
    /// Records what a capture sees, until it is stopped or a limit is reached.
    ///
    /// # Errors
    /// [`CaptureError::System`] if no thread can be started.
    pub fn start(capture: Capture, limits: Limits) -> Result<Recorder, CaptureError> {
        let stop = capture.stop_handle();
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || record(capture, limits))
            .map_err(|source| CaptureError::System { what: "start a thread", source })?;
        Ok(Recorder { stop, thread: Some(thread) })
    }

    /// Ends the recording and returns it. Every frame that the kernel saw before the call is in it.
    ///
    /// # Errors
    /// What the capture ended with.
    pub fn stop(mut self) -> Result<Recording, CaptureError> {
        self.stop.stop();
        let gone = || CaptureError::System {
            what: "record",
            source: io::Error::other("the recording thread panicked"),
        };
        let thread = self.thread.take().ok_or_else(gone)?;
        thread.join().map_err(|_| gone())?
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // What it recorded is not wanted, nor why it ended.
            let _ = thread.join();
        }
    }
}

fn record(mut capture: Capture, limits: Limits) -> Result<Recording, CaptureError> {
    let mut recording = Recording::default();
    let mut bytes = 0;
    while let Some(captured) = capture.next()? {
        bytes += captured.frame.len();
        if recording.frames.len() >= limits.frames || bytes > limits.bytes {
            recording.incomplete = true;
            break;
        }
        recording.frames.push(captured);
    }
    recording.incomplete |= capture.dropped()? > 0;
    Ok(recording)
}
