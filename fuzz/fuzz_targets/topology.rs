//! Topology files of labs. One that is accepted gives every interface addresses of its own.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match lab::topology::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(topology) => {
            let mut seen = BTreeSet::new();
            for interface in topology.machines.iter().flat_map(|machine| &machine.interfaces) {
                for address in interface.addresses.iter() {
                    assert!(seen.insert((interface.subnet, address.addr())), "{address} is given twice");
                }
            }
        }
    }
});
