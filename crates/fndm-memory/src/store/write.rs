use std::collections::HashMap;
use std::path::Path;

use fndm_files::write_atomic;
use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};

use super::checksum::checksum;
use super::{CalibrationDescription, Description, Header, KEY, VERSION};
use crate::bank::MemoryBank;
use crate::rows::{Rows, Values};
use crate::{Error, Result};

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
        let mut parts = vec![rows_part(self.index.rows())];
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
            extractor: self.extractor.clone(),
        };
        let bank = serde_json::to_string(&description).map_err(unwritable)?;
        let views = parts
            .iter()
            .map(|p| {
                Ok((
                    p.name.as_str(),
                    TensorView::new(p.dtype, p.shape.clone(), &p.bytes)?,
                ))
            })
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(unwritable)?;
        let header = Header {
            checksum: checksum(&bank, &views),
            bank,
        };
        let header = serde_json::to_string(&header).map_err(unwritable)?;
        serialize(views, Some(HashMap::from([(KEY.to_owned(), header)]))).map_err(unwritable)
    }

    /// Writes the bank to a temporary file in the same folder, which is then renamed.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(write_atomic(path, self.to_bytes()?)?)
    }
}

/// What can't be put into the file's format.
pub(crate) fn unwritable(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::malformed("the file to write", "its content", Some(Box::new(cause)))
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

fn rows_part(rows: &Rows) -> Part {
    let (dtype, bytes) = match rows.values() {
        Values::F16(v) => (Dtype::F16, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Values::F32(v) => (Dtype::F32, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    Part {
        name: "rows".to_owned(),
        dtype,
        shape: vec![rows.count(), rows.dimension()],
        bytes,
    }
}
