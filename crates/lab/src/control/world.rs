//! What the controllers know of the cluster, and what has to be looked at again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use super::balancer::waits;
use super::endpoints::SERVICE;
use super::object::{controller, has_labels, list, name, namespace, text, uid};

/// The resources that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Nodes,
    Pods,
    Services,
    EndpointSlices,
    Deployments,
    ReplicaSets,
    DaemonSets,
}

impl Resource {
    pub(super) const ALL: [Self; 7] = [
        Self::Nodes,
        Self::Pods,
        Self::Services,
        Self::EndpointSlices,
        Self::Deployments,
        Self::ReplicaSets,
        Self::DaemonSets,
    ];

    /// The resource's name, as the API takes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices.discovery.k8s.io",
            Self::Deployments => "deployments.apps",
            Self::ReplicaSets => "replicasets.apps",
            Self::DaemonSets => "daemonsets.apps",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.name() == name)
    }
}

/// The namespace and name of an object.
pub(super) type Key = (String, String);

/// Something to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// A Deployment, ReplicaSet, DaemonSet or Service, with what belongs to it.
    Object(Resource, Key),
    /// A pod: whether it has a node, and whether its node is there.
    Pod(Key),
}

/// The watched objects.
#[derive(Debug, Default)]
pub(super) struct World {
    objects: BTreeMap<Resource, BTreeMap<Key, Value>>,
    /// UIDs of objects that were deleted here, until the watch says so too: older news of them is no news.
    gone: HashSet<String>,
    /// What has to be looked at.
    pub(super) due: BTreeSet<Task>,
}

impl World {
    /// All objects of a resource.
    pub(super) fn all(&self, resource: Resource) -> impl Iterator<Item = &Value> {
        self.objects.get(&resource).into_iter().flat_map(BTreeMap::values)
    }

    /// The objects of a resource in a namespace.
    pub(super) fn within<'a>(
        &'a self,
        resource: Resource,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Value> {
        let first = (namespace.to_owned(), String::new());
        let objects = self.objects.get(&resource).into_iter().flat_map(move |map| map.range(first.clone()..));
        objects.take_while(move |((own, _), _)| own == namespace).map(|(_, object)| object)
    }

    /// An object.
    pub(super) fn object(&self, resource: Resource, key: &Key) -> Option<&Value> {
        self.objects.get(&resource)?.get(key)
    }

    /// Takes the complete list of a resource.
    pub(super) fn list(&mut self, resource: Resource, items: Vec<Value>) {
        let there: HashSet<String> = items.iter().map(|item| uid(item).to_owned()).collect();
        let missing: Vec<Value> =
            self.all(resource).filter(|object| !there.contains(uid(object))).cloned().collect();
        for object in missing {
            self.removed(resource, &object);
        }
        for item in items {
            self.changed(resource, item);
        }
    }

    /// Takes an object as it is now, unless something newer is known.
    pub(super) fn changed(&mut self, resource: Resource, object: Value) {
        if self.gone.contains(uid(&object)) {
            return;
        }
        let key = key(&object);
        let objects = self.objects.entry(resource).or_default();
        let known = objects.get(&key);
        if known.is_some_and(|known| version(known) >= version(&object)) {
            return;
        }
        let before = objects.insert(key, object.clone());
        self.touch(resource, &object, before.as_ref());
    }

    /// Takes the deletion of an object that the watch reports.
    pub(super) fn removed(&mut self, resource: Resource, object: &Value) {
        self.gone.remove(uid(object));
        self.drop(resource, object);
    }

    /// Takes the deletion of an object that was done here, before the watch reports it.
    pub(super) fn deleted(&mut self, resource: Resource, key: &Key) {
        if let Some(object) = self.object(resource, key).cloned() {
            self.gone.insert(uid(&object).to_owned());
            self.drop(resource, &object);
        }
    }

    fn drop(&mut self, resource: Resource, object: &Value) {
        let key = key(object);
        let objects = self.objects.entry(resource).or_default();
        // Another object of that name may have come since.
        if objects.get(&key).is_some_and(|known| uid(known) == uid(object)) {
            objects.remove(&key);
        }
        self.touch(resource, object, None);
    }

