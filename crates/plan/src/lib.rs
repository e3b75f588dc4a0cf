//! Pure: cluster and node in, what the node's kernel should hold out.
