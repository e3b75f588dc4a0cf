//! Reading and writing the fields that every object has.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// The string at `path` (keys from the root), or `""`.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The value at `path` (keys from the root).
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

/// The array at `path`, or an empty one.
pub(crate) fn array<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `metadata.<field>` as a string, or `""`.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    text(object, &["metadata", field])
}

/// Whether deletion has begun.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// Whether something still has to be done before the object may go.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    !array(object, &["metadata", "finalizers"]).is_empty()
}

/// The map at `key`, made if it is absent or not a map.
pub(crate) fn map_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let slot = as_map(object).entry(key).or_insert_with(|| Value::Object(Map::new()));
    as_map(slot)
}

/// The value as a map, made one if it is not.
pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// `metadata` for writing.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(object, "metadata")
}

/// The `uid`s in `metadata.ownerReferences`.
pub(crate) fn owner_uids(object: &Value) -> impl Iterator<Item = &str> {
    array(object, &["metadata", "ownerReferences"]).iter().map(|owner| text(owner, &["uid"]))
}

static RANDOM: LazyLock<&'static dyn rustls::crypto::SecureRandom> =
    LazyLock::new(|| rustls::crypto::ring::default_provider().secure_random);

/// Bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], ApiError> {
    let mut bytes = [0; N];
    RANDOM.fill(&mut bytes).map_err(|_| ApiError::internal("the system's random source failed"))?;
    Ok(bytes)
}

/// A random (version 4) UUID, RFC 9562 section 5.4.
pub(crate) fn new_uid() -> Result<String, ApiError> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// `prefix` and five random characters, cut to the length of a name (for `generateName`).
pub(crate) fn generate_name(prefix: &str) -> Result<String, ApiError> {
    // Kubernetes' alphabet: no vowels and no look-alikes, so that no words come out.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let suffix = random::<5>()?.map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]));
    let kept: String = prefix.chars().take(58).collect();
    Ok(format!("{kept}{}", suffix.iter().collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_have_their_version_and_variant() {
        let uid = new_uid().unwrap();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uid.as_bytes()[19]));
        assert_ne!(uid, new_uid().unwrap());
    }
}
