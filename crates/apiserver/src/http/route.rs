//! Paths and their parameters.

use std::sync::Arc;

use crate::kinds::{Kind, Registry};

/// What a path is about.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    Version,
    /// `/api`.
    Core,
    /// `/apis`.
    Groups,
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    Resources {
        group: String,
        version: String,
    },
    OpenApiV2,
    /// `/openapi/v3` and below.
    OpenApiV3(String),
    Resource(Place),
    Unknown,
}

/// One resource, object or subresource.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Arc<Kind>,
    /// `None` means all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) sub: Option<String>,
}

/// Understands a path.
pub(crate) fn route(registry: &Registry, path: &str) -> Route {
    let parts: Option<Vec<String>> =
        path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
    let Some(parts) = parts else { return Route::Unknown };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::Core,
        ["apis"] => Route::Groups,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3", rest @ ..] => Route::OpenApiV3(rest.join("/")),
        ["apis", group] => Route::Group((*group).into()),
        ["api", version] => Route::Resources { group: String::new(), version: (*version).into() },
        ["apis", group, version] => Route::Resources { group: (*group).into(), version: (*version).into() },
        ["api", version, rest @ ..] => place(registry, "", version, rest),
        ["apis", group, version, rest @ ..] => place(registry, group, version, rest),
        _ => Route::Unknown,
    }
}

fn place(registry: &Registry, group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, plural, name, sub) = match rest {
        // Namespaces are objects themselves; `/namespaces/<name>/status` is not a resource called `status`.
        ["namespaces", name, sub @ ("status" | "finalize")] => (None, "namespaces", Some(*name), Some(*sub)),
        ["namespaces", namespace, plural, rest @ ..] if rest.len() <= 2 => {
            (Some((*namespace).to_owned()), *plural, rest.first().copied(), rest.get(1).copied())
        }
        [plural, rest @ ..] if rest.len() <= 2 => {
            (None, *plural, rest.first().copied(), rest.get(1).copied())
        }
        _ => return Route::Unknown,
    };
    let Some(kind) = registry.find(group, version, plural) else { return Route::Unknown };
    // A cluster-wide kind has no namespace, and one object of a namespaced kind always has one.
    if namespace.is_some() != kind.namespaced && (namespace.is_some() || name.is_some()) {
        return Route::Unknown;
    }
    Route::Resource(Place { kind, namespace, name: name.map(str::to_owned), sub: sub.map(str::to_owned) })
}

/// Query parameters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name, true)?, decode(value, true)?))
        });
        Self(pairs.collect())
    }

    /// The value of a parameter, `""` if it is not given.
    pub(crate) fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), "true" | "1" | "True")
    }
}

/// Decodes percent escapes, and `+` in queries; `None` if an escape is malformed or the text is not UTF-8.
fn decode(text: &str, query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        bytes.push(match byte {
            b'%' => {
                let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
                rest = &rest[2..];
                u8::from_str_radix(hex, 16).ok()?
            }
            b'+' if query => b' ',
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        match route(&Registry::builtin(), path) {
            Route::Resource(p) => format!(
                "{} {} {} {}",
                p.kind.plural,
                p.namespace.unwrap_or_default(),
                p.name.unwrap_or_default(),
                p.sub.unwrap_or_default()
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_by_table() {
        for (path, expected) in [
            ("/api/v1/pods", "pods   "),
            ("/api/v1/namespaces/default/pods", "pods default  "),
            ("/api/v1/namespaces/default/pods/a/status", "pods default a status"),
            ("/api/v1/namespaces", "namespaces   "),
            ("/api/v1/namespaces/default", "namespaces  default "),
            ("/api/v1/namespaces/default/finalize", "namespaces  default finalize"),
            ("/api/v1/nodes/n%31", "nodes  n1 "),
            ("/apis/apps/v1/namespaces/x/deployments/web/scale", "deployments x web scale"),
            ("/apis/apps/v1", "Resources { group: \"apps\", version: \"v1\" }"),
            ("/api/v1/pods/a", "Unknown"),
            ("/api/v1/namespaces/default/nodes", "Unknown"),
            ("/api/v1/namespaces/default/pods/a/b/c", "Unknown"),
            ("/api/v1/nodes/%zz", "Unknown"),
            ("/apis/apps/v2/deployments", "Unknown"),
            ("/readyz/ping", "Health"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let parameters = Parameters::parse("labelSelector=app%3Dweb%2Ctier+in+(a)&watch=true&x");
        assert_eq!(parameters.value("labelSelector"), "app=web,tier in (a)");
        assert!(parameters.flag("watch") && !parameters.flag("x"));
    }
}
