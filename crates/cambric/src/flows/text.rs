//! A flow in a line or two.

use std::time::SystemTime;

use lab::capture::clock;
use trace::flow::{NamedFlow, Traffic, Verdict};
use trace::journey::{EndView, address};

use crate::terminal::labelled;

/// How a flow is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    /// With the node, as there are several.
    pub(super) several: bool,
    /// With the time of day (UTC).
    pub(super) clock: bool,
    /// With colours (ECMA-48).
    pub(super) colour: bool,
}

/// The width of the longest verdict, and a blank.
const VERDICT: usize = 12;
/// The width of a time of day to the second, and a blank.
const CLOCK: usize = 9;

pub(super) fn line(flow: &NamedFlow, now: SystemTime, style: &Style) -> String {
    let mut words = vec![flow.protocol.clone(), end(&flow.client)];
    words.extend(flow.seen_as.iter().map(|end_| format!("(as {})", end(end_))));
    words.push(">".to_owned());
    // A service's own address says no more than its name; a node's says where the client has asked.
    if flow.service.is_none() || flow.destination.kind != "service" {
        words.push(end(&flow.destination));
    }
    if let Some(service) = &flow.service {
        if flow.destination.kind != "service" {
            words.push(">".to_owned());
        }
        words.push(format!("service/{service}"));
    }
    if let Some(backend) = &flow.backend {
        words.extend([">".to_owned(), end(backend)]);
    }
    let more = [
        flow.traffic.as_ref().map(|sum| traffic(sum, flow.fast_path)),
        style.several.then(|| format!("at {}", flow.node)),
    ];
    let parts: Vec<String> = [words.join(" ")].into_iter().chain(more.into_iter().flatten()).collect();
    let words = parts.join(", ");

    let clock = if style.clock {
        clock(now).get(..CLOCK - 1).unwrap_or_default().to_owned() + " "
    } else {
        String::new()
    };
    let label = format!("{clock}{:<VERDICT$}", flow.verdict);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = labelled(&mut out, label.len(), &label, words.split(' '));
    match (style.colour, out.strip_prefix(&label)) {
        (true, Some(rest)) => {
            format!("{clock}\x1b[{}m{:<VERDICT$}\x1b[0m{rest}", colour(flow.verdict), flow.verdict)
        }
        _ => out,
    }
}

/// An end as it can be typed.
fn end(end: &EndView) -> String {
    let at = |name: &str| end.port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    match end.kind {
        "pod" if end.name == end.address.to_string() => {
            let node = end.node.as_deref().unwrap_or_default();
            format!("{} (a pod of {node})", address(end.address, end.port))
        }
        "pod" => at(&end.name),
        "outside" => address(end.address, end.port),
        kind => at(&format!("{kind}/{}", end.name)),
    }
}

/// Of what goes by the fast path connection tracking sees a part.
fn traffic(traffic: &Traffic, fast_path: bool) -> String {
    let least = if fast_path { "at least " } else { "" };
    format!("{least}{} out, {} back", bytes(traffic.sent_bytes), bytes(traffic.received_bytes))
}

/// A number of bytes in three digits or so.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Green for what is well, red for what is not (ECMA-48, 8.3.117).
fn colour(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::New | Verdict::Closing => "33",
        Verdict::Replied | Verdict::Established => "32",
        Verdict::Closed => "2",
        Verdict::Refused | Verdict::Unanswered => "31;1",
    }
}

#[cfg(test)]
mod tests {
    use model::{Family, NodeName, ObjectName};
    use plan::services::ServicePortName;

    use super::*;

    fn view(kind: &'static str, name: &str, at: &str, port: u16) -> EndView {
        EndView {
            kind,
            name: name.to_owned(),
            node: Some("node-2".to_owned()),
            address: at.parse().unwrap(),
            port: Some(port),
        }
    }

    fn flow() -> NamedFlow {
        let service = ObjectName::new("default", "web");
        NamedFlow {
            node: NodeName::new("node-1").unwrap(),
            id: 1,
            zone: 0,
            family: Family::V4,
            protocol: "TCP".to_owned(),
            verdict: Verdict::Established,
            state: Some("ESTABLISHED"),
            client: view("pod", "default/client", "10.244.1.2", 40_000),
            destination: view("service", "default/web", "10.96.0.1", 80),
            service: Some(ServicePortName { service, port: "http".into() }),
            backend: Some(view("pod", "default/web-2", "10.244.2.2", 8080)),
            seen_as: None,
            traffic: Some(Traffic {
                sent_bytes: 512,
                sent_packets: 4,
                received_bytes: 1_300_000,
                received_packets: 900,
            }),
            fast_path: false,
            begun: None,
            tunnel: false,
        }
    }

    #[test]
    fn flows_are_lines_of_eighty_columns() {
        let style = Style { several: true, ..Style::default() };
        let now = SystemTime::UNIX_EPOCH;
        let text = line(&flow(), now, &style);
        let expected = "established TCP default/client:40000 > service/default/web:http >
            default/web-2:8080, 512 B out, 1.2 MiB back, at node-1\n";
        assert_eq!(text, expected);
        let by_fast_path = line(&NamedFlow { fast_path: true, ..flow() }, now, &style);
        assert!(by_fast_path.contains("at least 512 B out"), "{by_fast_path}");
        let long = "a-deployment-with-a-name-7d9c5b4f6-x7k2p";
        let outside = NamedFlow {
            verdict: Verdict::Refused,
            client: view("outside", "2001:db8::1", "2001:db8::1", 40_000),
            destination: view("node", "node-1", "2001:db8::11", 30_080),
            backend: Some(view("pod", &format!("namespace/{long}"), "fd00::1", 8080)),
            seen_as: Some(view("node", "node-1", "fd00::2", 40_000)),
            traffic: None,
            ..flow()
        };
        let style = Style { clock: true, ..style };
        let text = line(&outside, now, &style);
        assert!(
            text.starts_with("00:00:00 refused     TCP [2001:db8::1]:40000 (as node/node-1:40000)"),
            "{text}"
        );
        assert!(text.contains("node/node-1:30080 >"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let coloured = line(&outside, now, &Style { colour: true, ..style });
        assert_eq!(coloured.replace("\x1b[31;1m", "").replace("\x1b[0m", ""), text);
        assert_ne!(coloured, text);
    }

    #[test]
    fn a_pod_without_a_name_has_its_node() {
        assert_eq!(end(&view("pod", "10.244.2.9", "10.244.2.9", 53)), "10.244.2.9:53 (a pod of node-2)");
    }

    #[test]
    fn bytes_are_rounded() {
        for (number, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 * 1024, "10 KiB"), (5 << 30, "5.0 GiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }
}
