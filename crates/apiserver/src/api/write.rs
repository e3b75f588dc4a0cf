//! Create, update and patch, inside a transaction.

use serde_json::{Map, Value, json};

use super::Target;
use crate::admission::{Admission, Operation, Request};
use crate::error::{ApiError, Cause};
use crate::kinds::{Kind, Registry};
use crate::object::{
    array, as_map, generate_name, has_finalizers, is_deleting, meta, meta_mut, new_uid, text,
};
use crate::patch::Patch;
use crate::store::{Read, Txn};
use crate::{defaults, types, validate};

/// A part of an object that is written on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sub {
    /// All but the status (or all, if the kind does not keep the status apart).
    Main,
    /// The status.
    Status,
}

/// One transaction's work.
pub(super) struct Work<'a, 't> {
    pub(super) txn: &'a mut Txn<'t>,
    pub(super) registry: &'a Registry,
    pub(super) admission: &'a [Box<dyn Admission>],
    pub(super) dry_run: bool,
    /// Whether custom resource definitions changed.
    pub(super) redefines: bool,
}

impl Work<'_, '_> {
    pub(super) fn create(
        &mut self,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, ApiError> {
        types::check(kind, &object)?;
        identify(kind, namespace, &mut object)?;
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let metadata = meta_mut(&mut object);
        for field in
            ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "resourceVersion"]
        {
            metadata.remove(field);
        }
        metadata.insert("uid".into(), new_uid()?.into());
        metadata.insert("creationTimestamp".into(), self.txn.timestamp().into());
        if kind.generation {
            metadata.insert("generation".into(), 1.into());
        }
        let prefix = meta(&object, "generateName").to_owned();
        if meta(&object, "name").is_empty() && !prefix.is_empty() {
            meta_mut(&mut object).insert("name".into(), generate_name(&prefix)?.into());
        }
        let name = meta(&object, "name").to_owned();
        let key = kind.key(namespace, &name);
        if kind.namespaced {
            self.check_namespace(kind, namespace, &name)?;
        }
        if self.txn.read(&key)?.is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        if kind.status {
            defaults::initial_status(kind, &mut object);
        }
        defaults::set(kind, &mut object);
        self.admit(Operation::Create, kind, None, &mut object)?;
        refuse_if(kind, &name, validate::object(kind, &object))?;
        self.define(kind, &mut object);
        self.txn.put(&key, None, &mut object)?;
        self.collect_if_orphan(kind, &key, &object)?;
        Ok(object)
    }

    pub(super) fn update(
        &mut self,
        target: Target<'_>,
        mut object: Value,
        sub: Sub,
    ) -> Result<Value, ApiError> {
        let old = self.existing(target)?;
        types::check(target.kind, &object)?;
        identify(target.kind, target.namespace, &mut object)?;
        if target.kind.custom.is_some() && meta(&object, "resourceVersion").is_empty() {
            let cause =
                Cause::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
            return Err(ApiError::invalid(target.kind, target.name, vec![cause]));
        }
        self.replace(target, old, object, sub)
    }

    /// The object, and whether the patch made it.
    pub(super) fn patch(
        &mut self,
        target: Target<'_>,
        patch: &Patch,
        sub: Sub,
    ) -> Result<(Value, bool), ApiError> {
        let Some(mut old) = self.txn.read(&target.key())? else {
            if !matches!(patch, Patch::Apply { .. }) || sub == Sub::Status {
                return Err(ApiError::not_found(target.kind, target.name));
            }
            let mut object = patch.apply(target.kind, &Value::Null)?;
            types::check(target.kind, &object)?;
            meta_mut(&mut object).insert("name".into(), target.name.into());
            return Ok((self.create(target.kind, target.namespace, object)?, true));
        };
        as_version(target.kind, &mut old);
        let mut object = patch.apply(target.kind, &old)?;
        types::check(target.kind, &object)?;
        identify(target.kind, target.namespace, &mut object)?;
        Ok((self.replace(target, old, object, sub)?, false))
    }

    pub(super) fn existing(&self, target: Target<'_>) -> Result<Value, ApiError> {
        let mut object =
            self.txn.read(&target.key())?.ok_or_else(|| ApiError::not_found(target.kind, target.name))?;
        as_version(target.kind, &mut object);
        Ok(object)
    }

