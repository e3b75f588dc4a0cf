//! Observe, compare, apply: the only crate with privileged I/O.
