//! Structural schemas of custom resources: pruning, defaults, validation.
//!
//! Source: the `openAPIV3Schema` of `apiextensions.k8s.io/v1`. Rules in the Common Expression Language
//! (`x-kubernetes-validations`) are not evaluated.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::error::{Cause, type_name};
use crate::object::{array, text};

/// The schema of one value.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// `None` accepts every type.
    kind: Option<String>,
    nullable: bool,
    properties: BTreeMap<String, Schema>,
    /// Schema of map values; every value is accepted if it is an empty schema.
    additional: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    required: Vec<String>,
    values: Vec<Value>,
    limits: Limits,
    pattern: Option<Regex>,
    format: String,
    default: Option<Value>,
    preserve_unknown: bool,
    int_or_string: bool,
    embedded: bool,
    list_type: String,
    list_keys: Vec<String>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

#[derive(Debug, Clone, Default)]
struct Limits {
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
}

impl Schema {
    /// Reads an `openAPIV3Schema`; parts that make no sense are left out.
    pub fn parse(schema: &Value) -> Self {
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let child = |name: &str| schema.get(name).filter(|s| s.is_object()).map(|s| Box::new(Self::parse(s)));
        let children = |name: &str| array(schema, &[name]).iter().map(Self::parse).collect();
        let strings = |name: &str| -> Vec<String> {
            array(schema, &[name]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        Self {
            kind: schema.get("type").and_then(Value::as_str).map(str::to_owned),
            nullable: flag("nullable"),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), Self::parse(schema)))
                .collect(),
            additional: match schema.get("additionalProperties") {
                Some(Value::Bool(true)) => Some(Box::new(Self { preserve_unknown: true, ..Self::default() })),
                _ => child("additionalProperties"),
            },
            items: child("items"),
            required: strings("required"),
            values: array(schema, &["enum"]).to_vec(),
            limits: Limits {
                minimum: number("minimum"),
                maximum: number("maximum"),
                exclusive_minimum: flag("exclusiveMinimum"),
                exclusive_maximum: flag("exclusiveMaximum"),
                min_length: count("minLength"),
                max_length: count("maxLength"),
                min_items: count("minItems"),
                max_items: count("maxItems"),
                min_properties: count("minProperties"),
                max_properties: count("maxProperties"),
            },
            pattern: schema.get("pattern").and_then(Value::as_str).and_then(|p| Regex::new(p).ok()),
            format: text(schema, &["format"]).to_owned(),
            default: schema.get("default").cloned(),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            embedded: flag("x-kubernetes-embedded-resource"),
            list_type: text(schema, &["x-kubernetes-list-type"]).to_owned(),
            list_keys: strings("x-kubernetes-list-map-keys"),
            all_of: children("allOf"),
            any_of: children("anyOf"),
            one_of: children("oneOf"),
            not: child("not"),
        }
    }

    /// `x-kubernetes-list-type` and `x-kubernetes-list-map-keys` of the list at `path` (field names).
    pub(crate) fn list_type(&self, path: &[&str]) -> (&str, &[String]) {
        match path {
            [] => (&self.list_type, &self.list_keys),
            [name, rest @ ..] => {
                let of_item = self.items.as_deref().unwrap_or(self);
                let child = of_item.properties.get(*name).or(of_item.additional.as_deref());
                child.map_or(("", &[]), |child| child.list_type(rest))
            }
        }
    }

    /// Prepares a custom resource for storage: removes fields that the schema does not know, then sets
    /// defaults.
    pub fn complete(&self, object: &mut Value) {
        self.prune(object, true);
        self.set_defaults(object);
    }

    fn prune(&self, value: &mut Value, root: bool) {
        match value {
            Value::Object(map) => {
                let own = |key: &str| root && matches!(key, "apiVersion" | "kind" | "metadata");
                if !self.preserve_unknown && self.additional.is_none() {
                    map.retain(|key, _| self.properties.contains_key(key) || own(key));
                }
                for (key, value) in map.iter_mut().filter(|(key, _)| !own(key)) {
                    if let Some(schema) = self.properties.get(key).or(self.additional.as_deref()) {
                        schema.prune(value, schema.embedded);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.prune(item, schema.embedded));
                }
            }
            _ => {}
        }
    }

    fn set_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    if let Some(default) = &schema.default {
                        let absent = map.get(name).is_none_or(|v| v.is_null() && !schema.nullable);
                        if absent {
                            map.insert(name.clone(), default.clone());
                        }
                    }
                }
                for (name, value) in map {
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        schema.set_defaults(value);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.set_defaults(item));
                }
            }
            _ => {}
        }
    }

    /// What is wrong with a custom resource.
    pub fn validate(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.check(object, "", &mut causes);
        causes
    }

    fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && (self.nullable || self.kind.is_none()) {
            return;
        }
        if !self.accepts_type(value) {
            let wanted =
                if self.int_or_string { "integer,string" } else { self.kind.as_deref().unwrap_or("") };
            let why = format!("{path} in body must be of type {wanted}: \"{}\"", type_name(value));
            causes.push(Cause::wrong_type(path, value, &why));
            return;
        }
        if !self.values.is_empty() && !self.values.contains(value) {
            let values: Vec<String> =
                self.values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            causes.push(Cause::not_supported(path, value, &values));
        }
        match value {
            Value::Number(number) => self.check_number(value, number.as_f64().unwrap_or(0.0), path, causes),
            Value::String(string) => self.check_string(value, string, path, causes),
            Value::Array(items) => self.check_array(value, items, path, causes),
            Value::Object(map) => {
                self.check_count(value, map.len(), ["properties", "properties"], path, causes);
                for name in &self.required {
                    if map.get(name).is_none_or(|v| v.is_null() && !self.nullable_property(name)) {
                        causes.push(Cause::required(join(path, name), ""));
                    }
                }
                for (name, value) in map {
                    let root_meta = path.is_empty() && name == "metadata";
                    if root_meta || value.is_null() && self.required.contains(name) {
                        continue;
                    }
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        schema.check(value, &join(path, name), causes);
                    }
                }
            }
            _ => {}
        }
        self.check_combined(value, path, causes);
    }

    fn nullable_property(&self, name: &str) -> bool {
        self.properties.get(name).is_some_and(|schema| schema.nullable)
    }

    fn accepts_type(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_string() || value.is_i64() || value.is_u64();
        }
        match self.kind.as_deref() {
            Some("integer") => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            Some("number") => value.is_number(),
            Some(kind) => kind == type_name(value),
            None => true,
        }
    }

    fn check_number(&self, value: &Value, number: f64, path: &str, causes: &mut Vec<Cause>) {
        let Limits { minimum, maximum, exclusive_minimum, exclusive_maximum, .. } = self.limits;
        let mut refuse = |why: String| {
            causes.push(Cause::invalid(path, value, &format!("{path} in body should be {why}")));
        };
        match minimum {
            Some(least) if exclusive_minimum && number <= least => refuse(format!("greater than {least}")),
            Some(least) if number < least => refuse(format!("greater than or equal to {least}")),
            _ => {}
        }
        match maximum {
            Some(most) if exclusive_maximum && number >= most => refuse(format!("less than {most}")),
            Some(most) if number > most => refuse(format!("less than or equal to {most}")),
            _ => {}
        }
        let fits = match self.format.as_str() {
            "int32" => i32::try_from(value.as_i64().unwrap_or(i64::MAX)).is_ok(),
            _ => true,
        };
        if !fits {
            refuse("a 32-bit integer".into());
        }
    }

    fn check_string(&self, value: &Value, string: &str, path: &str, causes: &mut Vec<Cause>) {
        let length = string.chars().count() as u64;
        let mut refuse =
            |why: &str| causes.push(Cause::invalid(path, value, &format!("{path} in body {why}")));
        if let Some(least) = self.limits.min_length.filter(|least| length < *least) {
            refuse(&format!("should be at least {least} chars long"));
        }
        if let Some(most) = self.limits.max_length.filter(|most| length > *most) {
            refuse(&format!("should be at most {most} chars long"));
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(string)) {
            refuse(&format!("should match '{pattern}'"));
        }
        if !format_accepts(&self.format, string) {
            refuse(&format!("must be of type {}: {string:?}", self.format));
        }
    }

    fn check_array(&self, value: &Value, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
        self.check_count(value, items.len(), ["items", "items"], path, causes);
        if let Some(schema) = &self.items {
            for (index, item) in items.iter().enumerate() {
                schema.check(item, &format!("{path}[{index}]"), causes);
            }
        }
        let identity = |item: &Value| -> Option<Value> {
            match self.list_type.as_str() {
                "set" => Some(item.clone()),
                "map" => Some(self.list_keys.iter().map(|key| item[key].clone()).collect()),
                _ => None,
            }
        };
        let mut seen = std::collections::HashSet::new();
        for (index, id) in items.iter().enumerate().filter_map(|(index, item)| Some((index, identity(item)?)))
        {
            if !seen.insert(id.to_string()) {
                causes.push(Cause::duplicate(format!("{path}[{index}]"), &items[index]));
            }
        }
    }

    fn check_count(&self, value: &Value, len: usize, words: [&str; 2], path: &str, causes: &mut Vec<Cause>) {
        let (least, most) = match value {
            Value::Array(_) => (self.limits.min_items, self.limits.max_items),
            _ => (self.limits.min_properties, self.limits.max_properties),
        };
        let count = Value::from(len);
        if let Some(least) = least.filter(|least| (len as u64) < *least) {
            let why = format!("{path} in body should have at least {least} {}", words[0]);
            causes.push(Cause::invalid(path, &count, &why));
        }
        if let Some(most) = most.filter(|most| len as u64 > *most) {
            let why = format!("{path} in body should have at most {most} {}", words[1]);
            causes.push(Cause::invalid(path, &count, &why));
        }
    }

    fn check_combined(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        for schema in &self.all_of {
            schema.check(value, path, causes);
        }
        let matching = |schemas: &[Self]| {
            let accepts = |schema: &&Self| {
                let mut causes = Vec::new();
                schema.check(value, path, &mut causes);
                causes.is_empty()
            };
            schemas.iter().filter(accepts).count()
        };
        let mut refuse = |why: &str| causes.push(Cause::invalid(path, value, &format!("{path:?} {why}")));
        if !self.any_of.is_empty() && matching(&self.any_of) == 0 {
            refuse("must validate at least one schema (anyOf)");
        }
        if !self.one_of.is_empty() && matching(&self.one_of) != 1 {
            refuse("must validate one and only one schema (oneOf)");
        }
        if self.not.as_deref().is_some_and(|schema| matching(std::slice::from_ref(schema)) == 1) {
            refuse("must not validate the schema (not)");
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Whether a string is of an OpenAPI format; formats not known here accept everything.
fn format_accepts(format: &str, string: &str) -> bool {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    match format {
        "ipv4" => string.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => string.parse::<Ipv6Addr>().is_ok(),
        "ip" => string.parse::<IpAddr>().is_ok(),
        "cidr" => string.split_once('/').is_some_and(|(address, length)| {
            let most = match address.parse() {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            length.parse::<u8>().is_ok_and(|length| length <= most)
        }),
        "date-time" => crate::time::parse(string).is_some(),
        _ => true,
    }
}

/// What is wrong with a schema itself, as far as the server would trip over it.
pub(crate) fn problems(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
    if let Some(kind) = schema.get("type")
        && !TYPES.iter().any(|t| kind == t)
    {
        causes.push(Cause::not_supported(format!("{path}.type"), kind, TYPES));
    }
    if let Some(pattern) = schema.get("pattern")
        && let Some(Err(error)) = pattern.as_str().map(Regex::new)
    {
        causes.push(Cause::invalid(format!("{path}.pattern"), pattern, &error.to_string()));
    }
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        problems(child, &format!("{path}.properties[{name}]"), causes);
    }
    for name in ["items", "additionalProperties", "not"] {
        if let Some(child) = schema.get(name).filter(|child| child.is_object()) {
            problems(child, &format!("{path}.{name}"), causes);
        }
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, child) in array(schema, &[name]).iter().enumerate() {
            problems(child, &format!("{path}.{name}[{index}]"), causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::parse(&json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "required": ["mode"],
            "properties": {
                "mode": {"type": "string", "enum": ["overlay", "routed"]},
                "mtu": {"type": "integer", "minimum": 1280, "maximum": 9000, "default": 1500},
                "cidrs": {"type": "array", "x-kubernetes-list-type": "set", "minItems": 1,
                    "items": {"type": "string", "format": "cidr"}},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
                "port": {"x-kubernetes-int-or-string": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "peers": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["asn"],
                    "items": {"type": "object", "properties": {"asn": {"type": "integer"},
                        "hold": {"type": "integer", "default": 90}}}},
            },
        }}}))
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "labels": {"x": "y"}}, "extra": 1,
            "spec": {"mode": "overlay", "wrong": 1, "labels": {"a": "b"}, "any": {"deep": [1]},
                "peers": [{"asn": 1, "no": 2}]},
        });
        schema().complete(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "labels": {"x": "y"}},
            "spec": {"mode": "overlay", "mtu": 1500, "labels": {"a": "b"}, "any": {"deep": [1]},
                "peers": [{"asn": 1, "hold": 90}]}})
        );
    }

    #[test]
    fn faults_name_field_and_value() {
        for (spec, field, message) in [
            (json!({}), "spec.mode", "Required value"),
            (
                json!({"mode": "x"}),
                "spec.mode",
                "Unsupported value: \"x\": supported values: \"overlay\", \"routed\"",
            ),
            (
                json!({"mode": "routed", "mtu": "big"}),
                "spec.mtu",
                "Invalid value: \"string\": spec.mtu in body must be of type integer: \"string\"",
            ),
            (
                json!({"mode": "routed", "mtu": 100}),
                "spec.mtu",
                "Invalid value: 100: spec.mtu in body should be greater than or equal to 1280",
            ),
            (
                json!({"mode": "routed", "name": "UP"}),
                "spec.name",
                "Invalid value: \"UP\": spec.name in body should match '^[a-z]+$'",
            ),
            (
                json!({"mode": "routed", "cidrs": ["10.0.0.0/33"]}),
                "spec.cidrs[0]",
                "Invalid value: \"10.0.0.0/33\": spec.cidrs[0] in body must be of type cidr: \"10.0.0.0/33\"",
            ),
            (
                json!({"mode": "routed", "cidrs": ["fd00::/8", "fd00::/8"]}),
                "spec.cidrs[1]",
                "Duplicate value: \"fd00::/8\"",
            ),
            (
                json!({"mode": "routed", "port": 1.5}),
                "spec.port",
                "Invalid value: \"number\": spec.port in body must be of type integer,string: \"number\"",
            ),
        ] {
            let causes = schema().validate(&json!({"metadata": {}, "spec": spec}));
            let [cause] = causes.as_slice() else { panic!("{spec}: {causes:?}") };
            assert_eq!((cause.field.as_str(), cause.message.as_str()), (field, message));
        }
        let good = json!({"spec": {"mode": "routed", "cidrs": ["10.0.0.0/8", "fd00::/8"], "port": "http"}});
        assert_eq!(schema().validate(&good), []);
    }
}
