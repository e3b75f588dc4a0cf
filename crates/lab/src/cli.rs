//! The commands of `cambric lab`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand};

use crate::components::{self, Target};
use crate::paths::LabName;
use crate::progress::Progress;
use crate::signals::Interrupts;
use crate::state::{self, Lab, ProcessRole};
use crate::{
    Error, Result, cable, capture, check, control, demo, down, echo, enter, gateway, kubelet, list, process,
    speaker, ui, up,
};

/// A whole cluster network on this machine: nodes, routers and hosts as network namespaces.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Bring a lab up
    #[command(after_help = UP_EXAMPLES)]
    Up(Up),
    /// Take a lab down; nothing of it stays
    #[command(
        after_help = "Examples:\n  cambric lab down\n  cambric lab down --name blue\n  cambric lab down --all"
    )]
    Down(Down),
    /// List the labs that are up
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a node, router, outside host or pod
    #[command(after_help = EXEC_EXAMPLES)]
    Exec(Exec),
    /// Open a shell in a node, router, outside host or pod
    Shell {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// The node, router, NAT gateway, outside host, or pod ([NAMESPACE/]POD)
        member: String,
    },
    /// Run kubectl against the lab's API
    #[command(
        after_help = "Examples:\n  cambric lab kubectl -- get nodes -o wide\n  cambric lab kubectl -- apply -f app.yaml"
    )]
    Kubectl {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// What kubectl is called with
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },
    /// Prove the rows of the network model on a running lab, with captured packets
    Check {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// How to report
        #[command(flatten)]
        options: check::Options,
    },
    /// Bring labs up, run pods in them, check them, trace a call, and take them down
    Demo(demo::Options),
    /// Show the packets on the links of a node, router, outside host or pod
    #[command(after_help = CAPTURE_EXAMPLES)]
    Capture {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// The node, router, NAT gateway, outside host, or pod ([NAMESPACE/]POD)
        member: String,
        /// What to capture
        #[command(flatten)]
        options: capture::Options,
    },
    /// Restart a process of the lab; returns when it is ready, for an agent at once
    #[command(after_help = TARGET_HELP)]
    Restart {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// End it with SIGKILL instead of SIGTERM
        #[arg(long)]
        kill: bool,
        /// api, agent/NODE, kubelet/NODE or bgp/ROUTER
        target: Target,
    },
    /// Kill a process of the lab (SIGKILL) and leave it so, to see what the others do
    #[command(after_help = TARGET_HELP)]
    Kill {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// api, agent/NODE, kubelet/NODE or bgp/ROUTER
        target: Target,
    },
    /// Do to a NAT gateway what its owner or provider does
    #[command(subcommand)]
    Gateway(gateway::GatewayCommand),
    /// Cut the cable between a machine and its subnet: no packet passes until it is healed
    #[command(after_help = "Examples:\n  cambric lab cut node-2\n  cambric lab cut router eth1")]
    Cut(cable::Which),
    /// Heal a cable that was cut
    #[command(after_help = "Example:\n  cambric lab heal node-2")]
    Heal(cable::Which),
    /// Show the lab in a browser: what there is, packets' ways, flows, what is wrong
    ///
    /// Serves a page on 127.0.0.1 until it is ended, and prints its address first. The part after # is the key to it: only
    /// who has it sees the lab.
    #[command(after_help = UI_EXAMPLES)]
    Ui(ui::Options),
    /// Serve who answers and whom it sees, over HTTP, TCP and UDP, as pods do that have no program of their own
    Echo(echo::Options),
    /// The API server and the controllers of a lab
    #[command(hide = true)]
    Serve {
        /// Which lab
        #[command(flatten)]
        lab: Name,
    },
    /// The kubelet of a node, in the node's namespace
    #[command(hide = true)]
    Kubelet {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// The node
        #[arg(long)]
        node: String,
    },
    /// The BGP speaker of a router, in the router's namespace
    #[command(hide = true)]
    Speaker {
        /// Which lab
        #[command(flatten)]
        lab: Name,
        /// The router
        #[arg(long)]
        router: String,
    },
}

const UP_EXAMPLES: &str = "\
Examples:
  cambric lab up                                     three nodes, IPv4 and IPv6, VXLAN
  cambric lab up examples/labs/two-subnets.yaml
  cambric lab up --name blue my-topology.yaml        beside another lab";

const EXEC_EXAMPLES: &str = "\
Examples:
  cambric lab exec node-1 -- ip route
  cambric lab exec client -- ping -c1 192.0.2.11
  cambric lab exec default/web-0 -- ip -6 address";

const CAPTURE_EXAMPLES: &str = "\
Examples:
  cambric lab capture node-1 -i eth0
  cambric lab capture default/web-0 -c 10
  cambric lab capture router -w - | wireshark -k -i -";

const UI_EXAMPLES: &str = "\
Examples:
  cambric lab ui
  cambric lab ui --name blue --port 8080
  ssh -L 8080:127.0.0.1:8080 host                    to see the page of another machine's lab";

const TARGET_HELP: &str = "\
Examples:
  api             the API server and the controllers
  agent/node-1    the agent of a node
  kubelet/node-1  the kubelet of a node
  bgp/router      the BGP speaker of a router";

/// Which lab.
#[derive(Debug, Args)]
pub struct Name {
    /// The name of the lab
    #[arg(long, default_value = "demo", value_name = "LAB")]
    pub name: LabName,
}

/// `cambric lab up`
#[derive(Debug, Args)]
pub struct Up {
    /// Which lab
    #[command(flatten)]
    lab: Name,
    /// The CNI plugin [default: cambric-cni beside this executable]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// The topology file [default: three nodes, IPv4 and IPv6, VXLAN]
    #[arg(value_name = "TOPOLOGY")]
    topology: Option<PathBuf>,
}

