//! A verdict for people: 80 columns.

use std::fmt::{self, Write};

use super::finding::{Finding, Remark, Verdict};
use crate::terminal::labelled;

/// Where what is said of a finding begins.
const INDENT: usize = 8;

/// Colours for terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Yes,
    No,
}

impl Colour {
    /// Begins and ends something, with the parameters of `ESC [ … m` (ECMA-48).
    fn marks(self, parameters: &str) -> (String, &'static str) {
        match self {
            Colour::Yes => (format!("\x1b[{parameters}m"), "\x1b[0m"),
            Colour::No => (String::new(), ""),
        }
    }
}

pub(super) fn text(verdict: &Verdict, colour: Colour) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, verdict, colour);
    out
}

fn write_all(out: &mut String, verdict: &Verdict, colour: Colour) -> fmt::Result {
    for finding in &verdict.findings {
        let Finding { check, place, what, hurts, cure } = finding;
        let (begin, end) = colour.marks("1;31");
        writeln!(out, "{begin}{check}{end}")?;
        wrapped(out, "what", &format!("{place} {what}"))?;
        wrapped(out, "hurts", hurts)?;
        wrapped(out, "cure", cure)?;
        writeln!(out)?;
    }
    remarks(out, "not checked", &verdict.unchecked, colour)?;
    remarks(out, "to know", &verdict.remarks, colour)?;
    let (begin, end) = colour.marks("1");
    let findings = match verdict.findings.len() {
        0 => "no finding".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    let unchecked = match verdict.unchecked.len() {
        0 => String::new(),
        count => format!(", {count} not checked"),
    };
    writeln!(out, "{begin}{}: {findings}{unchecked}{end}", verdict.node)
}

fn remarks(out: &mut String, title: &str, remarks: &[Remark], colour: Colour) -> fmt::Result {
    if remarks.is_empty() {
        return Ok(());
    }
    let (begin, end) = colour.marks("1");
    writeln!(out, "{begin}{title}{end}")?;
    for Remark { check, text } in remarks {
        wrapped(out, "", &format!("{check}: {text}"))?;
    }
    writeln!(out)
}

/// A label, and words in as many lines as they need.
fn wrapped(out: &mut String, label: &str, words: &str) -> fmt::Result {
    labelled(out, INDENT, &format!("  {label}"), words.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::super::finding::Check;
    use super::*;

    fn verdict() -> Verdict {
        Verdict {
            node: "node-1".to_owned(),
            findings: vec![Finding {
                check: Check::Forwarding,
                place: "net/ipv4/ip_forward".to_owned(),
                what: "is 0: the node forwards no IPv4 packets".to_owned(),
                hurts: "Pods reach nothing but pods of their own node, and nobody else reaches them."
                    .to_owned(),
                cure: "sysctl -w net/ipv4/ip_forward=1".to_owned(),
            }],
            unchecked: vec![Remark::new(Check::Clock, "the API does not answer")],
            remarks: Vec::new(),
        }
    }

    #[test]
    fn a_verdict_has_80_columns() {
        let expected = "\
forwarding
  what  net/ipv4/ip_forward is 0: the node forwards no IPv4 packets
  hurts Pods reach nothing but pods of their own node, and nobody else reaches
        them.
  cure  sysctl -w net/ipv4/ip_forward=1

not checked
        clock: the API does not answer

node-1: 1 finding, 1 not checked
";
        assert_eq!(text(&verdict(), Colour::No), expected);
        let coloured = text(&verdict(), Colour::Yes);
        assert!(coloured.starts_with("\x1b[1;31mforwarding\x1b[0m\n"), "{coloured}");
        let healthy = Verdict { node: "a".to_owned(), ..Verdict::default() };
        assert_eq!(text(&healthy, Colour::No), "a: no finding\n");
    }

    #[test]
    fn scripts_go_by_the_exit_code() {
        let mut verdict = verdict();
        assert_eq!(verdict.exit_code(), 1);
        verdict.findings.clear();
        assert_eq!(verdict.exit_code(), 2);
        verdict.unchecked.clear();
        assert_eq!(verdict.exit_code(), 0);
    }
}
