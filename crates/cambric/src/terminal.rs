//! What is printed for people: 80 columns, and colours only where they are wanted.

use std::fmt::{self, Write};
use std::io::IsTerminal;

/// How wide a terminal is at least.
pub(crate) const WIDTH: usize = 80;

/// Whether what goes to `stream` may have colours.
pub(crate) fn in_colour(stream: &impl IsTerminal) -> bool {
    // https://no-color.org: any value but the empty one.
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// A label, and from column `indent` on words in as many lines as they need.
pub(crate) fn labelled<'a>(
    out: &mut String,
    indent: usize,
    label: &str,
    words: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    let mut column = indent;
    write!(out, "{label:<indent$}")?;
    for (index, word) in words.enumerate() {
        let width = word.chars().count();
        if index > 0 && column + 1 + width > WIDTH {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        } else if index > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    writeln!(out)
}
