//! Saved banks: safetensors with the config and a checksum in the header.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::bank::{MemoryBank, MemoryConfig};
use crate::calibration::Calibration;
use crate::neighbours::{NearestNeighbours, Storage};
use crate::smooth::{Edge, Smoothing};
use crate::standardise::Standardisation;
use crate::tensor::with_slice;
use crate::{Error, Result};

/// The header's key. One key alone, so that the same bank is the same bytes.
const KEY: &str = "fndm-memory";
const VERSION: u32 = 1;
/// The most bytes that [`MemoryBank::load`] reads.
const DEFAULT_LIMIT: u64 = 4 << 30;

#[derive(Serialize, Deserialize)]
struct Header {
    checksum: String,
    bank: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    config: MemoryConfig,
    patches_seen: u64,
    maps: usize,
    calibration: Option<CalibrationDescription>,
}

#[derive(Serialize, Deserialize)]
struct CalibrationDescription {
    pixels: u64,
    slices: usize,
    smoothing: Smoothing,
    edge: Edge,
    head_erosion: usize,
}

struct Part {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl MemoryBank {
    /// The bank as the bytes of a safetensors file. The same bank is the same bytes.
    ///
    /// # Errors
    /// When the header can't be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let malformed = |e: &dyn std::fmt::Display| Error::Malformed {
            what: "the bank".to_owned(),
            message: e.to_string(),
        };
        let mut parts = vec![rows_part(&self.index)?];
        if let Some(s) = &self.standardisation {
            for (l, (mean, deviation)) in s.mean.iter().zip(&s.deviation).enumerate() {
                parts.push(Part::f32(format!("mean.{l}"), mean));
                parts.push(Part::f32(format!("deviation.{l}"), deviation));
            }
        }
        if let Some(c) = &self.calibration {
            parts.push(Part {
                name: "calibration.probabilities".to_owned(),
                dtype: Dtype::F64,
                shape: vec![c.probabilities.len()],
                bytes: c
                    .probabilities
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect(),
            });
            parts.push(Part::f32("calibration.scores".to_owned(), &c.scores));
        }
        let description = Description {
            version: VERSION,
            config: self.config.clone(),
            patches_seen: self.patches_seen,
            maps: self.standardisation.as_ref().map_or(0, |s| s.mean.len()),
            calibration: self.calibration.as_ref().map(|c| CalibrationDescription {
                pixels: c.pixels,
                slices: c.slices,
                smoothing: c.smoothing,
                edge: c.edge,
                head_erosion: c.head_erosion,
            }),
        };
        let bank = serde_json::to_string(&description).map_err(|e| malformed(&e))?;
        let views = parts
            .iter()
            .map(|p| {
                Ok((
                    p.name.as_str(),
                    TensorView::new(p.dtype, p.shape.clone(), &p.bytes)?,
                ))
            })
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| malformed(&e))?;
        let header = Header {
            checksum: checksum(&bank, &views),
            bank,
        };
        let header = serde_json::to_string(&header).map_err(|e| malformed(&e))?;
        serialize(views, Some(HashMap::from([(KEY.to_owned(), header)]))).map_err(|e| malformed(&e))
    }

    /// Writes the bank to a temporary file in the same folder, which is then renamed.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        let temporary = temporary_name(path);
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|e| {
            // A file that was there before isn't ours to remove.
            if e.kind() != std::io::ErrorKind::AlreadyExists {
                let _ = fs::remove_file(&temporary);
            }
            io(e)
        })
    }

    /// Reads a saved bank of at most 4 GiB.
    ///
    /// # Errors
    /// When the file can't be read, is too large, isn't a saved bank, or is damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_within(path, DEFAULT_LIMIT)
    }

    /// Reads a saved bank of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`MemoryBank::load`].
    pub fn load_within(path: impl AsRef<Path>, limit: u64) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut bytes = Vec::new();
        if length <= limit {
            // The file may grow meanwhile: one byte beyond the limit tells.
            file.take(limit.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(io)?;
        }
        let got = length.max(bytes.len() as u64);
        if got > limit {
            return Err(Error::Limit {
                what: path.display().to_string(),
                limit,
                got,
            });
        }
        Self::read(&bytes, &path.display().to_string())
    }

    /// Reads a bank from the bytes of its file.
    ///
    /// # Errors
    /// When they aren't a saved bank, or are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes, "the bank")
    }

    fn read(bytes: &[u8], what: &str) -> Result<Self> {
        let malformed = |message: String| Error::Malformed {
            what: what.to_owned(),
            message,
        };
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| malformed(e.to_string()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| malformed(e.to_string()))?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get(KEY))
            .ok_or_else(|| malformed(format!("expected {KEY:?} in the header")))?;
        let header: Header =
            serde_json::from_str(header).map_err(|e| malformed(format!("header: {e}")))?;
        let got = checksum(&header.bank, &tensors.tensors());
        if got != header.checksum {
            return Err(Error::Checksum {
                what: what.to_owned(),
                expected: header.checksum,
                got,
            });
        }
        let description: Description =
            serde_json::from_str(&header.bank).map_err(|e| malformed(format!("header: {e}")))?;
        if description.version != VERSION {
            return Err(malformed(format!(
                "expected version {VERSION}, got {}",
                description.version
            )));
        }
        let config = description.config;
        config.check()?;

        let rows = tensors
            .tensor("rows")
            .map_err(|e| malformed(e.to_string()))?;
        let dtype = match rows.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            other => {
                return Err(malformed(format!(
                    "rows: expected F32 or F16, got {other:?}"
                )));
            }
        };
        let &[count, dimension] = rows.shape() else {
            return Err(malformed(format!(
                "rows: expected (N, D), got {:?}",
                rows.shape()
            )));
        };
        if dtype != config.storage.dtype() || dimension != config.dimension() {
            return Err(malformed(format!(
                "rows: expected {:?} of {} values, got {:?} of {dimension}",
                config.storage,
                config.dimension(),
                rows.dtype(),
            )));
        }
        if count > config.max_rows() {
            return Err(malformed(format!(
                "rows: expected {} at most, as budgeted, got {count}",
                config.max_rows()
            )));
        }
        let rows = Tensor::from_raw_buffer(rows.data(), dtype, rows.shape(), &Device::Cpu)?;
        let index = NearestNeighbours::from_tensor(rows)?;

        let vector = |name: &str| -> Result<Vec<f32>> {
            let t = tensors
                .tensor(name)
                .map_err(|e| malformed(format!("{name}: {e}")))?;
            if t.dtype() != Dtype::F32 || t.shape().len() != 1 {
                return Err(malformed(format!("{name}: expected a vector of F32")));
            }
            let values: Vec<f32> = t
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            if values.iter().all(|v| v.is_finite()) {
                Ok(values)
            } else {
                Err(Error::NonFinite {
                    what: name.to_owned(),
                })
            }
        };
        let standardisation = if config.standardise && description.maps > 0 {
            let all = |name: &str| -> Result<Vec<Vec<f32>>> {
                (0..description.maps)
                    .map(|l| vector(&format!("{name}.{l}")))
                    .collect()
            };
            let read = Standardisation {
                mean: all("mean")?,
                deviation: all("deviation")?,
            };
            if !read.is_sound() {
                return Err(malformed(
                    "mean and deviation don't fit together".to_owned(),
                ));
            }
            Some(read)
        } else {
            None
        };
        let calibration = match description.calibration {
            Some(c) => {
                let name = "calibration.probabilities";
                let t = tensors
                    .tensor(name)
                    .map_err(|e| malformed(format!("{name}: {e}")))?;
                if t.dtype() != Dtype::F64 {
                    return Err(malformed(format!(
                        "{name}: expected F64, got {:?}",
                        t.dtype()
                    )));
                }
                let calibration = Calibration {
                    probabilities: t
                        .data()
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| f64::from_le_bytes(*b))
                        .collect(),
                    scores: vector("calibration.scores")?,
                    pixels: c.pixels,
                    slices: c.slices,
                    smoothing: c.smoothing,
                    edge: c.edge,
                    head_erosion: c.head_erosion,
                };
                if !calibration.is_sound() {
                    return Err(malformed("the calibration isn't ascending".to_owned()));
                }
                Some(calibration)
            }
            None => None,
        };
        Ok(Self {
            config,
            standardisation,
            index,
            calibration,
            patches_seen: description.patches_seen,
        })
    }
}

