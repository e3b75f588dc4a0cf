//! Bodies in Kubernetes' binary form, for the kinds that `kubectl create <kind>` sends in it and no other way.
//!
//! Source: the `generated.proto` files of `k8s.io/api` and `k8s.io/apimachinery`. A field that is not in the
//! tables is refused rather than dropped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::object::as_map;
use crate::time;

/// What every body in binary form begins with.
const MAGIC: &[u8] = b"k8s\0";

/// How a field is written in JSON.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Number,
    Flag,
    /// Bytes, in JSON as base64.
    Bytes,
    /// `metav1.Time`.
    Time,
    /// `intstr.IntOrString`.
    Either,
    /// Map from text to text.
    Texts,
    /// Map from text to bytes.
    ByteMap,
    Message(&'static [Field]),
    /// Written by the server, so not read.
    Ignored,
}

struct Field {
    number: u64,
    name: &'static str,
    kind: Type,
    repeated: bool,
}

const fn one(number: u64, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind, repeated: false }
}

const fn many(number: u64, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind, repeated: true }
}

use Type::{ByteMap, Bytes, Either, Flag, Ignored, Message, Number, Text, Texts, Time};

const UNKNOWN: &[Field] = &[
    one(1, "typeMeta", Message(&[one(1, "apiVersion", Text), one(2, "kind", Text)])),
    one(2, "raw", Bytes),
    one(3, "contentEncoding", Text),
    one(4, "contentType", Text),
];

const OBJECT_META: &[Field] = &[
    one(1, "name", Text),
    one(2, "generateName", Text),
    one(3, "namespace", Text),
    one(4, "selfLink", Ignored),
    one(5, "uid", Text),
    one(6, "resourceVersion", Text),
    one(7, "generation", Ignored),
    one(8, "creationTimestamp", Time),
    one(9, "deletionTimestamp", Ignored),
    one(10, "deletionGracePeriodSeconds", Ignored),
    one(11, "labels", Texts),
    one(12, "annotations", Texts),
    many(
        13,
        "ownerReferences",
        Message(&[
            one(1, "kind", Text),
            one(3, "name", Text),
            one(4, "uid", Text),
            one(5, "apiVersion", Text),
            one(6, "controller", Flag),
            one(7, "blockOwnerDeletion", Flag),
        ]),
    ),
    many(14, "finalizers", Text),
];

const META: Field = one(1, "metadata", Message(OBJECT_META));

const NAMESPACE: &[Field] =
    &[META, one(2, "spec", Message(&[many(1, "finalizers", Text)])), one(3, "status", Ignored)];

const CONFIG_MAP: &[Field] =
    &[META, one(2, "data", Texts), one(3, "binaryData", ByteMap), one(4, "immutable", Flag)];

const SECRET: &[Field] = &[
    META,
    one(2, "data", ByteMap),
    one(3, "type", Text),
    one(4, "stringData", Texts),
    one(5, "immutable", Flag),
];

const SERVICE_ACCOUNT: &[Field] = &[META, one(4, "automountServiceAccountToken", Flag)];

const SERVICE_PORT: &[Field] = &[
    one(1, "name", Text),
    one(2, "protocol", Text),
    one(3, "port", Number),
    one(4, "targetPort", Either),
    one(5, "nodePort", Number),
    one(6, "appProtocol", Text),
];

const SERVICE_SPEC: &[Field] = &[
    many(1, "ports", Message(SERVICE_PORT)),
    one(2, "selector", Texts),
    one(3, "clusterIP", Text),
    one(4, "type", Text),
    many(5, "externalIPs", Text),
    one(7, "sessionAffinity", Text),
    one(8, "loadBalancerIP", Text),
    many(9, "loadBalancerSourceRanges", Text),
    one(10, "externalName", Text),
    one(11, "externalTrafficPolicy", Text),
    one(12, "healthCheckNodePort", Number),
    one(13, "publishNotReadyAddresses", Flag),
    one(17, "ipFamilyPolicy", Text),
    many(18, "clusterIPs", Text),
    many(19, "ipFamilies", Text),
    one(20, "allocateLoadBalancerNodePorts", Flag),
    one(21, "loadBalancerClass", Text),
    one(22, "internalTrafficPolicy", Text),
];

const SERVICE: &[Field] = &[META, one(2, "spec", Message(SERVICE_SPEC)), one(3, "status", Ignored)];

