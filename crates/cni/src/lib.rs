//! The CNI protocol, pod wiring and address allocation.
