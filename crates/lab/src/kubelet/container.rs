//! What a container becomes on this machine. Pure: a pod goes in, what to run comes out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::echo::{EchoPort, Protocol};

/// Where executables are looked for if the container does not set `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment variable by which all processes of a pod are known: the pod's UID.
pub(super) const MARK: &str = "CAMBRIC_POD_UID";

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// The container's own command, which this machine has.
    Command { executable: PathBuf, arguments: Vec<String> },
    /// An echo server in its place.
    Echo { arguments: Vec<OsString> },
    /// Nothing: an init container whose command this machine does not have counts as done.
    Nothing,
}

/// A container's program with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) program: Program,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) directory: Option<PathBuf>,
}

/// What the pod has been given, for `fieldRef`.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub(super) pod_ips: Vec<String>,
    pub(super) host_ips: Vec<String>,
}

/// Plans a container of a pod.
pub(super) fn plan(pod: &Pod, container: &Container, init: bool, given: &Given) -> Plan {
    let environment = environment(pod, container, given);
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, &environment)).collect()
    };
    let mut words = expanded(&container.command);
    let path = environment.get("PATH").map_or(PATH, String::as_str);
    let directory = container.working_dir.as_ref().map(PathBuf::from).filter(|directory| directory.is_dir());
    let local = words.first().and_then(|command| executable(command, path, directory.as_deref()));
    let program = match local {
        Some(executable) => {
            let mut arguments = words.split_off(1);
            arguments.extend(expanded(&container.args));
            Program::Command { executable, arguments }
        }
        None if init => Program::Nothing,
        None => Program::Echo { arguments: echo_arguments(pod, container) },
    };
    Plan { program, environment, directory }
}

fn executable(command: &str, path: &str, directory: Option<&Path>) -> Option<PathBuf> {
    let runs = |candidate: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        candidate.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if command.contains('/') {
        return Some(directory.unwrap_or(Path::new("/")).join(command)).filter(runs);
    }
    path.split(':').map(|part| Path::new(part).join(command)).find(runs)
}

fn environment(pod: &Pod, container: &Container, given: &Given) -> BTreeMap<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOSTNAME".to_owned(), text(&pod.metadata.name)),
        (MARK.to_owned(), text(&pod.metadata.uid)),
    ]);
    for variable in container.env.iter().flatten() {
        let reference = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
        let value = match (&variable.value, reference) {
            (Some(value), _) => Some(expand(value, &environment)),
            (None, Some(reference)) => field(pod, &reference.field_path, given),
            (None, None) => variable.value_from.is_none().then(String::new),
        };
        match value {
            Some(value) => {
                environment.insert(variable.name.clone(), value);
            }
            None => tracing::warn!(
                pod = text(&pod.metadata.name),
                container = container.name,
                variable = variable.name,
                "the variable is left out: only value and fieldRef are supported"
            ),
        }
    }
    environment
}

/// The value of a `fieldRef` (the downward API).
fn field(pod: &Pod, path: &str, given: &Given) -> Option<String> {
    let in_map = |map: &Option<BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|map| map.get(key).cloned()).unwrap_or_default())
    };
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    let spec = pod.spec.as_ref();
    Some(match path {
        "metadata.name" => pod.metadata.name.clone()?,
        "metadata.namespace" => pod.metadata.namespace.clone()?,
        "metadata.uid" => pod.metadata.uid.clone()?,
        "spec.nodeName" => spec?.node_name.clone()?,
        "spec.serviceAccountName" => spec?.service_account_name.clone().unwrap_or_else(|| "default".into()),
        "status.podIP" => first(&given.pod_ips),
        "status.podIPs" => given.pod_ips.join(","),
        "status.hostIP" => first(&given.host_ips),
        "status.hostIPs" => given.host_ips.join(","),
        _ => in_map(&pod.metadata.labels, "metadata.labels['")
            .or_else(|| in_map(&pod.metadata.annotations, "metadata.annotations['"))?,
    })
}

/// Replaces `$(NAME)` by the variable of that name; `$$` stands for `$`, and what names no variable stays.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let value = tail
            .strip_prefix('(')
            .and_then(|name| name.split_once(')'))
            .and_then(|(name, after)| Some((environment.get(name)?, after)));
        if let Some((value, after)) = value {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
            rest = tail.strip_prefix('$').unwrap_or(tail);
        }
    }
    out + rest
}

fn echo_arguments(pod: &Pod, container: &Container) -> Vec<OsString> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let mut arguments: Vec<OsString> = vec!["lab".into(), "echo".into(), "--notify".into()];
    for (option, value) in [
        ("--pod", text(&pod.metadata.name)),
        ("--namespace", text(&pod.metadata.namespace)),
        ("--node", node),
        ("--container", container.name.clone()),
    ] {
        arguments.extend([option.into(), value.into()]);
    }
    for port in echo_ports(pod, container) {
        arguments.extend(["--port".into(), port.to_string().into()]);
    }
    arguments
}

