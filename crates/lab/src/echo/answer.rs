//! What an echo server says: who it is, whom it sees, what was asked.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Who answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `metadata.name` of the pod.
    pub pod: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// The node the pod runs on.
    pub node: String,
    /// The container's name.
    pub container: String,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    #[serde(flatten)]
    pub identity: Identity,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The peer as the socket reports it (address and port, host byte order).
    pub source: SocketAddr,
    /// The server's end as the socket reports it, after any translation on the way.
    pub destination: SocketAddr,
    /// What was asked: the HTTP request line, the line, or the start of the datagram.
    pub asked: String,
}

impl Answer {
    /// The answer as one JSON object without a newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The answer as one line of text without a newline.
    pub fn to_line(&self) -> String {
        let Identity { pod, namespace, node, container } = &self.identity;
        let Self { protocol, source, destination, asked, .. } = self;
        format!(
            "pod={pod} namespace={namespace} node={node} container={container} protocol={protocol} \
             source={source} destination={destination} asked={asked:?}"
        )
    }

    /// The answer as lines of text for people, each ended by a newline.
    pub fn to_text(&self) -> String {
        let Identity { pod, namespace, node, container } = &self.identity;
        let Self { protocol, source, destination, asked, .. } = self;
        format!(
            "pod:         {pod}\nnamespace:   {namespace}\nnode:        {node}\ncontainer:   {container}\n\
             protocol:    {protocol}\nsource:      {source}\ndestination: {destination}\nasked:       {asked}\n"
        )
    }
}

/// The start of what was asked, as text for an answer.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const LIMIT: usize = 200;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LIMIT)]);
    text.trim_end().to_owned()
}

/// An IPv4 peer of a dual-stack socket as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