/// `cambric lab down`
#[derive(Debug, Args)]
pub struct Down {
    /// Which lab
    #[command(flatten)]
    lab: Name,
    /// Take all labs down
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

/// `cambric lab exec`
#[derive(Debug, Args)]
pub struct Exec {
    /// Which lab
    #[command(flatten)]
    lab: Name,
    /// The node, router, NAT gateway, outside host, or pod ([NAMESPACE/]POD)
    member: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs a command.
///
/// A command that was stopped by a signal ends with 128 and the signal's number, as shells have it.
///
/// # Errors
/// [`Error`] of the command, to be shown to the one who ran it.
pub fn run(command: LabCommand) -> Result<ExitCode> {
    process::inherit_readiness();
    match dispatch(command) {
        Err(error @ Error::Interrupted(signal)) => {
            eprintln!("cambric: {error}");
            Ok(ExitCode::from(128_u8.saturating_add(signal.try_into().unwrap_or_default())))
        }
        result => result,
    }
}

fn dispatch(command: LabCommand) -> Result<ExitCode> {
    match command {
        LabCommand::Up(command) => {
            let options = up::Options {
                name: command.lab.name,
                topology: command.topology.map(up::Source::File).unwrap_or_default(),
                executable: None,
                plugin: command.plugin,
            };
            up::up(&options, &Interrupts::hold()?, &mut Progress::new())?;
        }
        LabCommand::Down(Down { lab, all: false }) => down::down(&lab.name)?,
        LabCommand::Down(Down { all: true, .. }) => all_down()?,
        LabCommand::List { json } => list::print(json)?,
        LabCommand::Exec(Exec { lab, member, command }) => {
            return Err(enter::exec(&lab.name, &member, &command));
        }
        LabCommand::Shell { lab, member } => return Err(enter::shell(&lab.name, &member)),
        LabCommand::Kubectl { lab, arguments } => return Err(kubectl(&lab.name, &arguments)),
        LabCommand::Check { lab, options } => {
            state::State::read(&lab.name)?;
            let judged = check::run(&lab.name, &options, &Interrupts::hold()?, &mut Progress::new());
            return verdict(judged.map(|judged| check::judge::all_so(&judged)));
        }
        LabCommand::Demo(options) => {
            return verdict(demo::run(&options, &Interrupts::hold()?, &mut Progress::new()));
        }
        LabCommand::Capture { lab, member, options } => {
            let namespace = enter::namespace(&lab.name, &member)?;
            capture::run(&lab.name, &namespace, &options, &Interrupts::hold()?)?;
        }
        LabCommand::Restart { lab, kill, target } => restart(&lab.name, kill, &target)?,
        LabCommand::Kill { lab, target } => {
            let lab = Lab::open(&lab.name)?;
            has(&lab, &target)?;
            components::stop(&lab, &target.0, libc::SIGKILL)?;
            lab.release()?;
        }
        LabCommand::Gateway(command) => gateway::run(&command)?,
        LabCommand::Cut(which) => cable::set(&which, false)?,
        LabCommand::Heal(which) => cable::set(&which, true)?,
        LabCommand::Ui(options) => ui::run(&options, &Interrupts::hold()?)?,
        LabCommand::Echo(options) => echo::run(&options).map_err(|error| Error::Other(error.to_string()))?,
        LabCommand::Serve { lab } => {
            log();
            control::serve(&lab.name)?;
        }
        LabCommand::Kubelet { lab, node } => {
            log();
            kubelet::run(&lab.name, &node)?;
        }
        LabCommand::Speaker { lab, router } => {
            log();
            speaker::run(&lab.name, &router)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit status of a check.
fn verdict(so: Result<bool>) -> Result<ExitCode> {
    so.map(|so| if so { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lets a process of the lab log to standard error, which is its log file.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

fn all_down() -> Result<()> {
    let mut errors = Vec::new();
    for lab in state::labs()? {
        match down::down(&lab) {
            // Another process has taken it down meanwhile.
            Ok(()) | Err(Error::NoLab { .. }) => {}
            Err(error) => errors.push(error),
        }
    }
    crate::error::collected(errors)
}

fn restart(name: &LabName, kill: bool, target: &Target) -> Result<()> {
    let mut lab = Lab::open(name)?;
    has(&lab, target)?;
    let interrupts = Interrupts::hold()?;
    let signal = if kill { libc::SIGKILL } else { libc::SIGTERM };
    components::stop(&lab, &target.0, signal)?;
    let started = components::start(&mut lab, &target.0)?;
    // Agents do not say when they are ready, nor does anything wait for them: the network works without.
    if !matches!(target.0, ProcessRole::Agent(_)) {
        components::wait_ready(vec![started], &[], &interrupts, |_| {})?;
    }
    lab.release()
}

fn has(lab: &Lab, target: &Target) -> Result<()> {
    let processes = &lab.state().processes;
    if processes.iter().any(|process| process.role == target.0) {
        return Ok(());
    }
    Err(Error::NoMember {
        lab: lab.name.clone(),
        name: target.to_string(),
        known: processes.iter().map(|process| Target(process.role.clone()).to_string()).collect(),
    })
}

fn kubectl(name: &LabName, arguments: &[OsString]) -> Error {
    if let Err(error) = state::State::read(name) {
        return error;
    }
    let source = Command::new("kubectl").args(arguments).env("KUBECONFIG", name.paths().kubeconfig()).exec();
    Error::Run { program: "kubectl".to_owned(), source }
}
