//! The report as text of 80 columns, and as JSON.

mod service;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use super::evidence::{
    Carried, Connection, Evidence, Exchange, Forgery, RouteFinding, Row, Shown, Sighting, Way,
};
use super::judge::{Failure, Judged, ROUTES, Verdict, all_so};

/// Evidence and verdicts as one JSON object.
///
/// # Errors
/// None that these types can give.
pub fn json(evidence: &Evidence, judged: &[Judged]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Report<'a> {
        so: bool,
        rows: &'a [Judged],
        evidence: &'a Evidence,
    }
    serde_json::to_string_pretty(&Report { so: all_so(judged), rows: judged, evidence })
}

/// The report as text. With `details` every single thing that was tried comes before the table.
pub fn text(evidence: &Evidence, judged: &[Judged], details: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, evidence, judged, details);
    out
}

fn write_text(out: &mut String, evidence: &Evidence, judged: &[Judged], details: bool) -> std::fmt::Result {
    if details {
        write_details(out, evidence)?;
    }
    let families: Vec<String> = evidence.families.iter().map(ToString::to_string).collect();
    writeln!(
        out,
        "lab {}: {} nodes, {} pods, {}, {}\n",
        evidence.lab,
        evidence.nodes.len(),
        evidence.pods,
        families.join(" and "),
        evidence.encapsulation
    )?;
    writeln!(out, " #  {:<26}{:>5}  {:<17}{:<18}verdict", "row", "tried", "far end saw", "on the wire")?;
    for line in judged {
        write_line(out, evidence, line)?;
    }
    for line in judged {
        if let Verdict::NotSo(failures) = &line.verdict {
            write_failures(out, line, failures)?;
        }
    }
    let impossible = |line: &Judged| match &line.verdict {
        Verdict::Impossible(why) => Some(format!("row {}: {why}", line.row.number())),
        _ => None,
    };
    let impossible: Vec<String> = judged.iter().filter_map(impossible).collect();
    if !impossible.is_empty() {
        writeln!(out, "\nnot in this lab: {}", impossible.join("; "))?;
    }
    let predicted = evidence.exchanges.iter().filter(|exchange| exchange.predicted.is_some()).count()
        + evidence.connections.len();
    match all_so(judged) {
        true => writeln!(
            out,
            "\nThe plans of the nodes had predicted {predicted} of these ways; each was as captured."
        ),
        false => writeln!(out, "\nNot everything is as it should be."),
    }
}

fn write_line(out: &mut String, evidence: &Evidence, line: &Judged) -> std::fmt::Result {
    let main = line.title == line.row.title();
    let (verdict, shown) = match &line.verdict {
        Verdict::So => ("proved", true),
        Verdict::NotSo(_) => ("FAILED", true),
        Verdict::Impossible(_) => ("not here", false),
    };
    let number = if main { line.row.number().to_string() } else { String::new() };
    let title = if main { line.title.to_owned() } else { format!("  {}", line.title) };
    let connections: Vec<&Connection> = evidence
        .connections
        .iter()
        .filter(|one| one.row == line.row && one.aspect.title().unwrap_or(line.row.title()) == line.title)
        .collect();
    let (tried, saw, wire) = match (shown, main) {
        (false, _) => (String::new(), String::new(), String::new()),
        (true, _) if !connections.is_empty() => {
            (line.tried.to_string(), service::saw(evidence, &connections), service::wire(&connections))
        }
        (true, true) => {
            let exchanges: Vec<&Exchange> =
                evidence.exchanges.iter().filter(|exchange| exchange.row == line.row).collect();
            (line.tried.to_string(), saw(&exchanges), wire(&exchanges))
        }
        (true, false) if line.title == ROUTES => {
            let protocols = evidence.routes.iter().filter(|finding| finding.row == line.row);
            let protocols =
                protocols.flat_map(|finding| &finding.found).map(|route| route.protocol.to_string());
            (line.tried.to_string(), String::new(), format!("protocol {}", list(protocols)))
        }
        (true, false) => {
            let forgeries: Vec<&Forgery> = evidence
                .forgeries
                .iter()
                .filter(|forgery| forgery.row == line.row && forgery.kind.title() == line.title)
                .collect();
            let arrived = forgeries.iter().any(|forgery| forgery.arrived);
            let saw = if arrived { "the packet" } else { "nothing" };
            (line.tried.to_string(), saw.to_owned(), "sent, dropped".to_owned())
        }
    };
    let wire = if matches!(line.verdict, Verdict::NotSo(_)) && !main { "see below".to_owned() } else { wire };
    let row =
        format!("{number:>2}  {title:<26}{tried:>5}  {:<17}{:<18}{verdict}", cut(&saw, 16), cut(&wire, 17));
    writeln!(out, "{}", row.trim_end())
}

