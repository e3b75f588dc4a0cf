//! A watch as a stream of JSON lines.

use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at, sleep_until};

use super::answer::Watch;
use super::negotiate::Form;
use crate::api::Change;
use crate::error::ApiError;
use crate::store::history::Verb;
use crate::table::{partial, table};

/// Writes a watch to `out` until its time is over, the client leaves or the server stops.
pub(super) async fn run(
    mut watch: Box<Watch>,
    bookmark_every: Duration,
    out: mpsc::Sender<Bytes>,
    mut shutdown: watch::Receiver<bool>,
) {
    let end = sleep_until(Instant::now() + Duration::from_secs(watch.seconds));
    tokio::pin!(end);
    let mut bookmarks = interval_at(Instant::now() + bookmark_every, bookmark_every);
    let mut writer = Writer { headings: watch.form == Form::Table, reported: 0 };
    let initial = watch.watcher.take_initial();
    let mut lines = writer.changes(&watch, initial);
    if watch.mark_initial {
        lines.push(writer.bookmark(&watch, true));
    }
    loop {
        for line in lines.drain(..) {
            if out.send(line).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changes = watch.watcher.next_changes() => match changes {
                Ok(changes) => lines = writer.changes(&watch, changes),
                Err(error) => {
                    // The client may have left; then nobody needs to know.
                    let _ = out.send(error_line(&error)).await;
                    return;
                }
            },
            _ = bookmarks.tick(), if watch.bookmarks => {
                if writer.reported != watch.watcher.revision() {
                    lines.push(writer.bookmark(&watch, false));
                }
            }
            () = out.closed() => return,
            () = super::stopped(&mut shutdown) => return,
            () = &mut end => {
                if watch.bookmarks {
                    let _ = out.send(writer.bookmark(&watch, false)).await;
                }
                return;
            }
        }
    }
}

struct Writer {
    /// Whether the next table still has to carry the headings.
    headings: bool,
    /// The revision of the last bookmark.
    reported: u64,
}

impl Writer {
    fn changes(&mut self, watch: &Watch, changes: impl IntoIterator<Item = Change>) -> Vec<Bytes> {
        changes.into_iter().map(|change| self.change(watch, &change)).collect()
    }

    fn change(&mut self, watch: &Watch, change: &Change) -> Bytes {
        let verb = match change.verb {
            Verb::Added => "ADDED",
            Verb::Modified => "MODIFIED",
            Verb::Deleted => "DELETED",
        };
        let parsed = || serde_json::from_slice::<Value>(&change.object).unwrap_or_default();
        match watch.form {
            Form::Table => {
                let value = parsed();
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let headings = std::mem::take(&mut self.headings);
                line(
                    verb,
                    table(&watch.kind, &[value], metadata, watch.include, headings).to_string().as_bytes(),
                )
            }
            Form::Partial => line(verb, partial(&parsed()).to_string().as_bytes()),
            Form::Plain | Form::Discovery(_) => line(verb, &change.object),
        }
    }

    /// Tells the client where it is, so that it can go on from there later.
    fn bookmark(&mut self, watch: &Watch, initial_end: bool) -> Bytes {
        self.reported = watch.watcher.revision();
        let mut metadata = json!({"resourceVersion": self.reported.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match watch.form {
            Form::Table => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                    "columnDefinitions": null, "rows": []})
            }
            Form::Partial => partial(&json!({"metadata": metadata})),
            _ => {
                json!({"kind": watch.kind.kind, "apiVersion": watch.kind.api_version(), "metadata": metadata})
            }
        };
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

pub(super) fn error_line(error: &ApiError) -> Bytes {
    line("ERROR", error.to_status().to_string().as_bytes())
}

fn line(verb: &str, object: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(object.len() + 40);
    bytes.extend_from_slice(b"{\"type\":\"");
    bytes.extend_from_slice(verb.as_bytes());
    bytes.extend_from_slice(b"\",\"object\":");
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(b"}\n");
    bytes.into()
}
