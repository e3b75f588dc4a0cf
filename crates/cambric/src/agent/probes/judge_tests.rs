use kube_source::{ProbePacket, ProbeReport, ProbeSender, ProbeWatcher};
use model::{AttachmentId, ObjectName};

use super::*;

const UID: &str = "5a1c8f0e-0f5c-4a65-b0f7-0a8d3f7b1a10";

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn probe_pod(name: &str) -> ProbePod {
    ProbePod { namespace: "default".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") }
}

fn spec() -> ProbeSpec {
    let watcher = |node: &str, pod: &str| ProbeWatcher { node: node.to_owned(), pods: vec![probe_pod(pod)] };
    ProbeSpec {
        sender: ProbeSender { node: "a".to_owned(), pod: Some(probe_pod("client")) },
        packet: ProbePacket {
            protocol: ProbeProtocol::Tcp,
            destination: "10.96.0.10".to_owned(),
            port: Some(80),
        },
        watchers: vec![watcher("a", "client"), watcher("b", "web")],
    }
}

fn judged(own: &str, spec: &ProbeSpec) -> Verdict {
    judge(&name(own), spec, UID, Duration::ZERO, 0)
}

fn job(own: &str, spec: &ProbeSpec) -> Job {
    match judged(own, spec) {
        Verdict::Do(job) => job,
        other => panic!("{other:?}"),
    }
}

fn refusal(own: &str, spec: &ProbeSpec) -> String {
    match judged(own, spec) {
        Verdict::Refuse(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_nodes_that_are_named_have_a_part_in_it() {
    let (sender, watcher) = (job("a", &spec()), job("b", &spec()));
    assert_eq!(sender.sends, Some(Some(0)));
    assert_eq!((watcher.sends, watcher.pods.as_slice()), (None, [probe_pod("web")].as_slice()));
    assert_eq!((sender.mark, sender.port), (watcher.mark, watcher.port), "all look for the same");
    assert_eq!(judged("c", &spec()), Verdict::NotOurs);
    let of_node = ProbeSpec { sender: ProbeSender { node: "a".to_owned(), pod: None }, ..spec() };
    assert_eq!(job("a", &of_node).sends, Some(None));
    let mut elsewhere = spec();
    elsewhere.watchers[0].pods.clear();
    assert_eq!(job("a", &elsewhere).sends, Some(Some(0)), "the sender is looked at in any case");
}

#[test]
fn what_is_old_is_left_alone_and_deleted_by_one() {
    let old = Duration::from_secs(PROBE_LIFETIME);
    assert_eq!(judge(&name("a"), &spec(), UID, old, 0), Verdict::Expired { delete: true });
    assert_eq!(judge(&name("b"), &spec(), UID, old, 0), Verdict::Expired { delete: false });
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let Verdict::Refuse(reason) = judge(&name("b"), &spec(), UID, Duration::ZERO, AT_ONCE) else { panic!() };
    assert!(reason.contains("4 probes are under way"), "{reason}");
    let mut bad = spec();
    bad.packet.destination = "web".to_owned();
    assert!(refusal("b", &bad).contains("\"web\" is not an IP address"));
    bad = spec();
    bad.packet.port = None;
    assert!(refusal("b", &bad).contains("spec.packet.port"));
    bad.packet = ProbePacket { protocol: ProbeProtocol::Icmp, port: Some(1), ..spec().packet };
    assert!(refusal("b", &bad).contains("ICMP has no ports"));
    bad = spec();
    bad.watchers.remove(0);
    assert!(refusal("a", &bad).contains("not among them"));
}

#[test]
fn it_is_sent_when_all_look_and_told_when_it_was_sent() {
    let status = |reports: &[ProbeReport]| ProbeStatus { nodes: reports.to_vec() };
    let (sender, watcher) = (job("a", &spec()), job("b", &spec()));
    let (a, b) = (ProbeReport::new("a", ProbePhase::Ready), ProbeReport::new("b", ProbePhase::Ready));
    assert_eq!(sender.next(&status(&[])), Next::Wait);
    assert_eq!(sender.next(&status(std::slice::from_ref(&a))), Next::Wait, "the other does not look yet");
    assert_eq!(sender.next(&status(&[a.clone(), b.clone()])), Next::Send);
    assert_eq!(watcher.next(&status(&[a.clone(), b.clone()])), Next::Wait);
    assert_eq!(watcher.next(&status(&[ProbeReport::new("a", ProbePhase::Done), b])), Next::Tell);
    let refused = status(&[a, ProbeReport::new("b", ProbePhase::Refused)]);
    assert_eq!(sender.next(&refused), Next::GiveUp("node b has refused".to_owned()));
    assert_eq!(watcher.next(&refused), Next::GiveUp("node b has refused".to_owned()));
}

#[test]
fn a_pod_counts_only_while_it_is_the_same_and_here() {
    let address: IpAddr = "10.244.1.2".parse().unwrap();
    let id = AttachmentId { container_id: "c".to_owned(), ifname: "eth0".to_owned() };
    let attachment = Attachment { id, addresses: vec![address] };
    let view =
        View { underlay: PerFamily::default(), attachments: vec![attachment.clone()], vxlan_port: 4789 };
    let pod = Pod {
        name: ObjectName::new("default", "client"),
        uid: "uid-client".into(),
        node: name("a"),
        host_network: false,
        addresses: PerFamily { v4: Some(address), v6: None },
    };
    let wanted = probe_pod("client");
    let look = |own: &str, pod: Option<&Pod>| view.attachment(&name(own), &wanted, pod);
    assert_eq!(look("a", Some(&pod)), Ok(&attachment));
    for (own, found, reason) in [
        ("a", None, "is gone"),
        ("b", Some(pod.clone()), "is not on this node, but on a"),
        ("a", Some(Pod { uid: "new".into(), ..pod.clone() }), "is another by now: its UID is new"),
        ("a", Some(Pod { host_network: true, ..pod.clone() }), "hostNetwork"),
        (
            "a",
            Some(Pod { addresses: PerFamily { v4: "10.9.9.9".parse().ok(), v6: None }, ..pod.clone() }),
            "no interface of this network",
        ),
    ] {
        let error = look(own, found.as_ref()).unwrap_err();
        assert!(error.contains(reason) && error.contains("pod default/client"), "{error}");
    }
}
