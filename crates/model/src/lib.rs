//! Cluster state as types; parsing; no I/O.
