//! Compiles the BPF programs.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 2] = ["ipip", "fast"];

fn main() -> Result<(), Box<dyn Error>> {
    let sources = Path::new("../../bpf");
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    PROGRAMS.iter().try_for_each(|program| compile(&sources.join(format!("{program}.bpf.c")), program))
}

fn compile(source: &Path, program: &str) -> Result<(), Box<dyn Error>> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let object =
        PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join(format!("{program}.bpf.o"));
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let shown = clang.to_string_lossy().into_owned();
    let status = Command::new(&clang)
        .args(["-target", target, "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c"])
        .arg(source)
        .arg("-o")
        .arg(&object)
        .status()
        .map_err(|error| {
            format!(
                "cannot run \"{shown}\", which compiles the BPF programs: {error}; install clang (`make setup`, or \
                 `apt-get install clang`), or set CLANG to its path"
            )
        })?;
    if !status.success() {
        return Err(format!(
            "\"{shown}\" did not compile {}: {status}; clang 14 or newer with the BPF target is needed",
            source.display()
        )
        .into());
    }
    Ok(())
}
