//! The walker, the capture, and flows with names.

pub mod capture;
#[cfg(test)]
mod fixture;
pub mod flow;
pub mod journey;
mod walk;

pub use walk::{
    End, Gateway, Hop, Loss, MapElement, Outcome, Packet, Start, Step, Walk, World, answer, walk, walk_all,
};
