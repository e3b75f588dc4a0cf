//! The elements of a services' table, by what they are about.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use model::Family;
use plan::services::{self, Backend, Frontend};
use plan::{SetData, SetName};

use crate::render;
use crate::tables::alike;

/// What the sets and maps of one table hold.
#[derive(Debug, Default)]
pub(super) struct Maps {
    pub(super) services: BTreeMap<Frontend, Lead>,
    pub(super) backends: BTreeMap<Frontend, BTreeMap<u32, Backend>>,
    pub(super) outside: BTreeMap<Frontend, Lead>,
    pub(super) outside_backends: BTreeMap<Frontend, BTreeMap<u32, Backend>>,
    pub(super) exposed: BTreeSet<Frontend>,
    pub(super) keep_source: BTreeSet<Frontend>,
    pub(super) restricted: BTreeSet<Frontend>,
    pub(super) allowed: BTreeMap<Frontend, Vec<IpNet>>,
    pub(super) sticky: BTreeMap<Frontend, Lead>,
    /// The endpoints that clients stay with, one for each client.
    pub(super) affinity: BTreeMap<Frontend, Vec<Backend>>,
    pub(super) service_ranges: Vec<IpNet>,
}

/// Where an element of a verdict map leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lead {
    pub(super) verdict: nft::Verdict,
    /// The service that the comment names.
    pub(super) service: Option<String>,
}

impl Maps {
    /// Sorts the elements of a snapshot. Sets of another type are left out; what is not understood is a fault.
    pub(super) fn read(family: Family, snapshot: &nft::Snapshot, faults: &mut Vec<String>) -> Maps {
        let mut maps = Maps::default();
        let table = render::named(services::TABLE, family.into());
        for planned in services::sets(family) {
            let wanted = render::set(&table, &planned);
            let found = snapshot.sets.iter().find(|(set, _)| set.name == wanted.name && alike(set, &wanted));
            let data = match &wanted.data {
                Some(nft::MapData::Values(types)) => &types[..],
                _ => &[],
            };
            for element in found.into_iter().flat_map(|(_, elements)| elements) {
                let row = Row::read(element, &wanted.key, data);
                if row.and_then(|row| maps.take(planned.name, &row)).is_none() {
                    let key = element.key.display(&wanted.key);
                    let held = match (&planned.data, element.verdict()) {
                        (SetData::Verdict, Some(verdict)) => format!("{key} : {verdict}"),
                        _ => key,
                    };
                    faults.push(format!("{wanted} holds {held}, which is not understood"));
                }
            }
        }
        maps
    }

    /// Takes in an element; `None` if it says nothing that can be understood.
    fn take(&mut self, set: SetName, row: &Row<'_>) -> Option<()> {
        match set {
            services::SERVICES => drop(self.services.insert(row.frontend()?, row.lead()?)),
            services::OUTSIDE => drop(self.outside.insert(row.frontend()?, row.lead()?)),
            services::STICKY => drop(self.sticky.insert(row.frontend()?, row.lead()?)),
            services::BACKENDS => row.number_into(&mut self.backends)?,
            services::OUTSIDE_BACKENDS => row.number_into(&mut self.outside_backends)?,
            services::EXPOSED => drop(self.exposed.insert(row.frontend()?)),
            services::KEEP_SOURCE => drop(self.keep_source.insert(row.frontend()?)),
            services::RESTRICTED => drop(self.restricted.insert(row.frontend()?)),
            services::ALLOWED => self.allowed.entry(row.frontend()?).or_default().push(row.prefix()?),
            services::AFFINITY => {
                let frontend = render::frontend(row.key.get(1..)?)?;
                self.affinity.entry(frontend).or_default().push(row.backend()?);
            }
            services::SERVICE_RANGES => self.service_ranges.push(row.prefix()?),
            // Who may be sent back to itself, and whose source stays, is nothing that a service shows.
            _ => {}
        }
        Some(())
    }
}

/// An element with its fields apart.
struct Row<'a> {
    element: &'a nft::Element,
    key: Vec<nft::Value>,
    last: Vec<nft::Value>,
    data: Vec<nft::Value>,
}

impl<'a> Row<'a> {
    fn read(element: &'a nft::Element, key: &[nft::Type], data: &[nft::Type]) -> Option<Row<'a>> {
        let last = element.last.as_ref().unwrap_or(&element.key).values(key)?;
        let data = match element.value() {
            Some(value) => value.values(data)?,
            None => Vec::new(),
        };
        Some(Row { element, key: element.key.values(key)?, last, data })
    }

    fn frontend(&self) -> Option<Frontend> {
        render::frontend(&self.key)
    }

    fn lead(&self) -> Option<Lead> {
        let service = self.element.comment.as_ref().map(ToString::to_string);
        Some(Lead { verdict: self.element.verdict()?.clone(), service })
    }

    /// Takes in an endpoint under the number that its key ends with.
    fn number_into(&self, backends: &mut BTreeMap<Frontend, BTreeMap<u32, Backend>>) -> Option<()> {
        let number = self.key.last()?.as_u32()?;
        backends.entry(self.frontend()?).or_default().insert(number, self.backend()?);
        Some(())
    }

    fn backend(&self) -> Option<Backend> {
        render::backend(&self.data)
    }

    /// The prefix that the key ends with.
    fn prefix(&self) -> Option<IpNet> {
        render::prefix(self.key.last()?.as_ip()?, self.last.last()?.as_ip()?)
    }
}
