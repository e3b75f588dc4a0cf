//! The kinds of objects the server holds: a table of the built-in ones, and those that custom resource
//! definitions add.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::object::{array, at, text};
use crate::schema::Schema;

/// What the server knows of one kind of object in one version.
#[derive(Debug, Clone, Default)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: String,
    /// API version, for example `v1`.
    pub version: String,
    /// Resource name as it stands in paths, for example `pods`.
    pub plural: String,
    /// Resource name for one object, for example `pod`.
    pub singular: String,
    /// Kind name, for example `Pod`.
    pub kind: String,
    /// Abbreviations, for example `po`.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether status is written through its own subresource only.
    pub status: bool,
    /// Whether `metadata.generation` counts changes of the specification.
    pub generation: bool,
    /// Where replicas are, if the kind has the `scale` subresource.
    pub scale: Option<ScalePaths>,
    /// Whether objects can only be posted and are answered, not stored (access reviews).
    pub virtual_review: bool,
    /// What a custom resource definition says of its kind.
    pub custom: Option<Arc<Custom>>,
}

/// Paths (dotted, with a leading dot) of the fields behind the `scale` subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wished-for number of replicas.
    pub spec_replicas: String,
    /// Present number of replicas.
    pub status_replicas: String,
    /// Label selector of the pods; a string or a `LabelSelector`.
    pub selector: Option<String>,
}

/// What a custom resource definition says of one version of its kind.
#[derive(Debug, Default)]
pub struct Custom {
    /// Schema of the objects.
    pub schema: Schema,
    /// `additionalPrinterColumns`.
    pub columns: Vec<Column>,
    /// Paths that field selectors may name besides name and namespace.
    pub selectable: Vec<String>,
    /// Name of the kind of lists.
    pub list_kind: String,
}

/// One of a definition's `additionalPrinterColumns`.
#[derive(Debug, Clone)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// JSONPath of the value in the object.
    pub path: String,
    /// Above 0 the column is shown in wide output only.
    pub priority: i64,
    /// For people.
    pub description: String,
}

impl Kind {
    /// `pods`, `deployments.apps`: the resource's name across groups.
    pub fn group_resource(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `v1`, `apps/v1`: the value of `apiVersion`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Kind of a list of these objects.
    pub fn list_kind(&self) -> String {
        match &self.custom {
            Some(custom) if !custom.list_kind.is_empty() => custom.list_kind.clone(),
            _ => format!("{}List", self.kind),
        }
    }

    /// Prefix of the storage keys of all objects (of all versions) of this kind, of those in `namespace`
    /// if it is given.
    pub(crate) fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => format!("{}/{}/{namespace}/", self.group, self.plural),
            None => format!("{}/{}/", self.group, self.plural),
        }
    }

    /// Storage key of one object; `namespace` is empty for kinds without.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}/{namespace}/{name}", self.group, self.plural)
    }

    /// Whether this is `group`'s `plural`, in whatever version.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

/// Splits a storage key into group, resource, namespace and name.
pub(crate) fn split_key(key: &str) -> (&str, &str, &str, &str) {
    let mut parts = key.splitn(4, '/');
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next(), next())
}

/// All kinds the server holds at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    kinds: BTreeMap<(String, String, String), Arc<Kind>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn builtin() -> Self {
        let mut registry = Self::default();
        for row in TABLE {
            registry.add(row.kind());
        }
        registry
    }

    fn add(&mut self, kind: Kind) {
        let key = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        self.kinds.insert(key, Arc::new(kind));
    }

    /// The kind at a path's group, version and resource.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// The kind of `group`'s `plural` in its first version.
    pub(crate) fn any_version(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        self.iter().find(|k| k.is(group, plural)).cloned()
    }

    /// The kind behind `pods` or `deployments.apps`.
    pub(crate) fn by_resource(&self, resource: &str) -> Option<Arc<Kind>> {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        self.any_version(group, plural)
    }

    /// All kinds by group, version and resource.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }

    /// Adds the kinds of a `CustomResourceDefinition`, in place of those it had before.
    pub(crate) fn define(&mut self, definition: &Value) {
        self.undefine(definition);
        for kind in custom_kinds(definition) {
            self.add(kind);
        }
    }

    /// Takes the kinds of a `CustomResourceDefinition` away.
    pub(crate) fn undefine(&mut self, definition: &Value) {
        let (group, plural) =
            (text(definition, &["spec", "group"]), text(definition, &["spec", "names", "plural"]));
        self.kinds.retain(|_, kind| kind.custom.is_none() || !kind.is(group, plural));
    }
}

