//! Names that many endpoints have, held once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::{Endpoint, EndpointSlice, NodeName};

/// The names of nodes and zones that endpoints have.
#[derive(Debug, Default)]
pub struct SharedNames {
    nodes: Shared<NodeName>,
    hints: Shared<[Box<str>]>,
}

impl SharedNames {
    /// Has the endpoints of a slice hold the names that others hold already.
    pub fn share(&mut self, slice: &mut EndpointSlice) {
        for Endpoint { node, zones, nodes, .. } in &mut slice.endpoints {
            if let Some(node) = node {
                self.nodes.share(node);
            }
            self.hints.share(zones);
            self.hints.share(nodes);
        }
    }
}

#[derive(Debug)]
struct Shared<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// With so many, those that nobody else holds any more are let go.
    limit: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Shared { known: HashSet::new(), limit: 64 }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.known.get(&**value) {
            *value = known.clone();
            return;
        }
        if self.known.len() >= self.limit {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.limit = (2 * self.known.len()).max(64);
        }
        self.known.insert(value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, ObjectName};

    fn slice(node: &str, zones: &[&str]) -> EndpointSlice {
        let endpoint = Endpoint {
            address: [10, 0, 0, 1].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(Arc::new(NodeName::new(node).unwrap())),
            zones: zones.iter().map(|zone| Box::from(*zone)).collect(),
            nodes: Arc::default(),
        };
        EndpointSlice {
            name: ObjectName::new("default", "web-1"),
            service: "web".into(),
            family: Family::V4,
            ports: Vec::new(),
            endpoints: vec![endpoint],
        }
    }

    #[test]
    fn equal_names_are_one() {
        let mut names = SharedNames::default();
        let (mut one, mut other, mut third) = (slice("a", &["x"]), slice("a", &["x"]), slice("b", &[]));
        for slice in [&mut one, &mut other, &mut third] {
            let before = slice.clone();
            names.share(slice);
            assert_eq!(*slice, before);
        }
        let of = |slice: &EndpointSlice| slice.endpoints[0].clone();
        assert!(Arc::ptr_eq(&of(&one).node.unwrap(), &of(&other).node.unwrap()));
        assert!(Arc::ptr_eq(&of(&one).zones, &of(&other).zones));
        assert!(Arc::ptr_eq(&of(&one).nodes, &of(&third).zones));
        assert_ne!(of(&one).node, of(&third).node);
    }

    #[test]
    fn names_that_nobody_holds_are_let_go() {
        let mut names = SharedNames::default();
        let mut kept = slice("kept", &[]);
        names.share(&mut kept);
        for number in 0..1000 {
            names.share(&mut slice(&format!("node-{number}"), &[]));
        }
        assert!(names.nodes.known.len() <= 64, "{}", names.nodes.known.len());
        assert!(names.nodes.known.contains(kept.endpoints[0].node.as_ref().unwrap()));
    }
}
