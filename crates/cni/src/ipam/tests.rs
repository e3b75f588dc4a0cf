use std::cell::Cell;
use std::collections::HashMap;
use std::io::BufRead;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;

use proptest::prelude::*;

use super::*;

thread_local! {
    /// How many more steps this thread takes before it is struck; none if it is not to be.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What a crash is made with: unlike an error, nobody handles it.
struct Crash;

/// See `files::step`.
pub(super) fn step() {
    if let Some(left) = LEFT.get() {
        if left == 0 {
            LEFT.set(None);
            resume_unwind(Box::new(Crash));
        }
        LEFT.set(Some(left - 1));
    }
}

/// Runs a function that is cut off after so many steps; `None` if it was.
fn crashing<T>(after: u32, function: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(Some(after));
    let result = catch_unwind(AssertUnwindSafe(function));
    LEFT.set(None);
    match result {
        Ok(value) => Some(value),
        Err(panic) if panic.is::<Crash>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

fn id(number: usize) -> AttachmentId {
    AttachmentId { container_id: format!("c{number}"), ifname: "eth0".to_owned() }
}

fn ranges(texts: &[&str]) -> Vec<PodRange> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path(), "net");
    (directory, store)
}

fn give(store: &Store, number: usize, ranges: &[PodRange]) -> Result<Vec<String>, Error> {
    let attachment = store.lock()?.allocate(&id(number), ranges)?;
    Ok(attachment.addresses.iter().map(IpAddr::to_string).collect())
}

#[test]
fn the_layout_is_that_of_the_reference() {
    let (_directory, store) = store();
    let ranges = ranges(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
    assert_eq!(give(&store, 0, &ranges).unwrap(), ["10.244.1.2", "fd00:10:244:1::2"]);
    let mut files: Vec<_> = fs::read_dir(store.directory())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    let file = |name: &str, content: &str| (name.to_owned(), content.to_owned());
    assert_eq!(
        files,
        [
            file("10.244.1.2", "c0\r\neth0"),
            file("fd00:10:244:1::2", "c0\r\neth0"),
            file("last_reserved_ip.0", "10.244.1.2"),
            file("last_reserved_ip.1", "fd00:10:244:1::2"),
            file("lock", ""),
        ]
    );
}

#[test]
fn what_the_reference_left_is_understood() {
    let (_directory, store) = store();
    let ranges = ranges(&["10.0.0.0/28"]);
    drop(store.lock().unwrap());
    let write = |name: &str, content: &str| fs::write(store.directory().join(name), content).unwrap();
    write("10.0.0.2", "c0\r\neth0");
    write("10.0.0.3", "c1"); // before version 0.8
    write("10.0.0.4", ""); // killed before it had written
    write("10.0.0.5", "\u{1}\u{2}");
    write("last_reserved_ip.0", "10.0.0.2");
    let locked = store.lock().unwrap();
    let ids: Vec<_> = locked.attachments().unwrap().into_iter().map(|attachment| attachment.id).collect();
    assert_eq!(ids, [id(0)]);
    // The empty one is nobody's; the others are taken.
    assert_eq!(locked.usage(&ranges[0]).unwrap(), (3, 13));
    drop(locked);
    assert_eq!(give(&store, 2, &ranges).unwrap(), ["10.0.0.4"]);
    assert_eq!(give(&store, 3, &ranges).unwrap(), ["10.0.0.6"]);
    let locked = store.lock().unwrap();
    assert_eq!(locked.release(&id(1)).unwrap(), ["10.0.0.3".parse::<IpAddr>().unwrap()]);
    let mut gone = locked.retain(&BTreeSet::from([id(2)])).unwrap();
    gone.sort();
    assert_eq!(gone, ["10.0.0.2", "10.0.0.5", "10.0.0.6"].map(|text| text.parse::<IpAddr>().unwrap()));
}

#[test]
fn addresses_come_again_as_late_as_can_be() {
    let (_directory, store) = store();
    let ranges = ranges(&["10.0.0.0/29"]);
    assert_eq!(give(&store, 0, &ranges).unwrap(), ["10.0.0.2"]);
    store.lock().unwrap().release(&id(0)).unwrap();
    for (number, expected) in
        [(1, "10.0.0.3"), (2, "10.0.0.4"), (3, "10.0.0.5"), (4, "10.0.0.6"), (5, "10.0.0.2")]
    {
        assert_eq!(give(&store, number, &ranges).unwrap(), [expected]);
    }
    store.lock().unwrap().release(&id(3)).unwrap();
    assert_eq!(give(&store, 6, &ranges).unwrap(), ["10.0.0.5"]);
}

#[test]
fn an_exhausted_range_gives_nothing_of_any() {
    let (_directory, store) = store();
    let ranges = ranges(&["fd00::/64", "10.0.0.0/30"]);
    assert_eq!(give(&store, 0, &ranges).unwrap(), ["10.0.0.2", "fd00::2"]);
    let error = give(&store, 1, &ranges).unwrap_err().to_string();
    assert!(error.contains("10.0.0.0/30 has no free address: 1 of 1 are in use"), "{error}");
    assert_eq!(store.lock().unwrap().addresses(&id(1)).unwrap(), Vec::<IpAddr>::new());
    assert!(matches!(give(&store, 1, &[]), Err(Error::NoRange)));
}

#[test]
fn the_same_attachment_keeps_what_is_left_of_it_if_it_fits() {
    let (_directory, store) = store();
    let before = ranges(&["10.0.0.0/24"]);
    assert_eq!(give(&store, 0, &before).unwrap(), ["10.0.0.2"]);
    let now = ranges(&["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(give(&store, 0, &now).unwrap(), ["10.0.0.2", "fd00::2"]);
    let moved = ranges(&["10.0.1.0/24"]);
    assert_eq!(give(&store, 0, &moved).unwrap(), ["10.0.1.2"]);
    assert_eq!(store.lock().unwrap().addresses(&id(0)).unwrap().len(), 1);
}

#[test]
fn siblings_are_the_other_networks() {
    let (directory, store) = store();
    assert_eq!(give(&store, 0, &ranges(&["10.0.0.0/24"])).unwrap(), ["10.0.0.2"]);
    fs::create_dir(directory.path().join("other")).unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let siblings = store.siblings().unwrap();
    assert_eq!(siblings.iter().map(Store::directory).collect::<Vec<_>>(), [directory.path().join("other")]);
}

#[test]
fn threads_in_parallel_get_addresses_of_their_own() {
    let (_directory, store) = store();
    let ranges = ranges(&["10.0.0.0/24", "fd00::/120"]);
    let given: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (store, ranges) = (&store, &ranges);
                scope.spawn(move || {
                    (0..30).map(|n| give(store, thread * 30 + n, ranges).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).flatten().collect()
    });
    assert_eq!(given.len(), 8 * 30 * 2);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
}

/// The child of `a_killed_process_leaves_nothing_that_matters`: allocates and releases until it is killed.
#[test]
fn child() {
    let Ok(directory) = std::env::var("CAMBRIC_IPAM_CHILD") else { return };
    let store = Store::new(directory, "net");
    let ranges = ranges(&["10.0.0.0/28", "fd00::/120"]);
    for number in 0.. {
        if number == 1 {
            println!("at work");
        }
        let number = (std::process::id() as usize) * 1000 + number % 3;
        let locked = store.lock().unwrap();
        match locked.allocate(&id(number), &ranges) {
            Ok(attachment) => assert_eq!(attachment.addresses.len(), 2),
            Err(error) => assert!(matches!(error, Error::Exhausted { .. }), "{error}"),
        }
        locked.release(&id(number)).unwrap();
    }
}

#[test]
fn a_killed_process_leaves_nothing_that_matters() {
    let (directory, store) = store();
    for round in 0..60 {
        let mut children: Vec<_> = (0..3)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "ipam::tests::child", "--nocapture"])
                    .env("CAMBRIC_IPAM_CHILD", directory.path())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in &mut children {
            let output = io::BufReader::new(child.stdout.as_mut().unwrap());
            assert!(output.lines().any(|line| line.unwrap().contains("at work")));
        }
        // They are struck wherever they are; the time makes it another place in each round.
        std::thread::sleep(std::time::Duration::from_micros(150 * (round % 10)));
        for child in &mut children {
            assert!(child.try_wait().unwrap().is_none(), "a child ended by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        consistent(&store);
    }
    let locked = store.lock().unwrap();
    locked.retain(&BTreeSet::new()).unwrap();
    assert_eq!(locked.attachments().unwrap(), []);
    drop(locked);
    assert_eq!(give(&store, 0, &ranges(&["10.0.0.0/28", "fd00::/120"])).unwrap().len(), 2);
}

/// What holds at any time: every address file has an owner.
fn consistent(store: &Store) {
    for file in files::read(store.directory()).unwrap() {
        assert!(matches!(file.owner, Owner::Attachment(_)), "{file:?}");
    }
}

#[test]
fn a_crash_at_any_step_leaves_nothing_that_matters() {
    let ranges = ranges(&["10.0.0.0/29", "fd00::/125"]);
    let mut steps = 0;
    for after in 0.. {
        let (_directory, store) = store();
        give(&store, 0, &ranges).unwrap();
        let whole = crashing(after, || {
            let locked = store.lock().unwrap();
            locked.allocate(&id(1), &ranges).unwrap();
            locked.release(&id(1)).unwrap();
        });
        consistent(&store);
        // The same again, then another, and all of them back.
        give(&store, 1, &ranges).unwrap();
        give(&store, 2, &ranges).unwrap();
        let locked = store.lock().unwrap();
        let attachments = locked.attachments().unwrap();
        assert_eq!(attachments.len(), 3);
        assert!(attachments.iter().all(|attachment| attachment.addresses.len() == 2), "{attachments:?}");
        for number in 0..3 {
            locked.release(&id(number)).unwrap();
        }
        assert_eq!(files::read(store.directory()).unwrap().len(), 0);
        if whole.is_some() {
            steps = after;
            break;
        }
    }
    // Four files, of three steps each, two of which change places with others, and two removals.
    assert_eq!(steps, 16);
}

#[derive(Debug, Clone)]
enum Act {
    Allocate(usize),
    Release(usize),
    Retain(Vec<usize>),
    Crash(u32, usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..12usize).prop_map(Act::Allocate),
        3 => (0..12usize).prop_map(Act::Release),
        1 => proptest::collection::vec(0..12usize, 0..12).prop_map(Act::Retain),
        2 => (0..16u32, 0..12usize).prop_map(|(after, number)| Act::Crash(after, number)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_given_twice_or_lost(acts in proptest::collection::vec(act(), 1..60)) {
        let (_directory, store) = store();
        let ranges = ranges(&["10.0.0.0/29", "fd00::/125"]);
        let mut held: HashMap<usize, Vec<IpAddr>> = HashMap::new();
        for act in acts {
            match act {
                Act::Allocate(number) => match store.lock().unwrap().allocate(&id(number), &ranges) {
                    Ok(attachment) => {
                        for (range, address) in ranges.iter().zip(&attachment.addresses) {
                            prop_assert!(range.holds_pod(address));
                        }
                        if let Some(before) = held.insert(number, attachment.addresses.clone()) {
                            prop_assert_eq!(before, attachment.addresses);
                        }
                    }
                    Err(error) => {
                        // 10.0.0.0/29 has room for five pods.
                        prop_assert!(held.len() == 5 && !held.contains_key(&number), "{}", error);
                    }
                },
                Act::Release(number) => {
                    let gone = store.lock().unwrap().release(&id(number)).unwrap();
                    prop_assert_eq!(gone.len(), held.remove(&number).map_or(0, |addresses| addresses.len()));
                }
                Act::Retain(valid) => {
                    let ids = valid.iter().map(|number| id(*number)).collect();
                    store.lock().unwrap().retain(&ids).unwrap();
                    held.retain(|number, _| valid.contains(number));
                }
                // What is cut off is repeated by the runtime: DEL follows a failed ADD.
                Act::Crash(after, number) => {
                    let _ = crashing(after, || store.lock().unwrap().allocate(&id(number), &ranges));
                    consistent(&store);
                    store.lock().unwrap().release(&id(number)).unwrap();
                    held.remove(&number);
                }
            }
            let mut seen = BTreeSet::new();
            let attachments = store.lock().unwrap().attachments().unwrap();
            prop_assert_eq!(attachments.len(), held.len());
            for attachment in attachments {
                for address in attachment.addresses {
                    prop_assert!(seen.insert(address), "{} twice", address);
                }
            }
        }
    }
}
