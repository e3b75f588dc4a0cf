//! The embedded Kubernetes API of the lab: storage, watch, discovery, patch.
