//! What can go wrong between us and the Kubernetes API.

use std::path::PathBuf;

/// A custom resource whose spec cannot be put into force.
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
    /// A value of a `BgpPeer` that cannot be used.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

/// A `BgpPeer` that cannot be spoken with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Something that is not an address.
    #[error("spec.address: \"{0}\" is not an IP address; it would look like 192.0.2.1 or 2001:db8::1")]
    Address(String),
    /// A port out of range.
    #[error("spec.port: {0} is out of range; use 1 to 65535")]
    Port(u64),
    /// A number that no autonomous system can have.
    #[error("spec.asn: {0}")]
    Asn(#[from] model::AsnError),
    /// A part of a Secret's name, or a key, that cannot be one.
    #[error(
        "spec.passwordSecret.{field}: \"{value}\" is no name; use letters, digits, '-', '_' and '.', and name all of \
         namespace, name and key"
    )]
    Secret {
        /// The field.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// A time of BGP or BFD.
    #[error("spec.{0}")]
    Timer(#[from] model::TimerError),
    /// A limit that lets nothing pass.
    #[error("spec.maxPrefixes: {0} is out of range; use at least 1, or leave it out for any number")]
    MaxPrefixes(u64),
    /// A rule's prefix that is none.
    #[error(
        "spec.{field}[{index}].prefix: \"{value}\" is not an address prefix; it would look like 10.0.0.0/8"
    )]
    Prefix {
        /// The filter.
        field: &'static str,
        /// The position of the rule in it.
        index: usize,
        /// What stands there.
        value: String,
    },
    /// A length that no prefix which the rule is about can have.
    #[error("spec.{field}[{index}].{name}: {value} is out of range; use {least} to {most}")]
    Length {
        /// The filter.
        field: &'static str,
        /// The position of the rule in it.
        index: usize,
        /// The field of the rule.
        name: &'static str,
        /// What stands there.
        value: u64,
        /// The shortest that would do.
        least: u8,
        /// The longest that would do.
        most: u8,
    },
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