const CONTAINER: &[Field] = &[
    one(1, "name", Text),
    one(2, "image", Text),
    many(3, "command", Text),
    many(4, "args", Text),
    one(5, "workingDir", Text),
    many(
        6,
        "ports",
        Message(&[
            one(1, "name", Text),
            one(2, "hostPort", Number),
            one(3, "containerPort", Number),
            one(4, "protocol", Text),
            one(5, "hostIP", Text),
        ]),
    ),
    many(7, "env", Message(&[one(1, "name", Text), one(2, "value", Text)])),
    one(8, "resources", Message(&[])),
    one(13, "terminationMessagePath", Text),
    one(14, "imagePullPolicy", Text),
    one(16, "stdin", Flag),
    one(17, "stdinOnce", Flag),
    one(18, "tty", Flag),
    one(20, "terminationMessagePolicy", Text),
];

const POD_SPEC: &[Field] = &[
    many(2, "containers", Message(CONTAINER)),
    one(3, "restartPolicy", Text),
    one(4, "terminationGracePeriodSeconds", Number),
    one(6, "dnsPolicy", Text),
    one(7, "nodeSelector", Texts),
    one(8, "serviceAccountName", Text),
    one(9, "serviceAccount", Text),
    one(10, "nodeName", Text),
    one(11, "hostNetwork", Flag),
    one(12, "hostPID", Flag),
    one(13, "hostIPC", Flag),
    one(14, "securityContext", Message(&[])),
    one(16, "hostname", Text),
    one(17, "subdomain", Text),
    one(19, "schedulerName", Text),
    one(24, "priorityClassName", Text),
    many(20, "initContainers", Message(CONTAINER)),
];

const DEPLOYMENT_SPEC: &[Field] = &[
    one(1, "replicas", Number),
    one(2, "selector", Message(&[one(1, "matchLabels", Texts)])),
    one(3, "template", Message(&[META, one(2, "spec", Message(POD_SPEC))])),
    one(
        4,
        "strategy",
        Message(&[
            one(1, "type", Text),
            one(2, "rollingUpdate", Message(&[one(1, "maxUnavailable", Either), one(2, "maxSurge", Either)])),
        ]),
    ),
    one(5, "minReadySeconds", Number),
    one(6, "revisionHistoryLimit", Number),
    one(7, "paused", Flag),
    one(9, "progressDeadlineSeconds", Number),
];

const DEPLOYMENT: &[Field] = &[META, one(2, "spec", Message(DEPLOYMENT_SPEC)), one(3, "status", Ignored)];

const DELETE_OPTIONS: &[Field] = &[
    one(1, "gracePeriodSeconds", Number),
    one(2, "preconditions", Message(&[one(1, "uid", Text), one(2, "resourceVersion", Text)])),
    one(3, "orphanDependents", Flag),
    one(4, "propagationPolicy", Text),
    many(5, "dryRun", Text),
];

const EVICTION: &[Field] = &[META, one(2, "deleteOptions", Message(DELETE_OPTIONS))];

fn refused(why: &str) -> ApiError {
    ApiError::unsupported_media_type(
        &format!("application/vnd.kubernetes.protobuf ({why})"),
        "application/json, application/yaml",
    )
}

/// Reads a body in binary form.
///
/// # Errors
/// 400 if it is malformed, 415 if it is of a kind or has a field that is not understood in this form.
pub(super) fn object(body: &[u8]) -> Result<Value, ApiError> {
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not begin with k8s"))?;
    let envelope = message(UNKNOWN, envelope)?;
    let (version, kind) = (&envelope["typeMeta"]["apiVersion"], &envelope["typeMeta"]["kind"]);
    let fields = match (version.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default()) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("v1", "Secret") => SECRET,
        ("v1", "ServiceAccount") => SERVICE_ACCOUNT,
        ("v1", "Service") => SERVICE,
        ("apps/v1", "Deployment") => DEPLOYMENT,
        ("policy/v1", "Eviction") => EVICTION,
        (_, "DeleteOptions") => DELETE_OPTIONS,
        (version, kind) => return Err(refused(&format!("{version} {kind} is not read in this form"))),
    };
    let raw = STANDARD.decode(envelope["raw"].as_str().unwrap_or_default());
    let mut object = message(fields, &raw.map_err(|_| malformed("its content is damaged"))?)?;
    object["apiVersion"] = version.clone();
    object["kind"] = kind.clone();
    Ok(object)
}

fn malformed(why: &str) -> ApiError {
    ApiError::bad_request(format!("the body of the request is not a valid protobuf message: {why}"))
}

