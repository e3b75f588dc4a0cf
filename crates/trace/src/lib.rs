//! The walker and the capture.

pub mod capture;
mod walk;

pub use walk::{End, Hop, Loss, Packet, Start, Step, Walk, World, walk};