impl Part {
    fn f32(name: String, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self {
            name,
            dtype: Dtype::F32,
            shape: vec![values.len()],
            bytes,
        }
    }
}

fn rows_part(index: &NearestNeighbours) -> Result<Part> {
    let rows = index.rows();
    let (dtype, bytes) = if rows.dtype() == Storage::F16.dtype() {
        let bytes =
            with_slice::<half::f16, _>(rows, |v| v.iter().flat_map(|v| v.to_le_bytes()).collect())?;
        (Dtype::F16, bytes)
    } else {
        let bytes =
            with_slice::<f32, _>(rows, |v| v.iter().flat_map(|v| v.to_le_bytes()).collect())?;
        (Dtype::F32, bytes)
    };
    let shape = vec![index.len(), index.dimension()];
    Ok(Part {
        name: "rows".to_owned(),
        dtype,
        shape,
        bytes,
    })
}

/// FNV-1a (64 bits) of the description, then of every tensor in the order of names.
fn checksum<S: AsRef<str>>(bank: &str, tensors: &[(S, TensorView<'_>)]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(bank.as_bytes());
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
    for (name, tensor) in sorted {
        add(format!(
            "\n{}:{:?}:{:?}:",
            name.as_ref(),
            tensor.dtype(),
            tensor.shape()
        )
        .as_bytes());
        add(tensor.data());
    }
    format!("fnv1a64:{hash:016x}")
}

/// A hidden name beside the file, which no other process has.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
