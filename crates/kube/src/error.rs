//! What can go wrong between us and the Kubernetes API.

use std::path::PathBuf;

/// A `ClusterNetwork` whose spec cannot be put into force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not of the shape that the resource's schema has.
    #[error("{path}: {reason}")]
    Shape {
        /// The field.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that cannot be used.
    #[error(transparent)]
    Value(#[from] model::NetworkError),
}

/// No client for the Kubernetes API can be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A kubeconfig that cannot be read.
    #[error("kubeconfig {}: {source}; name a readable file with --kubeconfig", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: kube::config::KubeconfigError,
    },
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no way to the Kubernetes API: {0}; name a kubeconfig with --kubeconfig or KUBECONFIG, or run in a pod \
         with a service account"
    )]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The configuration is of no use, for instance because of a bad certificate.
    #[error("the Kubernetes API at {server}: {source}")]
    Client {
        /// Its address.
        server: String,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// A write to the API that did not succeed. Another attempt may.
#[derive(Debug, thiserror::Error)]
#[error("{object}: {source}")]
pub struct WriteError {
    /// The object, as `Node a`.
    pub object: String,
    /// What the API says.
    pub source: Box<kube::Error>,
}
