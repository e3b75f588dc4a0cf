//! The verbs on objects, for use inside the process; the HTTP side translates to these.

mod cascade;
mod delete;
mod read;
mod subresource;
mod watch;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::{Value, json};

pub use self::delete::{DeleteOptions, Propagation};
pub use self::read::{List, ListOptions};
pub(crate) use self::read::{Match, Page, Query};
pub(crate) use self::subresource::ScaleWrite;
pub(crate) use self::watch::Change;
pub(crate) use self::watch::WatchStart;
pub use self::watch::{WatchEvent, WatchOptions, Watcher};
pub(crate) use self::write::Sub;
use self::write::Work;
use crate::admission::Admission;
use crate::error::ApiError;
use crate::kinds::{Kind, Registry};
use crate::patch::Patch;
use crate::store::{Read, Store, Txn};

/// The objects of the cluster. Cheap to clone; all clones are the same cluster.
///
/// Resources are named as `kubectl` names them: `pods`, `deployments.apps`. Namespaces are empty for kinds
/// without. Calls block for the time of a storage transaction (some 0.1 ms).
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    registry: RwLock<Arc<Registry>>,
    /// Held while definitions are read and made kinds, so that an older state does not replace a newer one.
    defining: Mutex<()>,
    admission: Vec<Box<dyn Admission>>,
}

/// One object, by its kind and name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Target<'_> {
    fn key(&self) -> String {
        self.kind.key(self.namespace, self.name)
    }
}

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions/";

impl Api {
    pub(crate) fn new(store: Store, admission: Vec<Box<dyn Admission>>) -> Result<Self, ApiError> {
        let registry = RwLock::new(Arc::new(Registry::builtin()));
        let api = Self { inner: Arc::new(Inner { store, registry, defining: Mutex::new(()), admission }) };
        api.reload_definitions()?;
        for name in NAMESPACES {
            match api.create("namespaces", "", json!({"metadata": {"name": name}})) {
                Err(error) if error.reason != "AlreadyExists" => return Err(error),
                _ => {}
            }
        }
        Ok(api)
    }

    /// The object of this name.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn read(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let kind = self.kind(resource)?;
        self.read_target(Target { kind: &kind, namespace, name })
    }

    /// Creates an object and returns it as stored.
    ///
    /// # Errors
    /// 409 if the name is taken, 422 if the object is invalid, 404 if the namespace does not exist.
    pub fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Value, ApiError> {
        let kind = self.kind(resource)?;
        self.create_in(&kind, namespace, object, false)
    }

    /// Replaces an object (not its status, if the kind keeps that apart) and returns it as stored.
    ///
    /// # Errors
    /// 409 if the object has changed since the given resource version, 422 if it is invalid, 404 if there is none.
    pub fn update(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        object: Value,
    ) -> Result<Value, ApiError> {
        let kind = self.kind(resource)?;
        self.update_target(Target { kind: &kind, namespace, name }, object, Sub::Main, false)
    }

    /// Replaces the status of an object and returns the object as stored.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn update_status(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        object: Value,
    ) -> Result<Value, ApiError> {
        let kind = self.kind(resource)?;
        self.update_target(Target { kind: &kind, namespace, name }, object, Sub::Status, false)
    }

    /// Patches an object (not its status, if the kind keeps that apart) and returns it as stored.
    ///
    /// # Errors
    /// 400 or 422 if the patch does not fit or its result is invalid, 404 if there is no such object, 409 if the
    /// patch names a resource version that is not current.
    pub fn patch(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: &Patch,
    ) -> Result<Value, ApiError> {
        let kind = self.kind(resource)?;
        Ok(self.patch_target(Target { kind: &kind, namespace, name }, patch, Sub::Main, false)?.0)
    }

    /// Patches the status of an object and returns the object as stored.
    ///
    /// # Errors
    /// As for [`patch`](Self::patch).
    pub fn patch_status(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: &Patch,
    ) -> Result<Value, ApiError> {
        let kind = self.kind(resource)?;
        Ok(self.patch_target(Target { kind: &kind, namespace, name }, patch, Sub::Status, false)?.0)
    }

    /// Deletes an object. It is returned if it lives on for a while (a pod until its kubelet is done, an object
    /// with finalizers), `None` means it is gone.
    ///
    /// # Errors
    /// 404 if there is none, 409 if a precondition fails.
    pub fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Value>, ApiError> {
        let kind = self.kind(resource)?;
        Ok(self.delete_target(Target { kind: &kind, namespace, name }, options)?.0)
    }

    /// Forgets the history up to and including `revision`. Watches that would start there or before, and
    /// continued lists from before, get 410 Gone.
    ///
    /// # Errors
    /// 500 if the storage fails.
    pub fn compact(&self, revision: u64) -> Result<(), ApiError> {
        self.inner.store.compact(revision)
    }

    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        *self.inner.store.revisions().borrow()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.inner.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn kind(&self, resource: &str) -> Result<Arc<Kind>, ApiError> {
        self.registry().by_resource(resource).ok_or_else(ApiError::no_such_path)
    }

    pub(crate) fn create_in(
        &self,
        kind: &Kind,
        namespace: &str,
        object: Value,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        self.write(dry_run, |work| work.create(kind, namespace, object))
    }

    pub(crate) fn update_target(
        &self,
        target: Target<'_>,
        object: Value,
        sub: Sub,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        self.write(dry_run, |work| work.update(target, object, sub))
    }

    /// The object, and whether the patch made it.
    pub(crate) fn patch_target(
        &self,
        target: Target<'_>,
        patch: &Patch,
        sub: Sub,
        dry_run: bool,
    ) -> Result<(Value, bool), ApiError> {
        self.write(dry_run, |work| work.patch(target, patch, sub))
    }

    /// What is left of the object, and what it was.
    pub(crate) fn delete_target(
        &self,
        target: Target<'_>,
        options: &DeleteOptions,
    ) -> Result<(Option<Value>, Value), ApiError> {
        self.write(options.dry_run, |work| work.delete(target, options))
    }

    /// Runs `work` as one transaction.
    fn write<R>(
        &self,
        dry_run: bool,
        work: impl FnOnce(&mut Work<'_, '_>) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        let registry = self.registry();
        let mut redefines = false;
        let done = self.inner.store.write(|txn: &mut Txn<'_>| {
            if dry_run {
                txn.set_dry_run();
            }
            let mut work_on = Work {
                txn,
                registry: &registry,
                admission: &self.inner.admission,
                dry_run,
                redefines: false,
            };
            let done = work(&mut work_on);
            redefines = work_on.redefines;
            done
        })?;
        if redefines && !dry_run {
            self.reload_definitions()?;
        }
        Ok(done)
    }

    /// Makes the stored definitions kinds.
    fn reload_definitions(&self) -> Result<(), ApiError> {
        let _defining: MutexGuard<'_, ()> =
            self.inner.defining.lock().unwrap_or_else(PoisonError::into_inner);
        let mut registry = Registry::builtin();
        self.inner.store.snapshot()?.scan(DEFINITIONS, None, &mut |_, bytes| {
            registry.define(&serde_json::from_slice(bytes)?);
            Ok(true)
        })?;
        *self.inner.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
        Ok(())
    }
}
