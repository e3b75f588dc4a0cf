//! What goes with an object that is removed: its dependents, and the content of namespaces and definitions.

use serde_json::Value;

use super::delete::{DeleteOptions, FOREGROUND};
use super::write::Work;
use super::{DEFINITIONS, Target};
use crate::admission::Operation;
use crate::error::ApiError;
use crate::kinds::{Kind, custom_kinds, split_key};
use crate::object::{array, has_finalizers, is_deleting, meta, meta_mut, owner_uids, text};
use crate::store::Read;

impl Work<'_, '_> {
    /// Removes an object for good, and all that depends on it. Returns the object as it was last.
    ///
    /// Works on a list rather than by recursion: a chain of owners may be as long as somebody cares to make it.
    pub(super) fn remove(&mut self, key: String, object: Value) -> Result<Value, ApiError> {
        let first = self.remove_one(&key, object)?;
        let mut removed = vec![(key, first.clone())];
        while let Some((key, object)) = removed.pop() {
            for dependent in self.txn.dependents(meta(&object, "uid"))? {
                removed.extend(self.drop_owner(dependent, meta(&object, "uid"))?);
            }
            for owner in owner_uids(&object).map(str::to_owned).collect::<Vec<_>>() {
                removed.extend(self.finish_owner(&owner)?);
            }
            removed.extend(self.finish_container(&key)?);
        }
        Ok(first)
    }

    fn remove_one(&mut self, key: &str, mut object: Value) -> Result<Value, ApiError> {
        let kind = self.kind_of(key, &object);
        self.redefines |= key.starts_with(DEFINITIONS);
        if let Some(kind) = kind {
            self.admit(Operation::Delete, &kind, None, &mut object)?;
        }
        self.txn.remove(key, object)
    }

    fn kind_of(&self, key: &str, object: &Value) -> Option<std::sync::Arc<Kind>> {
        let (group, plural, ..) = split_key(key);
        let version = text(object, &["apiVersion"]).rsplit('/').next().unwrap_or_default();
        self.registry.find(group, version, plural).or_else(|| self.registry.any_version(group, plural))
    }

    pub(super) fn current(&self, key: &str) -> Result<Option<Value>, ApiError> {
        self.txn.read(key)
    }

    /// Takes the owner `uid`, which is gone, from a dependent; deletes the dependent if no owner is left.
    fn drop_owner(&mut self, key: String, uid: &str) -> Result<Vec<(String, Value)>, ApiError> {
        let Some(object) = self.txn.read(&key)? else { return Ok(Vec::new()) };
        for owner in owner_uids(&object) {
            if owner != uid && self.txn.uid_exists(owner)? {
                self.strip_owner(&key, object.clone(), uid)?;
                return Ok(Vec::new());
            }
        }
        self.begin_removal(key, object)
    }

    fn strip_owner(&mut self, key: &str, object: Value, uid: &str) -> Result<(), ApiError> {
        let mut new = object.clone();
        let owners = array(&object, &["metadata", "ownerReferences"]).iter();
        let owners: Vec<Value> = owners.filter(|owner| text(owner, &["uid"]) != uid).cloned().collect();
        if owners.is_empty() {
            meta_mut(&mut new).remove("ownerReferences");
        } else {
            meta_mut(&mut new).insert("ownerReferences".into(), owners.into());
        }
        self.txn.put(key, Some(&object), &mut new)
    }

    /// Deletes an object that nobody asked about by name: at once if nothing holds it, else in its own time.
    fn begin_removal(&mut self, key: String, object: Value) -> Result<Vec<(String, Value)>, ApiError> {
        let Some(kind) = self.kind_of(&key, &object) else {
            let gone = self.remove_one(&key, object)?;
            return Ok(vec![(key, gone)]);
        };
        let (grace, now) =
            (super::delete::grace_period(&kind, &object, &DeleteOptions::default()), self.txn.now);
        if grace > 0 || has_finalizers(&object) || self.has_content(&kind, &object)? {
            let mut new = object.clone();
            super::delete::mark(&mut new, grace, now);
            if new != object {
                self.txn.put(&key, Some(&object), &mut new)?;
            }
            self.delete_content(&kind, &new)?;
            return Ok(Vec::new());
        }
        let gone = self.remove_one(&key, object)?;
        Ok(vec![(key, gone)])
    }

