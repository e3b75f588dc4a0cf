//! `cambric install-cni`: the plugin to where container runtimes look for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

/// The plugin's name in a CNI configuration, and so that of its file.
const NAME: &str = "cambric";
/// What the plugin is called beside this program.
const BESIDE: &str = "cambric-cni";

/// Install the CNI plugin into the container runtime's directory.
///
/// The plugin is the program cambric-cni beside this one. It is put there by rename, so that it can be done while
/// the old one runs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cambric install-cni
  cambric install-cni --to /host/opt/cni/bin")]
pub(crate) struct InstallOptions {
    /// Directory that the container runtime takes plugins from
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    to: PathBuf,
    /// The plugin to install [default: cambric-cni beside this program]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

pub(crate) fn run(options: &InstallOptions) -> Result<()> {
    let from = match &options.from {
        Some(from) => from.clone(),
        None => {
            let program = std::env::current_exe().context("cannot find this program's own file")?;
            program.with_file_name(BESIDE)
        }
    };
    let target = install(&from, &options.to)?;
    println!("installed {}", target.display());
    Ok(())
}

fn install(from: &Path, directory: &Path) -> Result<PathBuf> {
    let mut source = File::open(from)
        .with_context(|| format!("cannot read the plugin {}; name it with --from", from.display()))?;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let target = directory.join(NAME);
    let new = directory.join(format!(".{NAME}.new"));
    let mut copy = || -> io::Result<()> {
        crate::files::remove(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&new)?;
        io::copy(&mut source, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        fs::rename(&new, &target)
    };
    copy().with_context(|| format!("cannot install {}", target.display()))?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_put_in_place_executable() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("cambric-cni");
        fs::write(&from, "program").unwrap();
        let bin = dir.path().join("opt/cni/bin");
        for _ in 0..2 {
            let target = install(&from, &bin).unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"program");
            assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(fs::read_dir(&bin).unwrap().count(), 1);
        let error = install(Path::new("/nonexistent"), &bin).unwrap_err().to_string();
        assert!(error.contains("/nonexistent; name it with --from"), "{error}");
    }
}
