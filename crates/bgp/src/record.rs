//! Recordings of what a speaker was told, and their replay.
//!
//! A recording is text, one JSON value a line: first the speaker's settings, then each input with its moment.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::{Input, Moment, Output, Speaker, SpeakerConfig};

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    config: SpeakerConfig,
    seed: u64,
    start: Moment,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    at: Moment,
    input: &'a Input,
}

#[derive(Debug, Deserialize)]
struct OwnedLine {
    at: Moment,
    input: Input,
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder<W> {
    to: W,
}

impl<W: Write> Recorder<W> {
    /// Begins the recording of a speaker made with these arguments.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(mut to: W, config: &SpeakerConfig, seed: u64, start: Moment) -> io::Result<Recorder<W>> {
        write_line(&mut to, &Header { config: config.clone(), seed, start })?;
        Ok(Recorder { to })
    }

    /// Records an input, before the speaker is told of it.
    ///
    /// # Errors
    /// What the writer says.
    pub fn record(&mut self, at: Moment, input: &Input) -> io::Result<()> {
        write_line(&mut self.to, &Line { at, input })
    }
}

/// Tells a new speaker all that was recorded; what it answered, input by input, and the speaker.
///
/// # Errors
/// What the reader says, and [`io::ErrorKind::InvalidData`] with its line number for a line that is not of a
/// recording.
pub fn replay(from: impl BufRead) -> io::Result<(Vec<Vec<Output>>, Speaker)> {
    let mut lines = from.lines().enumerate();
    let (_, first) = lines.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    let header: Header = parse(0, &first?)?;
    let mut speaker = Speaker::new(header.config, header.seed, header.start);
    let mut answers = Vec::new();
    for (number, line) in lines {
        let line: OwnedLine = parse(number, &line?)?;
        answers.push(speaker.handle(line.at, line.input));
    }
    Ok((answers, speaker))
}

fn write_line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}

fn parse<T: for<'de> Deserialize<'de>>(number: usize, line: &str) -> io::Result<T> {
    serde_json::from_str(line)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {error}", number + 1)))
}

/// Bytes as hexadecimal text.
pub(crate) mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
        let text: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        serializer.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.ok_or_else(|| D::Error::custom("not an even number of hexadecimal digits"))
    }
}
