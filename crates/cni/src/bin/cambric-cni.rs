//! The CNI plugin as a program of its own, small and quick to start.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::main()
}
