//! What BGP has told of the other nodes, on disk: an agent that is restarted goes by it until it is told anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use ipnet::IpNet;
use model::{Family, NodeName};
use plan::site::Contact;
use serde::{Deserialize, Serialize};

use super::core::Core;
use super::persist::boot_id;
use super::scribe::Scribe;
use crate::files::{read_json, replace};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    /// After another boot there are no tunnels that anybody could go on using.
    boot_id: String,
    node: NodeName,
    contacts: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    prefix: IpNet,
    seen: IpAddr,
    heard: Vec<(u32, Family)>,
}

/// Writes what was told when it is new, if there are nodes behind NAT gateways.
#[derive(Debug)]
pub(crate) struct ContactsFile {
    path: PathBuf,
    local: NodeName,
    scribe: Scribe,
}

impl ContactsFile {
    pub(crate) fn new(path: PathBuf, local: NodeName) -> ContactsFile {
        ContactsFile { path, local, scribe: Scribe::new("what BGP has told of other nodes") }
    }

    /// Puts what an earlier run has left into `core`.
    pub(crate) fn restore(&mut self, core: &mut Core) {
        match load(&self.path, &self.local) {
            Ok(Some(told)) => {
                core.restore_contacts(told);
                self.scribe.kept = Some(core.contacts().revision);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "what the last run was told is of no use");
            }
        }
    }

    /// Begins to write what is new, if it is time.
    pub(crate) fn keep(&mut self, core: &Core, now: Instant) {
        let (path, local) = (&self.path, &self.local);
        self.scribe.keep(revision(core), now, || {
            let (path, local, told) = (path.clone(), local.clone(), core.contacts().known());
            Some(move || save(&path, local, &told))
        });
    }

    /// When there is something to do next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.scribe.deadline()
    }

    /// Writes what is new, and waits until it is written.
    pub(crate) fn finish(&mut self, core: &Core) {
        self.scribe.end(Instant::now());
        if revision(core).is_some_and(|revision| self.scribe.kept != Some(revision))
            && let Err(error) = save(&self.path, self.local.clone(), &core.contacts().known())
        {
            self.scribe.failed(&error, Instant::now());
        }
    }
}

/// Of what was told, if it is worth keeping: without gateways nothing is gone by it.
fn revision(core: &Core) -> Option<u64> {
    (core.has_plan() && core.has_sites()).then(|| core.contacts().revision)
}

fn save(path: &Path, node: NodeName, told: &BTreeMap<IpNet, Contact>) -> Result<()> {
    let entry = |(prefix, contact): (&IpNet, &Contact)| Entry {
        prefix: *prefix,
        seen: contact.seen,
        heard: contact.heard.iter().map(|(end, family)| (end.value(), *family)).collect(),
    };
    let file = File { boot_id: boot_id()?, node, contacts: told.iter().map(entry).collect() };
    replace(path, 0o600, |to| Ok(serde_json::to_writer(to, &file)?))
}

/// Reads what was written in this boot for this node; `None` if there is nothing.
fn load(path: &Path, local: &NodeName) -> Result<Option<BTreeMap<IpNet, Contact>>> {
    let Some(file) = read_json::<File>(path)? else { return Ok(None) };
    if file.boot_id != boot_id()? || file.node != *local {
        return Ok(None);
    }
    let contact = |Entry { prefix, seen, heard }| {
        let heard = heard.into_iter().map(|(end, family)| (end.into(), family)).collect();
        (prefix, Contact { seen, heard })
    };
    Ok(Some(file.contacts.into_iter().map(contact).collect()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use plan::site::End;

    use super::*;

    #[test]
    fn what_was_told_is_gone_by_until_all_have_told_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contacts.json");
        let local = NodeName::new("a").unwrap();
        let contact = |seen: &str, end: Option<u32>| Contact {
            seen: seen.parse().unwrap(),
            heard: end.map(|end| (End::from(end), Family::V6)).into_iter().collect(),
        };
        let [one, other]: [IpNet; 2] =
            ["10.244.1.0/24", "fd00:10:244:2::/64"].map(|text| text.parse().unwrap());
        let told: BTreeMap<IpNet, Contact> =
            [(one, contact("198.51.100.1", Some(u32::MAX))), (other, contact("2001:db8::1", None))].into();
        assert_eq!(load(&path, &local).unwrap(), None);
        save(&path, local.clone(), &told).unwrap();
        assert_eq!(load(&path, &NodeName::new("b").unwrap()).unwrap(), None);

        let mut core = Core::new(local.clone());
        ContactsFile::new(path.clone(), local.clone()).restore(&mut core);
        assert_eq!(core.contacts().known(), told);
        let new = contact("198.51.100.9", None);
        core.hear_contacts(vec![(one, Some(new.clone()))]);
        core.forget_earlier_contacts();
        assert_eq!(core.contacts().known(), [(one, new.clone())].into());
        // What this run was told does not go when BGP converges again.
        core.forget_earlier_contacts();
        assert_eq!(core.contacts().known(), [(one, new)].into());

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&boot_id().unwrap(), "another")).unwrap();
        assert_eq!(load(&path, &local).unwrap(), None);
        fs::write(&path, "{").unwrap();
        assert!(load(&path, &local).unwrap_err().to_string().contains("contacts.json cannot be used"));
    }
}