/// The kinds a `CustomResourceDefinition` serves, one for each version.
pub(crate) fn custom_kinds(definition: &Value) -> Vec<Kind> {
    let spec = &definition["spec"];
    let strings = |path: &[&str]| -> Vec<String> {
        array(spec, path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let kind_name = text(spec, &["names", "kind"]);
    let singular = match text(spec, &["names", "singular"]) {
        "" => kind_name.to_lowercase(),
        given => given.to_owned(),
    };
    let versions = array(spec, &["versions"]).iter();
    let served = versions.filter(|version| version["served"] == true);
    served
        .map(|version| Kind {
            group: text(spec, &["group"]).to_owned(),
            version: text(version, &["name"]).to_owned(),
            plural: text(spec, &["names", "plural"]).to_owned(),
            singular: singular.clone(),
            kind: kind_name.to_owned(),
            short_names: strings(&["names", "shortNames"]),
            categories: strings(&["names", "categories"]),
            namespaced: spec["scope"] == "Namespaced",
            status: at(version, &["subresources", "status"]).is_some(),
            generation: true,
            scale: at(version, &["subresources", "scale"]).map(|scale| ScalePaths {
                spec_replicas: text(scale, &["specReplicasPath"]).to_owned(),
                status_replicas: text(scale, &["statusReplicasPath"]).to_owned(),
                selector: scale.get("labelSelectorPath").and_then(Value::as_str).map(str::to_owned),
            }),
            virtual_review: false,
            custom: Some(Arc::new(custom_version(spec, version))),
        })
        .collect()
}

fn custom_version(spec: &Value, version: &Value) -> Custom {
    let columns = array(version, &["additionalPrinterColumns"]).iter().map(|column| Column {
        name: text(column, &["name"]).to_owned(),
        kind: text(column, &["type"]).to_owned(),
        path: text(column, &["jsonPath"]).to_owned(),
        priority: column["priority"].as_i64().unwrap_or(0),
        description: text(column, &["description"]).to_owned(),
    });
    let selectable = array(version, &["selectableFields"]).iter();
    Custom {
        schema: at(version, &["schema", "openAPIV3Schema"]).map(Schema::parse).unwrap_or_default(),
        columns: columns.collect(),
        selectable: selectable
            .map(|field| text(field, &["jsonPath"]).trim_start_matches('.').to_owned())
            .collect(),
        list_kind: text(spec, &["names", "listKind"]).to_owned(),
    }
}

/// One line of the table of built-in kinds.
struct Row {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    flags: &'static [Flag],
}

#[derive(PartialEq)]
enum Flag {
    /// Lives in a namespace.
    Namespaced,
    /// Has the status subresource.
    Status,
    /// Counts generations.
    Generation,
    /// In the category `all`.
    All,
    /// Has the scale subresource.
    Scale,
    /// Is answered, not stored.
    Review,
}

impl Row {
    fn kind(&self) -> Kind {
        let has = |flag| self.flags.contains(&flag);
        Kind {
            group: self.group.into(),
            version: self.version.into(),
            plural: self.plural.into(),
            singular: self.singular.into(),
            kind: self.kind.into(),
            short_names: self.short.iter().map(|&s| s.into()).collect(),
            categories: if has(All) { vec!["all".into()] } else { Vec::new() },
            namespaced: has(Namespaced),
            status: has(Status),
            generation: has(Generation),
            scale: has(Scale).then(|| ScalePaths {
                spec_replicas: ".spec.replicas".into(),
                status_replicas: ".status.replicas".into(),
                selector: Some(".spec.selector".into()),
            }),
            virtual_review: has(Review),
            custom: None,
        }
    }
}

const fn row(
    (group, version): (&'static str, &'static str),
    (plural, singular, kind): (&'static str, &'static str, &'static str),
    short: &'static [&'static str],
    flags: &'static [Flag],
) -> Row {
    Row { group, version, plural, singular, kind, short, flags }
}

const CORE: (&str, &str) = ("", "v1");
const APPS: (&str, &str) = ("apps", "v1");
const DISCOVERY: (&str, &str) = ("discovery.k8s.io", "v1");
const NETWORKING: (&str, &str) = ("networking.k8s.io", "v1");
const COORDINATION: (&str, &str) = ("coordination.k8s.io", "v1");
const EXTENSIONS: (&str, &str) = ("apiextensions.k8s.io", "v1");
const AUTHENTICATION: (&str, &str) = ("authentication.k8s.io", "v1");
const AUTHORIZATION: (&str, &str) = ("authorization.k8s.io", "v1");

use Flag::{All, Generation, Namespaced, Review, Scale, Status};

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(CORE, ("nodes", "node", "Node"), &["no"], &[Status]),
    row(CORE, ("namespaces", "namespace", "Namespace"), &["ns"], &[Status]),
    row(CORE, ("pods", "pod", "Pod"), &["po"], &[Namespaced, Status, Generation, All]),
    row(CORE, ("services", "service", "Service"), &["svc"], &[Namespaced, Status, All]),
    row(CORE, ("endpoints", "endpoints", "Endpoints"), &["ep"], &[Namespaced]),
    row(CORE, ("configmaps", "configmap", "ConfigMap"), &["cm"], &[Namespaced]),
    row(CORE, ("secrets", "secret", "Secret"), &[], &[Namespaced]),
    row(CORE, ("events", "event", "Event"), &["ev"], &[Namespaced]),
    row(CORE, ("serviceaccounts", "serviceaccount", "ServiceAccount"), &["sa"], &[Namespaced]),
    row(APPS, ("deployments", "deployment", "Deployment"), &["deploy"], &[Namespaced, Status, Generation, All, Scale]),
    row(APPS, ("replicasets", "replicaset", "ReplicaSet"), &["rs"], &[Namespaced, Status, Generation, All, Scale]),
    row(APPS, ("daemonsets", "daemonset", "DaemonSet"), &["ds"], &[Namespaced, Status, Generation, All]),
    row(DISCOVERY, ("endpointslices", "endpointslice", "EndpointSlice"), &[], &[Namespaced, Generation]),
    row(NETWORKING, ("networkpolicies", "networkpolicy", "NetworkPolicy"), &["netpol"], &[Namespaced, Generation]),
    row(COORDINATION, ("leases", "lease", "Lease"), &[], &[Namespaced]),
    row(EXTENSIONS, ("customresourcedefinitions", "customresourcedefinition", "CustomResourceDefinition"), &["crd", "crds"], &[Status, Generation]),
    row(AUTHENTICATION, ("selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"), &[], &[Review]),
    row(AUTHORIZATION, ("selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview"), &[], &[Review]),
    row(AUTHORIZATION, ("selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview"), &[], &[Review]),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_kinds_by_path_and_by_resource() {
        let registry = Registry::builtin();
        assert_eq!(registry.find("apps", "v1", "deployments").unwrap().kind, "Deployment");
        assert!(registry.find("", "v1", "deployments").is_none());
        assert_eq!(registry.by_resource("deployments.apps").unwrap().api_version(), "apps/v1");
        assert_eq!(registry.by_resource("pods").unwrap().key("default", "a"), "/pods/default/a");
        assert_eq!(split_key("apps/deployments/default/web"), ("apps", "deployments", "default", "web"));
    }

    #[test]
    fn definitions_come_and_go() {
        let definition = json!({"spec": {
            "group": "example.net", "scope": "Cluster",
            "names": {"plural": "peers", "kind": "Peer", "shortNames": ["pr"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}},
                {"name": "v0", "served": false, "storage": false},
            ],
        }});
        let mut registry = Registry::builtin();
        registry.define(&definition);
        let kind = registry.by_resource("peers.example.net").unwrap();
        assert_eq!((kind.singular.as_str(), kind.list_kind().as_str()), ("peer", "PeerList"));
        assert!(kind.status && !kind.namespaced);
        assert!(registry.find("example.net", "v0", "peers").is_none());
        registry.undefine(&definition);
        assert!(registry.by_resource("peers.example.net").is_none());
    }
}
