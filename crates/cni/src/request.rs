//! What the runtime asks for: environment variables and the configuration on standard input.

use std::collections::BTreeSet;
use std::path::PathBuf;

use model::{AttachmentId, LinkName};
use serde_json::{Map, Value};

use crate::args::Args;
use crate::error::{Error, code};
use crate::ipam;
use crate::result::Reported;
use crate::version::Version;

/// Where the agent puts the node file.
pub const DEFAULT_NODE_FILE: &str = "/run/cambric/node.json";

/// The `CNI_*` environment variables as they came. One that is empty is the same as none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container_id: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    pub ifname: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Attach a container.
    Add {
        /// The configuration.
        config: Config,
        /// The container's interface.
        target: Target,
        /// The pod, if the runtime says which.
        args: Args,
        /// What plugins before this one in the chain made.
        previous: Option<Reported>,
    },
    /// Detach a container.
    Del {
        /// The configuration.
        config: Config,
        /// The attachment.
        id: AttachmentId,
    },
    /// See whether a container is still attached as it was.
    Check {
        /// The configuration.
        config: Config,
        /// The container's interface.
        target: Target,
        /// What ADD reported, with the changes of plugins after this one.
        previous: Reported,
    },
    /// See whether an ADD would work.
    Status {
        /// The configuration.
        config: Config,
    },
    /// Remove what belongs to no attachment.
    Gc {
        /// The configuration.
        config: Config,
        /// The attachments of the network that are there.
        valid: BTreeSet<AttachmentId>,
    },
    /// Say which versions of the spec are spoken.
    Version {
        /// `cniVersion` of the input, whatever it is.
        version: String,
    },
}

/// The interface in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The container and the interface's name.
    pub id: AttachmentId,
    /// The path of the container's network namespace.
    pub netns: PathBuf,
    /// The interface's name, which the kernel would take.
    pub link: LinkName,
}

/// The plugin's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The version of the spec that is spoken.
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// Where the agent says what to attach to.
    pub node_file: PathBuf,
    /// Where addresses are kept.
    pub data_dir: PathBuf,
    /// `dns`, which goes into the result as it is.
    pub dns: Option<Value>,
}

