//! The walker, the capture, and both side by side.

pub mod capture;
pub mod journey;
pub mod live;
mod walk;

pub use walk::{
    End, Gateway, Hop, Loss, MapElement, Outcome, Packet, Start, Step, Walk, World, answer, walk, walk_all,
};