/// The ports an echo server in the container's place has: those of the container, with both protocols unless another
/// container of the pod has the other one; 80 for the only container of a pod that names none.
fn echo_ports(pod: &Pod, container: &Container) -> Vec<EchoPort> {
    let containers = || pod.spec.iter().flat_map(|spec| &spec.containers);
    let declared = |container: &Container| -> Vec<(u16, Protocol)> {
        let ports = container.ports.iter().flatten();
        ports
            .filter_map(|port| {
                let protocol = match port.protocol.as_deref() {
                    None | Some("TCP") => Protocol::Tcp,
                    Some("UDP") => Protocol::Udp,
                    Some(_) => return None,
                };
                Some((u16::try_from(port.container_port).ok()?, protocol))
            })
            .collect()
    };
    let own = declared(container);
    if own.is_empty() {
        let alone = containers().count() == 1;
        return if alone { vec![EchoPort { port: 80, protocol: None }] } else { Vec::new() };
    }
    let others: Vec<(u16, Protocol)> =
        containers().filter(|other| other.name != container.name).flat_map(declared).collect();
    let mut ports: Vec<u16> = own.iter().map(|&(port, _)| port).collect();
    ports.sort_unstable();
    ports.dedup();
    let serve = |port: u16| {
        let serves = |protocol| own.contains(&(port, protocol)) || !others.contains(&(port, protocol));
        let protocol = match (serves(Protocol::Tcp), serves(Protocol::Udp)) {
            (true, true) => None,
            (true, false) => Some(Protocol::Tcp),
            _ => Some(Protocol::Udp),
        };
        EchoPort { port, protocol }
    };
    ports.into_iter().map(serve).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "containers": containers},
        }))
        .unwrap()
    }

    fn planned(containers: Value, init: bool) -> Plan {
        let pod = pod(containers);
        let given = Given {
            pod_ips: vec!["10.244.0.2".into(), "fd00::2".into()],
            host_ips: vec!["192.0.2.1".into()],
        };
        plan(&pod, &pod.spec.as_ref().unwrap().containers[0], init, &given)
    }

    fn ports(containers: Value) -> Vec<String> {
        let Program::Echo { arguments } = planned(containers, false).program else {
            panic!("no echo server")
        };
        let words: Vec<String> = arguments.into_iter().map(|word| word.into_string().unwrap()).collect();
        words.windows(2).filter(|pair| pair[0] == "--port").map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn a_local_command_is_run() {
        let plan = planned(
            json!([{"name": "c", "command": ["sh", "-c"], "args": ["echo $(WHO) $$(WHO) $(NOBODY)"],
                "workingDir": "/tmp", "env": [{"name": "WHO", "value": "me"}]}]),
            false,
        );
        let Program::Command { executable, arguments } = plan.program else { panic!("not run") };
        assert!(executable.ends_with("sh"));
        assert_eq!(arguments, ["-c", "echo me $(WHO) $(NOBODY)"]);
        assert_eq!(plan.directory, Some("/tmp".into()));
        assert_eq!(plan.environment[MARK], "u1");
    }

    #[test]
    fn what_this_machine_does_not_have_becomes_an_echo_server_or_nothing() {
        let containers = json!([{"name": "c", "command": ["/no/such/program"]}]);
        assert!(matches!(planned(containers.clone(), false).program, Program::Echo { .. }));
        assert_eq!(planned(containers, true).program, Program::Nothing);
    }

    #[test]
    fn echo_servers_have_the_ports_of_their_container() {
        assert_eq!(ports(json!([{"name": "c"}])), ["80"]);
        assert_eq!(ports(json!([{"name": "c"}, {"name": "d"}])), Vec::<String>::new());
        assert_eq!(
            ports(json!([{"name": "c", "ports": [{"containerPort": 8081}, {"containerPort": 8080}]}])),
            ["8080", "8081"]
        );
        let dns = json!([{"name": "c", "ports": [{"containerPort": 53, "protocol": "UDP"}]},
            {"name": "d", "ports": [{"containerPort": 53}]}]);
        assert_eq!(ports(dns), ["53/udp"]);
    }

    #[test]
    fn the_downward_api() {
        let plan = planned(
            json!([{"name": "c", "env": [
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "BOTH", "value": "$(APP) on $(NODE)"},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ]}]),
            false,
        );
        assert_eq!(plan.environment["IPS"], "10.244.0.2,fd00::2");
        assert_eq!(plan.environment["BOTH"], "web on a");
        assert!(!plan.environment.contains_key("SECRET"));
    }
}
