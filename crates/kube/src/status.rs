//! What is said about a `ClusterNetwork` in its status.

use ipnet::IpNet;
use model::{NetworkConfig, PodRange, RouteSource};

use crate::cluster_network::{ClusterNetworkStatus, Condition, SINGLETON};
use crate::error::SpecError;

/// Whether a spec is in force, and why. It follows from the object alone, so every agent comes to the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is in force.
    pub ready: bool,
    /// One word for the condition's reason.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// Judges the `ClusterNetwork` of this name with this spec.
pub fn verdict(name: &str, spec: Result<&NetworkConfig, &SpecError>) -> Verdict {
    if name != SINGLETON {
        let message = format!(
            "Not in force: only the ClusterNetwork named \"{SINGLETON}\" is, and this one is named \"{name}\". Delete \
             it, or give its spec to \"{SINGLETON}\"."
        );
        return Verdict { ready: false, reason: "WrongName", message };
    }
    match spec {
        Ok(network) => Verdict { ready: true, reason: "InForce", message: in_force(network) },
        Err(error) => Verdict {
            ready: false,
            reason: "Invalid",
            message: format!("Not in force: {error}. Nodes keep the last configuration that was valid."),
        },
    }
}

fn in_force(network: &NetworkConfig) -> String {
    let services = match list(&network.service_ranges) {
        none if none.is_empty() => "no service ranges".to_owned(),
        ranges => format!("services {ranges}"),
    };
    format!(
        "In force: pods {}; {services}; {}; MTU {}{}.",
        list(&network.pod_ranges.iter().map(PodRange::net).collect::<Vec<_>>()),
        network.encapsulation,
        network.mtu,
        match network.route_source {
            RouteSource::Kubernetes => String::new(),
            RouteSource::Bgp => format!("; routes from BGP in AS {}", network.bgp.asn),
        },
    )
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

impl Verdict {
    /// The verdict as a status. `now` is RFC 3339.
    pub(crate) fn status(&self, generation: Option<i64>, now: String) -> ClusterNetworkStatus {
        ClusterNetworkStatus {
            observed_generation: generation,
            message: Some(self.message.clone()),
            conditions: vec![Condition {
                kind: "Ready".to_owned(),
                status: if self.ready { "True" } else { "False" }.to_owned(),
                reason: self.reason.to_owned(),
                message: self.message.clone(),
                last_transition_time: now,
                observed_generation: generation,
            }],
        }
    }
}

/// Whether some agent has judged this generation.
///
/// The text is not compared: during an upgrade agents of two releases would write over each other's for ever. Who
/// judges a generation first has the word.
pub(crate) fn is_judged(status: &serde_json::Value, generation: Option<i64>) -> bool {
    let Ok(status) = serde_json::from_value::<ClusterNetworkStatus>(status.clone()) else { return false };
    let ready = status.conditions.iter().any(|condition| condition.kind == "Ready");
    ready && status.observed_generation == generation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversion::read_spec;

    #[test]
    fn the_verdict_says_what_is_in_force() {
        let network = read_spec(&serde_json::json!({
            "podRanges": ["10.244.0.0/16", "fd00:10:244::/56"], "serviceRanges": ["10.96.0.0/12"], "mtu": 1400,
        }))
        .unwrap();
        assert_eq!(
            verdict("default", Ok(&network)).message,
            "In force: pods 10.244.0.0/16, fd00:10:244::/56; services 10.96.0.0/12; VXLAN between all nodes, \
             identifier 4096, UDP port 4789; MTU 1400."
        );
        let network = read_spec(&serde_json::json!({"podRanges": ["10.244.0.0/16"], "routeSource": "bgp"}));
        let message = verdict("default", network.as_ref()).message;
        assert!(message.ends_with("; MTU auto; routes from BGP in AS 64512."), "{message}");
    }

    #[test]
    fn the_verdict_says_what_is_wrong() {
        let error = read_spec(&serde_json::json!({"podRanges": []})).unwrap_err();
        let verdict = verdict("default", Err(&error));
        assert!(!verdict.ready);
        assert!(verdict.message.contains("spec.podRanges is empty"), "{}", verdict.message);
        assert!(verdict.message.contains("last configuration that was valid"), "{}", verdict.message);
    }

    #[test]
    fn another_name_is_refused_even_with_a_good_spec() {
        let network = read_spec(&serde_json::json!({"podRanges": ["10.244.0.0/16"]})).unwrap();
        let verdict = verdict("mine", Ok(&network));
        assert_eq!((verdict.ready, verdict.reason), (false, "WrongName"));
        assert!(verdict.message.contains("\"mine\""), "{}", verdict.message);
    }

    #[test]
    fn a_written_status_is_recognised_for_its_generation_only() {
        let network = read_spec(&serde_json::json!({"podRanges": ["10.244.0.0/16"]})).unwrap();
        let status = verdict("default", Ok(&network)).status(Some(3), "2030-01-01T00:00:00Z".to_owned());
        let status = serde_json::to_value(status).unwrap();
        assert!(is_judged(&status, Some(3)));
        assert!(!is_judged(&status, Some(4)));
        assert!(!is_judged(&serde_json::Value::Null, Some(3)));
        assert!(!is_judged(&serde_json::Value::Null, None));
    }
}