    /// Notes what has to be looked at because of a change of an object.
    fn touch(&mut self, resource: Resource, object: &Value, before: Option<&Value>) {
        let mut due = BTreeSet::new();
        match resource {
            Resource::Nodes => {
                // Its status changes with every heartbeat, and what counts of it seldom.
                if before.is_some_and(|before| schedulable(before) == schedulable(object)) {
                    return;
                }
                due.extend(self.all(Resource::Pods).map(|pod| Task::Pod(key(pod))));
                for resource in [Resource::DaemonSets, Resource::Services] {
                    due.extend(self.all(resource).map(|object| Task::Object(resource, key(object))));
                }
            }
            Resource::Pods => {
                due.insert(Task::Pod(key(object)));
                for service in self.within(Resource::Services, namespace(object)) {
                    let selects = |pod: &Value| has_labels(pod, &service["spec"]["selector"]);
                    if selects(object) || before.is_some_and(selects) {
                        due.insert(Task::Object(Resource::Services, key(service)));
                    }
                }
                due.extend(self.owner(object, &[Resource::ReplicaSets, Resource::DaemonSets]));
            }
            Resource::EndpointSlices => {
                let service = text(&object["metadata"]["labels"][SERVICE]);
                due.insert(Task::Object(Resource::Services, (namespace(object).into(), service.into())));
            }
            Resource::ReplicaSets => {
                due.insert(Task::Object(resource, key(object)));
                due.extend(self.owner(object, &[Resource::Deployments]));
            }
            Resource::Services => {
                due.insert(Task::Object(resource, key(object)));
                // An address may have become free.
                let waiting = self.all(Resource::Services).filter(|service| waits(service));
                due.extend(waiting.map(|service| Task::Object(resource, key(service))));
            }
            Resource::Deployments | Resource::DaemonSets => {
                due.insert(Task::Object(resource, key(object)));
            }
        }
        self.due.extend(due);
    }

    /// The controller of an object.
    fn owner(&self, object: &Value, kinds: &[Resource]) -> Option<Task> {
        let wanted = controller(object);
        kinds.iter().find_map(|&resource| {
            let mut candidates = self.within(resource, namespace(object));
            let owner = candidates.find(|candidate| uid(candidate) == wanted)?;
            Some(Task::Object(resource, key(owner)))
        })
    }
}

/// The namespace and name of an object.
pub(super) fn key(object: &Value) -> Key {
    (namespace(object).to_owned(), name(object).to_owned())
}

fn version(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().unwrap_or(0)
}

/// What counts of a node for its pods.
fn schedulable(node: &Value) -> (Option<&Value>, &Value, bool) {
    let ready = list(&node["status"]["conditions"])
        .iter()
        .any(|one| one["type"] == "Ready" && one["status"] == "True");
    (node["metadata"].get("labels"), &node["spec"], ready)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, version: u64) -> Value {
        json!({"metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": version.to_string(),
            "labels": {"app": "web"}}})
    }

    #[test]
    fn older_news_is_no_news() {
        let mut world = World::default();
        world.changed(Resource::Pods, pod("a", "1", 5));
        world.changed(Resource::Pods, pod("a", "1", 4));
        let at = ("shop".to_owned(), "a".to_owned());
        assert_eq!(version(world.object(Resource::Pods, &at).unwrap()), 5);
        world.deleted(Resource::Pods, &at);
        world.changed(Resource::Pods, pod("a", "1", 6));
        assert!(world.object(Resource::Pods, &at).is_none());
        // A successor of the same name is not touched by the late news of the deletion.
        world.changed(Resource::Pods, pod("a", "2", 8));
        world.removed(Resource::Pods, &pod("a", "1", 7));
        assert_eq!(uid(world.object(Resource::Pods, &at).unwrap()), "2");
    }

    #[test]
    fn a_list_removes_what_it_does_not_have() {
        let mut world = World::default();
        world.list(Resource::Pods, vec![pod("a", "1", 1), pod("b", "2", 2)]);
        world.list(Resource::Pods, vec![pod("b", "2", 2)]);
        assert_eq!(world.all(Resource::Pods).count(), 1);
        assert_eq!(world.within(Resource::Pods, "other").count(), 0);
    }

    #[test]
    fn a_pod_concerns_its_services_and_its_controller() {
        let mut world = World::default();
        let named = |name: &str, selector: Value| {
            json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
                "spec": {"selector": selector}})
        };
        world.changed(Resource::Services, named("web", json!({"app": "web"})));
        world.changed(Resource::Services, named("db", json!({"app": "db"})));
        world.changed(Resource::ReplicaSets, named("web-1", json!({})));
        world.due.clear();
        let mut pod = pod("a", "1", 2);
        pod["metadata"]["ownerReferences"] = json!([{"uid": "web-1", "controller": true}]);
        world.changed(Resource::Pods, pod);
        let at = |name: &str| ("shop".to_owned(), name.to_owned());
        let expected = [
            Task::Object(Resource::Services, at("web")),
            Task::Object(Resource::ReplicaSets, at("web-1")),
            Task::Pod(at("a")),
        ];
        assert_eq!(world.due, BTreeSet::from(expected));
    }
}
