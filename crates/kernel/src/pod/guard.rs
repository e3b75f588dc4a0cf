//! The set elements that let pods send from their own addresses ([`plan::source_guard`]).

use std::os::fd::{AsFd, BorrowedFd};

use model::{Attachment, LinkName};
use nft::{Batch, Type};
use plan::{Entry, Member, Origin, TableFamily, source_guard};

use crate::{Error, Result, render};

/// The way to the sets of the bridge's table, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Guard {
    socket: nft::Socket,
}

/// An element that is about a pod's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    link: LinkName,
    set: nft::Set,
    element: nft::Element,
}

impl Admitted {
    /// The node's end of the pod's veth pair.
    pub fn link(&self) -> &LinkName {
        &self.link
    }

    /// Whether it is the same element of the same set.
    fn is(&self, set: &nft::Set, element: &nft::Element) -> bool {
        self.set.name == set.name && self.element.key == element.key
    }
}

impl Guard {
    /// Opens a netfilter socket.
    ///
    /// # Errors
    /// [`Error::Tables`] if the kernel has no nftables or the process no descriptor left.
    pub fn open() -> Result<Guard> {
        match nft::Socket::open() {
            Ok(socket) => Ok(Guard { socket }),
            Err(source) => Err(Error::Tables { what: "open a netfilter socket".to_owned(), source }),
        }
    }

    /// Whether the agent's table is there with its sets.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not; else what the kernel says.
    pub fn ready(&mut self) -> Result<()> {
        if self.sets()?.is_empty() {
            let what = "let pods send".to_owned();
            return Err(Error::Missing {
                what,
                missing: format!("nftables {} with the pods' sets", table()),
            });
        }
        Ok(())
    }

    /// Lets a pod send from its addresses.
    ///
    /// # Errors
    /// [`Error::Missing`] if the agent has not made the table; else what the kernel says. Nothing is admitted then.
    pub fn admit(&mut self, attachment: &Attachment) -> Result<()> {
        let origin = Origin::Attachment(attachment.id.clone()).to_string();
        let mut batch = Batch::new();
        for member in members(attachment) {
            batch.add_elements(&render::set_of(&member), [render::element(&member).comment(origin.clone())]);
        }
        let what = || format!("let pod interface {} send", attachment.id);
        self.socket.commit(batch).map_err(|source| {
            if source.is_not_found() {
                return Error::Missing {
                    what: what(),
                    missing: format!("nftables {} with the pods' sets", table()),
                };
            }
            Error::Tables { what: what(), source }
        })
    }

    /// Takes back what pods may send, of all of them at once. What is not there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn withdraw(&mut self, attachments: &[Attachment]) -> Result<()> {
        let mut all = Vec::new();
        for attachment in attachments {
            let link = attachment.id.host_link();
            all.extend(members(attachment).iter().map(|member| Admitted {
                link: link.clone(),
                set: render::set_of(member),
                element: render::element(member),
            }));
        }
        self.remove(&all)
    }

    /// Removes elements. What is not there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&mut self, elements: &[Admitted]) -> Result<()> {
        match self.delete(elements) {
            // One that is missing keeps all from going.
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                let mut there = self.admitted()?;
                there.retain(|found| elements.iter().any(|element| found.is(&element.set, &element.element)));
                self.delete(&there)
            }
            result => result,
        }
    }

    /// All elements that are about pods' links; none if there is no table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn admitted(&mut self) -> Result<Vec<Admitted>> {
        let mut admitted = Vec::new();
        for set in self.sets()? {
            let elements = match self.socket.elements(&set) {
                Err(error) if error.is_not_found() => continue,
                result => result.map_err(|source| Error::Tables { what: listing(), source })?,
            };
            admitted.extend(elements.into_iter().filter_map(|element| {
                let link = link(&set, &element)?;
                Some(Admitted { link, set: set.clone(), element })
            }));
        }
        Ok(admitted)
    }

    /// What a pod may not send although it should.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn missing(&mut self, attachment: &Attachment) -> Result<Vec<Member>> {
        let there = self.admitted()?;
        let mut members = members(attachment);
        members.retain(|member| {
            let (set, element) = (render::set_of(member), render::element(member));
            !there.iter().any(|found| found.is(&set, &element))
        });
        Ok(members)
    }

    fn delete(&mut self, elements: &[Admitted]) -> Result<()> {
        let mut batch = Batch::new();
        for each in elements {
            batch.delete_element(&each.set, &each.element);
        }
        let what = || "take back what a pod may send".to_owned();
        self.socket.commit(batch).map_err(|source| Error::Tables { what: what(), source })
    }

    /// The sets whose elements begin with a link.
    fn sets(&mut self) -> Result<Vec<nft::Set>> {
        let mut sets =
            self.socket.sets(&table()).map_err(|source| Error::Tables { what: listing(), source })?;
        sets.retain(|set| set.key.first() == Some(&Type::Ifname));
        Ok(sets)
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn listing() -> String {
    "list what pods may send".to_owned()
}

fn table() -> nft::Table {
    render::table(TableFamily::Bridge)
}

fn members(attachment: &Attachment) -> Vec<Member> {
    let member = |entry| match entry {
        Entry::Member(member) => Some(member),
        _ => None,
    };
    source_guard(attachment).into_iter().filter_map(member).collect()
}

/// The link that an element is about, if it is a pod's.
fn link(set: &nft::Set, element: &nft::Element) -> Option<LinkName> {
    let values = element.key.values(&set.key)?;
    let name = values.first()?.as_bytes().split(|byte| *byte == 0).next()?;
    let name = str::from_utf8(name).ok()?;
    name.starts_with(LinkName::POD_PREFIX).then(|| LinkName::new(name).ok())?
}
