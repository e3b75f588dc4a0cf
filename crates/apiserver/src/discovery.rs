//! Discovery documents: which groups, versions and resources there are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kinds::{Kind, Registry};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// `/version`. Kubernetes' version whose API this follows.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": "v1.32.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2025-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// `/api`.
pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]})
}

/// `/apis`.
pub(crate) fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> =
        by_group(registry).into_keys().filter_map(|name| group(registry, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub(crate) fn group(registry: &Registry, name: &str) -> Option<Value> {
    let all = by_group(registry);
    let versions = all.get(name).filter(|_| !name.is_empty())?;
    let entry = |version: &str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let mut names: Vec<&str> = versions.keys().copied().collect();
    // `v1` before `v1beta1` before `v1alpha1`; the first is preferred.
    names.sort_by_key(|name| (name.contains("alpha"), name.contains("beta"), std::cmp::Reverse(*name)));
    let preferred = entry(names.first()?);
    let entries: Vec<Value> = names.into_iter().map(entry).collect();
    Some(json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": entries,
        "preferredVersion": preferred}))
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let all = by_group(registry);
    let kinds = all.get(group)?.get(version)?;
    let group_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    let resources: Vec<Value> = kinds.iter().flat_map(|kind| resource(kind)).collect();
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": resources}))
}

fn resource(kind: &Kind) -> Vec<Value> {
    let verbs = if kind.virtual_review { &["create"][..] } else { VERBS };
    let mut main = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": verbs});
    if !kind.short_names.is_empty() {
        main["shortNames"] = kind.short_names.clone().into();
    }
    if !kind.categories.is_empty() {
        main["categories"] = kind.categories.clone().into();
    }
    let mut all = vec![main];
    for sub in subresources(kind) {
        let mut entry = json!({"name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
            "namespaced": kind.namespaced, "kind": sub.kind, "verbs": sub.verbs});
        if let Some((group, version)) = sub.group_version {
            entry["group"] = group.into();
            entry["version"] = version.into();
        }
        all.push(entry);
    }
    all
}

struct Subresource<'a> {
    name: &'static str,
    kind: &'a str,
    group_version: Option<(&'static str, &'static str)>,
    verbs: &'static [&'static str],
}

fn subresources(kind: &Kind) -> Vec<Subresource<'_>> {
    const WRITE: &[&str] = &["get", "patch", "update"];
    const CREATE: &[&str] = &["create"];
    let mut all = Vec::new();
    if kind.status {
        all.push(Subresource { name: "status", kind: &kind.kind, group_version: None, verbs: WRITE });
    }
    if kind.scale.is_some() {
        let group_version = Some(("autoscaling", "v1"));
        all.push(Subresource { name: "scale", kind: "Scale", group_version, verbs: WRITE });
    }
    if kind.is("", "pods") {
        all.push(Subresource { name: "binding", kind: "Binding", group_version: None, verbs: CREATE });
        let group_version = Some(("policy", "v1"));
        all.push(Subresource { name: "eviction", kind: "Eviction", group_version, verbs: CREATE });
    }
    all
}

/// `/api` (`core`) or `/apis` in the aggregated form, `apidiscovery.k8s.io/v2`.
pub(crate) fn aggregated(registry: &Registry, core: bool, version: &str) -> Value {
    let groups = by_group(registry).into_iter().filter(|(name, _)| name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|(version, kinds)| {
                    let resources: Vec<Value> = kinds.iter().map(|kind| aggregated_resource(kind)).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let subs: Vec<Value> = subresources(kind)
        .iter()
        .map(|sub| {
            let (group, version) = sub.group_version.unwrap_or((&kind.group, &kind.version));
            json!({"subresource": sub.name, "verbs": sub.verbs,
                "responseKind": {"group": group, "version": version, "kind": sub.kind}})
        })
        .collect();
    let verbs = if kind.virtual_review { &["create"][..] } else { VERBS };
    json!({"resource": kind.plural, "responseKind": own, "singularResource": kind.singular, "verbs": verbs,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "shortNames": kind.short_names, "categories": kind.categories, "subresources": subs})
}

type ByVersion<'a> = BTreeMap<&'a str, Vec<&'a Kind>>;

fn by_group(registry: &Registry) -> BTreeMap<&str, ByVersion<'_>> {
    let mut groups: BTreeMap<&str, ByVersion<'_>> = BTreeMap::new();
    for kind in registry.iter() {
        groups.entry(&kind.group).or_default().entry(&kind.version).or_default().push(kind);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_groups_and_resources() {
        let registry = Registry::builtin();
        let names: Vec<String> =
            groups(&registry)["groups"].as_array().unwrap().iter().map(|g| g["name"].to_string()).collect();
        assert!(names.contains(&"\"apps\"".to_owned()) && !names.contains(&"\"\"".to_owned()));
        let list = resources(&registry, "apps", "v1").unwrap();
        let names: Vec<&str> =
            list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
        assert!(names.contains(&"deployments/scale") && names.contains(&"deployments/status"));
        assert!(resources(&registry, "apps", "v9").is_none());
        assert_eq!(aggregated(&registry, true, "v2")["items"].as_array().unwrap().len(), 1);
    }
}
