//! ADD: attach a container.

use kernel::pod::{self, Guard, PodNs, Wanted};
use kernel::rtnl::RouteSocket;
use model::{Attachment, NodeFile};
use serde_json::Value;

use crate::args::Args;
use crate::error::{Error, code};
use crate::request::{Config, Target};
use crate::result::{Made, Reported};
use crate::{del, node};

/// Gives the container an interface with addresses; the result for the runtime. If anything fails, nothing stays.
///
/// As the plugin that makes the interface, this one is usually first in a chain. Where it is not, what others made
/// is passed through, and what is made here is appended.
pub(crate) fn add(
    config: &Config,
    target: &Target,
    args: &Args,
    previous: Option<&Reported>,
) -> Result<Value, Error> {
    let mut pod = node::pod(target)?;
    if pod.interface(&target.link)?.is_some() {
        return Err(exists(target));
    }
    let file = node::file(config)?;
    let mut socket = node::socket()?;
    let attachment = node::store(config).lock()?.allocate(&target.id, &file.pod_ranges)?;
    let forgotten = kernel::fast::forget(&node::pins(config), &attachment.addresses);
    let made = forgotten.and_then(|()| attach(&mut socket, &mut pod, target, args, &file, &attachment));
    let (attached, netns) = match made {
        Ok(attached) => (attached, &target.netns),
        Err(error) => return Err(give_up(config, target, &mut socket, &mut pod, error)),
    };
    let made = Made {
        attachment: &attachment,
        netns,
        host_mac: attached.host_mac,
        mac: attached.mac,
        mtu: file.mtu,
        ranges: &file.pod_ranges,
        default_routes: &attached.default_routes,
        dns: config.dns.as_ref(),
    };
    Ok(made.to_json(config.version, previous))
}

fn attach(
    socket: &mut RouteSocket,
    pod: &mut PodNs,
    target: &Target,
    args: &Args,
    file: &NodeFile,
    attachment: &Attachment,
) -> kernel::Result<pod::Attached> {
    // First, so that the pod's first frame passes.
    Guard::open()?.admit(attachment)?;
    let name = args.pod().unwrap_or_else(|| target.id.container_id.clone());
    let wanted = Wanted {
        attachment,
        name: &target.link,
        bridge: &file.bridge,
        mtu: file.mtu,
        ranges: &file.pod_ranges,
        pod: &name,
    };
    pod::attach(socket, pod, &wanted)
}

/// Takes everything back; the error for the runtime.
fn give_up(
    config: &Config,
    target: &Target,
    socket: &mut RouteSocket,
    pod: &mut PodNs,
    error: kernel::Error,
) -> Error {
    let taken = error.errno() == Some(libc::EEXIST) && matches!(pod.interface(&target.link), Ok(Some(_)));
    let host = target.id.host_link();
    if taken && matches!(pod::interface(socket, &host), Ok(Some(_))) {
        // Another ADD of the same attachment was quicker, so all that we would take back is that one's.
        return exists(target);
    }
    let mut told: Error = if taken { exists(target) } else { error.into() };
    if let Err(left) = del::del(config, &target.id) {
        told.details = format!("{}; moreover, not everything could be taken back: {left}", told.details);
    }
    told
}

fn exists(target: &Target) -> Error {
    Error::new(
        code::INTERFACE_EXISTS,
        "the interface exists already",
        format!(
            "{} has an interface {} (CNI_IFNAME); it was left as it is",
            target.netns.display(),
            target.link
        ),
    )
}
