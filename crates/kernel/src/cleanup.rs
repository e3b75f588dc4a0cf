//! Takes everything of ours out of the kernel.

use model::Family;
use plan::Key;

use crate::link::{self, Links};
use crate::report::{Failure, Report, Verb};
use crate::rtnl::Request;
use crate::{Kernel, Result, neighbour, route};

impl Kernel {
    /// Removes all that is ours, and nothing else: routes, links with those of pods, neighbours with our mark, tables, and
    /// programs, if it is known where they are pinned ([`Kernel::pin_in`]). Kernel settings stay as they are, because nobody
    /// knows what they were before.
    ///
    /// # Errors
    /// If the kernel cannot be read. What cannot be removed is in the report.
    pub fn cleanup(&mut self) -> Result<Report> {
        let mut report = Report::default();
        let mut jobs: Vec<(Key, Request)> = Vec::new();
        for family in Family::BOTH {
            for message in route::dump(&mut self.socket, family)? {
                if let Some(destination) = route::destination(&message) {
                    jobs.push((Key::Route(destination), route::remove_exactly(message)));
                }
            }
        }
        let links = Links::read(&mut self.socket)?;
        jobs.extend(
            links
                .iter()
                .filter(|link| link.ours || link.pods)
                .map(|link| (Key::Link(link.name.clone()), link::delete(link.index, &link.name))),
        );
        for family in Family::BOTH {
            let marked = neighbour::all(&mut self.socket, family)?;
            jobs.extend(marked.iter().filter_map(|message| neighbour::removal(message, &links)));
        }
        let (keys, requests): (Vec<Key>, Vec<Request>) = jobs.into_iter().unzip();
        for (result, key) in self.socket.batch(&requests).into_iter().zip(keys) {
            match result {
                Ok(()) => report.done(Verb::Removed, key, None),
                // The other end of a pod's link may have gone first, and routes go with their link.
                Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ESRCH)) => {}
                Err(error) => report.failures.push(Failure { key, origin: None, error }),
            }
        }
        report.fast_path = self.fast_path.remove().err();
        report.tunnel = self.tunnel.remove().err();
        self.tables.remove_all(&mut report)?;
        self.services.remove_all(&mut self.tables.socket, &mut report)?;
        Ok(report)
    }
}
