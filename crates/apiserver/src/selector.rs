//! Label and field selectors.

use serde_json::Value;

use crate::error::ApiError;
use crate::kinds::Kind;
use crate::object::at;

/// What objects a list, watch or collection deletion is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelTerm {
    key: String,
    test: LabelTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTest {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    path: Vec<String>,
    equal: bool,
    value: String,
}

impl Selector {
    /// Reads the `labelSelector` and `fieldSelector` parameters; empty ones select everything.
    ///
    /// # Errors
    /// 400 if a selector does not parse or names a field that cannot be selected on.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether `object` is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = at(object, &["metadata", "labels"]);
        self.labels.iter().all(|term| term.matches(labels)) && self.fields.iter().all(|f| f.matches(object))
    }
}

impl LabelTerm {
    fn matches(&self, labels: Option<&Value>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            LabelTest::Exists => value.is_some(),
            LabelTest::Absent => value.is_none(),
            LabelTest::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            LabelTest::NotIn(values) => !value.is_some_and(|value| values.iter().any(|v| v == value)),
            LabelTest::Above(bound) => number().is_some_and(|n| n > *bound),
            LabelTest::Below(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

impl FieldTerm {
    fn matches(&self, object: &Value) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let matches = match at(object, &path) {
            Some(Value::String(text)) => *text == self.value,
            Some(Value::Null) | None => self.value.is_empty() || self.value == "false",
            Some(Value::Bool(flag)) => self.value.parse() == Ok(*flag),
            Some(Value::Number(number)) => self.value.parse() == Ok(number.as_i64().unwrap_or(i64::MIN)),
            Some(Value::Array(_) | Value::Object(_)) => false,
        };
        matches == self.equal
    }
}

fn bad(what: &str, selector: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse {what} {selector:?}: {why}"))
}

/// Splits at commas that are not inside parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut depth) = (Vec::new(), 0, 0i32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(text[start..].trim());
    terms
}

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>, ApiError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split_terms(text)
        .into_iter()
        .map(|term| parse_label(term).map_err(|why| bad("label selector", text, &why)))
        .collect()
}

fn parse_label(term: &str) -> Result<LabelTerm, String> {
    let (key, test) = if let Some(key) = term.strip_prefix('!') {
        (key, LabelTest::Absent)
    } else if let Some((key, value)) = term.split_once("!=") {
        (key, LabelTest::NotIn(vec![label_value(value)?]))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, LabelTest::In(vec![label_value(value)?]))
    } else if let Some((key, value)) = term.split_once('>') {
        (key, LabelTest::Above(bound(value)?))
    } else if let Some((key, value)) = term.split_once('<') {
        (key, LabelTest::Below(bound(value)?))
    } else if let Some((head, list)) = term.split_once('(') {
        let list =
            list.trim_end().strip_suffix(')').ok_or_else(|| format!("{term:?} lacks a closing ')'"))?;
        let values = list.split(',').map(label_value).collect::<Result<Vec<_>, _>>()?;
        let (key, operator) = head.trim_end().rsplit_once(char::is_whitespace).unwrap_or(("", head));
        match operator.trim() {
            "in" => (key, LabelTest::In(values)),
            "notin" => (key, LabelTest::NotIn(values)),
            other => return Err(format!("operator {other:?} is none of 'in', 'notin'")),
        }
    } else {
        (term, LabelTest::Exists)
    };
    let key = key.trim();
    let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if key.is_empty() || !key.chars().all(well_formed) {
        return Err(format!("{key:?} is not a label key"));
    }
    Ok(LabelTerm { key: key.into(), test })
}

fn label_value(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.len() > 63 || !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Err(format!("{text:?} is not a label value"));
    }
    Ok(text.into())
}

fn bound(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("{text:?} is not an integer to compare with"))
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    let mut terms = Vec::new();
    for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
        let (field, equal, value) = if let Some((field, value)) = term.split_once("!=") {
            (field, false, value)
        } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (field, true, value)
        } else {
            return Err(bad("field selector", text, &format!("{term:?} has no '=', '==' or '!='")));
        };
        let path = field_path(kind, field.trim())
            .ok_or_else(|| bad("field selector", text, &format!("field label not supported: {field}")))?;
        terms.push(FieldTerm { path, equal, value: value.trim().into() });
    }
    Ok(terms)
}

/// Where the selectable field `label` of a kind is.
fn field_path(kind: &Kind, label: &str) -> Option<Vec<String>> {
    const EVENT: &[&str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
    ];
    const POD: &[&str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ];
    let path = match (kind.group.as_str(), kind.plural.as_str(), label) {
        (_, _, "metadata.name" | "metadata.namespace") => label,
        ("", "events", "source") => "source.component",
        ("", "events", label) if EVENT.contains(&label) => label,
        ("", "pods", label) if POD.contains(&label) => label,
        ("", "nodes", "spec.unschedulable")
        | ("", "namespaces", "status.phase")
        | ("", "secrets", "type") => label,
        ("", "services", "spec.clusterIP" | "spec.type") | ("apps", "replicasets", "status.replicas") => {
            label
        }
        _ if kind.custom.as_ref().is_some_and(|custom| custom.selectable.iter().any(|f| f == label)) => label,
        _ => return None,
    };
    Some(path.split('.').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Registry;

    fn selects(labels: &str, fields: &str) -> bool {
        let pods = Registry::builtin().by_resource("pods").unwrap();
        let pod = json!({
            "metadata": {"name": "a", "namespace": "default", "labels": {"app": "web", "tier": "front", "n": "7"}},
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Running"},
        });
        Selector::parse(&pods, labels, fields).unwrap().matches(&pod)
    }

    #[test]
    fn label_selectors() {
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("gone!=x", true),
            ("app in (db, web),tier", true),
            ("app notin (db,web)", false),
            ("gone notin (x)", true),
            ("!gone", true),
            ("!app", false),
            ("gone", false),
            ("n>6,n<8", true),
            ("n>7", false),
        ] {
            assert_eq!(selects(text, ""), expected, "{text}");
        }
    }

    #[test]
    fn field_selectors() {
        for (text, expected) in [
            ("metadata.name=a", true),
            ("metadata.name=a,spec.nodeName==node-1", true),
            ("metadata.namespace!=default", false),
            ("status.phase!=Running", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
        ] {
            assert_eq!(selects("", text), expected, "{text}");
        }
    }

    #[test]
    fn bad_selectors_are_refused() {
        let pods = Registry::builtin().by_resource("pods").unwrap();
        for (labels, fields) in [
            ("a in (b", ""),
            ("=x", ""),
            ("a~b", ""),
            ("a=b c", ""),
            ("n>x", ""),
            ("", "spec.nope=1"),
            ("", "metadata.name"),
        ] {
            let error = Selector::parse(&pods, labels, fields).unwrap_err();
            assert_eq!(error.code, 400, "{labels} {fields}");
        }
    }
}
