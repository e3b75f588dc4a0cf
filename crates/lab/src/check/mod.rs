//! The check: proves the rows of the network model on a running lab, with captured packets.
//!
//! What is found out and what is to be thought of it are kept apart: [`evidence`] holds facts, [`judge`] turns them
//! into verdicts and does no I/O, so that it can be shown evidence of every kind of failure.

mod bgp;
mod cases;
mod cast;
mod connections;
mod detour;
pub(crate) mod event_loop;
pub mod evidence;
mod forge;
mod gather;
pub mod judge;
mod pods;
mod predict;
mod probe;
mod processes;
pub mod render;
mod services;
pub(crate) mod sites;
pub(crate) mod trial;
mod view;
mod ways;
mod wire;

use self::event_loop::{event_loop, unless_interrupted};
use self::evidence::Evidence;
use self::judge::Judged;
use self::view::View;
use crate::paths::LabName;
use crate::progress::Progress;
use crate::signals::Interrupts;
use crate::{Error, Result};

/// How a check reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
#[group(id = "report")]
pub struct Options {
    /// Print every single thing that was tried: what was expected, predicted, seen and captured
    #[arg(short, long)]
    pub verbose: bool,
    /// Print all evidence and verdicts as JSON
    #[arg(long, conflicts_with = "verbose")]
    pub json: bool,
}

/// Checks a lab and prints the report; what came of each row.
///
/// # Errors
/// [`Error`] if the lab cannot be checked, and nothing is known.
pub fn run(
    lab: &LabName,
    options: &Options,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> Result<Vec<Judged>> {
    let evidence = gather(lab, interrupts, progress);
    progress.finish();
    let evidence = evidence?;
    let judged = judge::judge(&evidence);
    let report = match options.json {
        true => render::json(&evidence, &judged).map_err(|error| Error::Other(error.to_string()))? + "\n",
        false => render::text(&evidence, &judged, options.verbose),
    };
    let mut out = std::io::stdout().lock();
    std::io::Write::write_all(&mut out, report.as_bytes())
        .map_err(|error| Error::system("print the report", error))?;
    Ok(judged)
}

/// Tries all that there is to try on a lab, and removes again what it needed for that.
///
/// # Errors
/// [`Error`] if the lab is not up, or stops to be while it is looked at.
pub fn gather(lab: &LabName, interrupts: &Interrupts, progress: &mut Progress) -> Result<Evidence> {
    let runtime = event_loop()?;
    let client = runtime
        .block_on(kube_source::client(Some(&lab.paths().kubeconfig())))
        .map_err(|error| Error::Other(error.to_string()))?;
    progress.step("looking at the lab");
    let view = runtime.block_on(unless_interrupted(interrupts, View::load(lab, &client)))?;
    let made = runtime.block_on(unless_interrupted(interrupts, async {
        pods::create_namespace(&client).await?;
        let mut view = view;
        if !gather::enough_pods(&view) {
            progress.step("making pods to try things with");
            pods::create(&client, view.cluster.nodes.keys()).await?;
            view = View::load(lab, &client).await?;
        }
        if connections::obstacle(&view).is_none() {
            progress.step("making services to try things with");
            services::create(&client, &mut view).await?;
        }
        Ok(view)
    }));
    let evidence = made.and_then(|mut view| {
        bgp::wait_routed(&view, &mut || interrupts.check())?;
        sites::wait_open(&mut view, &mut || interrupts.check())?;
        services::wait_served(&view, &mut || interrupts.check())?;
        gather::gather(&view, &mut |what| {
            progress.step(what);
            interrupts.check()
        })
    });
    // All that was made goes even if the check failed; its own error is the one to tell.
    let removed = runtime.block_on(async {
        let services = services::remove(&client).await;
        pods::remove(&client).await.and(services)
    });
    evidence.and_then(|evidence| removed.map(|()| evidence))
}
