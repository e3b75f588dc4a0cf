//! What the page shows: whoever has it implements [`Source`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use trace::flow::NamedFlow;
use trace::journey::Scene;

use crate::picture::Ground;

/// A cluster, or a part of it, to be looked at. Its functions may block. They are called when somebody asks, and not again
/// before what they said is old.
pub trait Source: Send + Sync + 'static {
    /// What there is.
    ///
    /// # Errors
    /// Why that is not known, for the one who looks at the page.
    fn view(&self) -> Result<View, String>;

    /// The flows that connection tracking knows now, each once.
    ///
    /// # Errors
    /// Why that is not known.
    fn flows(&self, scene: &Scene) -> Result<Vec<NamedFlow>, String>;

    /// How old a view may be. Pages ask every two seconds.
    fn age(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// What the doctor says, node by node.
    ///
    /// # Errors
    /// Why that is not known.
    fn findings(&self) -> Result<Vec<Verdict>, String>;

    /// The BGP sessions, node by node; nothing of nodes that speak none.
    ///
    /// # Errors
    /// Why they are not known.
    fn sessions(&self) -> Result<Vec<Sessions>, String>;
}

/// What there is at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// The cluster.
    pub scene: Arc<Scene>,
    /// What is below it.
    pub ground: Ground,
}

/// What `cambric doctor --json` says of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The node.
    pub node: String,
    /// What hurts.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub unchecked: Vec<Remark>,
}

impl Verdict {
    /// What a run of `cambric doctor --json` has said; why it has not, if it has not.
    pub fn said(node: &str, output: &Output) -> Verdict {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let remark = Remark { check: "doctor".to_owned(), text };
            Verdict { node: node.to_owned(), findings: Vec::new(), unchecked: vec![remark] }
        })
    }
}

/// Something that hurts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check.
    pub check: String,
    /// The setting, link, file or object.
    pub place: String,
    /// What is so.
    pub what: String,
    /// Why it hurts.
    pub hurts: String,
    /// The command or the change that mends it.
    pub cure: String,
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// The check.
    pub check: String,
    /// Why.
    pub text: String,
}

/// The BGP sessions of a node, as its agent writes them down in `bgp.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// The node.
    #[serde(default)]
    pub node: String,
    /// What is wrong with its speaker as a whole.
    pub problems: Vec<String>,
    /// The sessions.
    pub sessions: Vec<Session>,
}

impl Sessions {
    /// Reads what a node's agent has written down; `None` if it has written nothing.
    ///
    /// # Errors
    /// If the file is there and cannot be used.
    pub fn read(node: &str, path: &Path) -> Result<Option<Sessions>, String> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let sessions: Sessions = serde_json::from_slice(&text)
            .map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
        Ok(Some(Sessions { node: node.to_owned(), ..sessions }))
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// As kubectl names the object.
    pub name: String,
    /// The peer's address.
    pub address: IpAddr,
    /// The peer's AS.
    pub asn: u32,
    /// As RFC 4271, section 8.2.2 names it.
    pub state: String,
    /// Since when it is up, or down, in seconds since 1970.
    pub since: u64,
    /// By family: prefixes received and told.
    pub prefixes: BTreeMap<String, Prefixes>,
    /// What went wrong last.
    #[serde(default)]
    pub last_error: Option<String>,
}

/// Prefixes of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    /// Received and taken.
    pub received: usize,
    /// Told.
    pub advertised: usize,
}
