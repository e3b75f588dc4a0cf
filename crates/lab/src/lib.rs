//! Topologies, namespaces as nodes, the small kubelet, the checks.
