use std::path::Path;

use model::AttachmentId;

use super::*;

fn json(version: Version, previous: Option<&Reported>) -> Value {
    let attachment = Attachment {
        id: AttachmentId { container_id: "c0".to_owned(), ifname: "eth0".to_owned() },
        addresses: vec!["10.244.1.2".parse().unwrap(), "fd00:1::2".parse().unwrap()],
    };
    let ranges = ["10.244.1.0/24", "fd00:1::/64"].map(|range| range.parse().unwrap());
    let made = Made {
        attachment: &attachment,
        netns: Path::new("/run/netns/c0"),
        host_mac: "02:58:0a:f4:01:02".parse().unwrap(),
        mac: "0a:58:0a:f4:01:02".parse().unwrap(),
        mtu: 1450,
        ranges: &ranges,
        default_routes: &Family::BOTH,
        dns: None,
    };
    made.to_json(version, previous)
}

#[test]
fn each_version_has_its_form() {
    let newest = json(Version::V1_1_0, None);
    assert_eq!(
        newest,
        serde_json::json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "cbvc0a6e2959223", "mac": "02:58:0a:f4:01:02", "mtu": 1450 },
                { "name": "eth0", "mac": "0a:58:0a:f4:01:02", "mtu": 1450, "sandbox": "/run/netns/c0" },
            ],
            "ips": [
                { "address": "10.244.1.2/24", "gateway": "10.244.1.1", "interface": 1 },
                { "address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 1 },
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.244.1.1" },
                { "dst": "::/0", "gw": "fd00:1::1" },
            ],
            "dns": {},
        })
    );
    let middle = json(Version::V1_0_0, None);
    assert_eq!(middle["cniVersion"], "1.0.0");
    assert!(middle["interfaces"][0].get("mtu").is_none() && middle["ips"][0].get("version").is_none());
    for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
        let old = json(version, None);
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
    }
}

#[test]
fn what_others_made_stays_in_front() {
    let previous = serde_json::json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "dummy0", "extra": true }],
        "ips": [{ "address": "192.0.2.1/24", "interface": 0 }],
        "dns": { "nameservers": ["192.0.2.53"] },
    });
    let result = json(Version::V1_0_0, Some(&Reported::parse(&previous).unwrap()));
    assert_eq!(result["interfaces"][0]["extra"], true);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][0]["interface"], 0);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"]["nameservers"][0], "192.0.2.53");
}

#[test]
fn a_result_comes_back_as_what_it_was() {
    let reported = Reported::parse(&json(Version::V0_4_0, None)).unwrap();
    assert_eq!(reported.interfaces[1].sandbox.as_deref(), Some("/run/netns/c0"));
    assert_eq!(
        reported.ips,
        [("10.244.1.2/24".parse().unwrap(), Some(1)), ("fd00:1::2/64".parse().unwrap(), Some(1))]
    );
    assert_eq!(reported.routes[0], (everywhere(Family::V4), Some("10.244.1.1".parse().unwrap())));
}

#[test]
fn what_cannot_be_a_result_is_named() {
    for (text, expected) in [
        (r#"{"interfaces":7}"#, "prevResult.interfaces is 7; it would be a list"),
        (r#"{"interfaces":[{"name":"a","mac":"zz"}]}"#, "prevResult.interfaces[0].mac is \"zz\""),
        (r#"{"ips":[{}]}"#, "prevResult.ips[0].address is null"),
        (r#"{"ips":[{"address":"10.0.0.1/8","interface":-1}]}"#, "prevResult.ips[0].interface is -1"),
        (r#"{"routes":[{"dst":"everywhere"}]}"#, "prevResult.routes[0].dst is \"everywhere\""),
    ] {
        let error = Reported::parse(&serde_json::from_str(text).unwrap()).unwrap_err();
        assert!(error.details.contains(expected), "{error}");
    }
}