/// In a word or two, whom the far ends saw.
fn saw(exchanges: &[&Exchange]) -> String {
    let word = |exchange: &&Exchange| match &exchange.heard {
        Err(_) => "no answer".to_owned(),
        Ok(heard) if heard.source.ip() == exchange.from.address => "the sender".to_owned(),
        Ok(heard) if heard.source.ip() == exchange.expected.source => "its node".to_owned(),
        Ok(heard) => heard.source.ip().to_string(),
    };
    list(exchanges.iter().map(word))
}

/// In a word or two, how the packets were on the wire.
fn wire(exchanges: &[&Exchange]) -> String {
    let seen =
        exchanges.iter().flat_map(|exchange| exchange.wire.iter().map(|one| carried_word(one.carried)));
    match list(seen) {
        none if none.is_empty() => "nothing".to_owned(),
        words => words,
    }
}

fn carried_word(carried: Carried) -> String {
    match carried {
        Carried::Nowhere => "nothing".to_owned(),
        Carried::Plain { .. } => "plain".to_owned(),
        Carried::Vxlan { vni, .. } => format!("VXLAN {vni}"),
        Carried::Ipip { .. } => "IP in IP".to_owned(),
        Carried::Otherwise => "another tunnel".to_owned(),
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn write_failures(out: &mut String, line: &Judged, failures: &[Failure]) -> std::fmt::Result {
    writeln!(
        out,
        "\nrow {}, {}: {} of {} failed",
        line.row.number(),
        line.title,
        failures.len(),
        line.tried
    )?;
    for failure in failures {
        writeln!(out, "  {}", failure.tried)?;
        for fault in &failure.faults {
            writeln!(out, "    - {fault}")?;
        }
    }
    Ok(())
}

fn write_details(out: &mut String, evidence: &Evidence) -> std::fmt::Result {
    for row in Row::ALL {
        for shared in evidence.namespaces.iter().filter(|_| row == Row::Containers) {
            writeln!(
                out,
                "row 1  pod {} on {}: network namespace {}",
                shared.pod, shared.node, shared.inode
            )?;
            for (container, inode) in &shared.processes {
                writeln!(out, "       container {container}: {inode}")?;
            }
        }
        for exchange in evidence.exchanges.iter().filter(|exchange| exchange.row == row) {
            write_exchange(out, exchange)?;
        }
        for finding in evidence.routes.iter().filter(|finding| finding.row == row) {
            write_route(out, finding)?;
        }
        for connection in evidence.connections.iter().filter(|connection| connection.row == row) {
            service::write_connection(out, connection)?;
        }
        for forgery in evidence.forgeries.iter().filter(|forgery| forgery.row == row) {
            write_forgery(out, forgery)?;
        }
    }
    if !out.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}

fn write_exchange(out: &mut String, exchange: &Exchange) -> std::fmt::Result {
    let Exchange { row, from, to, transport, expected, .. } = exchange;
    writeln!(out, "row {}  {transport} {from} to {to}", row.number())?;
    writeln!(out, "       expected     source {}, on the wire {}", expected.source, expected.carried)?;
    match &exchange.heard {
        Ok(heard) => writeln!(out, "       far end saw  {} (says {})", heard.source, heard.by)?,
        Err(error) => writeln!(out, "       far end saw  {error}")?,
    }
    if let Some(predicted) = &exchange.predicted {
        writeln!(
            out,
            "       predicted    to {}, source {}, on the wire {}",
            predicted.end, predicted.source, predicted.carried
        )?;
        for step in &predicted.steps {
            writeln!(out, "                    {step}")?;
        }
    }
    write_wire(out, &exchange.wire)
}

fn write_wire(out: &mut String, wire: &[Sighting]) -> std::fmt::Result {
    for sighting in wire {
        let way = if sighting.way == Way::Out { "out" } else { "in " };
        writeln!(out, "       {} {way} {}", sighting.at, sighting.packet)?;
    }
    Ok(())
}

fn write_route(out: &mut String, finding: &RouteFinding) -> std::fmt::Result {
    let RouteFinding { row, at, destination, expected, found } = finding;
    let protocols: Vec<String> = expected.protocols.iter().map(ToString::to_string).collect();
    writeln!(out, "row {}  route at {at} to {destination}", row.number())?;
    writeln!(out, "       expected     {} proto {}", expected.way, protocols.join(" or "))?;
    for route in found {
        writeln!(out, "       there is     {}", Shown(route))?;
    }
    Ok(())
}

fn write_forgery(out: &mut String, forgery: &Forgery) -> std::fmt::Result {
    let Forgery { row, kind, from, to, pretended, .. } = forgery;
    writeln!(out, "row {}  {}: from {from} as {pretended} to {to}", row.number(), kind.title())?;
    match &forgery.seen {
        Some(packet) => writeln!(out, "       sent         {packet}")?,
        None => writeln!(out, "       sent         never seen")?,
    }
    writeln!(out, "       arrived      {}", if forgery.arrived { "yes" } else { "no" })?;
    match &forgery.control {
        Ok(true) => writeln!(out, "       the like from one who may send it arrived"),
        Ok(false) => writeln!(out, "       the like from one who may send it did not arrive"),
        Err(error) => writeln!(out, "       the like from one who may send it: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence::ForgeryKind;
    use super::super::judge::judge;
    use super::super::judge::tests::good;
    use super::*;

    #[test]
    fn the_table_fits_80_columns_and_says_what_was_seen() {
        let evidence = good();
        let text = text(&evidence, &judge(&evidence), false);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let line = |number: &str| text.lines().find(|line| line.starts_with(number)).unwrap().to_owned();
        assert_eq!(
            line(" 3"),
            " 3  pod to pod, other node        2  the sender       VXLAN 4096        proved"
        );
        assert_eq!(
            line(" 2"),
            " 2  pod to pod, same node         1  the sender       nothing           proved"
        );
        assert_eq!(
            line(" 7"),
            " 7  pod to outside                1  its node         plain             proved"
        );
        assert_eq!(
            line(" 4"),
            " 4  pod to service                1  sender           nothing           proved"
        );
        assert_eq!(
            line(" 6"),
            " 6  outside to service or pod     1  gateway          VXLAN 4096, plain proved"
        );
        assert_eq!(
            line(" 8"),
            " 8  no overlay                    1  the sender       plain             proved"
        );
        assert_eq!(
            line(" 9"),
            " 9  cross-subnet                  2  the sender       VXLAN 4096, plain proved"
        );
        assert!(
            line("      routes from BGP").ends_with("1                   protocol 186      proved"),
            "{text}"
        );
        assert_eq!(
            line("10"),
            "10  nodes behind NAT              1  sender           IP in IP          proved"
        );
        assert!(
            line("      no endpoint").ends_with("1  refusal          nothing           proved"),
            "{text}"
        );
        assert!(line("      VXLAN from").ends_with("1  nothing          sent, dropped     proved"), "{text}");
        assert!(text.contains("had predicted 12 of these ways"));
    }

    #[test]
    fn what_is_not_so_is_told_under_the_table() {
        let mut evidence = good();
        evidence.exchanges[0].heard = Err("no answer within 2 s".to_owned());
        evidence.forgeries[0].arrived = true;
        let text = text(&evidence, &judge(&evidence), false);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("FAILED"));
        assert!(text.contains("row 3, pod to pod, other node: 1 of 2 failed"), "{text}");
        assert!(text.contains("    - no answer within 2 s"), "{text}");
        assert!(text.contains(ForgeryKind::StrangersVxlan.title()) && text.contains("    - it arrived"));
        assert!(text.ends_with("Not everything is as it should be.\n"));
    }

    #[test]
    fn details_and_json_hold_all_evidence() {
        let evidence = good();
        let judged = judge(&evidence);
        let text = text(&evidence, &judged, true);
        for part in [
            "container left: 7",
            "far end saw  10.244.1.2:40000",
            "a out IP a > b",
            "predicted    to default",
            "came of it   default/web-3 saw 10.244.1.2, 3 times",
            "predicted    a refusal, on the wire nothing",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&json(&evidence, &judged).unwrap()).unwrap();
        assert_eq!(json["so"], true);
        assert_eq!(json["rows"][2]["row"], 3);
        assert_eq!(json["evidence"]["exchanges"][0]["wire"][0]["carried"]["vni"], 4096);
    }
}
