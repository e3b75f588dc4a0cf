//! The `BgpPeer`s that a topology asks for.

use std::collections::BTreeMap;

use kube_source::BgpPeerSpec;

use super::TopologyError;
use super::source::BgpPeer;

/// Checks the peers of a topology file.
pub(super) fn check(list: &[BgpPeer]) -> Result<BTreeMap<String, BgpPeerSpec>, TopologyError> {
    let mut peers = BTreeMap::new();
    for BgpPeer { name, spec } in list {
        if model::NodeName::new(name.value.as_str()).is_err() {
            let message = format!(
                "bgpPeers: \"{}\" is no name of an object; use lower-case letters, digits, '-' and '.'",
                name.value
            );
            return Err(TopologyError::at(name, message));
        }
        kube_source::peer(&name.value, &spec.value)
            .map_err(|error| TopologyError::at(spec, format!("bgpPeers: {}: {error}", name.value)))?;
        if peers.insert(name.value.clone(), spec.value.clone()).is_some() {
            let message = format!("there are two bgpPeers \"{}\"; give each its own name", name.value);
            return Err(TopologyError::at(name, message));
        }
    }
    Ok(peers)
}