    /// Removes the owner `uid` if it only waited for its dependents to go.
    fn finish_owner(&mut self, uid: &str) -> Result<Vec<(String, Value)>, ApiError> {
        let Some(key) = self.txn.key_of(uid)? else { return Ok(Vec::new()) };
        let Some(object) = self.txn.read(&key)? else { return Ok(Vec::new()) };
        let waits = is_deleting(&object)
            && array(&object, &["metadata", "finalizers"]).iter().any(|f| f == FOREGROUND);
        if !waits || !self.txn.dependents(uid)?.is_empty() {
            return Ok(Vec::new());
        }
        let mut new = object.clone();
        let finalizers = array(&object, &["metadata", "finalizers"]).iter();
        let finalizers: Vec<Value> = finalizers.filter(|f| *f != FOREGROUND).cloned().collect();
        let last = finalizers.is_empty();
        meta_mut(&mut new).insert("finalizers".into(), finalizers.into());
        if last {
            let gone = self.remove_one(&key, new)?;
            return Ok(vec![(key, gone)]);
        }
        self.txn.put(&key, Some(&object), &mut new)?;
        Ok(Vec::new())
    }

    /// Removes the namespace or definition of a removed object if it only waited for its content to go.
    fn finish_container(&mut self, key: &str) -> Result<Vec<(String, Value)>, ApiError> {
        let (group, plural, namespace, _) = split_key(key);
        let definition = format!("{DEFINITIONS}/{plural}.{group}");
        let mut gone = Vec::new();
        for container in [format!("/namespaces//{namespace}"), definition] {
            let Some(object) = self.txn.read(&container)? else { continue };
            let Some(kind) = self.kind_of(&container, &object) else { continue };
            if is_deleting(&object) && !has_finalizers(&object) && !self.has_content(&kind, &object)? {
                let removed = self.remove_one(&container, object)?;
                gone.push((container, removed));
            }
        }
        Ok(gone)
    }

    /// Storage key prefixes of what is in a namespace or of the kind of a definition.
    fn content(&self, kind: &Kind, object: &Value) -> Vec<String> {
        if kind.is("", "namespaces") {
            let name = meta(object, "name");
            let namespaced = self.registry.iter().filter(|kind| kind.namespaced && !kind.virtual_review);
            let mut prefixes: Vec<String> = namespaced.map(|kind| kind.prefix(Some(name))).collect();
            prefixes.dedup();
            return prefixes;
        }
        if kind.is("apiextensions.k8s.io", "customresourcedefinitions") {
            return custom_kinds(object).first().map(|kind| kind.prefix(None)).into_iter().collect();
        }
        Vec::new()
    }

    /// Whether anything is left in a namespace or of the kind of a definition.
    pub(super) fn has_content(&self, kind: &Kind, object: &Value) -> Result<bool, ApiError> {
        for prefix in self.content(kind, object) {
            if self.txn.any(&prefix)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes what is in a namespace or of the kind of a definition.
    pub(super) fn delete_content(&mut self, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        let mut keys = Vec::new();
        for prefix in self.content(kind, object) {
            self.txn.scan(&prefix, None, &mut |key, _| {
                keys.push(key.to_owned());
                Ok(true)
            })?;
        }
        self.delete_keys(keys)
    }

    /// Deletes the dependents of an object that waits for them.
    pub(super) fn delete_blocking_dependents(&mut self, object: &Value) -> Result<(), ApiError> {
        if array(object, &["metadata", "finalizers"]).iter().any(|f| f == FOREGROUND) {
            let keys = self.txn.dependents(meta(object, "uid"))?;
            self.delete_keys(keys)?;
        }
        Ok(())
    }

    fn delete_keys(&mut self, keys: Vec<String>) -> Result<(), ApiError> {
        for key in keys {
            // Earlier removals may have taken this one along.
            let Some(object) = self.txn.read(&key)? else { continue };
            let (_, _, namespace, name) = split_key(&key);
            match self.kind_of(&key, &object) {
                Some(kind) => {
                    let target = Target { kind: &kind, namespace, name };
                    self.delete(target, &DeleteOptions::default())?;
                }
                None => {
                    self.remove(key, object)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the owner `uid` from all its dependents, so that they stay when it goes.
    pub(super) fn release_dependents(&mut self, uid: &str) -> Result<(), ApiError> {
        for key in self.txn.dependents(uid)? {
            if let Some(object) = self.txn.read(&key)? {
                self.strip_owner(&key, object, uid)?;
            }
        }
        Ok(())
    }

    /// Deletes a new object whose owners are all gone already: its creator raced with their deletion.
    pub(super) fn collect_if_orphan(
        &mut self,
        kind: &Kind,
        key: &str,
        object: &Value,
    ) -> Result<(), ApiError> {
        let mut owners = owner_uids(object).peekable();
        if owners.peek().is_none() {
            return Ok(());
        }
        for owner in owners {
            if self.txn.uid_exists(owner)? {
                return Ok(());
            }
        }
        let (_, _, namespace, name) = split_key(key);
        self.delete(Target { kind, namespace, name }, &DeleteOptions::default())?;
        Ok(())
    }
}
