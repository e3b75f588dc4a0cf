//! Rules for names, label keys and label values (RFC 1123, RFC 1035, `k8s.io/apimachinery` validation).

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character, at most 63 characters";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character, at most 253 characters";
const SERVICE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                       alphabetic character, and end with an alphanumeric character, at most 63 characters";
const KEY: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                   alphanumeric character, at most 63 characters, with an optional DNS subdomain prefix and '/'";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                     must start and end with an alphanumeric character, at most 63 characters";

type Checked = Result<(), &'static str>;

fn check(good: bool, why: &'static str) -> Checked {
    if good { Ok(()) } else { Err(why) }
}

/// Lower-case letters, digits and inner dashes.
fn is_part(part: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().copied().is_some_and(lower) && bytes.last().copied().is_some_and(lower);
    ends && bytes.iter().all(|&b| lower(b) || b == b'-')
}

fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

fn is_subdomain(name: &str) -> bool {
    // Kubernetes holds the whole to 253 characters, but not each part to 63.
    name.len() <= 253 && name.split('.').all(is_part)
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bytes.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(inner)
}

/// A DNS label, as namespaces and containers are named.
pub(crate) fn dns_label(name: &str) -> Checked {
    check(is_label(name), LABEL)
}

/// A DNS subdomain, as most objects are named.
pub(crate) fn dns_subdomain(name: &str) -> Checked {
    check(is_subdomain(name), SUBDOMAIN)
}

/// A DNS label that starts with a letter, as services are named.
pub(crate) fn service_label(name: &str) -> Checked {
    check(is_label(name) && name.starts_with(|c: char| c.is_ascii_alphabetic()), SERVICE)
}

/// A label or annotation key.
pub(crate) fn label_key(key: &str) -> Checked {
    let good = match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(key),
    };
    check(good, KEY)
}

/// A label value.
pub(crate) fn label_value(value: &str) -> Checked {
    check(value.is_empty() || is_qualified(value), VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_table() {
        type Rule = fn(&str) -> Checked;
        for (rule, name, good) in [
            (dns_label as Rule, "a-1", true),
            (dns_label, "-a", false),
            (dns_label, "a.b", false),
            (dns_label, "", false),
            (dns_label, &"a".repeat(64), false),
            (dns_subdomain, "a.b-c.d", true),
            (dns_subdomain, "a..b", false),
            (dns_subdomain, "A", false),
            (dns_subdomain, &"a".repeat(254), false),
            (service_label, "1a", false),
            (service_label, "a1", true),
            (label_key, "app.kubernetes.io/Name", true),
            (label_key, "a/b/c", false),
            (label_key, "/a", false),
            (label_value, "", true),
            (label_value, "A_b.c", true),
            (label_value, "a b", false),
            (label_value, "a-", false),
        ] {
            assert_eq!(rule(name).is_ok(), good, "{name}");
        }
    }
}
