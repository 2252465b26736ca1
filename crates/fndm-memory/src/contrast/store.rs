//! A contrast in a file: safetensors with the config and a checksum in the header.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::{Contrast, ContrastConfig};
use crate::calibration::Calibration;
use crate::gaussians::Gaussians;
use crate::padim::Layout;
use crate::store::{checksum, unwritable};
use crate::{Error, Result};

const KEY: &str = "fndm-contrast";
const VERSION: u32 = 1;

/// The most bytes that [`Contrast::load`] takes.
const DEFAULT_LIMIT: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    checksum: String,
    contrast: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    config: ContrastConfig,
    /// Channels, height and width of each map of the extractor.
    maps: Vec<(usize, usize, usize)>,
    calibration: Option<Calibration>,
}

const NAMES: [&str; 4] = [
    "healthy.mean",
    "healthy.whitening",
    "diseased.mean",
    "diseased.whitening",
];

fn malformed(what: &str, message: impl Into<String>) -> Error {
    Error::malformed(what, message, None)
}

impl Contrast {
    /// The bytes of a safetensors file. The same contrast is the same bytes.
    ///
    /// # Errors
    /// When the header can't be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (p, c) = (self.layout.positions(), self.layout.channels());
        let values = [
            &self.healthy.mean,
            &self.healthy.whitening,
            &self.diseased.mean,
            &self.diseased.whitening,
        ]
        .map(|values| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() });
        let shapes = [vec![p, c], vec![p, c, c], vec![p, c], vec![p, c, c]];
        let views = NAMES
            .iter()
            .zip(shapes)
            .zip(&values)
            .map(|((&name, shape), bytes)| Ok((name, TensorView::new(Dtype::F32, shape, bytes)?)))
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(unwritable)?;
        let description = Description {
            version: VERSION,
            config: self.config.clone(),
            maps: self.layout.shapes().to_vec(),
            calibration: self.calibration.clone(),
        };
        let contrast = serde_json::to_string(&description).map_err(unwritable)?;
        let header = Header {
            checksum: checksum(&contrast, &views),
            contrast,
        };
        let header = serde_json::to_string(&header).map_err(unwritable)?;
        let metadata = HashMap::from([(KEY.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).map_err(unwritable)
    }

    /// Writes it to a temporary file in the same folder, which is then renamed.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(fndm_files::write_atomic(path, self.to_bytes()?)?)
    }

    /// Reads a saved contrast of at most 1 GiB.
    ///
    /// # Errors
    /// When the file can't be read, is too large, isn't a saved contrast, or is damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_within(path, DEFAULT_LIMIT)
    }

    /// Reads a saved contrast of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Contrast::load`].
    pub fn load_within(path: impl AsRef<Path>, limit: u64) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let what = path.display().to_string();
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut bytes = Vec::new();
        if length <= limit {
            // What the system says of the length needn't be what comes.
            let most = limit.saturating_add(1);
            file.take(most).read_to_end(&mut bytes).map_err(io)?;
        }
        let got = length.max(bytes.len() as u64);
        if got > limit {
            return Err(Error::Limit { what, limit, got });
        }
        Self::read(&bytes, &what)
    }

    /// Reads a contrast from the bytes of its file.
    ///
    /// # Errors
    /// When they aren't a saved contrast, or are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes, "the contrast")
    }

    fn read(bytes: &[u8], what: &str) -> Result<Self> {
        let wrong = |message: String| malformed(what, message);
        let because = |part: &str, cause: Box<dyn std::error::Error + Send + Sync>| {
            Error::malformed(what, part, Some(cause))
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| because("the file's header", e.into()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| because("the file", e.into()))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let header = header.ok_or_else(|| wrong(format!("expected {KEY:?} in the header")))?;
        let header: Header =
            serde_json::from_str(header).map_err(|e| because("header", e.into()))?;
        let got = checksum(&header.contrast, &tensors.tensors());
        if got != header.checksum {
            return Err(Error::Checksum {
                what: what.to_owned(),
                expected: header.checksum,
                got,
            });
        }
        let value: serde_json::Value =
            serde_json::from_str(&header.contrast).map_err(|e| because("header", e.into()))?;
        // Before its fields, which another version may have others of.
        let version = value.get("version").unwrap_or(&serde_json::Value::Null);
        if version.as_u64() != Some(u64::from(VERSION)) {
            return Err(wrong(format!("expected version {VERSION}, got {version}")));
        }
        let description: Description =
            serde_json::from_value(value).map_err(|e| because("header", e.into()))?;
        let config = description.config;
        config.check().map_err(|e| because("config", e.into()))?;
        // Before anything of that size is made.
        let channels = description
            .maps
            .iter()
            .fold(0usize, |sum, map| sum.saturating_add(map.0));
        let first = description
            .maps
            .first()
            .map_or(0, |m| m.1.saturating_mul(m.2));
        let values = channels.saturating_mul(first);
        let empty = |map: &(usize, usize, usize)| map.0 == 0 || map.1 == 0 || map.2 == 0;
        let hollow = description.maps.iter().any(empty);
        if hollow || values == 0 || values > bytes.len() / size_of::<f32>() {
            return Err(wrong(format!(
                "maps: expected what the tensors hold, got {:?}",
                description.maps
            )));
        }
        let layout = Layout::all(description.maps).map_err(|e| because("maps", e.into()))?;
        if description
            .calibration
            .as_ref()
            .is_some_and(|c| !c.is_sound())
        {
            return Err(wrong("the calibration isn't a distribution".into()));
        }
        let (p, c) = (layout.positions(), layout.channels());
        let vector = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor = tensors.tensor(name).map_err(|e| because(name, e.into()))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                return Err(wrong(format!(
                    "{name}: expected F32 {shape:?}, got {:?} {:?}",
                    tensor.dtype(),
                    tensor.shape()
                )));
            }
            let values = tensor.data().as_chunks().0.iter();
            let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
            if values.iter().any(|v| !v.is_finite()) {
                return Err(wrong(format!("{name}: a value is NaN or infinite")));
            }
            Ok(values)
        };
        let gaussians = |mean: &str, whitening: &str| {
            Ok::<_, Error>(Gaussians {
                mean: vector(mean, &[p, c])?,
                whitening: vector(whitening, &[p, c, c])?,
            })
        };
        Ok(Self {
            healthy: gaussians(NAMES[0], NAMES[1])?,
            diseased: gaussians(NAMES[2], NAMES[3])?,
            layout,
            config,
            calibration: description.calibration,
        })
    }
}
