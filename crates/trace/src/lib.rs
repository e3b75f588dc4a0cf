//! The walker and the capture.

pub mod capture;
mod walk;

pub use walk::{End, Gateway, Hop, Loss, Outcome, Packet, Start, Step, Walk, World, walk, walk_all};
