//! CHECK: is a container still attached as it was?

use std::net::IpAddr;

use ipnet::IpNet;
use kernel::pod::{self, Guard, Interface, PodNs};
use model::{Attachment, Family};

use crate::error::{Error, code};
use crate::node;
use crate::request::{Config, Target};
use crate::result::{Reported, ReportedInterface};

/// Compares what ADD reported with what is there, and tells all the differences.
pub(crate) fn check(config: &Config, target: &Target, previous: &Reported) -> Result<(), Error> {
    let file = node::file(config)?;
    let mut pod = node::pod(target)?;
    let mut socket = node::socket()?;
    let (index, reported) = own(target, previous)?;
    let nets: Vec<IpNet> =
        previous.ips.iter().filter(|(_, at)| *at == Some(index)).map(|(net, _)| *net).collect();
    let mut faults = Vec::new();

    match pod.interface(&target.link)? {
        None => faults.push(format!("the container has no interface {}", target.link)),
        Some(found) => inside(&mut pod, &found, reported, &nets, previous, &mut faults)?,
    }

    let host = target.id.host_link();
    let bridge = pod::interface(&mut socket, &file.bridge)?;
    match (pod::interface(&mut socket, &host)?, &bridge) {
        (None, _) => faults.push(format!("the node has no link {host}")),
        (_, None) => faults.push(format!("the node has no bridge {}", file.bridge)),
        (Some(link), Some(bridge)) => {
            if link.bridge != Some(bridge.index) {
                faults.push(format!("link {host} is no port of bridge {}", bridge.name));
            } else if !link.hairpin {
                faults.push(format!(
                    "link {host} is not in hairpin mode: the pod cannot reach its own services"
                ));
            }
            faults.extend((!link.up).then(|| format!("link {host} is down")));
            faults.extend((!bridge.up).then(|| format!("bridge {} is down", bridge.name)));
        }
    }

    let mut addresses: Vec<IpAddr> = nets.iter().map(IpNet::addr).collect();
    addresses.sort_unstable();
    let held = node::store(config).lock()?.addresses(&target.id)?;
    for address in addresses.iter().filter(|address| !held.contains(address)) {
        let path = config.data_dir.join(&config.name).join(address.to_string());
        faults.push(format!("address {address} is not reserved for the container in {}", path.display()));
    }
    let attachment = Attachment { id: target.id.clone(), addresses };
    for member in Guard::open()?.missing(&attachment)? {
        faults.push(format!("set {} lacks the element {}", member.set, member.key_text()));
    }
    if let (Some(admitted), Some(mac)) = (attachment.mac(), reported.mac)
        && admitted != mac
    {
        faults
            .push(format!("the interface's Ethernet address is {mac}, but the node admits {admitted} only"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::new(code::CHECK_FAILED, "the container is not attached as it was", faults.join("; ")))
}

/// The interface of the result that is the container's.
fn own<'a>(target: &Target, previous: &'a Reported) -> Result<(usize, &'a ReportedInterface), Error> {
    let is_own = |each: &&ReportedInterface| each.name == target.id.ifname && each.sandbox.is_some();
    let position = previous.interfaces.iter().position(|each| is_own(&each));
    position.and_then(|at| Some((at, previous.interfaces.get(at)?))).ok_or_else(|| {
        let why =
            format!("prevResult.interfaces has no {} with a sandbox, which is what ADD made", target.link);
        Error::new(code::INVALID_CONFIG, "invalid network configuration", why)
    })
}

/// What is wrong inside the container.
fn inside(
    pod: &mut PodNs,
    found: &Interface,
    reported: &ReportedInterface,
    nets: &[IpNet],
    previous: &Reported,
    faults: &mut Vec<String>,
) -> Result<(), Error> {
    let name = &found.name;
    faults.extend((!found.up).then(|| format!("the container's interface {name} is down")));
    if let (Some(there), Some(reported)) = (found.mac, reported.mac)
        && there != reported
    {
        faults.push(format!(
            "the container's interface {name} has the Ethernet address {there}, not {reported}"
        ));
    }
    let there = pod.addresses(found)?;
    for net in nets.iter().filter(|net| !there.contains(net)) {
        faults.push(format!("the container's interface {name} lacks the address {net}"));
    }
    let routes = pod.default_routes()?;
    for (destination, via) in previous.routes.iter().filter(|(destination, _)| destination.prefix_len() == 0)
    {
        let family = Family::of_net(destination);
        // Only what leads through our addresses' subnets is ours to tell of.
        let Some(via) = via.filter(|via| nets.iter().any(|net| net.contains(via))) else { continue };
        let same =
            |route: &&pod::DefaultRoute| route.via == Some(via) && route.interface == Some(found.index);
        if !routes.iter().any(|route| same(&route)) {
            faults.push(format!("the container lacks the {family} default route via {via} on {name}"));
        }
    }
    Ok(())
}
