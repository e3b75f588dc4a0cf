//! The walker and the capture.

pub mod capture;
pub mod journey;
mod walk;

pub use walk::{
    End, Gateway, Hop, Loss, MapElement, Outcome, Packet, Start, Step, Walk, World, answer, walk, walk_all,
};
