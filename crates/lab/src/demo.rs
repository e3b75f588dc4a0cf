//! The demonstration: labs from nothing, pods in them, the check, a traced call, and everything gone again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;
use tokio::time::timeout;
use trace::journey::Query;
use trace::journey::text::{Style, render};

use crate::check::event_loop::{event_loop, unless_interrupted};
use crate::check::evidence::Row;
use crate::check::judge::{Judged, Verdict};
use crate::live::{self, Stage};
use crate::paths::LabName;
use crate::progress::Progress;
use crate::signals::Interrupts;
use crate::up::Source;
use crate::{Error, Result, check, down, up};

/// What is run in the lab.
pub const MANIFEST: &str = include_str!("../../../examples/manifests/demo.yaml");

/// The labs that are brought up, one after the other.
const ACTS: [Act; 4] = [
    Act {
        lab: "demo",
        title: "an overlay, by VXLAN",
        topology: Source::BuiltIn("vxlan.yaml", include_str!("../../../examples/labs/vxlan.yaml")),
    },
    Act {
        lab: "demo-direct",
        title: "no overlay, routes from BGP",
        topology: Source::BuiltIn("direct.yaml", include_str!("../../../examples/labs/direct.yaml")),
    },
    Act {
        lab: "demo-cross-subnet",
        title: "plain in a subnet, VXLAN between subnets",
        topology: Source::BuiltIn(
            "cross-subnet-bgp.yaml",
            include_str!("../../../examples/labs/cross-subnet-bgp.yaml"),
        ),
    },
    Act {
        lab: "demo-nat",
        title: "nodes behind NAT gateways, by IP in IP",
        topology: Source::BuiltIn(
            "nat-gateway.yaml",
            include_str!("../../../examples/labs/nat-gateway.yaml"),
        ),
    },
];

/// One lab of the demonstration.
struct Act {
    /// Its name.
    lab: &'static str,
    /// What it shows.
    title: &'static str,
    topology: Source,
}

/// Who calls, and what, when a packet is traced.
const CALLER: &str = "pod/default/pair";
const CALLED: &str = "service/default/web";
/// How long the pods may take until they are ready.
const PODS_TIME: Duration = Duration::from_secs(60);
/// Who owns what is applied (`metadata.managedFields`).
const MANAGER: &str = "cambric-lab-demo";

/// How the demonstration is run.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// The CNI plugin [default: cambric-cni beside this executable]
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Leave the labs up, to look around in them
    #[arg(long)]
    pub keep: bool,
    /// Print every single thing that was tried: what was expected, predicted, seen and captured
    #[arg(short, long)]
    pub verbose: bool,
}

/// Runs the demonstration; true if every row is proved and everything is as it should be. Nothing of the labs stays
/// unless asked for, whatever happens.
///
/// # Errors
/// [`Error::Exists`] if there is a lab of one of these names; otherwise whatever came in the way, after everything was
/// removed.
pub fn run(options: &Options, interrupts: &Interrupts, progress: &mut Progress) -> Result<bool> {
    let mut judged = Vec::new();
    let mut traced = true;
    for (index, act) in ACTS.iter().enumerate() {
        progress.done(&format!("\n== lab {} of {}: {}", index + 1, ACTS.len(), act.title));
        let shown = play(act, index == 0, options, interrupts, progress)?;
        judged.extend(shown.judged);
        traced &= shown.traced;
    }
    let missing = unproved(&judged);
    progress.done("");
    match missing.is_empty() && traced {
        true => progress.done(&format!("All {} rows of the network model are proved.", Row::ALL.len())),
        false if missing.is_empty() => progress.done("The traced call is not as predicted."),
        false => progress.done(&format!("Not proved: row {}.", missing.join(", "))),
    }
    Ok(missing.is_empty() && traced)
}

/// The rows that no lab has proved, or that one has found not to be so.
fn unproved(judged: &[Judged]) -> Vec<String> {
    let proved = |row: &Row| {
        let verdicts = || judged.iter().filter(|one| one.row == *row).map(|one| &one.verdict);
        verdicts().any(|verdict| *verdict == Verdict::So)
            && !verdicts().any(|verdict| matches!(verdict, Verdict::NotSo(_)))
    };
    Row::ALL.iter().filter(|row| !proved(row)).map(|row| row.number().to_string()).collect()
}

/// What a lab has shown.
struct Shown {
    judged: Vec<Judged>,
    /// Whether the traced call went as predicted.
    traced: bool,
}

