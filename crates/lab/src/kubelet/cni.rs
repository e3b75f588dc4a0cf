//! Calling CNI plugins as a container runtime does (CNI specification 1.1.0, sections 1 to 3).

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How long one call of one plugin may take.
const CALL_TIME: Duration = Duration::from_secs(60);

/// The newest version of the specification that is spoken here.
const NEWEST: Version = Version(1, 1, 0);

/// A network configuration list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkList {
    name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
    disable_gc: bool,
}

/// What is attached to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// `CNI_CONTAINERID`.
    pub(super) container_id: String,
    /// `CNI_NETNS`, the path of the namespace.
    pub(super) netns: PathBuf,
    /// `CNI_IFNAME`.
    pub(super) interface: String,
    /// `CNI_ARGS`, in their order.
    pub(super) args: Vec<(String, String)>,
    /// The host ports of the containers, for plugins with the capability `portMappings`.
    pub(super) port_mappings: Vec<PortMapping>,
}

/// One host port (section "portMappings" of the CNI conventions).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortMapping {
    /// The node's port, host byte order.
    pub(super) host_port: u16,
    /// The pod's port, host byte order.
    pub(super) container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: String,
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CniError {
    /// The directory of configurations cannot be read.
    #[error("cannot read the CNI configurations in {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A configuration that cannot be used.
    #[error("CNI configuration {path}: {why}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A plugin that does not exist.
    #[error("CNI plugin \"{plugin}\" of network \"{network}\" is not in {path}")]
    NoPlugin {
        /// The field `type`.
        plugin: String,
        /// The network's name.
        network: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A plugin that cannot be run, or does not end.
    #[error("CNI plugin \"{plugin}\": {command}: {why}")]
    Run {
        /// The field `type`.
        plugin: String,
        /// `CNI_COMMAND`.
        command: &'static str,
        /// What happened.
        why: String,
    },
    /// A plugin that says what is wrong.
    #[error("CNI plugin \"{plugin}\": {command}: {message}{} (code {code})", .details.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    Plugin {
        /// The field `type`.
        plugin: String,
        /// `CNI_COMMAND`.
        command: &'static str,
        /// `code`.
        code: u64,
        /// `msg`.
        message: String,
        /// `details`.
        details: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
        parts.next().is_none().then_some(version)
    }
}

impl NetworkList {
    /// The network of a node: the first configuration in the directory by the name of its file; `None` while there is
    /// none.
    ///
    /// # Errors
    /// [`CniError`] if the directory or that file cannot be read.
    pub(super) fn load(directory: &Path) -> Result<Option<Self>, CniError> {
        let failed = |source| CniError::Directory { path: directory.into(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|ext| ext == "conflist" || ext == "conf" || ext == "json") {
                files.push(path);
            }
        }
        let Some(path) = files.into_iter().min() else { return Ok(None) };
        let wrong = |why: String| CniError::Configuration { path: path.clone(), why };
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes).map(Some).map_err(wrong),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Parses a list, or a single plugin's configuration as a list of one.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct File {
            name: String,
            cni_version: Option<String>,
            #[serde(default)]
            cni_versions: Vec<String>,
            plugins: Option<Vec<Map<String, Value>>>,
            #[serde(default, rename = "disableGC")]
            disable_gc: bool,
        }
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let plugins = match file.plugins {
            Some(plugins) => plugins,
            None => vec![serde_json::from_slice(bytes).map_err(|error| error.to_string())?],
        };
        if plugins.is_empty() {
            return Err("plugins is empty; it must name at least one plugin".into());
        }
        if let Some(index) = plugins.iter().position(|plugin| plugin_type(plugin).is_empty()) {
            return Err(format!("plugins[{index}].type is missing; it must name the plugin's executable"));
        }
        let offered = file.cni_versions.iter().chain(&file.cni_version);
        let version = offered
            .filter(|text| Version::parse(text).is_some_and(|version| version <= NEWEST))
            .max_by_key(|text| Version::parse(text))
            .cloned()
            .ok_or("cniVersion is missing or newer than 1.1.0")?;
        Ok(Self { name: file.name, version, plugins, disable_gc: file.disable_gc })
    }

    fn has_version(&self, least: Version) -> bool {
        Version::parse(&self.version).is_some_and(|version| version >= least)
    }

    /// The configuration that plugin `index` gets on its standard input (section 3, "Deriving request configuration").
    fn request(&self, index: usize, runtime: Option<&Attachment>, previous: Option<&Value>) -> Value {
        let mut request = self.plugins[index].clone();
        let capabilities = request.remove("capabilities");
        request.insert("cniVersion".into(), self.version.clone().into());
        request.insert("name".into(), self.name.clone().into());
        let maps = capabilities.is_some_and(|set| set["portMappings"] == json!(true));
        if let Some(attachment) = runtime.filter(|attachment| maps && !attachment.port_mappings.is_empty()) {
            request.insert("runtimeConfig".into(), json!({"portMappings": attachment.port_mappings}));
        }
        if let Some(previous) = previous {
            request.insert("prevResult".into(), previous.clone());
        }
        request.into()
    }
}

