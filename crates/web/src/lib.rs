//! Answering HTTP on a node, and the live page.
//!
//! [`accept`] takes connections. [`Page`] answers what the page in a browser asks for, of whatever [`Source`] it is given;
//! [`picture`] makes what is drawn, without I/O.

mod accept;
mod access;
mod assets;
mod page;
pub mod picture;
mod source;

pub use accept::accept;
pub use access::{Token, TokenError};
pub use page::Page;
pub use source::{Finding, Remark, Session, Sessions, Source, Verdict, View};
