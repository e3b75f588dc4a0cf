//! Delete, inside a transaction: graceful for pods, in steps for objects with finalizers or content.

use serde_json::{Value, json};

use super::Target;
use super::write::Work;
use crate::error::ApiError;
use crate::kinds::Kind;
use crate::object::{array, has_finalizers, is_deleting, map_mut, meta, meta_mut, text};
use crate::time;

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// How to delete; the fields are those of `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds a pod has to stop; 0 deletes it at once.
    pub grace_period: Option<i64>,
    /// What happens to dependents.
    pub propagation: Propagation,
    /// The object must have this UID.
    pub uid: Option<String>,
    /// The object must have this resource version.
    pub resource_version: Option<String>,
    /// Check everything, change nothing.
    pub dry_run: bool,
}

pub(super) const FOREGROUND: &str = "foregroundDeletion";

impl Work<'_, '_> {
    /// What is left of the object, and what it was.
    pub(super) fn delete(
        &mut self,
        target: Target<'_>,
        options: &DeleteOptions,
    ) -> Result<(Option<Value>, Value), ApiError> {
        let Target { kind, name, .. } = target;
        let old = self.existing(target)?;
        check_preconditions(target, options, &old)?;
        if kind.is("", "namespaces") && matches!(name, "default" | "kube-system" | "kube-public") {
            return Err(ApiError::forbidden(kind, name, "this namespace may not be deleted"));
        }
        let key = target.key();
        let mut new = old.clone();
        if options.propagation == Propagation::Orphan {
            self.release_dependents(meta(&old, "uid"))?;
        }
        if options.propagation == Propagation::Foreground && !is_deleting(&old) {
            self.block_on_dependents(&mut new)?;
        }
        let grace = grace_period(kind, &old, options);
        mark(&mut new, grace, self.txn.now);
        if kind.is("", "namespaces") {
            map_mut(&mut new, "status").insert("phase".into(), "Terminating".into());
        }
        let waits = grace > 0 || has_finalizers(&new) || self.has_content(kind, &new)?;
        if !waits {
            let gone = self.remove(key, old)?;
            return Ok((None, gone));
        }
        if new != old {
            self.txn.put(&key, Some(&old), &mut new)?;
        }
        self.delete_content(kind, &new)?;
        self.delete_blocking_dependents(&new)?;
        let left = self.current(&key)?;
        Ok((left, new))
    }

    fn block_on_dependents(&mut self, object: &mut Value) -> Result<(), ApiError> {
        if !self.txn.dependents(meta(object, "uid"))?.is_empty() {
            let mut finalizers = array(object, &["metadata", "finalizers"]).to_vec();
            finalizers.push(FOREGROUND.into());
            meta_mut(object).insert("finalizers".into(), finalizers.into());
        }
        Ok(())
    }
}

fn check_preconditions(target: Target<'_>, options: &DeleteOptions, old: &Value) -> Result<(), ApiError> {
    for (what, wanted, field) in
        [("UID", &options.uid, "uid"), ("ResourceVersion", &options.resource_version, "resourceVersion")]
    {
        let is = meta(old, field);
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != is) {
            let why =
                format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
            return Err(ApiError::conflict(target.kind, target.name, &why));
        }
    }
    Ok(())
}

/// Seconds until the object may go: only pods that run somewhere have any.
pub(super) fn grace_period(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    let runs = !text(object, &["spec", "nodeName"]).is_empty()
        && !matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
    if !kind.is("", "pods") || !runs {
        return 0;
    }
    let default = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace_period.unwrap_or(default).max(0)
}

/// Marks the object as being deleted, or shortens the time it has left.
pub(super) fn mark(object: &mut Value, grace: i64, now: i64) {
    let left = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if is_deleting(object) && left.is_some_and(|left| left <= grace) {
        return;
    }
    let metadata = meta_mut(object);
    metadata.insert("deletionTimestamp".into(), time::format(now + grace).into());
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
}
