//! What all BPF objects have in common.

pub(crate) mod bpffs;
pub(crate) mod layout;
mod signals;

use aya::Ebpf;
use aya::maps::{Map, MapError};
use aya::programs::SchedClassifier;

use self::signals::NoSignals;
use crate::{Error, Result};

/// A flag of `BPF_MAP_UPDATE_ELEM` (linux/bpf.h).
pub(crate) const BPF_NOEXIST: u64 = 1;

/// A program of an object by its name.
pub(crate) fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let what = || format!("use the BPF program {name}");
    let program = programs.program_mut(name).ok_or_else(|| failed(what())("it is not in the object"))?;
    program.try_into().map_err(failed(what()))
}

/// Has the kernel verify a program of an object, and load it.
pub(crate) fn load(programs: &mut Ebpf, name: &str, what: impl Into<String>) -> Result<()> {
    let program = program(programs, name)?;
    // The verifier gives up with EAGAIN when a signal waits for the thread (do_check in kernel/bpf/verifier.c).
    let _without = NoSignals::begin();
    program.load().map_err(failed(what))
}

/// A map of an object by its name.
pub(crate) fn map<T: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &str) -> Result<T> {
    let what = || format!("use the BPF map {name}");
    let map = programs.take_map(name).ok_or_else(|| failed(what())("it is not in the object"))?;
    map.try_into().map_err(failed(what()))
}

/// The result, and success if the kernel said just this.
pub(crate) fn unless(errno: i32, result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(errno) => Ok(()),
        result => result,
    }
}

/// Says what could not be done.
pub(crate) fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> Error {
    move |error| Error::Bpf { what: what.into(), source: error.into() }
}

/// Shows how much work the verifier had with a program that is loaded, and fails if it was much.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn assert_easy(program: &SchedClassifier) {
    let info = program.info().unwrap();
    let (name, visited) = (info.name_as_str().unwrap(), info.verified_instruction_count().unwrap());
    println!(
        "{name}: {} bytes, {visited} instructions visited by the verifier",
        info.size_translated().unwrap()
    );
    assert!(visited < 20_000, "{name}: the verifier gives up at a million");
}
