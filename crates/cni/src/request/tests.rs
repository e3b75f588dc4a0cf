use proptest::prelude::*;

use super::*;

const CONFIG: &str = r#"{"cniVersion":"1.1.0","name":"cambric","type":"cambric"}"#;

fn environment(command: &str) -> Environment {
    let text = |text: &str| Some(text.to_owned());
    Environment {
        command: text(command),
        container_id: text("c0"),
        netns: text("/run/netns/c0"),
        ifname: text("eth0"),
        args: None,
    }
}

fn error(environment: &Environment, input: &str) -> (u32, String) {
    let (_, error) = Request::parse(environment, input.as_bytes()).unwrap_err();
    (error.code, error.to_string())
}

#[test]
fn a_plain_add() {
    let Ok(Request::Add { config, target, previous, .. }) =
        Request::parse(&environment("ADD"), CONFIG.as_bytes())
    else {
        panic!("no ADD")
    };
    assert_eq!(config.node_file, PathBuf::from(DEFAULT_NODE_FILE));
    assert_eq!(config.data_dir, PathBuf::from(ipam::DEFAULT_DATA_DIR));
    assert_eq!(target.id.ifname, "eth0");
    assert_eq!(previous, None);
}

#[test]
fn del_needs_no_namespace_and_takes_any_arguments() {
    for netns in [None, Some(String::new()), Some("relative".to_owned())] {
        let environment = Environment { netns, args: Some("=;=".to_owned()), ..environment("DEL") };
        assert!(matches!(Request::parse(&environment, CONFIG.as_bytes()), Ok(Request::Del { .. })));
    }
}

