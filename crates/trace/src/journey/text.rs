//! A journey in words, 80 columns wide.

use std::fmt::Write;

use super::{Action, EndView, HopView, Journey, Route, address, drawing};

/// The width of the text, in columns.
pub(crate) const WIDTH: usize = 80;
/// How many ends are listed one by one.
const LISTED: usize = 6;

/// What the fast path makes of packets that follow.
const FAST_PATH: &str = "this is the way of the first packets; once the connection is settled, packets between pods go by the \
    fast path: the same in pods and on uplinks, past bridges, tunnels and rules (cambric status fastpath on the node)";

/// How a journey is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Every way in full, not only one.
    pub all: bool,
    /// The way that is shown in full, by its position; the first if there is none such.
    pub way: usize,
    /// Every rule, also those that only let pass.
    pub rules: bool,
    /// No characters but those of ASCII.
    pub ascii: bool,
    /// With colours (ECMA-48).
    pub colour: bool,
}

/// The journey, ready to be printed.
pub fn render(journey: &Journey, style: &Style) -> String {
    let one = if style.way < journey.ways.len() { style.way } else { 0 };
    let mut text = head(journey, one, style);
    for (index, route) in journey.ways.iter().enumerate() {
        if style.all && journey.ways.len() > 1 {
            let _ = write!(text, "\nway {} of {}{}\n", index + 1, journey.ways.len(), share(route));
        }
        if style.all || index == one {
            text += &way(journey, route, style);
        }
    }
    if journey.fast_path {
        text += &wrapped("note: ", FAST_PATH);
    }
    if let Some(assumed) = &journey.assumed {
        text += &wrapped("note: ", assumed);
    }
    text
}

fn head(journey: &Journey, shown: usize, style: &Style) -> String {
    let Journey { source, destination, protocol, ways, .. } = journey;
    let (from, to) = (named(source), named(destination));
    let mut text = wrapped("", &format!("{from} to {to}, {protocol}"));
    if let [only] = ways.as_slice() {
        if only.lost.is_none() && destination.kind == "service" {
            let _ = writeln!(text, "the service has one endpoint for it");
        }
        return text;
    }
    let full = if style.all { "each" } else { "the one with *" };
    let _ = writeln!(text, "{} ways, {} in full:", ways.len(), full);
    // The one that is shown is listed in any case.
    let listed = ways.iter().enumerate().filter(|(index, _)| *index < LISTED || *index == shown);
    for (index, route) in listed {
        let end = match &route.end {
            Some(end) => format!("{}{}", end_at(end), on(end)),
            None => "lost".to_owned(),
        };
        let mark = if index == shown && !style.all { "*" } else { " " };
        let _ = writeln!(text, "{mark} {end}{}", share(route));
    }
    if ways.len() > LISTED {
        let _ = writeln!(text, "  and {} more (--json has all)", ways.len() - LISTED);
    }
    text
}

fn share(route: &Route) -> String {
    if route.one_in == 1 { String::new() } else { format!("  1 in {}", route.one_in) }
}

fn on(end: &EndView) -> String {
    end.node.as_ref().filter(|_| end.kind == "pod").map(|node| format!(" on {node}")).unwrap_or_default()
}

fn named(end: &EndView) -> String {
    let at = address(end.address, end.port);
    match end.kind {
        "outside" => format!("{at} outside"),
        kind => format!("{kind} {} {at}", end.name),
    }
}

fn end_at(end: &EndView) -> String {
    let at = address(end.address, end.port);
    if end.kind == "outside" { format!("{at} outside") } else { format!("{} {at}", end.name) }
}

fn way(journey: &Journey, route: &Route, style: &Style) -> String {
    let mut text = "\n".to_owned() + &drawing::draw(journey, route, style.ascii) + "\n";
    text += &paint("there\n", "1", style);
    text += &legs(&route.there, style);
    if !route.back.is_empty() {
        text += &paint("back\n", "1", style);
        text += &legs(&route.back, style);
    }
    if let Some(lost) = &route.lost {
        let what = if lost.answer { "the answer is lost" } else { "LOST" };
        let told = if lost.told { "; the sender is told at once" } else { "; the sender is not told" };
        let object = lost.object.as_ref().map(|object| format!(" ({object})")).unwrap_or_default();
        let line = wrapped(&format!("{what} on {}: ", lost.node), &format!("{}{object}{told}", lost.why));
        text += &paint(&line, "31;1", style);
    }
    text
}

fn legs(hops: &[HopView], style: &Style) -> String {
    let width = hops.iter().map(|hop| hop.node.len()).max().unwrap_or_default().min(20);
    let mut text = String::new();
    let mut at = "";
    let mut element: Option<&HopView> = None;
    for hop in hops {
        match hop.action {
            // What a map element decides is told with what comes of it.
            Action::Rule if hop.element.is_some() && !style.rules => {
                element = Some(hop);
                continue;
            }
            Action::Rule if !style.rules => continue,
            Action::Lose => continue,
            _ => {}
        }
        let node = if at == hop.node { "" } else { hop.node.as_str() };
        at = &hop.node;
        let by = element.take().filter(|_| hop.action == Action::RewriteDestination).unwrap_or(hop);
        let by = by.element.as_ref();
        let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
        let object = hop.object.as_ref().map(|object| format!(" ({object})")).unwrap_or_default();
        text += &wrapped(&format!("  {node:<width$}  "), &format!("{}{by}{object}", hop.text));
    }
    text
}

/// A text after a heading, broken between words; what does not fit goes on under the text's beginning.
pub fn wrapped(heading: &str, text: &str) -> String {
    let indent = heading.chars().count();
    let mut out = heading.to_owned();
    let mut column = indent;
    let mut begun = false;
    for word in text.split(' ') {
        let length = word.chars().count();
        if begun && column + 1 + length > WIDTH {
            let deeper = if indent == 0 { 2 } else { indent + 2 };
            let _ = write!(out, "\n{:deeper$}", "");
            column = deeper;
        } else if begun {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
        begun = true;
    }
    out + "\n"
}

fn paint(text: &str, code: &str, style: &Style) -> String {
    if style.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
