//! Kills a writer again and again and checks that nothing it was told is stored is lost.
//!
//! The writer is this program itself, started with the word `writer` and a directory; it writes the name of each
//! object to its standard output when the server has acknowledged it.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use apiserver::api::{DeleteOptions, ListOptions, WatchEvent, WatchOptions};
use apiserver::{Config, Server};
use serde_json::{Value, json};

/// Number of lives the writer has.
const LIVES: usize = 12;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.as_slice() {
        [_, word, directory] if word == "writer" => write_for_ever(Path::new(directory)),
        _ => kill_and_compare(),
    }
}

/// Creates objects, updates each and deletes every third, and says so.
fn write_for_ever(directory: &Path) -> Done {
    let server = Server::open(Config::new(directory))?;
    let api = server.api();
    let life = api.revision();
    for number in 0.. {
        let name = format!("m-{life}-{number}");
        let object = json!({"metadata": {"name": name}, "data": {"n": number.to_string()}});
        let mut stored = api.create("configmaps", "default", object)?;
        println!("created {name} {}", revision(&stored));
        stored["data"]["n"] = "updated".into();
        let stored = api.update("configmaps", "default", &name, stored)?;
        println!("updated {name} {}", revision(&stored));
        if number % 3 == 0 {
            api.delete("configmaps", "default", &name, &DeleteOptions::default())?;
            println!("deleted {name} 0");
        }
        stdout().flush()?;
    }
    Ok(())
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn kill_and_compare() -> Done {
    let directory = tempfile::tempdir()?;
    let mut known = Known::default();
    for life in 0..LIVES {
        run_and_kill(directory.path(), life, &mut known)?;
        compare(directory.path(), &known)?;
    }
    println!("test durability ... ok ({} writes acknowledged in {LIVES} lives)", known.acknowledged);
    assert!(known.acknowledged > 1000, "the writer got too little done: {}", known.acknowledged);
    Ok(())
}

/// What the writer was told.
#[derive(Default)]
struct Known {
    present: BTreeSet<String>,
    updated: BTreeSet<String>,
    deleted: BTreeSet<String>,
    revision: u64,
    acknowledged: usize,
}

/// Lets a writer do a number of writes that differs from life to life, and kills it in the middle of the next ones.
fn run_and_kill(directory: &Path, life: usize, known: &mut Known) -> Done {
    let program: PathBuf = std::env::current_exe()?;
    let mut child = Command::new(program).arg("writer").arg(directory).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("the writer has no output")?;
    let mut lines = BufReader::new(output).lines();
    for _ in 0..100 + life * 37 {
        let line = lines.next().ok_or("the writer ended by itself")??;
        known.learn(&line);
    }
    // SIGKILL: no handler, no buffers written back by the process.
    child.kill()?;
    child.wait()?;
    // What it said before it died counts too. The last line may be cut.
    for line in lines.map_while(Result::ok) {
        known.learn(&line);
    }
    Ok(())
}

impl Known {
    fn learn(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (Some(what), Some(name), Some(Ok(revision))) =
            (words.next(), words.next(), words.next().map(str::parse::<u64>))
        else {
            return;
        };
        self.revision = self.revision.max(revision);
        self.acknowledged += 1;
        match what {
            "created" => self.present.insert(name.into()),
            "updated" => self.updated.insert(name.into()),
            _ => {
                self.present.remove(name);
                self.deleted.insert(name.into())
            }
        };
    }
}

fn compare(directory: &Path, known: &Known) -> Done {
    let server = Server::open(Config::new(directory))?;
    let api = server.api();
    let list = api.list("configmaps", &ListOptions::default())?;
    assert!(
        list.revision >= known.revision,
        "revision went back to {} from {}",
        list.revision,
        known.revision
    );
    let mut found = BTreeSet::new();
    for object in &list.items {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if known.updated.contains(&name) {
            assert_eq!(object["data"]["n"], "updated", "{name} lost its update");
        }
        assert!(revision(object) <= list.revision);
        found.insert(name);
    }
    let mut lost: BTreeSet<String> = known.present.difference(&found).cloned().collect();
    // The write in progress when the writer was killed may have been the deletion of its newest object.
    lost.retain(|name| !unacknowledged_deletion(&server, name, known.revision));
    assert!(lost.is_empty(), "lost: {lost:?}");
    let back: Vec<_> = known.deleted.intersection(&found).collect();
    assert!(back.is_empty(), "back from the dead: {back:?}");
    Ok(())
}

/// Whether the history tells of the deletion of `name` after `revision`.
fn unacknowledged_deletion(server: &Server, name: &str, revision: u64) -> bool {
    let since = Some(revision);
    let Ok(mut watcher) =
        server.api().watch("configmaps", &WatchOptions { since, ..WatchOptions::default() })
    else {
        return false;
    };
    if watcher.revision() == server.api().revision() {
        return false;
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return false };
    runtime.block_on(async {
        while watcher.revision() < server.api().revision() {
            match watcher.next().await {
                Ok(WatchEvent::Deleted(object)) if object["metadata"]["name"] == name => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    })
}
