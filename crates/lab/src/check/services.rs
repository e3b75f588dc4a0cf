//! Services of the check's own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service as ApiService;
use k8s_openapi::api::discovery::v1::EndpointSlice as ApiSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use model::{EndpointSlice, Family, Protocol, TrafficPolicy};
use serde_json::{Value, json};

use super::cast::{self, AFFINITY, Cast, PORT, PROTOCOLS, Role};
use super::evidence::{Got, Transport};
use super::pods::{NAMESPACE, object};
use super::probe::PATIENCE;
use super::trial::{Ports, attempt};
use super::view::{View, api};
use crate::{Error, Result};

/// How long the nodes may take to serve a new service.
const SERVED_TIME: Duration = Duration::from_secs(5);
/// How long to wait before a node is asked again.
const AGAIN: Duration = Duration::from_millis(20);

/// Makes the services and puts them into the view. The namespace is there.
///
/// # Errors
/// [`Error::Other`] if the API refuses one. [`remove`] is to be called in any case.
pub(super) async fn create(client: &kube::Client, view: &mut View) -> Result<()> {
    let slices: Api<ApiSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let services: Api<ApiService> = Api::namespaced(client.clone(), NAMESPACE);
    // What a check that was killed has left would have other endpoints.
    remove(client).await?;
    for role in Role::ALL {
        let Some(cast) = Cast::of(view) else { return Ok(()) };
        let own = cast.slices(role);
        for slice in &own {
            let made = slices.create(&PostParams::default(), &object(slice_object(slice))?).await;
            made.map_err(api("make an EndpointSlice"))?;
        }
        let wanted = object(service_object(role, &view.families()))?;
        let made = services.create(&PostParams::default(), &wanted).await.map_err(api("make a service"))?;
        let addresses = cluster_addresses(&made)?;
        let ingress: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"ip": role.balancer_address(Family::of(address)), "ipMode": "VIP"}))
            .collect();
        let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        let patched = services.patch_status(role.name(), &PatchParams::default(), &status).await;
        patched.map_err(api("give a service an address"))?;
        let service = cast::service(role, addresses, &node_ports(&made));
        view.cluster.services.insert(service.name.clone(), service);
        view.cluster.slices.extend(own.into_iter().map(|slice| (slice.name.clone(), slice)));
    }
    Ok(())
}

/// Removes the services.
///
/// # Errors
/// [`Error::Other`] if one stays.
pub(super) async fn remove(client: &kube::Client) -> Result<()> {
    remove_all::<ApiService>(client, "the services").await?;
    remove_all::<ApiSlice>(client, "the EndpointSlices").await
}

async fn remove_all<K>(client: &kube::Client, what: &'static str) -> Result<()>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let objects: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let failed = |error| Error::Other(format!("the lab's API: cannot remove {what} of the check: {error}"));
    for one in objects.list(&ListParams::default()).await.map_err(failed)? {
        let name = one.meta().name.clone().unwrap_or_default();
        match objects.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result.map_err(failed)?),
        }
    }
    Ok(())
}

/// Waits until every node leads to the services' endpoints, but not for ever: a node that never does is what the check is
/// there to find.
pub(super) fn wait_served(view: &View, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let ports = Ports::new();
    let deadline = Instant::now() + SERVED_TIME;
    for node in view.cluster.nodes.keys() {
        let namespace = view.machine_namespace(node.as_str())?;
        // Under the policy Local a node may have no endpoint.
        for role in [Role::One, Role::Several, Role::Sticky] {
            let service = view.cluster.services.get(&role.object());
            for address in service.iter().flat_map(|service| &service.cluster_addresses) {
                let to = SocketAddr::new(*address, PORT);
                let asked = || attempt(&namespace, to, Transport::Tcp, &ports, PATIENCE, ports.mark(), 1).got;
                while !matches!(asked(), Got::Answer(_)) {
                    go_on()?;
                    if Instant::now() > deadline {
                        return Ok(());
                    }
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }
    Ok(())
}

fn service_object(role: Role, families: &[Family]) -> Value {
    let ports = PROTOCOLS.map(|(name, protocol)| json!({"name": name, "protocol": protocol, "port": PORT}));
    let policy = match role.policy() {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    };
    let external: Vec<IpAddr> = families.iter().map(|family| role.external_address(*family)).collect();
    let mut spec = json!({
        "type": "LoadBalancer",
        // Nobody else is to give it an address.
        "loadBalancerClass": "cambric.io/check",
        "ipFamilyPolicy": "PreferDualStack",
        "externalIPs": external,
        "internalTrafficPolicy": policy,
        "externalTrafficPolicy": policy,
        "ports": ports,
    });
    if role == Role::Sticky {
        spec["sessionAffinity"] = "ClientIP".into();
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": AFFINITY}});
    }
    json!({"metadata": {"name": role.name(), "namespace": NAMESPACE}, "spec": spec})
}

fn slice_object(slice: &EndpointSlice) -> Value {
    let ports = slice
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "protocol": port.protocol, "port": port.port}));
    let endpoints = slice.endpoints.iter().map(|endpoint| {
        json!({
            "addresses": [endpoint.address],
            "nodeName": endpoint.node.as_ref().map(|node| node.as_str()),
            "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
        })
    });
    json!({
        "metadata": {
            "name": slice.name.name,
            "namespace": slice.name.namespace,
            "labels": {
                "kubernetes.io/service-name": slice.service,
                "endpointslice.kubernetes.io/managed-by": "cambric-check",
            },
        },
        "addressType": slice.family.to_string(),
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn cluster_addresses(service: &ApiService) -> Result<Vec<IpAddr>> {
    let given = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    let parse = |text: &String| {
        text.parse().map_err(|_| Error::Other(format!("the lab's API: \"{text}\" is no cluster address")))
    };
    given.map(parse).collect()
}

fn node_ports(service: &ApiService) -> BTreeMap<Protocol, u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let number = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let own = PROTOCOLS.into_iter().find(|(name, _)| port.name.as_deref() == Some(*name))?;
        Some((own.1, u16::try_from(port.node_port?).ok()?))
    };
    ports.filter_map(number).collect()
}
