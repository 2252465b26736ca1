//! One file of a series: where its slice lies, and its pixels.

use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use dicom_pixeldata::{PixelDecoder, PixelRepresentation};

use super::lengths;
use crate::{Error, Limits, Result, open};

/// Transfer syntaxes that are read: implicit and explicit, little and big endian, RLE.
const SYNTAXES: [&str; 4] = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
];

/// What a file says about its slice.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slice {
    pub(super) path: PathBuf,
    pub(super) series: String,
    pub(super) number: i32,
    pub(super) description: String,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Direction of growing columns, then of growing rows; x to the left, y to the back.
    pub(super) directions: [[f64; 3]; 2],
    /// Middle of the first pixel, in millimetres.
    pub(super) position: [f64; 3],
    /// Distance of rows, then of columns.
    pub(super) spacing: [f64; 2],
    /// Distance of slices, where the file says it.
    pub(super) step: Option<f64>,
    slope: f64,
    intercept: f64,
}

/// The bytes of a file; `None` for one that is not DICOM.
pub(super) fn bytes(path: &Path, limits: &Limits) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let (mut file, size) = open::open(path)?;
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, most: u64| {
        let taken = (&mut file).take(most).read_to_end(bytes);
        taken.map_err(Error::io(path))
    };
    read(&mut bytes, 132)?;
    if !lengths::is_dicom(&bytes) {
        return Ok(None);
    }
    if size > limits.file_bytes {
        return Err(Error::Limit {
            path: path.to_path_buf(),
            what: "file size in bytes",
            limit: limits.file_bytes,
            got: size,
        });
    }
    read(&mut bytes, limits.file_bytes.saturating_sub(132))?;
    Ok(Some(bytes))
}

fn parse(bytes: &[u8], path: &Path, until: Option<Tag>) -> Result<DefaultDicomObject> {
    let syntax = lengths::check(bytes, path)?;
    if !SYNTAXES.contains(&syntax.as_str()) {
        return Err(Error::Unsupported {
            path: path.to_path_buf(),
            what: "transfer syntax",
            got: format!("{syntax:?}; convert the file to an uncompressed one"),
        });
    }
    let mut options = OpenFileOptions::new();
    if let Some(tag) = until {
        options = options.read_until(tag);
    }
    let found = options.from_reader(bytes);
    found.map_err(|error| Error::Dicom {
        path: path.to_path_buf(),
        reason: reason(&error),
    })
}

/// An error and its causes on one line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The attributes of an object, with errors that name file and attribute.
struct Attributes<'a> {
    object: &'a DefaultDicomObject,
    path: &'a Path,
}

impl Attributes<'_> {
    fn invalid(&self, field: &'static str, expected: &str, got: impl Into<String>) -> Error {
        Error::InvalidHeader {
            path: self.path.to_path_buf(),
            field,
            expected: expected.into(),
            got: got.into(),
        }
    }

    fn text(&self, tag: Tag) -> Option<String> {
        let text = self.object.get(tag)?.to_str().ok()?;
        Some(text.trim_matches(['\0', ' ']).to_string())
    }

    fn numbers<const N: usize>(&self, tag: Tag, field: &'static str) -> Result<Option<[f64; N]>> {
        let Some(element) = self.object.get(tag) else {
            return Ok(None);
        };
        let found = element.to_multi_float64().unwrap_or_default();
        match <[f64; N]>::try_from(found.as_slice()) {
            Ok(numbers) if numbers.iter().all(|n| n.is_finite()) => Ok(Some(numbers)),
            _ if found.is_empty() => Ok(None),
            _ => Err(self.invalid(field, &format!("{N} finite numbers"), format!("{found:?}"))),
        }
    }

    fn needed<const N: usize>(&self, tag: Tag, field: &'static str) -> Result<[f64; N]> {
        let missing = || self.invalid(field, &format!("{N} numbers"), "nothing");
        self.numbers(tag, field)?.ok_or_else(missing)
    }

    fn count(&self, tag: Tag, field: &'static str) -> Result<usize> {
        let found = self.object.get(tag).and_then(|e| e.to_int::<u16>().ok());
        match found {
            Some(count @ 1..) => Ok(count.into()),
            other => Err(self.invalid(field, "1 to 65535", format!("{other:?}"))),
        }
    }
}

