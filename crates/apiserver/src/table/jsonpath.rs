//! The part of JSONPath that printer columns use: fields, indices, wildcards and equality filters.

use serde_json::Value;

/// The values that `path` (`.spec.mode`, `.items[0]`, `.items[*].name`, `.conditions[?(@.type=="Ready")].status`,
/// `.metadata.labels['a\.b']`) finds in `root`; none if the path is malformed.
pub(super) fn find<'a>(root: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut values = vec![root];
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() && !values.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some((subscript, after)) = split_subscript(inner) else { return Vec::new() };
            values = values.into_iter().flat_map(|value| select(value, subscript)).collect();
            rest = after;
        } else {
            let (name, after) = split_name(rest.strip_prefix('.').unwrap_or(rest));
            if !name.is_empty() {
                values = values.into_iter().filter_map(|value| value.get(&name)).collect();
            } else if !after.starts_with('[') {
                return Vec::new();
            }
            rest = after;
        }
    }
    values
}

/// Splits a field name, in which a backslash escapes a dot, from the rest of the path.
fn split_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Splits what stands in brackets from the rest of the path; brackets in quotes do not count.
fn split_subscript(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some((&text[..at], &text[at + 1..])),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<&str> {
    let text = text.trim();
    let inner = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    inner('\'').or_else(|| inner('"'))
}

fn select<'a>(value: &'a Value, subscript: &str) -> Vec<&'a Value> {
    if let Some(name) = unquoted(subscript) {
        return value.get(name.replace("\\.", ".")).into_iter().collect();
    }
    if subscript == "*" {
        return match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        };
    }
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(filter) = subscript.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let Some((left, right)) = filter.split_once("==") else { return Vec::new() };
        let Some(path) = left.trim().strip_prefix('@') else { return Vec::new() };
        let wanted = match unquoted(right) {
            Some(text) => Value::from(text),
            None => serde_json::from_str(right.trim()).unwrap_or_default(),
        };
        return items.iter().filter(|item| find(item, path).contains(&&wanted)).collect();
    }
    let index = match subscript.trim().parse::<i64>() {
        Ok(index) if index < 0 => {
            items.len().checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX))
        }
        Ok(index) => usize::try_from(index).ok(),
        Err(_) => None,
    };
    index.and_then(|index| items.get(index)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_by_table() {
        let root = json!({"a": {"b.c": 1, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]}});
        for (path, found) in [
            (".a.l[0].v", json!([1])),
            (".a.l[-1].v", json!([2])),
            ("{.a.l[*].v}", json!([1, 2])),
            (".a.l[?(@.t==\"y\")].v", json!([2])),
            (".a.l[?(@.v==1)].t", json!(["x"])),
            (".a['b.c']", json!([1])),
            (".a.b\\.c", json!([1])),
            (".a.none", json!([])),
            (".a.l[", json!([])),
            (".a.l[9]", json!([])),
            ("..", json!([])),
        ] {
            let values: Value = find(&root, path).into_iter().cloned().collect();
            assert_eq!(values, found, "{path}");
        }
    }
}
