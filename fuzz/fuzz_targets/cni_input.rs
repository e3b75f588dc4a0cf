//! What a container runtime hands to the CNI plugin: the environment and standard input.
//! Lines before the first empty one are the variables, what follows is the configuration.
#![no_main]

use cni::request::Environment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let split = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let (head, input) = data.split_at(split);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines().map(|line| (line != "-").then(|| line.to_owned()));
    let mut next = || lines.next().flatten();
    let environment =
        Environment { command: next(), container_id: next(), netns: next(), ifname: next(), args: next() };
    if let Err((version, error)) = cni::fuzz_input(&environment, input) {
        let _ = (version.as_str(), error.to_string());
    }
});
