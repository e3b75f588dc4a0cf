//! What `cambric doctor` says on the nodes of a lab.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use web::Verdict;

use crate::paths::LabName;
use crate::{Error, Result};

/// Asks the doctor on all nodes at once. It sends no packets, as it is asked again and again.
///
/// # Errors
/// [`Error::Run`] if it cannot be started.
pub(super) fn ask<'n>(
    lab: &LabName,
    executable: &Path,
    nodes: impl Iterator<Item = &'n str>,
) -> Result<Vec<Verdict>> {
    let failed = |source| Error::Run { program: executable.to_string_lossy().into_owned(), source };
    let started: Result<Vec<(&str, Child)>> = nodes
        .map(|node| {
            let mut command = Command::new(executable);
            command.args(["lab", "exec", "--name", lab.as_str(), node, "--"]);
            command.arg(executable).args(["doctor", "--json", "--no-probe"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            Ok((node, command.spawn().map_err(failed)?))
        })
        .collect();
    let said =
        |(node, child): (&str, Child)| Ok(Verdict::said(node, &child.wait_with_output().map_err(failed)?));
    started?.into_iter().map(said).collect()
}