fn message(fields: &[Field], bytes: &[u8]) -> Result<Value, ApiError> {
    let mut object = Map::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, content) = next(&mut rest)?;
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            // Go writes fields that nobody set, too.
            if matches!(content, Content::Varint(0) | Content::Bytes([])) {
                continue;
            }
            let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
            let why = format!("field {number} of what has {} is not read in this form", known.join(", "));
            return Err(refused(&why));
        };
        let slot = object.entry(field.name).or_insert(Value::Null);
        match (field.kind, &content) {
            (Ignored, _) => {}
            (Texts | ByteMap, Content::Bytes(entry)) => {
                let (key, value) = map_entry(field.kind, entry)?;
                as_map(slot).insert(key, value);
            }
            (kind, content) if field.repeated => match slot {
                Value::Array(list) => list.push(value(kind, content)?),
                slot => *slot = json!([value(kind, content)?]),
            },
            (kind, content) => *slot = value(kind, content)?,
        }
    }
    // Go writes an empty text where JSON has none.
    object.retain(|_, value| *value != "" && !value.is_null());
    Ok(object.into())
}

fn value(kind: Type, content: &Content<'_>) -> Result<Value, ApiError> {
    Ok(match (kind, content) {
        (Text, Content::Bytes(bytes)) => utf8(bytes)?.into(),
        (Bytes, Content::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        // Negative numbers are written as 64-bit two's complement, whatever the type in JSON.
        (Number, Content::Varint(number)) => number.cast_signed().into(),
        (Flag, Content::Varint(number)) => (*number != 0).into(),
        (Message(fields), Content::Bytes(bytes)) => message(fields, bytes)?,
        (Time, Content::Bytes(bytes)) => {
            let parts = message(&[one(1, "seconds", Number), one(2, "nanos", Number)], bytes)?;
            parts["seconds"].as_i64().filter(|s| (0..1 << 36).contains(s)).map(time::format).into()
        }
        (Either, Content::Bytes(bytes)) => {
            let parts =
                message(&[one(1, "type", Number), one(2, "int", Number), one(3, "text", Text)], bytes)?;
            match parts["type"].as_i64() {
                Some(1) => parts["text"].clone(),
                _ => parts["int"].as_i64().unwrap_or(0).into(),
            }
        }
        _ => return Err(malformed("a field has the wrong wire type")),
    })
}

/// One entry of a map: key and value are fields 1 and 2 of a message.
fn map_entry(kind: Type, bytes: &[u8]) -> Result<(String, Value), ApiError> {
    let of_value = if matches!(kind, ByteMap) { Bytes } else { Text };
    let (mut key, mut of_key) = (String::new(), Value::from(""));
    let mut rest = bytes;
    while !rest.is_empty() {
        match next(&mut rest)? {
            (1, Content::Bytes(bytes)) => utf8(bytes)?.clone_into(&mut key),
            (2, content) => of_key = value(of_value, &content)?,
            _ => return Err(malformed("a map has something besides keys and values")),
        }
    }
    Ok((key, of_key))
}

fn utf8(bytes: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a text is not UTF-8"))
}

enum Content<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// Takes one field off the front: its number and what it holds.
fn next<'a>(rest: &mut &'a [u8]) -> Result<(u64, Content<'a>), ApiError> {
    let tag = varint(rest)?;
    let content = match tag & 7 {
        0 => Content::Varint(varint(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).unwrap_or(usize::MAX);
            let (bytes, after) = rest.split_at_checked(length).ok_or_else(|| malformed("it is cut short"))?;
            *rest = after;
            Content::Bytes(bytes)
        }
        other => return Err(malformed(&format!("wire type {other} is not used"))),
    };
    Ok((tag >> 3, content))
}

/// Takes a varint off the front: seven bits at a time, the lowest first.
fn varint(rest: &mut &[u8]) -> Result<u64, ApiError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(|| malformed("it is cut short"))?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed("a number is longer than 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &types), field(2, raw)].concat()
    }

    #[test]
    fn objects_are_read() {
        let labels = field(11, &[field(1, b"a"), field(2, b"b")].concat());
        let metadata = field(1, &[field(1, b"x"), field(3, b""), labels].concat());
        let raw = [metadata, field(2, &[field(1, b"k"), field(2, b"v")].concat()), vec![4 << 3, 1]].concat();
        let map = object(&body("ConfigMap", &raw)).unwrap();
        assert_eq!(
            map,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "labels": {"a": "b"}},
            "data": {"k": "v"}, "immutable": true})
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(object(&body("Node", b"")).unwrap_err().code, 415);
        assert_eq!(object(&body("ConfigMap", &field(9, b"x"))).unwrap_err().code, 415);
        for damaged in [&b"k8s"[..], b"k8s\0\x0a\x7f", b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(object(damaged).unwrap_err().code, 400);
        }
        let whole = body("ConfigMap", &field(1, &field(1, b"x")));
        for end in 4..whole.len() {
            let _ = object(&whole[..end]);
        }
    }
}
