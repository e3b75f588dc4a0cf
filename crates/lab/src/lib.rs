//! Topologies, namespaces as nodes, the small kubelet, the checks.

pub mod cable;
pub mod capture;
pub mod check;
pub mod cli;
pub mod components;
pub mod control;
pub mod demo;
pub mod down;
pub mod echo;
pub mod enter;
pub mod error;
pub mod fabric;
pub mod flows;
pub mod gateway;
pub mod kubelet;
pub mod list;
pub mod live;
pub mod paths;
pub mod process;
pub mod progress;
pub mod signals;
pub mod speaker;
pub mod state;
pub mod topology;
pub mod ui;
pub mod up;

pub use cli::{LabCommand, run};
pub use error::{Error, Result};
