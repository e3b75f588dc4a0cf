//! The CNI plugin: it attaches pods to the node's bridge and gives them addresses.
//!
//! A container runtime calls it for each pod, as the CNI spec says. The agent tells it by the node file what to attach
//! to; nothing else connects the two but the address store ([`ipam`]), which both lock. ADD, DEL, CHECK, STATUS and
//! GC work without a running agent, as long as it ran once.

pub mod args;
pub mod error;
pub mod ipam;
pub mod request;
pub mod result;
pub mod version;

mod add;
mod check;
mod del;
mod gc;
mod node;
mod status;

use std::env;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use error::{Error, code};
use request::{Environment, Request};
use version::Version;

/// Standard input longer than this is no network configuration.
const LONGEST_INPUT: u64 = 16 * 1024 * 1024;

/// The program: request from the environment and standard input, answer on standard output.
pub fn main() -> ExitCode {
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let environment = Environment {
        command: variable("CNI_COMMAND"),
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        ifname: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
    };
    if environment.command.is_none() {
        return by_hand();
    }
    let mut input = Vec::new();
    let outcome = match io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut input) {
        Ok(_) => run(&environment, &input),
        Err(error) => {
            let why = format!("standard input: {error}");
            Err((Version::NEWEST, Error::new(code::IO, "cannot read the network configuration", why)))
        }
    };
    let failed = outcome.is_err();
    let text = outcome.unwrap_or_else(|(version, error)| error.to_json(version));
    if let Err(error) = say(&text) {
        eprintln!("cambric: cannot write the result to standard output: {error}");
        if !failed && environment.command.as_deref() == Some("ADD") {
            // The runtime does not know of the attachment, so there must be none. What goes wrong now is for GC.
            let undo = Environment { command: Some("DEL".to_owned()), ..environment };
            let _ = run(&undo, &input);
        }
        return ExitCode::FAILURE;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Does what is asked for; the text for standard output, which is empty for all but ADD and VERSION.
///
/// # Errors
/// What the runtime is to be told, and the version of the spec to tell it in.
pub fn run(environment: &Environment, input: &[u8]) -> Result<String, (Version, Error)> {
    let empty = |()| String::new();
    match Request::parse(environment, input)? {
        Request::Add { config, target, args, previous } => {
            let result = add::add(&config, &target, &args, previous.as_ref());
            result.map(|result| result.to_string()).map_err(|error| (config.version, error))
        }
        Request::Del { config, id } => {
            del::del(&config, &id).map(empty).map_err(|error| (config.version, error))
        }
        Request::Check { config, target, previous } => {
            check::check(&config, &target, &previous).map(empty).map_err(|error| (config.version, error))
        }
        Request::Status { config } => {
            status::status(&config).map(empty).map_err(|error| (config.version, error))
        }
        Request::Gc { config, valid } => {
            gc::gc(&config, &valid).map(empty).map_err(|error| (config.version, error))
        }
        Request::Version { version } => Ok(serde_json::json!({
            "cniVersion": version,
            "supportedVersions": Version::ALL.map(Version::as_str),
        })
        .to_string()),
    }
}

/// Parses a request and does nothing with it, for fuzzing. Whatever comes in, it returns.
pub fn fuzz_input(environment: &Environment, input: &[u8]) -> Result<Request, (Version, Error)> {
    Request::parse(environment, input)
}

/// What somebody sees who runs the plugin like any program.
fn by_hand() -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let text = match env::args().nth(1).as_deref() {
        Some("--version" | "-V") => format!("cambric-cni {version}"),
        _ => format!(
            "cambric-cni {version}, a CNI plugin (CNI spec {})\n\
             A container runtime calls it with CNI_COMMAND and other variables set and the network configuration on\n\
             standard input. Install it in the runtime's plugin directory as \"cambric\", for instance as\n\
             /opt/cni/bin/cambric. A configuration looks like this:\n  \
             {{\"cniVersion\":\"1.1.0\",\"name\":\"cambric\",\"plugins\":[{{\"type\":\"cambric\"}}]}}\n\
             Fields: nodeFile (default {}), dataDir (default {}), dns.",
            Version::ALL.map(Version::as_str).join(", "),
            request::DEFAULT_NODE_FILE,
            ipam::DEFAULT_DATA_DIR,
        ),
    };
    match say(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn say(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut output = io::stdout().lock();
    output.write_all(format!("{text}\n").as_bytes())?;
    output.flush()
}