#[test]
fn version_needs_nothing() {
    let none = Environment { command: Some("VERSION".to_owned()), ..Environment::default() };
    for (input, expected) in [("", "1.1.0"), ("{}", "1.1.0"), (r#"{"cniVersion":"9.9.9"}"#, "9.9.9")] {
        let Ok(Request::Version { version }) = Request::parse(&none, input.as_bytes()) else {
            panic!("{input}")
        };
        assert_eq!(version, expected);
    }
}

#[test]
fn status_and_gc_need_no_container() {
    let bare = |command: &str| Environment { command: Some(command.to_owned()), ..Environment::default() };
    assert!(matches!(Request::parse(&bare("STATUS"), CONFIG.as_bytes()), Ok(Request::Status { .. })));
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let input = CONFIG.replace('}', &format!(r#","{key}":[{{"containerID":"c0","ifname":"eth0"}}]}}"#));
        let Ok(Request::Gc { valid, .. }) = Request::parse(&bare("GC"), input.as_bytes()) else {
            panic!("{key}")
        };
        let id = AttachmentId { container_id: "c0".to_owned(), ifname: "eth0".to_owned() };
        assert_eq!(valid, BTreeSet::from([id]));
    }
    let Ok(Request::Gc { valid, .. }) = Request::parse(&bare("GC"), CONFIG.as_bytes()) else {
        panic!("no list")
    };
    assert_eq!(valid, BTreeSet::new());
    let (code, text) = error(&bare("GC"), &CONFIG.replace('}', r#","cni.dev/valid-attachments":{}}"#));
    assert!(code == code::INVALID_CONFIG && text.contains("cni.dev/valid-attachments is {}"), "{text}");
}

#[test]
fn variables_that_cannot_be_used_are_named() {
    let add = || environment("ADD");
    let text = |text: &str| Some(text.to_owned());
    for (environment, expected) in [
        (Environment { command: None, ..add() }, "CNI_COMMAND is \"\""),
        (Environment { command: text("UPDATE"), ..add() }, "CNI_COMMAND is \"UPDATE\""),
        (
            Environment { container_id: None, netns: None, ifname: text(""), ..add() },
            "CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS",
        ),
        (Environment { container_id: text("../c0"), ..add() }, "CNI_CONTAINERID is \"../c0\""),
        (Environment { container_id: text("c\r\n0"), ..add() }, "CNI_CONTAINERID"),
        (Environment { ifname: text("much-too-long-a-name"), ..add() }, "CNI_IFNAME"),
        (Environment { ifname: text("a/b"), ..add() }, "CNI_IFNAME"),
        (Environment { netns: text("c0"), ..add() }, "CNI_NETNS is \"c0\""),
        (Environment { args: text("A"), ..add() }, "CNI_ARGS"),
    ] {
        let (code, text) = error(&environment, CONFIG);
        assert!(code == code::INVALID_ENVIRONMENT && text.contains(expected), "{code} {text}");
    }
}

#[test]
fn fields_that_cannot_be_used_are_named_with_what_would_be_right() {
    let with = |field: &str| CONFIG.replace(r#""type":"cambric""#, field);
    for (input, number, expected) in [
        (String::new(), code::DECODE, "standard input"),
        ("[]".to_owned(), code::DECODE, "no JSON object"),
        ("{}".to_owned(), code::INCOMPATIBLE_VERSION, "cniVersion is missing"),
        (
            CONFIG.replace("1.1.0", "0.2.0"),
            code::INCOMPATIBLE_VERSION,
            "cniVersion is \"0.2.0\"; this plugin speaks",
        ),
        (CONFIG.replace("\"1.1.0\"", "1"), code::INCOMPATIBLE_VERSION, "cniVersion is 1"),
        (CONFIG.replace("\"name\":\"cambric\",", ""), code::INVALID_CONFIG, "name is \"\""),
        (CONFIG.replace("\"name\":\"cambric\"", "\"name\":\"a/b\""), code::INVALID_CONFIG, "name is \"a/b\""),
        (with(r#""nodeFile":7"#), code::INVALID_CONFIG, "nodeFile is 7; it would be a text"),
        (
            with(r#""dataDir":"x""#),
            code::INVALID_CONFIG,
            "dataDir is \"x\"; it would be an absolute path such as /var",
        ),
        (with(r#""dns":"x""#), code::INVALID_CONFIG, "dns is \"x\""),
        (with(r#""prevResult":7"#), code::INVALID_CONFIG, "prevResult is 7"),
        (
            with(r#""prevResult":{"ips":[{"address":"x"}]}"#),
            code::INVALID_CONFIG,
            "prevResult.ips[0].address is \"x\"",
        ),
    ] {
        let (code, text) = error(&environment("ADD"), &input);
        assert!(code == number && text.contains(expected), "{code} {text}");
    }
    let (code, text) = error(&environment("CHECK"), CONFIG);
    assert!(code == code::INVALID_CONFIG && text.contains("prevResult is missing"), "{text}");
}

#[test]
fn commands_have_the_version_that_they_came_with() {
    for (command, version, good) in [
        ("ADD", "0.3.0", true),
        ("DEL", "0.3.1", true),
        ("CHECK", "0.3.1", false),
        ("STATUS", "1.0.0", false),
        ("GC", "1.0.0", false),
        ("STATUS", "1.1.0", true),
    ] {
        let input = CONFIG.replace("1.1.0", version);
        match Request::parse(&environment(command), input.as_bytes()) {
            Ok(_) => assert!(good, "{command} {version}"),
            Err((_, error)) => assert_eq!((good, error.code), (false, code::INCOMPATIBLE_VERSION), "{error}"),
        }
    }
}

#[test]
fn what_is_not_known_is_ignored() {
    let input = CONFIG.replace('}', r#","ipMasq":true,"args":{"cni":{}},"runtimeConfig":{},"x":[1]}"#);
    assert!(Request::parse(&environment("ADD"), input.as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        command in "(ADD|DEL|CHECK|STATUS|GC|VERSION|.{0,4})",
        id in proptest::option::of(".{0,8}"),
        netns in proptest::option::of("/?.{0,8}"),
        ifname in proptest::option::of(".{0,17}"),
        args in proptest::option::of("([A-Za-z=;]{0,12}|.{0,12})"),
        input in r#"(\{"cniVersion":"(1\.1\.0|0\.4\.0)","name":"a","(dns|prevResult|dataDir|cni\.dev/valid-attachments)":.{0,20}\}|.{0,40})"#,
    ) {
        let environment = Environment { command: Some(command), container_id: id, netns, ifname, args };
        let _ = crate::fuzz_input(&environment, input.as_bytes());
    }
}
