//! From the bytes of a frame to its values.

use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use super::attributes::Attributes;
use super::elements::{Elements, Pixels, Value};
use super::syntax::{self, Packing};
use super::{jpeg, jpeg2000, rle};
use crate::{Error, Result};

const ALLOCATED: (Tag, &str) = (tags::BITS_ALLOCATED, "BitsAllocated");
const STORED: (Tag, &str) = (tags::BITS_STORED, "BitsStored");
const HIGH: (Tag, &str) = (tags::HIGH_BIT, "HighBit");
const SIGNED: (Tag, &str) = (tags::PIXEL_REPRESENTATION, "PixelRepresentation");
const SAMPLES: (Tag, &str) = (tags::SAMPLES_PER_PIXEL, "SamplesPerPixel");

/// How a file's numbers are to be understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Format {
    packing: Packing,
    /// Bits that a pixel takes: 8, 16 or 32.
    allocated: u32,
    /// Bits of its value.
    stored: u32,
    /// Bits below the value.
    below: u32,
    signed: bool,
    /// Low values are bright.
    inverted: bool,
}

/// A frame's place in a file.
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Which frame, from 0, of how many.
    pub(super) frame: usize,
    pub(super) frames: usize,
}

impl Place<'_> {
    /// The pixels cannot be decoded.
    fn decode(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Pixels {
            path: self.path.to_path_buf(),
            frame: self.frame + 1,
            source: source.into(),
        }
    }
}

impl Format {
    pub(super) fn read(file: &Elements<'_>, get: Attributes<'_>) -> Result<Self> {
        let unsupported = |what: &'static str, got: String| Error::Unsupported {
            path: get.path.to_path_buf(),
            what,
            got,
        };
        let packing = syntax::packing(&file.syntax);
        let packing = packing.map_err(|name| unsupported("transfer syntax", name))?;
        let samples = get.count(SAMPLES, [1, 65535])?;
        let bits = get.count(ALLOCATED, [1, 65535])?;
        if samples != 1 || !matches!(bits, 8 | 16 | 32) {
            let got = format!("{bits} bits, {samples} samples");
            return Err(unsupported("kind of pixels", got));
        }
        let allocated = bits as i64;
        let stored = get.count(STORED, [1, allocated])?;
        let high = get.count(HIGH, [stored as i64 - 1, allocated - 1])?;
        let signed = get.count(SIGNED, [0, 1])? == 1;
        let name = (
            tags::PHOTOMETRIC_INTERPRETATION,
            "PhotometricInterpretation",
        );
        let inverted = match get.text(name.0).as_deref() {
            Some("MONOCHROME2") => false,
            Some("MONOCHROME1") => true,
            other => {
                let got = other.map_or("nothing".into(), |text| format!("{text:?}"));
                return Err(get.invalid(name, "MONOCHROME1 or MONOCHROME2", got));
            }
        };
        Ok(Self {
            packing,
            allocated: bits as u32,
            stored: stored as u32,
            below: (high + 1 - stored) as u32,
            signed,
            inverted,
        })
    }

    /// Checks that a file has the pixels that it claims, before memory is taken for them.
    pub(super) fn check_size(
        &self,
        file: &Elements<'_>,
        path: &Path,
        pixels: usize,
        frames: usize,
    ) -> Result<()> {
        let got = match &file.pixels {
            None => {
                return Err(Error::Dicom {
                    path: path.to_path_buf(),
                    reason: "there are no pixels (PixelData) in it".into(),
                });
            }
            Some(Pixels::Native { .. }) if self.packing != Packing::Native => {
                return Err(Error::Dicom {
                    path: path.to_path_buf(),
                    reason: "the pixels are not compressed, but the transfer syntax says so".into(),
                });
            }
            Some(Pixels::Native { bytes, .. }) => bytes.len(),
            Some(Pixels::Fragments { .. }) => return Ok(()),
        };
        // At most 2^32 pixels of 4 bytes, 20,000 times.
        let needed = pixels as u64 * frames as u64 * u64::from(self.allocated / 8);
        if (got as u64) < needed {
            return Err(Error::Truncated {
                path: path.to_path_buf(),
                what: "the pixels",
                expected: needed,
                got: got as u64,
            });
        }
        Ok(())
    }

    /// The values of one frame, scaled: slope and intercept, row after row.
    pub(super) fn values(
        &self,
        file: &Elements<'_>,
        place: &Place<'_>,
        (slope, intercept): (f64, f64),
        values: &mut [f32],
    ) -> Result<()> {
        let raw = self.raw(file, place)?;
        if raw.len() != values.len() {
            return Err(Error::Truncated {
                path: place.path.to_path_buf(),
                what: "the pixels",
                expected: values.len() as u64,
                got: raw.len() as u64,
            });
        }
        for (value, raw) in values.iter_mut().zip(raw) {
            *value = (self.stored(raw) as f64 * slope + intercept) as f32;
            if !value.is_finite() {
                return Err(Error::InvalidHeader {
                    path: place.path.to_path_buf(),
                    field: "RescaleSlope",
                    expected: "slope and intercept that give values of 32-bit floats".into(),
                    got: format!("{slope} and {intercept}"),
                });
            }
        }
        Ok(())
    }

    /// The number in a pixel's bits: those above and below the value are no part of it.
    fn stored(&self, raw: u32) -> i64 {
        let spare = 64 - self.stored;
        let bits = u64::from(raw >> self.below) << spare;
        let (number, sum) = if self.signed {
            (bits as i64 >> spare, -1)
        } else {
            ((bits >> spare) as i64, (1i64 << self.stored) - 1)
        };
        // Turned over within the range of the stored bits, so that high is bright as in all other images.
        if self.inverted { sum - number } else { number }
    }

    /// The bits of every pixel.
    fn raw(&self, file: &Elements<'_>, place: &Place<'_>) -> Result<Vec<u32>> {
        let count = place.rows * place.columns;
        let width = (self.allocated / 8) as usize;
        match &file.pixels {
            Some(Pixels::Native { bytes, big, words }) => {
                // The whole of the pixels is known to be there.
                let size = count * width;
                let start = size * place.frame;
                let bytes = bytes.get(start..start + size);
                let bytes = bytes.ok_or_else(|| place.decode("they are not there"))?;
                let swapped = width == 1 && *big && *words;
                if swapped && !(start.is_multiple_of(2) && size.is_multiple_of(2)) {
                    let got = "8 bits in big-endian words, an odd number of pixels".into();
                    return Err(Error::Unsupported {
                        path: place.path.to_path_buf(),
                        what: "kind of pixels",
                        got,
                    });
                }
                if swapped {
                    let (pairs, _) = bytes.as_chunks::<2>();
                    return Ok(pairs
                        .iter()
                        .flat_map(|[a, b]| [*b, *a])
                        .map(u32::from)
                        .collect());
                }
                Ok(numbers(bytes, width, *big))
            }
            Some(Pixels::Fragments { offsets, pieces }) => {
                let table = match file
                    .dataset
                    .get(tags::EXTENDED_OFFSET_TABLE)
                    .map(|e| &e.value)
                {
                    Some(Value::Bytes(bytes)) => wide(bytes),
                    _ => narrow(offsets),
                };
                let packed = frame(&table, pieces, place)?;
                self.unpack(&packed, place, width)
            }
            None => Err(place.decode("they are not there")),
        }
    }

    fn unpack(&self, packed: &[u8], place: &Place<'_>, width: usize) -> Result<Vec<u32>> {
        let shape = (place.rows, place.columns);
        let count = place.rows * place.columns;
        let found = match self.packing {
            Packing::Native => {
                let needed = packed.get(..count * width).ok_or("they are cut short");
                needed.map(|b| numbers(b, width, false)).map_err(Into::into)
            }
            Packing::Rle => rle::decode(packed, count, width).map_err(Into::into),
            Packing::JpegLossless => {
                jpeg::decode(packed, shape, self.allocated).map_err(Into::into)
            }
            Packing::Jpeg2000 => jpeg2000::decode(packed, shape, self.allocated),
        };
        found.map_err(|source: Box<dyn std::error::Error + Send + Sync>| place.decode(source))
    }
}

