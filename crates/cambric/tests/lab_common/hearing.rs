//! Whether pods can talk to each other.

use std::time::Duration;

use super::{Lab, Pod, until};

/// Whether a pod hears another, in both families.
pub fn hears(lab: &Lab, from: &Pod, to: &Pod) -> bool {
    [to.v4(), to.v6()].into_iter().all(|address| {
        let address = address.to_string();
        let ping = ["--", "ping", "-n", "-q", "-c", "1", "-W", "1", &address];
        let arguments: Vec<&str> = [from.name.as_str()].into_iter().chain(ping).collect();
        lab.command("exec", &arguments).output().unwrap().status.success()
    })
}

/// The pairs of pods of which the first does not hear the second.
pub fn deaf(lab: &Lab, pods: &[Pod]) -> Vec<String> {
    let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to)));
    let deaf = pairs.filter(|(from, to)| from.name != to.name && !hears(lab, from, to));
    deaf.map(|(from, to)| format!("{} to {}", from.name, to.name)).collect()
}

pub fn all_hear(lab: &Lab, pods: &[Pod]) -> Duration {
    until("pods that do not hear others", || deaf(lab, pods), Vec::is_empty)
}
