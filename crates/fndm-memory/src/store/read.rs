use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use fndm_kernels::MappedFile;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::checksum::checksum;
use super::{CalibrationDescription, Description, Header, KEY, VERSION};
use crate::bank::MemoryBank;
use crate::calibration::Calibration;
use crate::config::MemoryConfig;
use crate::neighbours::NearestNeighbours;
use crate::rows::{Rows, Storage};
use crate::standardise::Standardisation;
use crate::{Error, Result};

/// The most bytes that [`MemoryBank::load`] takes.
const DEFAULT_LIMIT: u64 = 4 << 30;

impl MemoryBank {
    /// Opens a saved bank of at most 4 GiB.
    ///
    /// Its rows stay in the file, which is mapped into memory: the system reads them as they are used, and drops them again when
    /// memory is short. So the file mustn't be written to meanwhile; [`MemoryBank::save`] puts a new file in its place, which is fine.
    ///
    /// # Errors
    /// When the file can't be read, is too large, isn't a saved bank, or is damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_within(path, DEFAULT_LIMIT)
    }

    /// Opens a saved bank of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`MemoryBank::load`].
    pub fn load_within(path: impl AsRef<Path>, limit: u64) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let what = path.display().to_string();
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length > limit {
            return Err(Error::Limit {
                what,
                limit,
                got: length,
            });
        }
        if length == 0 {
            return Err(malformed(&what, "the file is empty"));
        }
        let mapped = MappedFile::new(&file).map_err(io)?;
        let bank = Self::read(&Source::Mapped(Arc::new(mapped)), &what)?;
        tracing::debug!(
            file = what,
            rows = bank.len(),
            calibrated = bank.calibration.is_some(),
            "memory bank read"
        );
        Ok(bank)
    }

    /// Reads a bank from the bytes of its file.
    ///
    /// # Errors
    /// When they aren't a saved bank, or are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::read(&Source::Bytes(bytes), "the bank")
    }

    fn read(source: &Source<'_>, what: &str) -> Result<Self> {
        let bytes = source.bytes();
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| because(what, "the file's header", e))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| because(what, "the file", e))?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get(KEY))
            .ok_or_else(|| malformed(what, format!("expected {KEY:?} in the header")))?;
        let header: Header =
            serde_json::from_str(header).map_err(|e| because(what, "header", e))?;
        let got = checksum(&header.bank, &tensors.tensors());
        if got != header.checksum {
            return Err(Error::Checksum {
                what: what.to_owned(),
                expected: header.checksum,
                got,
            });
        }
        let description = describe(&header.bank, what)?;
        let config = description.config;
        config.check().map_err(|e| because(what, "config", e))?;
        let parts = Parts { tensors, what };
        let rows = parts.rows(source, &config)?;
        let index = NearestNeighbours::from_rows(rows).map_err(|e| because(what, "rows", e))?;
        let standardisation = if config.standardise && description.maps > 0 {
            Some(parts.standardisation(description.maps)?)
        } else {
            None
        };
        let calibration = match &description.calibration {
            Some(calibration) => Some(parts.calibration(calibration)?),
            None => None,
        };
        Ok(Self {
            config,
            standardisation,
            index,
            calibration,
            patches_seen: description.patches_seen,
            extractor: description.extractor,
        })
    }
}

fn malformed(what: &str, message: impl Into<String>) -> Error {
    Error::malformed(what, message, None)
}

/// A part of the file that another part of the program couldn't read.
fn because(
    what: &str,
    part: &str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::malformed(what, part, Some(cause.into()))
}

/// The description, of this version.
fn describe(bank: &str, what: &str) -> Result<Description> {
    let value: serde_json::Value =
        serde_json::from_str(bank).map_err(|e| because(what, "header", e))?;
    // Before its fields, which another version may have others of.
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        let got = value
            .get("version")
            .map_or("none".to_owned(), ToString::to_string);
        return Err(malformed(
            what,
            format!("expected version {VERSION}, got {got}"),
        ));
    }
    serde_json::from_value(value).map_err(|e| because(what, "header", e))
}

/// Where a bank is read from.
enum Source<'a> {
    Bytes(&'a [u8]),
    Mapped(Arc<MappedFile>),
}

impl Source<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Mapped(file) => file,
        }
    }

    /// Where a part of the bytes lies in them.
    fn range(&self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr().addr() - self.bytes().as_ptr().addr();
        start..start + part.len()
    }
}

/// The tensors of a file.
struct Parts<'a> {
    tensors: SafeTensors<'a>,
    what: &'a str,
}

impl<'a> Parts<'a> {
    fn tensor(&self, name: &str, dtype: Dtype) -> Result<TensorView<'a>> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|e| because(self.what, name, e))?;
        if tensor.dtype() != dtype {
            return Err(malformed(
                self.what,
                format!("{name}: expected {dtype:?}, got {:?}", tensor.dtype()),
            ));
        }
        Ok(tensor)
    }

    fn rows(&self, source: &Source<'_>, config: &MemoryConfig) -> Result<Rows> {
        let dtype = match config.storage {
            Storage::F32 => Dtype::F32,
            Storage::F16 => Dtype::F16,
        };
        let rows = self.tensor("rows", dtype)?;
        let (count, dimension) = match *rows.shape() {
            [count, dimension] if dimension == config.dimension() => (count, dimension),
            _ => {
                return Err(malformed(
                    self.what,
                    format!(
                        "rows: expected (N, {}), got {:?}",
                        config.dimension(),
                        rows.shape()
                    ),
                ));
            }
        };
        if count > config.max_rows() {
            return Err(malformed(
                self.what,
                format!(
                    "rows: expected {} at most, as budgeted, got {count}",
                    config.max_rows()
                ),
            ));
        }
        let bytes = rows.data();
        Ok(match source {
            Source::Bytes(_) => Rows::from_le_bytes(bytes, config.storage, count, dimension),
            Source::Mapped(file) => {
                Rows::mapped(file, source.range(bytes), config.storage, count, dimension)
            }
        })
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, Dtype::F32)?;
        let values = tensor.data().as_chunks().0.iter();
        let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(malformed(
                self.what,
                format!("{name}: a value is NaN or infinite"),
            ))
        }
    }

    fn standardisation(&self, maps: usize) -> Result<Standardisation> {
        let all = |name: &str| -> Result<Vec<Vec<f32>>> {
            (0..maps)
                .map(|l| self.vector(&format!("{name}.{l}")))
                .collect()
        };
        let read = Standardisation {
            mean: all("mean")?,
            deviation: all("deviation")?,
        };
        if read.is_sound() {
            Ok(read)
        } else {
            Err(malformed(
                self.what,
                "mean and deviation don't fit together",
            ))
        }
    }

    fn calibration(&self, description: &CalibrationDescription) -> Result<Calibration> {
        let probabilities = self.tensor("calibration.probabilities", Dtype::F64)?;
        let calibration = Calibration {
            probabilities: probabilities
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b))
                .collect(),
            scores: self.vector("calibration.scores")?,
            pixels: description.pixels,
            slices: description.slices,
            smoothing: description.smoothing,
            edge: description.edge,
            head_erosion: description.head_erosion,
        };
        if calibration.is_sound() {
            Ok(calibration)
        } else {
            Err(malformed(self.what, "the calibration isn't ascending"))
        }
    }
}