impl Request {
    /// Makes a request from the environment and the content of standard input. Nothing is read or touched.
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`], [`code::DECODE`], [`code::INCOMPATIBLE_VERSION`] and [`code::INVALID_CONFIG`],
    /// naming the variable or field, its value, and what would be right. With the error comes the version to
    /// answer in.
    pub fn parse(environment: &Environment, input: &[u8]) -> Result<Request, (Version, Error)> {
        let command = environment.command.as_deref().unwrap_or_default();
        if !matches!(command, "ADD" | "DEL" | "CHECK" | "STATUS" | "GC" | "VERSION") {
            let why =
                format!("CNI_COMMAND is \"{command}\"; it would be ADD, DEL, CHECK, STATUS, GC or VERSION");
            let error =
                Error::new(code::INVALID_ENVIRONMENT, "invalid environment variable CNI_COMMAND", why);
            return Err((Version::NEWEST, error));
        }
        let object = decode(command, input).map_err(|error| (Version::NEWEST, error))?;
        let version = object.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
        if command == "VERSION" {
            let version = if version.is_empty() { Version::NEWEST.as_str() } else { version };
            return Ok(Request::Version { version: version.to_owned() });
        }
        let version = spoken(command, object.get("cniVersion")).map_err(|error| (Version::NEWEST, error))?;
        Request::of(command, environment, &object, version).map_err(|error| (version, error))
    }

    fn of(
        command: &str,
        environment: &Environment,
        object: &Map<String, Value>,
        version: Version,
    ) -> Result<Request, Error> {
        let config = Config::parse(object, version)?;
        match command {
            "STATUS" => return Ok(Request::Status { config }),
            "GC" => return Ok(Request::Gc { config, valid: valid_attachments(object)? }),
            _ => {}
        }
        let required: &[(&str, &Option<String>)] = &[
            ("CNI_CONTAINERID", &environment.container_id),
            ("CNI_IFNAME", &environment.ifname),
            ("CNI_NETNS", &environment.netns),
        ];
        // DEL does without a namespace; it may be gone.
        let required = if command == "DEL" { &required[..2] } else { required };
        let present = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
        let missing: Vec<_> =
            required.iter().filter(|(_, value)| !present(value)).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            let names = missing.join(", ");
            return Err(Error::new(
                code::INVALID_ENVIRONMENT,
                format!("missing environment variables {names}"),
                format!("{command} needs {names}"),
            ));
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let container_id = text(&environment.container_id);
        if !is_identifier(&container_id) {
            return Err(invalid_variable("CNI_CONTAINERID", &container_id, IDENTIFIER));
        }
        let ifname = text(&environment.ifname);
        let link = LinkName::new(ifname.clone()).map_err(|error| {
            Error::new(code::INVALID_ENVIRONMENT, "invalid environment variable CNI_IFNAME", {
                format!("CNI_IFNAME: {error}")
            })
        })?;
        let id = AttachmentId { container_id, ifname };
        if command == "DEL" {
            // What it was called with does not matter to what is removed.
            return Ok(Request::Del { config, id });
        }
        let netns = PathBuf::from(text(&environment.netns));
        if !netns.is_absolute() {
            let right = "the absolute path of a network namespace, such as /run/netns/blue";
            return Err(invalid_variable("CNI_NETNS", &netns.to_string_lossy(), right));
        }
        let target = Target { id, netns, link };
        let previous = object.get("prevResult").filter(|value| !value.is_null());
        let previous = previous.map(Reported::parse).transpose()?;
        if command == "ADD" {
            let args = Args::parse(environment.args.as_deref().unwrap_or_default())?;
            return Ok(Request::Add { config, target, args, previous });
        }
        let previous = previous.ok_or_else(|| {
            invalid_field("prevResult is missing; CHECK needs the result of the ADD before it".to_owned())
        })?;
        Ok(Request::Check { config, target, previous })
    }
}

impl Config {
    fn parse(object: &Map<String, Value>, version: Version) -> Result<Config, Error> {
        let name = field(object, "name")?.unwrap_or_default();
        if !is_identifier(&name) {
            return Err(invalid_field(format!("name is \"{name}\"; it would be {IDENTIFIER}")));
        }
        let path = |key, default: &str| -> Result<PathBuf, Error> {
            let path = PathBuf::from(field(object, key)?.unwrap_or_else(|| default.to_owned()));
            if path.is_absolute() {
                return Ok(path);
            }
            Err(invalid_field(format!(
                "{key} is \"{}\"; it would be an absolute path such as {default}",
                path.display()
            )))
        };
        let dns = object.get("dns").filter(|dns| !dns.is_null()).cloned();
        if let Some(dns) = dns.as_ref().filter(|dns| !dns.is_object()) {
            return Err(invalid_field(format!(
                "dns is {dns}; it would be an object such as {{\"nameservers\":[]}}"
            )));
        }
        Ok(Config {
            version,
            name,
            node_file: path("nodeFile", DEFAULT_NODE_FILE)?,
            data_dir: path("dataDir", ipam::DEFAULT_DATA_DIR)?,
            dns,
        })
    }
}

const IDENTIFIER: &str =
    "a letter or digit, followed by letters, digits, '_', '.' and '-', at most 255 in all";

/// Names of networks and containers (CNI spec 1.1.0, sections 1 and 2). Both become names of files or their content.
fn is_identifier(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.len() <= 255 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(inner)
}

fn decode(command: &str, input: &[u8]) -> Result<Map<String, Value>, Error> {
    if command == "VERSION" && input.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(input) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::new(
            code::DECODE,
            "the network configuration is no JSON object",
            "standard input holds a JSON value that is no object; it would look like \
             {\"cniVersion\":\"1.1.0\",\"name\":\"cambric\",\"type\":\"cambric\"}",
        )),
        Err(error) => Err(Error::new(
            code::DECODE,
            "the network configuration is no JSON",
            format!("standard input: {error}"),
        )),
    }
}

/// The version to speak, if it has the command.
fn spoken(command: &str, version: Option<&Value>) -> Result<Version, Error> {
    let incompatible = |why| Error::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", why);
    let text = version.map_or_else(|| "missing".to_owned(), Value::to_string);
    let spoken = version.and_then(Value::as_str).and_then(Version::parse).ok_or_else(|| {
        let all = Version::ALL.map(Version::as_str).join(", ");
        incompatible(format!("cniVersion is {text}; this plugin speaks {all}"))
    })?;
    let since = match command {
        "CHECK" => Version::V0_4_0,
        "STATUS" | "GC" => Version::V1_1_0,
        _ => Version::V0_3_0,
    };
    if spoken < since {
        return Err(incompatible(format!("cniVersion is {spoken}; {command} came with {since}")));
    }
    Ok(spoken)
}

/// `cni.dev/valid-attachments`; a misprint in the spec called it `cni.dev/attachments` for a while.
fn valid_attachments(object: &Map<String, Value>) -> Result<BTreeSet<AttachmentId>, Error> {
    const KEY: &str = "cni.dev/valid-attachments";
    let list = object.get(KEY).or_else(|| object.get("cni.dev/attachments"));
    // libcni leaves the list out when there is nothing in it.
    let list = match list {
        Some(Value::Array(list)) => list,
        None | Some(Value::Null) => &Vec::new(),
        Some(other) => return Err(invalid_field(format!("{KEY} is {other}; it would be a list"))),
    };
    let attachment = |(index, entry): (usize, &Value)| {
        let text = |key| {
            entry.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
                invalid_field(format!(
                    "{KEY}[{index}] is {entry}; {key} is no text; it would look like \
                     {{\"containerID\":\"3f69\",\"ifname\":\"eth0\"}}"
                ))
            })
        };
        Ok(AttachmentId { container_id: text("containerID")?, ifname: text("ifname")? })
    };
    list.iter().enumerate().map(attachment).collect()
}

/// A field of the configuration that is a text, if it is there.
fn field(object: &Map<String, Value>, key: &str) -> Result<Option<String>, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(invalid_field(format!("{key} is {other}; it would be a text"))),
    }
}

fn invalid_variable(name: &str, value: &str, right: &str) -> Error {
    let why = format!("{name} is \"{value}\"; it would be {right}");
    Error::new(code::INVALID_ENVIRONMENT, format!("invalid environment variable {name}"), why)
}

fn invalid_field(why: String) -> Error {
    Error::new(code::INVALID_CONFIG, "invalid network configuration", why)
}

#[cfg(test)]
mod tests;
