//! What other networks and proxies have left, or still do.

use kernel::LinkState;

use crate::doctor::finding::{Check, Finding, Remark, Verdict};
use crate::doctor::observation::Observation;

/// Links of other pod networks: how their names begin, and whose they are.
const LINKS: [(&str, &str); 13] = [
    ("flannel.", "flannel"),
    ("flannel-v6.", "flannel"),
    ("cni0", "flannel, or the bridge plugin"),
    ("cilium_", "Cilium"),
    ("lxc_health", "Cilium"),
    ("cali", "Calico"),
    ("vxlan.calico", "Calico"),
    ("vxlan-v6.calico", "Calico"),
    ("tunl0", "Calico, or another user of IP in IP"),
    ("kube-bridge", "kube-router"),
    ("weave", "Weave Net"),
    ("antrea-gw0", "Antrea"),
    ("ovn-k8s-mp0", "OVN-Kubernetes"),
];

/// The link that kube-proxy puts services' addresses on in its mode ipvs.
const IPVS_LINK: &str = "kube-ipvs0";
/// The table that kube-proxy has in its mode nftables.
const PROXY_TABLE: &str = "kube-proxy";

/// The configuration that the agent writes.
const OWN_FILE: &str = "10-cambric.conflist";

pub(super) fn networks(seen: &Observation, verdict: &mut Verdict) {
    for link in seen.links.iter().filter(|link| !link.ours && !link.pods) {
        let name = link.name.as_str();
        let Some((_, whose)) = LINKS.iter().find(|(start, _)| name.starts_with(start)) else { continue };
        if is_the_kernels(link) {
            continue;
        }
        verdict.find(Finding {
            check: Check::OtherNetworks,
            place: format!("link {name}"),
            what: format!("belongs to another pod network ({whose})"),
            hurts: "Its routes and rules can draw packets of pods away, and pods that are attached to it are not reached \
                    from ours."
                .to_owned(),
            cure: format!("remove that network's DaemonSet, then restart its pods and: ip link delete {name}"),
        });
    }
}

/// The kernel makes `tunl0` in every namespace as soon as the module ipip is loaded; nobody uses it while it is down.
fn is_the_kernels(link: &LinkState) -> bool {
    link.name.as_str() == "tunl0" && !link.up
}

pub(super) fn configurations(seen: &Observation, verdict: &mut Verdict) {
    let directory = &seen.cni_conf_dir;
    let mut find = |place: String, what: &str, hurts: &str, cure: String| {
        verdict.find(Finding {
            check: Check::CniConfiguration,
            place,
            what: what.to_owned(),
            hurts: hurts.to_owned(),
            cure,
        });
    };
    if !seen.cni_files.iter().any(|file| file == OWN_FILE) {
        find(
            format!("{directory}/{OWN_FILE}"),
            "is not there",
            "The container runtime does not call our plugin: new pods get no network, or another one.",
            "the agent writes it when it is ready; cambric status says why it is not, and --cni-conf-dir of the agent must \
             be where the runtime looks"
                .to_owned(),
        );
    }
    // What container runtimes look at, in the order in which they do (libcni).
    let is_read = |file: &&String| [".conf", ".conflist", ".json"].iter().any(|end| file.ends_with(end));
    for file in seen.cni_files.iter().filter(is_read).filter(|file| file.as_str() < OWN_FILE) {
        find(
            format!("{directory}/{file}"),
            "sorts before our configuration",
            "The container runtime takes the first: new pods are attached to that network and not to ours.",
            format!("remove what installs it, then: rm {directory}/{file}"),
        );
    }
}

pub(super) fn kube_proxy(seen: &Observation, verdict: &mut Verdict) {
    let mut tables: Vec<&str> = seen
        .chains
        .iter()
        .filter(|(table, chain)| table.ends_with(&format!(" {PROXY_TABLE}")) || is_proxys(chain))
        .map(|(table, _)| table.as_str())
        .collect();
    tables.sort_unstable();
    tables.dedup();
    let mut places: Vec<String> = tables.into_iter().map(|table| format!("nftables table {table}")).collect();
    places.extend(
        seen.links.iter().filter(|link| link.name.as_str() == IPVS_LINK).map(|_| format!("link {IPVS_LINK}")),
    );
    for place in places {
        verdict.find(Finding {
            check: Check::KubeProxy,
            place,
            what: "has what kube-proxy makes for services".to_owned(),
            hurts: "Connections to services go where it sends them, or where it once did: to endpoints that are gone."
                .to_owned(),
            cure: "kubectl -n kube-system delete daemonset kube-proxy; then on each node: kube-proxy --cleanup".to_owned(),
        });
    }
    let legacy: Vec<&str> =
        seen.legacy_tables.iter().filter(|table| table.ends_with(" nat")).map(String::as_str).collect();
    if !legacy.is_empty() {
        let text = format!(
            "iptables-legacy is in use ({}); what is in its tables can be seen with iptables-legacy-save only",
            legacy.join(", ")
        );
        verdict.remarks.push(Remark::new(Check::KubeProxy, text));
    }
}

/// The kubelet makes some `KUBE-` chains too, and does nothing to services with them.
fn is_proxys(chain: &str) -> bool {
    ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-"]
        .iter()
        .any(|start| chain.starts_with(start))
}
