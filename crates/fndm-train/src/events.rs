use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// Writes scalars in `TensorBoard`'s event format: one file per session of a run.
///
/// A record is its length, a checksum of that, a message in protocol buffers' wire format, and a checksum of the message.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Begins a file in `folder` for a run that has made `iteration` iterations. What earlier sessions wrote beyond that is marked as void.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn open(folder: &Path, iteration: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let stamp = now().as_micros();
        let path = folder.join(format!("events.out.tfevents.{stamp:017}.fndm"));
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|e| Error::io(&path, e))?;
        let mut writer = Self { path, file };
        let mut version = Message::event(0);
        version.bytes(3, b"brain.Event:2");
        writer.record(&version)?;
        // A session log of status START tells the reader to forget steps from here on.
        let mut session = Message::default();
        session.integer(1, 1);
        let mut start = Message::event(iteration + 1);
        start.bytes(7, &session.0);
        writer.record(&start)?;
        Ok(writer)
    }

    /// Writes named values of an iteration.
    ///
    /// # Errors
    /// When the disk is full, for one.
    pub fn scalars(&mut self, iteration: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for &(name, value) in values {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.float(2, value as f32);
            summary.bytes(1, &entry.0);
        }
        let mut event = Message::event(iteration);
        event.bytes(5, &summary.0);
        self.record(&event)
    }

    fn record(&mut self, message: &Message) -> Result<()> {
        self.file
            .write_all(&framed(&message.0))
            .map_err(|e| Error::io(&self.path, e))
    }
}

fn now() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A message in the wire format of protocol buffers.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    /// An event with its time (field 1) and step (field 2).
    fn event(step: u64) -> Self {
        let mut event = Self::default();
        event.key(1, 1);
        event.0.extend(now().as_secs_f64().to_le_bytes());
        event.integer(2, step);
        event
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(message);
    record.extend(masked(crc32c(message)).to_le_bytes());
    record
}

/// The format's checksums are rotated and shifted, so that a checksum of data with checksums in it is sound.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 of Castagnoli's polynomial, bit by bit: records are a few bytes.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check value of CRC-32C in the catalogue of parametrised CRC algorithms, and the zeros of RFC 3720, B.4.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn numbers_have_the_wire_format() {
        // The examples of the format's own description: field 1 = 150, field 2 = "testing".
        let mut message = Message::default();
        message.integer(1, 150);
        message.bytes(2, b"testing");
        assert_eq!(message.0[..3], [0x08, 0x96, 0x01]);
        assert_eq!(message.0[3..], *b"\x12\x07testing");
    }

    #[test]
    fn records_are_framed() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(folder.path(), 0).unwrap();
        writer.scalars(1, &[("loss", 0.5)]).unwrap();
        let bytes = std::fs::read(&writer.path).unwrap();
        let (mut at, mut messages) = (0, Vec::new());
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            assert_eq!(
                bytes[at..at + 16 + length],
                framed(&bytes[at + 12..at + 12 + length])
            );
            messages.push(&bytes[at + 12..at + 12 + length]);
            at += 16 + length;
        }
        assert_eq!(messages.len(), 3);
        assert!(messages[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        assert!(messages[2].ends_with(b"\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f"));
    }
}
