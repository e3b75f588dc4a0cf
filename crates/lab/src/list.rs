//! What labs there are.

use std::fs;
use std::io::Write;

use serde::Serialize;

use crate::state::{self, State};
use crate::{Error, Result, topology};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    status: Status,
    nodes: Vec<String>,
    processes: Vec<Running>,
    api: Option<String>,
    kubeconfig: std::path::PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    process: String,
    pid: i32,
    running: bool,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// Everything runs.
    Up,
    /// A process of it has ended.
    Degraded,
    /// Another command is just bringing it up.
    ComingUp,
    /// It never came up, and nobody is at it any more.
    Incomplete,
}

/// Prints all labs as a table or as JSON.
///
/// # Errors
/// [`Error::Io`] if the labs' directory or standard output cannot be used.
pub fn print(json: bool) -> Result<()> {
    let entries: Vec<Entry> =
        state::labs()?.iter().filter_map(|lab| entry(&State::read(lab).ok()?)).collect();
    let text = match json {
        true => serde_json::to_string_pretty(&entries)
            .map_err(|error| Error::system("print the labs as JSON", std::io::Error::from(error)))?,
        false => table(&entries),
    };
    writeln!(std::io::stdout(), "{text}").map_err(|error| Error::system("write to standard output", error))
}

fn entry(state: &State) -> Option<Entry> {
    let paths = state.lab.paths();
    let nodes = topology::load(&paths.topology())
        .map_or_else(|_| Vec::new(), |topology| topology.nodes().map(|node| node.name.clone()).collect());
    let processes: Vec<Running> = state
        .processes
        .iter()
        .map(|process| Running {
            process: process.role.to_string(),
            pid: process.id.pid,
            running: process.id.is_running(),
        })
        .collect();
    let busy = state.busy.is_some_and(|busy| busy.is_running());
    let status = match (state.complete, busy) {
        (true, _) if processes.iter().all(|process| process.running) => Status::Up,
        (true, _) => Status::Degraded,
        (false, true) => Status::ComingUp,
        (false, false) => Status::Incomplete,
    };
    let port = fs::read_to_string(paths.api_port()).ok();
    let api = port.map(|port| format!("https://127.0.0.1:{}", port.trim()));
    Some(Entry { name: state.lab.to_string(), status, nodes, processes, api, kubeconfig: paths.kubeconfig() })
}

fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no lab is up; start one with: cambric lab up".to_owned();
    }
    let mut text = format!("{:<20} {:<10} {:>5}  {:<24} KUBECONFIG", "LAB", "STATUS", "NODES", "API");
    for entry in entries {
        let status = match entry.status {
            Status::Up => "up",
            Status::Degraded => "degraded",
            Status::ComingUp => "coming up",
            Status::Incomplete => "incomplete",
        };
        let api = entry.api.as_deref().unwrap_or("-");
        let (name, nodes) = (&entry.name, entry.nodes.len());
        let kubeconfig = entry.kubeconfig.display();
        text += &format!("\n{name:<20} {status:<10} {nodes:>5}  {api:<24} {kubeconfig}");
        for process in entry.processes.iter().filter(|process| !process.running) {
            text += &format!("\n  the {} does not run", process.process);
        }
    }
    text
}