impl Slice {
    /// Reads a file's attributes. `None` where it holds no image, as an index of a disc does.
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Option<Self>> {
        let Some(bytes) = bytes(path, limits)? else {
            return Ok(None);
        };
        let object = parse(&bytes, path, Some(tags::PIXEL_DATA))?;
        let get = Attributes {
            object: &object,
            path,
        };
        if get.text(tags::SERIES_INSTANCE_UID).is_none() || object.get(tags::ROWS).is_none() {
            return Ok(None);
        }
        let unsupported = |what: &'static str, got: String| Error::Unsupported {
            path: path.to_path_buf(),
            what,
            got,
        };
        let frames = get.text(tags::NUMBER_OF_FRAMES).unwrap_or_default();
        if !matches!(frames.as_str(), "" | "1") {
            return Err(unsupported("more than one frame in a file", frames));
        }
        let colours = get
            .text(tags::PHOTOMETRIC_INTERPRETATION)
            .unwrap_or_default();
        if colours != "MONOCHROME2" {
            return Err(unsupported("photometric interpretation", colours));
        }
        let [a, b, c, d, e, f] =
            get.needed(tags::IMAGE_ORIENTATION_PATIENT, "ImageOrientationPatient")?;
        let directions = [[a, b, c], [d, e, f]];
        let length = |v: [f64; 3]| v.iter().map(|x| x * x).sum::<f64>();
        let across: f64 = (0..3).map(|n| directions[0][n] * directions[1][n]).sum();
        // Written in decimals, often of six digits.
        if directions.iter().any(|d| (length(*d) - 1.0).abs() > 1e-3) || across.abs() > 1e-3 {
            let expected = "two directions of length 1 at a right angle";
            return Err(get.invalid(
                "ImageOrientationPatient",
                expected,
                format!("{directions:?}"),
            ));
        }
        let spacing = get.needed(tags::PIXEL_SPACING, "PixelSpacing")?;
        if spacing.iter().any(|s| *s <= 0.0) {
            return Err(get.invalid("PixelSpacing", "above 0", format!("{spacing:?}")));
        }
        let [slope] = get
            .numbers(tags::RESCALE_SLOPE, "RescaleSlope")?
            .unwrap_or([1.0]);
        let [intercept] = get
            .numbers(tags::RESCALE_INTERCEPT, "RescaleIntercept")?
            .unwrap_or([0.0]);
        if slope == 0.0 {
            return Err(get.invalid("RescaleSlope", "other than 0", "0"));
        }
        let between = get.numbers(tags::SPACING_BETWEEN_SLICES, "SpacingBetweenSlices")?;
        let thickness = get.numbers(tags::SLICE_THICKNESS, "SliceThickness")?;
        Ok(Some(Self {
            path: path.to_path_buf(),
            series: get.text(tags::SERIES_INSTANCE_UID).unwrap_or_default(),
            number: (get.text(tags::SERIES_NUMBER).and_then(|n| n.parse().ok())).unwrap_or(0),
            description: get.text(tags::SERIES_DESCRIPTION).unwrap_or_default(),
            rows: get.count(tags::ROWS, "Rows")?,
            columns: get.count(tags::COLUMNS, "Columns")?,
            directions,
            position: get.needed(tags::IMAGE_POSITION_PATIENT, "ImagePositionPatient")?,
            spacing,
            step: between
                .or(thickness)
                .map(|[step]| step.abs())
                .filter(|s| *s > 0.0),
            slope,
            intercept,
        }))
    }

    /// Reads the pixels, rescaled, row after row, to the end of `values`.
    pub(super) fn pixels(&self, limits: &Limits, values: &mut Vec<f32>) -> Result<()> {
        let path = &self.path;
        let broken = |reason: String| Error::Dicom {
            path: path.clone(),
            reason,
        };
        let Some(bytes) = bytes(path, limits)? else {
            return Err(broken("changed while it was read".into()));
        };
        let object = parse(&bytes, path, None)?;
        drop(bytes);
        let decoded = object
            .decode_pixel_data()
            .map_err(|error| broken(reason(&error)))?;
        let count = self.rows * self.columns;
        let bits = decoded.bits_allocated();
        let stored = decoded.bits_stored().clamp(1, bits.max(1));
        let signed = decoded.pixel_representation() == PixelRepresentation::Signed;
        let data = decoded.data();
        let needed = count * usize::from(bits) / 8;
        if !matches!(bits, 8 | 16 | 32) || decoded.samples_per_pixel() != 1 {
            return Err(Error::Unsupported {
                path: path.clone(),
                what: "kind of pixels",
                got: format!("{bits} bits, {} samples", decoded.samples_per_pixel()),
            });
        }
        if data.len() < needed {
            return Err(Error::Truncated {
                path: path.clone(),
                what: "the pixels",
                expected: needed as u64,
                got: data.len() as u64,
            });
        }
        // The stored bits are the lower ones; what stands above them is no part of the value.
        let spare = 64 - u32::from(stored);
        let value = |raw: u64| {
            let number = if signed {
                ((raw << spare) as i64 >> spare) as f64
            } else {
                ((raw << spare) >> spare) as f64
            };
            (number * self.slope + self.intercept) as f32
        };
        match bits {
            8 => values.extend(data[..count].iter().map(|b| value(u64::from(*b)))),
            16 => {
                let (pairs, _) = data[..needed].as_chunks::<2>();
                values.extend(
                    pairs
                        .iter()
                        .map(|b| value(u64::from(u16::from_ne_bytes(*b)))),
                );
            }
            _ => {
                let (fours, _) = data[..needed].as_chunks::<4>();
                values.extend(
                    fours
                        .iter()
                        .map(|b| value(u64::from(u32::from_ne_bytes(*b)))),
                );
            }
        }
        Ok(())
    }
}
