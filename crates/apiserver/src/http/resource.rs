//! The verbs on resources, from a request that has been read to an answer that is yet to be written.

use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Watch};
use super::negotiate::{self, Form};
use super::route::{Parameters, Place};
use crate::api::{Api, DeleteOptions, Match, Page, Propagation, Query, ScaleWrite, Sub, Target, WatchStart};
use crate::error::ApiError;
use crate::kinds::Kind;
use crate::object::{as_map, at, meta, text};
use crate::patch::Patch;
use crate::selector::Selector;
use crate::table::Include;

/// Seconds a watch lasts if the client does not say.
const WATCH_SECONDS: u64 = 3000;

/// A request on a resource.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) place: Place,
    pub(crate) parameters: Parameters,
    pub(crate) content_type: String,
    pub(crate) form: Form,
    pub(crate) body: Bytes,
}

impl Call {
    /// Carries the request out.
    pub(crate) fn run(self, api: &Api) -> Result<Answer, ApiError> {
        let kind = &self.place.kind;
        if kind.virtual_review {
            return self.review();
        }
        let dry_run = self.dry_run()?;
        let named = self.place.name.is_some();
        match (&self.method, self.place.sub.as_deref(), named) {
            (&Method::GET, None, false) if self.parameters.flag("watch") => self.watch(api),
            (&Method::GET, None, false) => self.list(api),
            (&Method::GET, None | Some("status"), true) => {
                self.check_sub()?;
                Ok(self.object(200, api.read_target(self.target())?))
            }
            (&Method::POST, None, false) => {
                self.check_scope("POST")?;
                let object = negotiate::object(&self.content_type, &self.body)?;
                Ok(self.object(201, api.create_in(kind, self.namespace(), object, dry_run)?))
            }
            (&Method::PUT, None | Some("status"), true) => {
                let sub = self.check_sub()?;
                let object = negotiate::object(&self.content_type, &self.body)?;
                Ok(self.object(200, api.update_target(self.target(), object, sub, dry_run)?))
            }
            (&Method::PATCH, None | Some("status"), true) => {
                let sub = self.check_sub()?;
                let (object, created) = api.patch_target(self.target(), &self.patch()?, sub, dry_run)?;
                Ok(self.object(if created { 201 } else { 200 }, object))
            }
            (&Method::DELETE, None, true) => self.delete(api),
            (&Method::DELETE, None, false) => self.delete_collection(api),
            (method, Some("scale"), true) if kind.scale.is_some() => self.scale(api, method, dry_run),
            (&Method::POST, Some("binding"), true) if kind.is("", "pods") => {
                let binding = negotiate::object(&self.content_type, &self.body)?;
                api.bind(self.target(), &binding, dry_run)?;
                Ok(success(201, None))
            }
            (&Method::POST, Some("eviction"), true) if kind.is("", "pods") => {
                let eviction = negotiate::object(&self.content_type, &self.body)?;
                let options = delete_options(&eviction["deleteOptions"], &self.parameters, dry_run)?;
                api.delete_target(self.target(), &options)?;
                Ok(success(201, None))
            }
            (_, Some("status" | "scale" | "binding" | "eviction") | None, _) => {
                Err(ApiError::method_not_allowed(self.method.as_str()))
            }
            _ => Err(ApiError::no_such_path()),
        }
    }

    fn namespace(&self) -> &str {
        self.place.namespace.as_deref().unwrap_or_default()
    }

