//! Subresources that are objects of their own: scale, binding, eviction.

use serde_json::{Map, Value, json};

use super::write::{Sub, Work};
use super::{Api, Target};
use crate::error::{ApiError, Cause};
use crate::kinds::ScalePaths;
use crate::object::{array, as_map, at, map_mut, meta, text};
use crate::patch::Patch;

/// A write of a scale.
pub(crate) enum ScaleWrite {
    Update(Value),
    Patch(Patch),
}

impl Api {
    /// The `autoscaling/v1` `Scale` of an object.
    pub(crate) fn scale(&self, target: Target<'_>) -> Result<Value, ApiError> {
        scale_of(paths(target)?, &self.read_target(target)?)
    }

    pub(crate) fn write_scale(
        &self,
        target: Target<'_>,
        write: &ScaleWrite,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        self.write(dry_run, |work| work.write_scale(target, write))
    }

    /// Puts a pod on a node, as a scheduler does, and returns it as stored.
    ///
    /// # Errors
    /// 404 if there is no such pod, 409 if it has a node.
    pub fn bind_pod(&self, namespace: &str, name: &str, node: &str) -> Result<Value, ApiError> {
        let kind = self.kind("pods")?;
        let target = Target { kind: &kind, namespace, name };
        self.bind(target, &json!({"target": {"name": node}}), false)?;
        self.read_target(target)
    }

    /// Puts a pod on a node (`pods/binding`).
    pub(crate) fn bind(&self, target: Target<'_>, binding: &Value, dry_run: bool) -> Result<(), ApiError> {
        self.write(dry_run, |work| work.bind(target, binding))
    }
}

fn paths(target: Target<'_>) -> Result<&ScalePaths, ApiError> {
    target.kind.scale.as_ref().ok_or_else(ApiError::no_such_path)
}

fn steps(path: &str) -> Vec<&str> {
    path.split('.').filter(|step| !step.is_empty()).collect()
}

fn scale_of(paths: &ScalePaths, object: &Value) -> Result<Value, ApiError> {
    let number = |path: &str| at(object, &steps(path)).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": {"replicas": number(&paths.status_replicas)},
    });
    let selector = paths.selector.as_deref().and_then(|path| at(object, &steps(path)));
    if let Some(selector) = selector {
        scale["status"]["selector"] = selector_text(selector).into();
    }
    Ok(scale)
}

/// A `LabelSelector` in the syntax of selector parameters.
fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in array(selector, &["matchExpressions"]) {
        let key = text(expression, &["key"]);
        let values: Vec<&str> = array(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        terms.push(match text(expression, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

impl Work<'_, '_> {
    fn write_scale(&mut self, target: Target<'_>, write: &ScaleWrite) -> Result<Value, ApiError> {
        let paths = paths(target)?;
        let old = self.existing(target)?;
        let scale = match write {
            ScaleWrite::Update(scale) => scale.clone(),
            ScaleWrite::Patch(patch) => patch.apply(target.kind, &scale_of(paths, &old)?)?,
        };
        let replicas = scale["spec"]["replicas"].as_i64();
        let Some(replicas) = replicas.filter(|replicas| *replicas >= 0) else {
            let why = "must be an integer greater than or equal to 0";
            let cause = Cause::invalid("spec.replicas", &scale["spec"]["replicas"], why);
            return Err(ApiError::invalid(target.kind, target.name, vec![cause]));
        };
        let mut new = old.clone();
        let mut place = &mut new;
        for step in steps(&paths.spec_replicas) {
            place = as_map(place).entry(step).or_insert(Value::Null);
        }
        *place = replicas.into();
        map_mut(&mut new, "metadata")
            .insert("resourceVersion".into(), meta(&scale, "resourceVersion").into());
        scale_of(paths, &self.replace(target, old, new, Sub::Main)?)
    }

    fn bind(&mut self, target: Target<'_>, binding: &Value) -> Result<(), ApiError> {
        let node = text(binding, &["target", "name"]);
        if node.is_empty() {
            let cause = Cause::required("target.name", "");
            return Err(ApiError::invalid(target.kind, target.name, vec![cause]));
        }
        let old = self.existing(target)?;
        let assigned = text(&old, &["spec", "nodeName"]);
        if !assigned.is_empty() {
            let why = format!("pod {} is already assigned to node {assigned:?}", target.name);
            return Err(ApiError::conflict(target.kind, target.name, &why));
        }
        let mut new = old.clone();
        map_mut(&mut new, "spec").insert("nodeName".into(), node.into());
        let condition = json!({"type": "PodScheduled", "status": "True",
            "lastProbeTime": null, "lastTransitionTime": self.txn.timestamp()});
        let mut conditions = array(&new, &["status", "conditions"]).to_vec();
        conditions.retain(|condition| text(condition, &["type"]) != "PodScheduled");
        conditions.push(condition);
        map_mut(&mut new, "status").insert("conditions".into(), conditions.into());
        self.txn.put(&target.key(), Some(&old), &mut new)
    }
}
