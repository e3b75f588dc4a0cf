//! What a command that takes seconds shows meanwhile.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One line that changes on a terminal, many plain lines elsewhere; on standard error.
#[derive(Debug)]
pub struct Progress {
    show: Show,
    bar: Option<ProgressBar>,
    last: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Nothing,
    Lines,
    Bar,
}

impl Progress {
    /// Shows a spinner if standard error is a terminal.
    pub fn new() -> Progress {
        let show = if std::io::stderr().is_terminal() { Show::Bar } else { Show::Lines };
        Progress { show, bar: None, last: String::new() }
    }

    /// Shows nothing at all.
    pub fn silent() -> Progress {
        Progress { show: Show::Nothing, bar: None, last: String::new() }
    }

    /// Says what is being done now.
    pub fn step(&mut self, text: &str) {
        if self.last == text {
            return;
        }
        text.clone_into(&mut self.last);
        match self.show {
            Show::Nothing => {}
            Show::Lines => line(text),
            Show::Bar => self.bar.get_or_insert_with(spinner).set_message(text.to_owned()),
        }
    }

    /// Says how it ended; this line stays.
    pub fn done(&mut self, text: &str) {
        self.finish();
        if self.show != Show::Nothing {
            line(text);
        }
    }

    /// Takes the changing line away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new()
    }
}

/// A line on standard error. That nobody reads it is no reason to stop.
fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
