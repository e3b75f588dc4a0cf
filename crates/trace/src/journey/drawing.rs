//! A small drawing of a way: a box for each node, with the links in it, and what is between the boxes.

use super::text::WIDTH;
use super::{Journey, Place, Point, Route, Way, address};

/// The characters that a drawing is made of.
struct Pen {
    top: [char; 2],
    bottom: [char; 2],
    across: char,
    down: char,
    tee: char,
    tip: char,
    to: &'static str,
    lost: &'static str,
}

const UNICODE: Pen = Pen {
    top: ['┌', '┐'],
    bottom: ['└', '┘'],
    across: '─',
    down: '│',
    tee: '┬',
    tip: '▼',
    to: " → ",
    lost: "✗",
};
const ASCII: Pen = Pen {
    top: ['+', '+'],
    bottom: ['+', '+'],
    across: '-',
    down: '|',
    tee: '+',
    tip: 'v',
    to: " -> ",
    lost: "X",
};

/// A machine that the packet comes through, and how it leaves it.
struct Station {
    title: String,
    links: Vec<String>,
    carried: String,
}

/// Draws a way there.
pub fn draw(journey: &Journey, route: &Route, ascii: bool) -> String {
    let pen = if ascii { ASCII } else { UNICODE };
    let stations = stations(journey, route, &pen);
    let inner = stations.iter().flat_map(|station| {
        let lines = lines(station, &pen).into_iter().map(|line| line.chars().count());
        lines.chain([station.title.chars().count() + 2])
    });
    let width = inner.max().unwrap_or_default().clamp(30, WIDTH - 4);
    let mut text = String::new();
    for (index, station) in stations.iter().enumerate() {
        let rule = |length: usize| pen.across.to_string().repeat(length);
        let title = format!(" {} ", station.title);
        let rest = (width + 1).saturating_sub(title.chars().count());
        text += &format!("{}{}{title}{}{}\n", pen.top[0], pen.across, rule(rest), pen.top[1]);
        for line in lines(station, &pen) {
            let fill = width.saturating_sub(line.chars().count());
            text += &format!("{} {line}{:fill$} {}\n", pen.down, "", pen.down);
        }
        if index + 1 == stations.len() {
            text += &format!("{}{}{}\n", pen.bottom[0], rule(width + 2), pen.bottom[1]);
        } else {
            text += &format!("{}{}{}{}{}\n", pen.bottom[0], rule(3), pen.tee, rule(width - 2), pen.bottom[1]);
            text += &format!("    {} {}\n", pen.tip, station.carried);
        }
    }
    text
}

fn stations(journey: &Journey, route: &Route, pen: &Pen) -> Vec<Station> {
    let mut stations: Vec<Station> = Vec::new();
    if journey.source.kind == "outside" {
        stations.push(Station {
            title: "outside".to_owned(),
            links: vec![journey.source.address.to_string()],
            carried: route.points.first().map(carried).unwrap_or_default(),
        });
    } else if journey.source.kind == "node" {
        stations.push(Station {
            title: journey.source.name.clone(),
            links: vec![format!("itself {}", journey.source.address)],
            carried: String::new(),
        });
    }
    for point in route.points.iter().filter(|point| point.always) {
        let (title, link) = match &point.place {
            Place::Node(node) => (node.clone(), point.link.clone()),
            Place::Pod(name) => {
                let of_pod = |end: &super::EndView| end.name == *name;
                let ends = [Some(&journey.source), route.end.as_ref()];
                let end = match point.way {
                    Way::Out => ends[0],
                    Way::In => ends[1].filter(|end| of_pod(end)),
                };
                let node = end.and_then(|end| end.node.clone()).unwrap_or_default();
                let port = point.port.filter(|_| point.way == Way::In);
                let own = if point.way == Way::In { point.destination } else { point.source };
                (node, format!("{name} {}", address(own, port)))
            }
        };
        match stations.last_mut().filter(|station| station.title == title) {
            Some(station) => {
                // A link that it comes by and leaves by is one.
                if station.links.last() != Some(&link) {
                    station.links.push(link);
                }
                station.carried = carried(point);
            }
            None => stations.push(Station { title, links: vec![link], carried: carried(point) }),
        }
    }
    match (&route.end, &route.lost) {
        (Some(end), None) if end.kind == "outside" => stations.push(Station {
            title: "outside".to_owned(),
            links: vec![address(end.address, end.port)],
            carried: String::new(),
        }),
        (Some(end), _) if end.kind == "node" => {
            let itself = format!("itself {}", address(end.address, end.port));
            if let Some(station) = stations.last_mut() {
                station.links.push(itself);
            }
        }
        (None, Some(lost)) => {
            let mark = format!("{} lost", pen.lost);
            match stations.last_mut().filter(|station| station.title == lost.node) {
                Some(station) => station.links.push(mark),
                None => stations.push(Station {
                    title: lost.node.clone(),
                    links: vec![mark],
                    carried: String::new(),
                }),
            }
        }
        _ => {}
    }
    stations
}

fn carried(point: &Point) -> String {
    match &point.outer {
        Some(outer) => outer.to_string(),
        None => format!("{} > {}", point.source, address(point.destination, point.port)),
    }
}

/// The links of a station, as many on a line as fit.
fn lines(station: &Station, pen: &Pen) -> Vec<String> {
    let mut lines = vec![String::new()];
    for (index, link) in station.links.iter().enumerate() {
        let piece = if index == 0 { link.clone() } else { format!("{}{link}", pen.to) };
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + piece.chars().count() > WIDTH - 4 {
            lines.push(format!("  {}", piece.trim_start()));
        } else if let Some(line) = lines.last_mut() {
            line.push_str(&piece);
        }
    }
    lines
}
