//! The classic pcap file format (draft-ietf-opsawg-pcap) with nanosecond time stamps.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Marks time stamps in nanoseconds, section 4 of the draft.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Version 2.4.
const VERSION: [u16; 2] = [2, 4];
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// The most bytes that a record holds.
const SNAP_LENGTH: u32 = 262_144;

/// Writes Ethernet frames to a pcap file, in the byte order of this machine, which its readers tell from the magic number.
#[derive(Debug)]
pub struct PcapWriter<W> {
    writer: W,
}

impl<W: Write> PcapWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// That of the writer.
    pub fn new(mut writer: W) -> io::Result<PcapWriter<W>> {
        let [major, minor] = VERSION;
        writer.write_all(&MAGIC.to_ne_bytes())?;
        writer.write_all(&major.to_ne_bytes())?;
        writer.write_all(&minor.to_ne_bytes())?;
        for word in [0, 0, SNAP_LENGTH, ETHERNET] {
            writer.write_all(&word.to_ne_bytes())?;
        }
        Ok(PcapWriter { writer })
    }

    /// Adds a frame. `original_length` is its length in bytes on the wire, of which `frame` is what was captured.
    ///
    /// # Errors
    /// That of the writer; a time before 1970 or past 2106 is written as 0.
    pub fn write(&mut self, time: SystemTime, frame: &[u8], original_length: usize) -> io::Result<()> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let captured = frame.len().min(SNAP_LENGTH as usize);
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let record = [
            u32::try_from(since.as_secs()).unwrap_or(0),
            since.subsec_nanos(),
            number(captured),
            number(original_length),
        ];
        for word in record {
            self.writer.write_all(&word.to_ne_bytes())?;
        }
        self.writer.write_all(&frame[..captured])
    }

    /// Hands all that was written on to where it goes.
    ///
    /// # Errors
    /// That of the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Gives the writer back.
    pub fn into_inner(self) -> W {
        self.writer
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_with_one_frame() {
        let mut pcap = PcapWriter::new(Vec::new()).unwrap();
        pcap.write(UNIX_EPOCH + Duration::new(7, 9), &[1, 2, 3], 60).unwrap();
        let bytes = pcap.into_inner();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), 0xa1b2_3c4d);
        assert_eq!([word(20), word(24), word(28), word(32), word(36)], [1, 7, 9, 3, 60]);
        assert_eq!(bytes[40..], [1, 2, 3]);
    }
}
