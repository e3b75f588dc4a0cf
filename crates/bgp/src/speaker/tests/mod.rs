//! Speakers against each other.

mod limits;
mod net;
mod restart;
mod routes;
mod session;
