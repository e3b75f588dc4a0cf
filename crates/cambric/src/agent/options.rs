//! The options of `cambric agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::paths;

/// Keep this node's kernel as the cluster's state says.
///
/// The agent watches Nodes, Services, EndpointSlices and the ClusterNetwork "default", and makes bridge, tunnels,
/// routes, firewall and services of this node follow them. It repairs what others change, touches nothing that is not
/// its own, and leaves everything in place when it stops, so that a restart or an upgrade loses no packet.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  cambric agent
  cambric agent --node-name node-1 --kubeconfig /etc/kubernetes/cambric.conf
  cambric agent --log-format json --log-level debug
  curl http://127.0.0.1:9469/readyz")]
pub(crate) struct AgentOptions {
    /// Name of this node's Node object [default: the host's name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Kubeconfig for the API [default: KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Directory for the agent's own files; only root can look into it
    #[arg(long, value_name = "DIR", default_value = paths::RUN_DIR)]
    pub(crate) run_dir: PathBuf,
    /// Directory where the container runtime looks for CNI configurations
    #[arg(long, value_name = "DIR", default_value = paths::CNI_CONF_DIR)]
    pub(crate) cni_conf_dir: PathBuf,
    /// Directory where the CNI plugin keeps the addresses it has given out
    #[arg(long, value_name = "DIR", default_value = paths::CNI_DATA_DIR)]
    pub(crate) cni_data_dir: PathBuf,
    /// Directory where the container runtime names the network namespaces of pods, for cambric trace --live
    #[arg(long, value_name = "DIR", default_value = kernel::netns::NAMED)]
    pub(crate) netns_dir: PathBuf,
    /// Address for /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9469")]
    pub(crate) listen: SocketAddr,
    /// Address for the live page, on the loopback interface; its token is in the file ui-token of the run directory
    /// [default: no page]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub(crate) ui_listen: Option<SocketAddr>,
    /// How often the whole kernel state is compared, whether or not anything was heard (ms, s, m or h)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_period)]
    pub(crate) sync_period: Duration,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Least level that is logged: error, warn, info, debug or trace, or a filter such as info,kube_source=debug
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log_level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Time, level, message, then key=value.
    Text,
    /// One JSON object a line.
    Json,
}

/// A socket address of the loopback interface.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        _ => Err("use a port of this node's loopback interface, for instance 127.0.0.1:9470; ssh -L brings it elsewhere"
            .to_owned()),
    }
}

/// A number with a unit, from 100 ms to a day.
fn parse_period(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    match number.zip(milliseconds).and_then(|(number, each)| number.checked_mul(each)) {
        Some(period @ 100..=86_400_000) => Ok(Duration::from_millis(period)),
        _ => Err("use a number with a unit, from 100ms to 24h, for instance 30s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_all_that_is_watched() {
        let help = AgentOptions::augment_args(clap::Command::new("agent")).render_long_help().to_string();
        for kind in ["Nodes", "Services", "EndpointSlices", "ClusterNetwork"] {
            assert!(help.contains(kind), "{kind} in {help}");
        }
    }

    #[test]
    fn the_page_is_on_loopback_only() {
        for good in ["127.0.0.1:9470", "[::1]:9470"] {
            assert!(loopback(good).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:9470", "192.0.2.1:9470", "[::]:9470", "9470", "localhost:9470"] {
            assert!(loopback(bad).unwrap_err().contains("127.0.0.1:9470"), "{bad}");
        }
    }

    #[test]
    fn periods() {
        for (text, period) in [("100ms", 100), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000)] {
            assert_eq!(parse_period(text), Ok(Duration::from_millis(period)), "{text}");
        }
        for text in ["", "30", "s", "99ms", "25h", "-1s", "1.5s", "18446744073709551615h"] {
            assert!(parse_period(text).is_err(), "{text}");
        }
    }
}