fn numbers(bytes: &[u8], width: usize, big: bool) -> Vec<u32> {
    let number = |chunk: &[u8]| {
        let add = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        if big {
            chunk.iter().fold(0, add)
        } else {
            chunk.iter().rev().fold(0, add)
        }
    };
    bytes.chunks_exact(width).map(number).collect()
}

fn narrow(table: &[u8]) -> Vec<u64> {
    let (offsets, _) = table.as_chunks();
    offsets
        .iter()
        .map(|o| u32::from_le_bytes(*o).into())
        .collect()
}

fn wide(table: &[u8]) -> Vec<u64> {
    let (offsets, _) = table.as_chunks();
    offsets.iter().map(|o| u64::from_le_bytes(*o)).collect()
}

/// The bytes of one frame, whose pieces are found by their number, by the table of offsets, or by how images
/// of JPEG begin.
fn frame(table: &[u64], pieces: &[&[u8]], place: &Place<'_>) -> Result<Vec<u8>> {
    if place.frames == 1 {
        return Ok(pieces.concat());
    }
    if pieces.len() == place.frames
        && let Some(piece) = pieces.get(place.frame)
    {
        return Ok(piece.to_vec());
    }
    let starts: Vec<usize> = if table.len() == place.frames {
        // An offset counts the pieces before with their headers.
        let mut at = 0u64;
        let places = pieces.iter().map(|piece| {
            let here = at;
            at += piece.len() as u64 + 8;
            here
        });
        let places: Vec<u64> = places.collect();
        let found = table.iter().map(|offset| places.binary_search(offset).ok());
        found.collect::<Option<_>>().unwrap_or_default()
    } else {
        let begins = |piece: &&[u8]| {
            piece.starts_with(&[0xff, 0xd8]) || piece.starts_with(&[0xff, 0x4f, 0xff, 0x51])
        };
        (0..pieces.len()).filter(|n| begins(&pieces[*n])).collect()
    };
    if starts.len() != place.frames {
        return Err(place.decode(format!(
            "{} pieces for {} frames, and no table of offsets that fits",
            pieces.len(),
            place.frames
        )));
    }
    let start = starts.get(place.frame).copied().unwrap_or(pieces.len());
    let end = starts.get(place.frame + 1).copied().unwrap_or(pieces.len());
    let own = pieces.get(start..end);
    let own = own.ok_or_else(|| place.decode("the table of offsets is not in order"))?;
    Ok(own.concat())
}