    /// Puts `new` in the place of `old`, as far as `sub` may write.
    pub(super) fn replace(
        &mut self,
        target: Target<'_>,
        old: Value,
        mut new: Value,
        sub: Sub,
    ) -> Result<Value, ApiError> {
        let Target { kind, name, .. } = target;
        check_identity(target, &old, &new)?;
        match sub {
            Sub::Status => {
                let status = as_map(&mut new).remove("status");
                new = old.clone();
                set_or_remove(as_map(&mut new), "status", status);
            }
            Sub::Main if kind.status => {
                set_or_remove(as_map(&mut new), "status", old.get("status").cloned());
            }
            Sub::Main => {}
        }
        keep_system_metadata(&old, &mut new);
        if is_deleting(&old) {
            refuse_new_finalizers(target, &old, &new)?;
        }
        defaults::drop_stale(kind, &old, &mut new);
        defaults::set(kind, &mut new);
        self.admit(Operation::Update, kind, Some(&old), &mut new)?;
        let mut causes = validate::object(kind, &new);
        causes.extend(validate::change(kind, &old, &new));
        refuse_if(kind, name, causes)?;
        self.define(kind, &mut new);
        if kind.generation && specification(&old) != specification(&new) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            meta_mut(&mut new).insert("generation".into(), generation.into());
        }
        let done = new["metadata"]["deletionGracePeriodSeconds"] == 0 && !has_finalizers(&new);
        if is_deleting(&new) && done && !self.has_content(kind, &new)? {
            return self.remove(target.key(), new);
        }
        if new == old {
            return Ok(old);
        }
        self.txn.put(&target.key(), Some(&old), &mut new)?;
        Ok(new)
    }

    pub(super) fn admit(
        &mut self,
        operation: Operation,
        kind: &Kind,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        for hook in self.admission {
            let mut request = Request { operation, kind, old, object, dry_run: self.dry_run, txn: self.txn };
            hook.admit(&mut request)?;
        }
        Ok(())
    }

    fn check_namespace(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        let namespaces = self.registry.by_resource("namespaces").ok_or_else(ApiError::no_such_path)?;
        let found = self.txn.read(&namespaces.key("", namespace))?;
        let found = found.ok_or_else(|| ApiError::not_found(&namespaces, namespace))?;
        if is_deleting(&found) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            return Err(ApiError::forbidden(kind, name, &why));
        }
        Ok(())
    }

    /// Gives a custom resource definition the status that says it is in force.
    fn define(&mut self, kind: &Kind, object: &mut Value) {
        if !kind.is("apiextensions.k8s.io", "customresourcedefinitions") {
            return;
        }
        self.redefines = true;
        let storage = array(object, &["spec", "versions"]).iter().find(|version| version["storage"] == true);
        let stored = text(storage.unwrap_or(&Value::Null), &["name"]).to_owned();
        let since = match array(object, &["status", "conditions"]).first() {
            Some(condition) => text(condition, &["lastTransitionTime"]).to_owned(),
            None => self.txn.timestamp(),
        };
        let condition = |kind: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": since})
        };
        let mut stored_versions = array(object, &["status", "storedVersions"]).to_vec();
        if !stored_versions.iter().any(|version| *version == stored) {
            stored_versions.push(stored.into());
        }
        let status = json!({
            "acceptedNames": object["spec"]["names"],
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
            "storedVersions": stored_versions,
        });
        as_map(object).insert("status".into(), status);
    }
}

/// Gives a custom resource the version it is asked for in; versions differ in name only.
pub(super) fn as_version(kind: &Kind, object: &mut Value) {
    if kind.custom.is_some() {
        as_map(object).insert("apiVersion".into(), kind.api_version().into());
    }
}

fn set_or_remove(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key.into(), value),
        None => map.remove(key),
    };
}

/// The object without metadata and status: what generations count.
fn specification(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(key, _)| *key != "metadata" && *key != "status").collect()
}

pub(super) fn refuse_if(kind: &Kind, name: &str, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, causes)) }
}

/// Checks that a body is of the kind and namespace that the path says, and fills these in.
fn identify(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let (given, version) = (text(object, &["kind"]), kind.api_version());
    if !given.is_empty() && given != kind.kind {
        return Err(ApiError::bad_request(format!(
            "{given} in version {version:?} cannot be handled as a {}: no kind {given:?} is registered here",
            kind.kind
        )));
    }
    let given = text(object, &["apiVersion"]);
    if !given.is_empty() && given != version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({version})"
        )));
    }
    let given = meta(object, "namespace");
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let map = as_map(object);
    map.insert("kind".into(), kind.kind.as_str().into());
    map.insert("apiVersion".into(), version.into());
    let metadata = meta_mut(object);
    if kind.namespaced {
        metadata.insert("namespace".into(), namespace.into());
    } else {
        metadata.remove("namespace");
    }
    Ok(())
}

/// Checks that `new` is meant to replace `old`, not something else of its name or an older state of it.
fn check_identity(target: Target<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    let Target { kind, name, .. } = target;
    let given = meta(new, "name");
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let (given, uid) = (meta(new, "uid"), meta(old, "uid"));
    if !given.is_empty() && given != uid {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
        return Err(ApiError::conflict(kind, name, &why));
    }
    let given = meta(new, "resourceVersion");
    if !matches!(given, "" | "0") && given != meta(old, "resourceVersion") {
        return Err(ApiError::stale(kind, name));
    }
    Ok(())
}

/// Takes over the metadata that only the server writes.
fn keep_system_metadata(old: &Value, new: &mut Value) {
    let fields = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "generateName",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let metadata = meta_mut(new);
    metadata.remove("selfLink");
    for field in fields {
        set_or_remove(metadata, field, old["metadata"].get(field).cloned());
    }
    if !metadata.contains_key("managedFields") {
        set_or_remove(metadata, "managedFields", old["metadata"].get("managedFields").cloned());
    }
}

fn refuse_new_finalizers(target: Target<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    let path = ["metadata", "finalizers"];
    let added: Vec<&Value> = array(new, &path).iter().filter(|f| !array(old, &path).contains(f)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
    );
    Err(ApiError::invalid(target.kind, target.name, vec![Cause::forbidden("metadata.finalizers", &why)]))
}