    fn target(&self) -> Target<'_> {
        Target {
            kind: &self.place.kind,
            namespace: self.namespace(),
            name: self.place.name.as_deref().unwrap_or_default(),
        }
    }

    /// Which part of the object the request writes.
    fn check_sub(&self) -> Result<Sub, ApiError> {
        match &self.place.sub {
            None => Ok(Sub::Main),
            Some(_) if self.place.kind.status => Ok(Sub::Status),
            Some(_) => Err(ApiError::no_such_path()),
        }
    }

    fn check_scope(&self, verb: &str) -> Result<(), ApiError> {
        if self.place.kind.namespaced && self.place.namespace.is_none() {
            return Err(ApiError::method_not_allowed(verb));
        }
        Ok(())
    }

    fn dry_run(&self) -> Result<bool, ApiError> {
        match self.parameters.value("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }

    fn object(&self, code: u16, object: Value) -> Answer {
        Answer::Object { code, kind: self.place.kind.clone(), object }
    }

    fn selector(&self) -> Result<Selector, ApiError> {
        let (labels, fields) =
            (self.parameters.value("labelSelector"), self.parameters.value("fieldSelector"));
        Selector::parse(&self.place.kind, labels, fields)
    }

    /// `resourceVersion`; 0 means any, like none.
    fn revision(&self) -> Result<Option<u64>, ApiError> {
        match self.parameters.value("resourceVersion") {
            "" | "0" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}"))),
        }
    }

    fn query(&self) -> Result<Query, ApiError> {
        let limit = match self.parameters.value("limit") {
            "" | "0" => None,
            text => Some(
                text.parse().map_err(|_| ApiError::bad_request(format!("limit: Invalid value: {text:?}")))?,
            ),
        };
        let resume = Some(self.parameters.value("continue")).filter(|token| !token.is_empty());
        let at = match (self.revision()?, self.parameters.value("resourceVersionMatch")) {
            (None, _) => Match::Newest,
            (Some(revision), "Exact") => Match::Exact(revision),
            (Some(revision), "" | "NotOlderThan") => Match::NotOlderThan(revision),
            (Some(_), other) => {
                let message = format!("resourceVersionMatch: Unsupported value: {other:?}");
                return Err(ApiError::bad_request(message));
            }
        };
        Ok(Query {
            namespace: self.place.namespace.clone(),
            selector: self.selector()?,
            limit,
            resume: resume.map(str::to_owned),
            at,
        })
    }

    fn list(&self, api: &Api) -> Result<Answer, ApiError> {
        let page = api.page(&self.place.kind, &self.query()?)?;
        Ok(Answer::Page { kind: self.place.kind.clone(), page })
    }

    fn watch(&self, api: &Api) -> Result<Answer, ApiError> {
        let bookmarks = self.parameters.flag("allowWatchBookmarks");
        let initial = match self.parameters.value("sendInitialEvents") {
            "" => None,
            _ if self.parameters.value("resourceVersionMatch") != "NotOlderThan" => {
                return Err(ApiError::unprocessable(
                    "ListOptions.meta.k8s.io is invalid: resourceVersionMatch: Forbidden: sendInitialEvents \
                     requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            _ => Some(self.parameters.flag("sendInitialEvents")),
        };
        let start = match (self.revision()?, initial) {
            (Some(revision), Some(true)) if revision > api.revision() => {
                return Err(ApiError::version_too_large(revision, api.revision()));
            }
            (_, Some(true)) | (None, None) => WatchStart::State,
            (None, Some(false)) => WatchStart::After(api.revision()),
            (Some(revision), _) => WatchStart::After(revision),
        };
        let seconds = self.parameters.value("timeoutSeconds").parse().unwrap_or(0);
        let kind = self.place.kind.clone();
        let watcher = api.watch_in(kind.clone(), self.place.namespace.clone(), self.selector()?, start)?;
        Ok(Answer::Watch(Box::new(Watch {
            watcher,
            kind,
            form: self.form,
            include: self.include(),
            bookmarks,
            mark_initial: bookmarks && initial == Some(true),
            seconds: if seconds == 0 { WATCH_SECONDS } else { seconds },
        })))
    }

    pub(crate) fn include(&self) -> Include {
        match self.parameters.value("includeObject") {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }

    fn patch(&self) -> Result<Patch, ApiError> {
        decode_patch(
            &self.content_type,
            &self.body,
            self.parameters.value("fieldManager"),
            self.parameters.flag("force"),
        )
    }

    fn options(&self) -> Result<DeleteOptions, ApiError> {
        let body = match self.body.is_empty() {
            true => Value::Null,
            false => negotiate::object(&self.content_type, &self.body)?,
        };
        delete_options(&body, &self.parameters, self.dry_run()?)
    }

    fn delete(&self, api: &Api) -> Result<Answer, ApiError> {
        let kind = &self.place.kind;
        Ok(match api.delete_target(self.target(), &self.options()?)? {
            (Some(left), _) => self.object(200, left),
            (None, was) => success(200, Some((kind, &was))),
        })
    }

    fn delete_collection(&self, api: &Api) -> Result<Answer, ApiError> {
        self.check_scope("DELETE")?;
        let kind = &self.place.kind;
        let options = self.options()?;
        let page: Page = api.page(kind, &Query { resume: None, ..self.query()? })?;
        for item in &page.items {
            let object: Value = serde_json::from_slice(item)?;
            let target = Target { kind, namespace: self.namespace(), name: meta(&object, "name") };
            match api.delete_target(target, &options) {
                // Deleting another one may have taken it along.
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        Ok(Answer::Page { kind: kind.clone(), page })
    }

    fn scale(&self, api: &Api, method: &Method, dry_run: bool) -> Result<Answer, ApiError> {
        let target = self.target();
        let value = match *method {
            Method::GET => api.scale(target)?,
            Method::PUT => {
                let scale = negotiate::object(&self.content_type, &self.body)?;
                api.write_scale(target, &ScaleWrite::Update(scale), dry_run)?
            }
            Method::PATCH => api.write_scale(target, &ScaleWrite::Patch(self.patch()?), dry_run)?,
            _ => return Err(ApiError::method_not_allowed(method.as_str())),
        };
        Ok(Answer::Json { code: 200, value })
    }

    /// Access reviews: whoever has the token may do everything.
    fn review(&self) -> Result<Answer, ApiError> {
        if self.method != Method::POST {
            return Err(ApiError::method_not_allowed(self.method.as_str()));
        }
        // The answer is the same whatever is asked, so the binary form, which some clients send for these kinds
        // alone, need not be understood.
        let binary = negotiate::essence(&self.content_type) == "application/vnd.kubernetes.protobuf";
        let mut review = if binary { json!({}) } else { negotiate::object(&self.content_type, &self.body)? };
        let status = match self.place.kind.plural.as_str() {
            "selfsubjectaccessreviews" => json!({"allowed": true}),
            "selfsubjectrulesreviews" => json!({
                "incomplete": false,
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }),
            _ => {
                json!({"userInfo": {"username": "admin", "groups": ["system:masters", "system:authenticated"]}})
            }
        };
        let map = as_map(&mut review);
        map.insert("kind".into(), self.place.kind.kind.as_str().into());
        map.insert("apiVersion".into(), self.place.kind.api_version().into());
        map.insert("status".into(), status);
        Ok(Answer::Json { code: 201, value: review })
    }
}

/// Reads a patch by its media type.
///
/// # Errors
/// 400 if it does not parse, 415 if the media type is none of a patch.
pub(crate) fn decode_patch(
    content_type: &str,
    body: &[u8],
    manager: &str,
    force: bool,
) -> Result<Patch, ApiError> {
    match negotiate::essence(content_type).as_str() {
        "application/merge-patch+json" => Ok(Patch::Merge(negotiate::json(body)?)),
        "application/json-patch+json" => Ok(Patch::Json(negotiate::json(body)?)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(negotiate::json(body)?)),
        "application/apply-patch+yaml" if manager.is_empty() => Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch",
        )),
        "application/apply-patch+yaml" => {
            Ok(Patch::Apply { object: negotiate::yaml(body)?, manager: manager.into(), force })
        }
        other => Err(ApiError::unsupported_media_type(
            other,
            "application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

fn delete_options(body: &Value, parameters: &Parameters, dry_run: bool) -> Result<DeleteOptions, ApiError> {
    let grace = match parameters.value("gracePeriodSeconds") {
        "" => body["gracePeriodSeconds"].as_i64(),
        text => Some(
            text.parse()
                .map_err(|_| ApiError::bad_request(format!("gracePeriodSeconds: Invalid value: {text:?}")))?,
        ),
    };
    let policy = match parameters.value("propagationPolicy") {
        "" => text(body, &["propagationPolicy"]),
        given => given,
    };
    let orphan = body["orphanDependents"] == true || parameters.flag("orphanDependents");
    let propagation = match policy {
        "" if orphan => Propagation::Orphan,
        "" | "Background" => Propagation::Background,
        "Foreground" => Propagation::Foreground,
        "Orphan" => Propagation::Orphan,
        other => {
            let message = format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \
                 \"Background\", \"Orphan\""
            );
            return Err(ApiError::bad_request(message));
        }
    };
    let precondition =
        |name: &str| at(body, &["preconditions", name]).and_then(Value::as_str).map(str::to_owned);
    Ok(DeleteOptions {
        grace_period: grace,
        propagation,
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
        dry_run: dry_run || body["dryRun"][0] == "All",
    })
}

/// A `Status` that says all went well, for a deleted object with its identity.
fn success(code: u16, gone: Option<(&Kind, &Value)>) -> Answer {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    match gone {
        Some((kind, object)) => {
            status["details"] = json!({"name": meta(object, "name"), "group": kind.group,
                "kind": kind.plural, "uid": meta(object, "uid")});
        }
        None => status["code"] = code.into(),
    }
    Answer::Json { code, value: status }
}