fn plugin_type(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Runs the plugins of networks.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    /// `CNI_PATH`: the directory with the plugins.
    pub(super) bin: PathBuf,
}

impl Runtime {
    /// Attaches: every plugin in order, each with the result of the one before; the last result.
    ///
    /// # Errors
    /// [`CniError`] of the first plugin that fails; what the others did remains until [`Runtime::del`].
    pub(super) async fn add(
        &self,
        network: &NetworkList,
        attachment: &Attachment,
    ) -> Result<Value, CniError> {
        let mut result = Value::Null;
        for index in 0..network.plugins.len() {
            let previous = (index > 0).then_some(&result);
            let request = network.request(index, Some(attachment), previous);
            result = self.call(network, index, "ADD", Some(attachment), &request).await?;
        }
        Ok(result)
    }

    /// Detaches: every plugin in reverse order, with the result of the attachment if there was one. All are called,
    /// whatever the others say.
    ///
    /// # Errors
    /// The first [`CniError`].
    pub(super) async fn del(
        &self,
        network: &NetworkList,
        attachment: &Attachment,
        result: Option<&Value>,
    ) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for index in (0..network.plugins.len()).rev() {
            let request = network.request(index, Some(attachment), result);
            let done = self.call(network, index, "DEL", Some(attachment), &request).await;
            outcome = outcome.and(done.map(drop));
        }
        outcome
    }

    /// Whether the network takes attachments; networks before version 1.1.0 cannot be asked and do.
    ///
    /// # Errors
    /// The [`CniError`] of the first plugin that is not ready.
    pub(super) async fn status(&self, network: &NetworkList) -> Result<(), CniError> {
        if network.has_version(Version(1, 1, 0)) {
            for index in 0..network.plugins.len() {
                self.call(network, index, "STATUS", None, &network.request(index, None, None)).await?;
            }
        }
        Ok(())
    }

    /// Tells the plugins which attachments (container id and interface) there are, so that they clear away all others.
    ///
    /// # Errors
    /// The first [`CniError`]; all plugins are called.
    pub(super) async fn gc(&self, network: &NetworkList, valid: &[(String, String)]) -> Result<(), CniError> {
        let mut outcome = Ok(());
        if network.disable_gc || !network.has_version(Version(1, 1, 0)) {
            return outcome;
        }
        let valid: Vec<Value> =
            valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
        for index in 0..network.plugins.len() {
            let mut request = network.request(index, None, None);
            request["cni.dev/valid-attachments"] = valid.clone().into();
            let done = self.call(network, index, "GC", None, &request).await;
            outcome = outcome.and(done.map(drop));
        }
        outcome
    }

    async fn call(
        &self,
        network: &NetworkList,
        index: usize,
        command: &'static str,
        attachment: Option<&Attachment>,
        request: &Value,
    ) -> Result<Value, CniError> {
        let plugin = plugin_type(&network.plugins[index]);
        let path = self.bin.join(plugin);
        if plugin.contains('/') || !path.is_file() {
            let (plugin, network) = (plugin.into(), network.name.clone());
            return Err(CniError::NoPlugin { plugin, network, path: self.bin.clone() });
        }
        let failed = |why: String| CniError::Run { plugin: plugin.into(), command, why };
        let mut process = Command::new(&path);
        process.env("CNI_COMMAND", command).env("CNI_PATH", &self.bin).kill_on_drop(true);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
            process.env_remove(name);
        }
        if let Some(attachment) = attachment {
            let args: Vec<String> =
                attachment.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
            process
                .env("CNI_CONTAINERID", &attachment.container_id)
                .env("CNI_NETNS", &attachment.netns)
                .env("CNI_IFNAME", &attachment.interface)
                .env("CNI_ARGS", args.join(";"));
        }
        let process = process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = async {
            let mut child = process.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A plugin that ends without reading says why in its answer.
                let _ = stdin.write_all(request.to_string().as_bytes()).await;
            }
            child.wait_with_output().await
        };
        match timeout(CALL_TIME, run).await {
            Ok(Ok(output)) => outcome(plugin, command, &output),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", CALL_TIME.as_secs()))),
        }
    }
}

