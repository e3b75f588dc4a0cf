//! `CNI_ARGS`: pairs of a key and a value, `A=1;B=2` (CNI spec 1.1.0, section 2, "Parameters").

use crate::error::{Error, code};

/// What the plugin takes from `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
}

impl Args {
    /// Parses the variable. Keys that are not known are an error unless `IgnoreUnknown` is set, as runtimes for
    /// Kubernetes do.
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`] for what is no pair, and for an unknown key.
    pub fn parse(text: &str) -> Result<Args, Error> {
        let mut args = Args::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                invalid(format!(
                    "\"{pair}\" is no pair; it would look like K8S_POD_NAME=web-0;IgnoreUnknown=1"
                ))
            })?;
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = match value {
                        "1" | "true" | "True" | "TRUE" => true,
                        "0" | "false" | "False" | "FALSE" => false,
                        _ => {
                            return Err(invalid(format!(
                                "IgnoreUnknown is \"{value}\"; it would be true or false"
                            )));
                        }
                    }
                }
                "K8S_POD_NAMESPACE" => args.pod_namespace = Some(value.to_owned()),
                "K8S_POD_NAME" => args.pod_name = Some(value.to_owned()),
                "K8S_POD_UID" => args.pod_uid = Some(value.to_owned()),
                // The same as CNI_CONTAINERID.
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                _ => unknown.push(key),
            }
        }
        if unknown.is_empty() || ignore_unknown {
            return Ok(args);
        }
        let known = "K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID, K8S_POD_INFRA_CONTAINER_ID";
        Err(invalid(format!(
            "unknown keys {}; use {known}, or set IgnoreUnknown=1 to have others ignored",
            unknown.join(", ")
        )))
    }

    /// The pod as `namespace/name`, if the runtime said so.
    pub fn pod(&self) -> Option<String> {
        match (&self.pod_namespace, &self.pod_name) {
            (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
            _ => None,
        }
    }
}

fn invalid(why: String) -> Error {
    Error::new(code::INVALID_ENVIRONMENT, "invalid environment variable CNI_ARGS", format!("CNI_ARGS: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_runtimes_pass() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab;\
                    K8S_POD_UID=3f;OTHER=x=y";
        let args = Args::parse(text).unwrap();
        assert_eq!(args.pod().as_deref(), Some("default/web-0"));
        assert_eq!(args.pod_uid.as_deref(), Some("3f"));
    }

    #[test]
    fn empty_is_nothing() {
        assert_eq!(Args::parse("").unwrap(), Args::default());
        assert_eq!(Args::parse(";").unwrap().pod(), None);
    }

    #[test]
    fn what_is_no_pair_or_unknown_is_refused_by_name() {
        for (text, expected) in [
            ("K8S_POD_NAME", "\"K8S_POD_NAME\" is no pair"),
            ("=x", "\"=x\" is no pair"),
            ("A=1;B=2", "unknown keys A, B"),
            ("IgnoreUnknown=0;A=1", "unknown keys A"),
            ("IgnoreUnknown=maybe", "IgnoreUnknown is \"maybe\""),
        ] {
            let error = Args::parse(text).unwrap_err();
            assert_eq!(error.code, code::INVALID_ENVIRONMENT);
            assert!(error.details.contains(expected), "{error}");
        }
    }
}
