//! What a kubelet has written down about a pod, so that the next life of the kubelet takes it over as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cni::{Attachment, NetworkList};
use crate::process::ProcessId;
use crate::state::{private_directory, replace};
use crate::{Error, Result};

/// One pod on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// When the kubelet first saw the pod (RFC 3339).
    pub(super) start_time: String,
    /// `None` for a pod in the node's own namespace, and before there is one.
    pub(super) sandbox: Option<Sandbox>,
    /// By the container's name, init containers too.
    pub(super) containers: BTreeMap<String, ContainerRecord>,
}

/// The namespace of a pod, and how it is attached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sandbox {
    pub(super) network: NetworkList,
    pub(super) attachment: Attachment,
    /// What ADD answered; `None` while it has not.
    pub(super) result: Option<Value>,
}

impl Sandbox {
    /// The addresses without their prefix lengths, in the order of the result.
    pub(super) fn addresses(&self) -> Vec<String> {
        let ips = self.result.as_ref().and_then(|result| result["ips"].as_array());
        let addresses = ips.into_iter().flatten().filter_map(|ip| ip["address"].as_str());
        addresses.map(|address| address.split('/').next().unwrap_or(address).to_owned()).collect()
    }
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerRecord {
    pub(super) state: ContainerState,
    pub(super) last: Option<Ended>,
    pub(super) restarts: u32,
    pub(super) ready: bool,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ContainerState {
    Waiting { reason: String, message: String },
    Running { process: ProcessId, since: String },
    Ended(Ended),
}

impl Default for ContainerState {
    fn default() -> Self {
        Self::Waiting { reason: "ContainerCreating".into(), message: String::new() }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended {
    /// The exit status, 128 and the signal's number, or 137 if nobody saw it.
    pub(super) code: i32,
    pub(super) started: String,
    pub(super) finished: String,
}

impl Record {
    pub(super) fn new(pod: &Pod) -> Option<Self> {
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            start_time: now(),
            sandbox: None,
            containers: BTreeMap::new(),
        })
    }

    /// What is written about the container; that it is being created if there is nothing.
    pub(super) fn container(&self, name: &str) -> ContainerRecord {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    /// The process that the container had when it was last written about.
    pub(super) fn process(&self, name: &str) -> Option<ProcessId> {
        match self.containers.get(name)?.state {
            ContainerState::Running { process, .. } => Some(process),
            _ => None,
        }
    }
}

/// The time as the API writes it (RFC 3339, UTC, whole seconds).
pub(super) fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The records of a node, one file each.
#[derive(Debug, Clone)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    /// Takes the directory, which is made if need be.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        private_directory(directory, true)?;
        Ok(Self { directory: directory.into() })
    }

    /// All records. One that cannot be read is removed: nothing can be done with it, and what it spoke of is found by
    /// its namespace.
    pub(super) fn load(&self) -> Result<Vec<Record>> {
        let entries = fs::read_dir(&self.directory).map_err(|e| Error::io("read", &self.directory, e))?;
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| Error::io("read", &self.directory, e))?.path();
            let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            match serde_json::from_slice(&bytes) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "not the record of a pod; removed");
                    fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
                }
            }
        }
        Ok(records)
    }

    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.uid);
        let text = serde_json::to_vec(record).map_err(|error| Error::io("write", &path, error.into()))?;
        replace(&path, &text, 0o600)
    }

    pub(super) fn remove(&self, uid: &str) -> Result<()> {
        let path = self.path(uid);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }
}
