//! Kubernetes watches into the model; the custom resources.