/// Reads what a plugin left: a result, nothing, or an error (section 5).
fn outcome(plugin: &str, command: &'static str, output: &Output) -> Result<Value, CniError> {
    let failed = |why: String| CniError::Run { plugin: plugin.into(), command, why };
    let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if output.status.success() {
        return match answer {
            Some(result) => Ok(result),
            None if command != "ADD" && output.stdout.trim_ascii().is_empty() => Ok(Value::Null),
            None => Err(failed("its answer is not JSON".into())),
        };
    }
    let code = answer.as_ref().and_then(|answer| answer["code"].as_u64());
    match answer.as_ref().zip(code) {
        Some((answer, code)) => Err(CniError::Plugin {
            plugin: plugin.into(),
            command,
            code,
            message: answer["msg"].as_str().unwrap_or_default().into(),
            details: answer["details"].as_str().filter(|text| !text.is_empty()).map(Into::into),
        }),
        None => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(format!("it ended with {}: {}", output.status, said.trim())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A plugin that appends its command, variables and input to `<dir>/log`, and answers with
    /// `<dir>/answer-<type>-<command>` or a result with its name added.
    const FAKE: &str = r#"#!/bin/sh
dir=$(dirname "$0"); me=$(basename "$0")
printf '%s %s id=%s ns=%s if=%s args=%s in=%s\n' "$me" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" "$CNI_ARGS" "$(cat)" >> "$dir/log"
if [ -f "$dir/answer-$me-$CNI_COMMAND" ]; then cat "$dir/answer-$me-$CNI_COMMAND"; exit 1; fi
[ "$CNI_COMMAND" = ADD ] && echo "{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.244.0.5/24\"}],\"by\":\"$me\"}"
exit 0
"#;

    const LIST: &str = r#"{"cniVersion":"1.0.0","cniVersions":["1.0.0","1.1.0","9.0.0"],"name":"pods","plugins":[
        {"type":"first","mtu":1400},{"type":"second","capabilities":{"portMappings":true}}]}"#;

    struct Fixture {
        dir: tempfile::TempDir,
        runtime: Runtime,
        network: NetworkList,
        attachment: Attachment,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["first", "second"] {
                let path = dir.path().join(name);
                std::fs::write(&path, FAKE).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            let attachment = Attachment {
                container_id: "c1".into(),
                netns: "/run/netns/x".into(),
                interface: "eth0".into(),
                args: vec![
                    ("K8S_POD_NAMESPACE".into(), "default".into()),
                    ("K8S_POD_NAME".into(), "web".into()),
                ],
                port_mappings: vec![PortMapping {
                    host_port: 8080,
                    container_port: 80,
                    protocol: "tcp".into(),
                }],
            };
            let runtime = Runtime { bin: dir.path().into() };
            Self { runtime, network: NetworkList::parse(LIST.as_bytes()).unwrap(), attachment, dir }
        }

        fn answer(&self, plugin: &str, command: &str, answer: &str) {
            std::fs::write(self.dir.path().join(format!("answer-{plugin}-{command}")), answer).unwrap();
        }

        fn log(&self) -> Vec<String> {
            let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
            text.lines().map(str::to_owned).collect()
        }

        /// The input of the call with the number.
        fn input(&self, call: usize) -> Value {
            serde_json::from_str(self.log()[call].split_once(" in=").unwrap().1).unwrap()
        }
    }

    #[tokio::test]
    async fn a_chain_is_added_forwards_and_deleted_backwards() {
        let fixture = Fixture::new();
        let Fixture { runtime, network, attachment, .. } = &fixture;
        let result = runtime.add(network, attachment).await.unwrap();
        assert_eq!(result["by"], "second");
        let log = fixture.log();
        let variables = "id=c1 ns=/run/netns/x if=eth0 args=K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";
        assert!(log[0].starts_with(&format!("first ADD {variables} ")), "{}", log[0]);
        assert!(log[1].starts_with(&format!("second ADD {variables} ")), "{}", log[1]);
        assert_eq!(
            fixture.input(0),
            json!({"cniVersion": "1.1.0", "name": "pods", "type": "first", "mtu": 1400})
        );
        let second = fixture.input(1);
        assert_eq!(second["prevResult"]["by"], "first");
        assert_eq!(
            second["runtimeConfig"]["portMappings"],
            json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
        );
        assert!(second.get("capabilities").is_none());

        runtime.del(network, attachment, Some(&result)).await.unwrap();
        assert!(fixture.log()[2].starts_with("second DEL ") && fixture.log()[3].starts_with("first DEL "));
        assert_eq!(fixture.input(2)["prevResult"], result);
        assert_eq!(fixture.input(3)["prevResult"], result);
    }

    #[tokio::test]
    async fn del_calls_every_plugin_and_reports_the_first_error() {
        let fixture = Fixture::new();
        fixture.answer("second", "DEL", r#"{"code":5,"msg":"disk full","details":"really"}"#);
        let error = fixture.runtime.del(&fixture.network, &fixture.attachment, None).await.unwrap_err();
        assert_eq!(error.to_string(), "CNI plugin \"second\": DEL: disk full: really (code 5)");
        assert_eq!(fixture.log().len(), 2);
    }

    #[tokio::test]
    async fn errors_are_told_apart() {
        let fixture = Fixture::new();
        let Fixture { runtime, network, attachment, .. } = &fixture;
        fixture.answer("first", "ADD", r#"{"cniVersion":"1.1.0","code":11,"msg":"not yet"}"#);
        let error = runtime.add(network, attachment).await.unwrap_err();
        assert_eq!(error.to_string(), "CNI plugin \"first\": ADD: not yet (code 11)");
        fixture.answer("first", "ADD", "oops");
        let error = runtime.add(network, attachment).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
        std::fs::remove_file(fixture.dir.path().join("first")).unwrap();
        let error = runtime.add(network, attachment).await.unwrap_err().to_string();
        assert!(error.starts_with("CNI plugin \"first\" of network \"pods\" is not in /"), "{error}");
    }

    #[tokio::test]
    async fn status_and_gc() {
        let fixture = Fixture::new();
        let Fixture { runtime, network, .. } = &fixture;
        runtime.status(network).await.unwrap();
        runtime.gc(network, &[("c1".into(), "eth0".into())]).await.unwrap();
        assert!(fixture.log()[0].starts_with("first STATUS id= ns= if= args= "));
        assert_eq!(
            fixture.input(2)["cni.dev/valid-attachments"],
            json!([{"containerID": "c1", "ifname": "eth0"}])
        );
        fixture.answer("second", "STATUS", r#"{"code":50,"msg":"no address left"}"#);
        assert!(runtime.status(network).await.is_err());
    }

    #[test]
    fn configurations_are_found_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(NetworkList::load(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("20.conflist"), LIST).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
        assert_eq!(NetworkList::load(dir.path()).unwrap().unwrap().plugins.len(), 2);
        let single = dir.path().join("10.conf");
        std::fs::write(&single, r#"{"cniVersion":"0.4.0","name":"one","type":"first"}"#).unwrap();
        assert_eq!(NetworkList::load(dir.path()).unwrap().unwrap().plugins.len(), 1);
        for (text, expected) in [
            ("{", "EOF"),
            (r#"{"name":"x","cniVersion":"1.0.0","plugins":[]}"#, "plugins is empty"),
            (r#"{"name":"x","cniVersion":"1.0.0","plugins":[{}]}"#, "plugins[0].type is missing"),
            (r#"{"name":"x","cniVersion":"2.0.0","plugins":[{"type":"y"}]}"#, "newer than 1.1.0"),
        ] {
            std::fs::write(&single, text).unwrap();
            let error = NetworkList::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("10.conf") && error.contains(expected), "{error}");
        }
    }
}
