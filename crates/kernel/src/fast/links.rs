//! The programs on links.

use std::collections::BTreeSet;

use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use model::LinkName;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcMessage};

use super::object::{Hook, Object};
use crate::bpf::failed;
use crate::link::{self, LinkState};
use crate::rtnl::RouteSocket;
use crate::{Error, Result};

/// What is at the other end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A pod of this node.
    Pod,
    /// Other nodes: an uplink, or a VXLAN device.
    Wire,
}

/// A link with both programs. They are taken off it when it is dropped, and so when the process ends.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) index: u32,
    pub(super) side: Side,
    /// Whether nobody else had a program for what leaves by it.
    pub(super) is_plain: bool,
    _programs: [SchedClassifierLink; 2],
}

impl Attached {
    /// Puts the programs on a link of the calling thread's network namespace.
    pub(super) fn new(object: &mut Object, name: &LinkName, index: u32, side: Side) -> Result<Attached> {
        let (enter, leave) = match side {
            Side::Pod => (Hook::FromPod, Hook::ToPod),
            Side::Wire => (Hook::FromWire, Hook::ToWire),
        };
        let plain = is_plain(name);
        let is_plain = plain.is_ok();
        if side == Side::Pod {
            plain?;
        }
        // Inside of IP in IP, and behind all who want to see what comes.
        let entering = attach(object, enter, name, TcAttachType::Ingress, LinkOrder::last())?;
        let leaving = attach(object, leave, name, TcAttachType::Egress, LinkOrder::first())?;
        Ok(Attached { index, side, is_plain, _programs: [entering, leaving] })
    }
}

/// A link; `None` if there is none.
pub(super) fn find(name: &LinkName) -> Result<Option<LinkState>> {
    link::read(&mut RouteSocket::open()?, name)
}

/// The links with queueing disciplines that do something, those for what comes included.
pub(super) fn shaped() -> Result<BTreeSet<u32>> {
    let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let disciplines = RouteSocket::open()?.dump(&message, "list queueing disciplines")?;
    let shapes = |message: &TcMessage| {
        let plain =
            |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "noqueue");
        !message.attributes.iter().any(plain)
    };
    let index = |message| match message {
        RouteNetlinkMessage::NewQueueDiscipline(message) if shapes(&message) => {
            u32::try_from(message.header.index).ok()
        }
        _ => None,
    };
    Ok(disciplines.into_iter().filter_map(index).collect())
}

/// Packets of the fast path would pass a queueing discipline by.
pub(super) fn refuse_shaped(name: &LinkName) -> Error {
    Error::Foreign {
        what: format!("use the fast path for {name}"),
        obstacle: "a queueing discipline on it".to_owned(),
        remedy: "its packets take the kernel's path; remove it if they are not to".to_owned(),
    }
}

/// Whatever others have on a pod's link for packets to the pod would not see those of the fast path.
fn is_plain(name: &LinkName) -> Result<()> {
    let what = format!("use the fast path for {name}");
    let (_, there) =
        SchedClassifier::query_tcx(&name.to_string(), TcAttachType::Egress).map_err(failed(what.clone()))?;
    match there.first().and_then(|program| program.name_as_str().map(str::to_owned)) {
        None if there.is_empty() => Ok(()),
        found => Err(Error::Foreign {
            what,
            obstacle: format!("the BPF program {} on its egress", found.unwrap_or_default()),
            remedy: "its packets take the kernel's path; remove the program if they are not to".to_owned(),
        }),
    }
}

fn attach(
    object: &mut Object,
    hook: Hook,
    name: &LinkName,
    at: TcAttachType,
    order: LinkOrder,
) -> Result<SchedClassifierLink> {
    let what = || format!("attach the program {} of the fast path to {name}", hook.name());
    let program = object.program(hook)?;
    let attached = program.attach_with_options(&name.to_string(), at, TcAttachOptions::TcxOrder(order));
    attached.and_then(|id| program.take_link(id)).map_err(failed(what()))
}
