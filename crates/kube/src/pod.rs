//! Pods: where they are and which addresses they have.

use std::borrow::Cow;
use std::net::IpAddr;

use k8s_openapi::NamespaceResourceScope;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use model::{Family, NodeName, ObjectName, PerFamily, Pod};
use serde::{Deserialize, Deserializer};

use crate::objects::{null_is_empty, resource};

/// A Pod, without what does not concern the network.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PodLite {
    #[serde(deserialize_with = "identity")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpecLite,
    #[serde(default)]
    status: PodStatusLite,
}

/// Which pod it is, and nothing else of its metadata.
fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    struct Identity {
        name: String,
        namespace: Option<String>,
        uid: Option<String>,
    }
    let Identity { name, namespace, uid } = Identity::deserialize(deserializer)?;
    Ok(ObjectMeta { name: Some(name), namespace, uid, ..ObjectMeta::default() })
}

/// `spec` of a Pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpecLite {
    node_name: Option<String>,
    host_network: Option<bool>,
}

/// `status` of a Pod.
#[derive(Debug, Clone, Default, Deserialize)]
struct PodStatusLite {
    #[serde(default)]
    phase: String,
    #[serde(default, rename = "podIPs", deserialize_with = "null_is_empty")]
    pod_ips: Vec<PodIpLite>,
}

/// An entry of `status.podIPs`.
#[derive(Debug, Clone, Deserialize)]
struct PodIpLite {
    ip: String,
}

impl PodLite {
    /// The pod; `None` if it is nowhere yet, has no address, or has ended: its addresses may be another's by now.
    pub(crate) fn read(&self) -> Option<Pod> {
        if matches!(self.status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let mut addresses = PerFamily::default();
        for address in self.status.pod_ips.iter().filter_map(|each| each.ip.parse::<IpAddr>().ok()) {
            addresses.insert(Family::of(&address), address);
        }
        Some(Pod {
            name: ObjectName::new(self.namespace()?, self.name_any()),
            uid: self.uid().unwrap_or_default().into(),
            node: NodeName::new(self.spec.node_name.clone()?).ok()?,
            host_network: self.spec.host_network == Some(true),
            addresses: Some(addresses).filter(|addresses| !addresses.is_empty())?,
        })
    }
}

resource!(PodLite, NamespaceResourceScope, "", "v1", "Pod", "pods");

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, status: Value) -> Option<Pod> {
        let metadata = json!({"name": "a", "namespace": "x", "uid": "u"});
        serde_json::from_value::<PodLite>(json!({"metadata": metadata, "spec": spec, "status": status}))
            .unwrap()
            .read()
    }

    #[test]
    fn pods_that_have_an_address_are_read() {
        let ips = json!([{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]);
        let running = json!({"phase": "Running", "podIPs": ips});
        let pod = read(json!({"nodeName": "n", "containers": []}), running.clone()).unwrap();
        assert_eq!(pod.name, ObjectName::new("x", "a"));
        assert_eq!((pod.addresses.iter().count(), &*pod.uid), (2, "u"));
        assert!(!pod.host_network);
        assert!(read(json!({"nodeName": "n", "hostNetwork": true}), running.clone()).unwrap().host_network);
        assert_eq!(read(json!({}), running), None, "it is nowhere");
        assert_eq!(read(json!({"nodeName": "n"}), json!({"phase": "Pending", "podIPs": null})), None);
        assert_eq!(read(json!({"nodeName": "n"}), json!({"phase": "Succeeded", "podIPs": ips})), None);
    }
}