/// Brings a lab up, shows what it has to show, and takes it down.
fn play(
    act: &Act,
    trace: bool,
    options: &Options,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> Result<Shown> {
    let name = LabName::new(act.lab)?;
    let lab = up::Options {
        name: name.clone(),
        topology: act.topology.clone(),
        plugin: options.plugin.clone(),
        executable: None,
    };
    up::up(&lab, interrupts, progress)?;
    let shown = show(&name, trace, options, interrupts, progress);
    if options.keep && shown.is_ok() {
        progress.done(&format!("the lab stays up; take it down with: cambric lab down {name}"));
        return shown;
    }
    progress.step("taking the lab down");
    let removed = down::down(&name);
    if removed.is_ok() {
        progress.done("the lab is gone, and nothing of it is left");
    }
    progress.finish();
    shown.and_then(|shown| removed.map(|()| shown))
}

fn show(
    name: &LabName,
    trace: bool,
    options: &Options,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> Result<Shown> {
    progress.step("applying the manifests");
    let objects = objects(MANIFEST)?;
    let pods = pods(&objects);
    event_loop()?.block_on(unless_interrupted(interrupts, async {
        let client = kube_source::client(Some(&name.paths().kubeconfig()))
            .await
            .map_err(|error| Error::Other(error.to_string()))?;
        for object in &objects {
            apply(&client, object).await?;
        }
        progress.step(&format!("waiting for {pods} pods"));
        wait_ready(client, pods).await
    }))?;
    progress.done(&format!("{pods} pods are ready"));
    let report = check::Options { verbose: options.verbose, json: false };
    let judged = check::run(name, &report, interrupts, progress)?;
    let traced = !trace || traced(name, interrupts, progress)?;
    Ok(Shown { judged, traced })
}

/// Traces one call of a pod to a service and prints what was predicted beside what was captured; true if both are the
/// same.
fn traced(name: &LabName, interrupts: &Interrupts, progress: &mut Progress) -> Result<bool> {
    progress.step("tracing a service call");
    let stage = Stage::load(name, interrupts)?;
    let party =
        |text: &str| stage.scene.party(text, "default").map_err(|error| Error::Other(error.to_string()));
    let query = Query {
        source: party(CALLER)?,
        destination: party(CALLED)?,
        transport: None,
        family: None,
        via: None,
    };
    let (journey, _, comparison) = stage.trace(&query)?;
    progress.finish();
    let style = Style { way: comparison.way, ..Style::default() };
    let text = format!(
        "\ncambric trace {CALLER} {CALLED} --live\n\n{}\n{}",
        render(&journey, &style),
        live::text(&comparison)
    );
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes())
        .map_err(|error| Error::system("print the trace", error))?;
    Ok(journey.delivered && comparison.difference.is_none())
}

/// The objects of a manifest.
fn objects(manifest: &str) -> Result<Vec<Value>> {
    let wrong = |error: &dyn std::fmt::Display| Error::Other(format!("demo.yaml: {error}"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).map_err(|error| wrong(&error))?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// How many pods the objects make.
fn pods(objects: &[Value]) -> u64 {
    let of = |object: &Value| match object["kind"].as_str() {
        Some("Pod") => 1,
        Some("Deployment") => object["spec"]["replicas"].as_u64().unwrap_or(1),
        _ => 0,
    };
    objects.iter().map(of).sum()
}

async fn apply(client: &kube::Client, object: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    let failed = |error: &dyn std::fmt::Display| Error::Other(format!("cannot apply {kind} {name}: {error}"));
    let (group, short) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, short, &kind));
    let api: Api<DynamicObject> = match (kind.as_str(), object["metadata"]["namespace"].as_str()) {
        ("Namespace", _) => Api::all_with(client.clone(), &resource),
        (_, namespace) => Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), &resource),
    };
    let patched = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await;
    patched.map(drop).map_err(|error| failed(&error))
}

/// Waits until so many pods are ready.
async fn wait_ready(client: kube::Client, wanted: u64) -> Result<()> {
    let mut pods = watcher(Api::<Pod>::all(client), watcher::Config::default()).default_backoff().boxed();
    let mut states: BTreeMap<String, bool> = BTreeMap::new();
    let all_ready = async {
        while let Some(event) = pods.next().await {
            match event {
                Ok(watcher::Event::Init) => states.clear(),
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                    states.insert(full_name(&pod), is_ready(&pod));
                }
                Ok(watcher::Event::Delete(pod)) => drop(states.remove(&full_name(&pod))),
                // A watch that broke is begun anew; in the end there is the time-out.
                Ok(watcher::Event::InitDone) | Err(_) => {}
            }
            if states.values().filter(|ready| **ready).count() as u64 >= wanted {
                return;
            }
        }
    };
    if timeout(PODS_TIME, all_ready).await.is_ok() {
        return Ok(());
    }
    let waiting: Vec<&str> =
        states.iter().filter(|(_, ready)| !**ready).map(|(name, _)| name.as_str()).collect();
    let (seconds, there) = (PODS_TIME.as_secs(), states.len());
    Err(Error::Other(format!(
        "after {seconds} s there are {there} of {wanted} pods, and not ready are: {}; see the kubelets' logs",
        waiting.join(", ")
    )))
}

fn full_name(pod: &Pod) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_read() {
        let objects = objects(MANIFEST).unwrap();
        assert!(pods(&objects) >= 7, "{objects:?}");
        assert!(objects.iter().all(|object| object["metadata"]["name"].is_string()));
        assert_eq!(pods(&super::objects("kind: Pod\n---\n---\nkind: Deployment\n").unwrap()), 2);
    }

    #[test]
    fn a_row_is_proved_by_a_lab_that_has_it_and_by_none_refuted() {
        let so = |row: Row, verdict| Judged { row, title: row.title(), tried: 1, verdict };
        let mut judged: Vec<Judged> = Row::ALL.map(|row| so(row, Verdict::So)).to_vec();
        judged.push(so(Row::BehindNat, Verdict::Impossible("no gateway".to_owned())));
        assert!(unproved(&judged).is_empty());
        judged.push(so(Row::Service, Verdict::NotSo(Vec::new())));
        assert_eq!(unproved(&judged), ["4"]);
        judged.retain(|one| one.row != Row::NoOverlay);
        assert_eq!(unproved(&judged), ["4", "8"]);
        assert_eq!(unproved(&[]).len(), Row::ALL.len());
    }
}
