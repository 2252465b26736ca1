//! The FLAIR image itself as a map: the rival that any method must beat.

use std::path::Path;

use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_files::write_atomic;
use fndm_models::Limits;

use crate::fit::{Fit, Method};
use crate::maps::largest;
use crate::{Baseline, Error, Result};

/// Where the number of the sequence stands in a folder.
const FILE: &str = "flair.json";
/// The most bytes that file may have.
const MOST: u64 = 64;

/// The plain image before it has seen a slice.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlairMethod;

impl Method for FlairMethod {
    fn name(&self) -> &'static str {
        "FLAIR"
    }

    fn fit(&self, slices: &SliceSet, _: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(Flair::of(&slices.sequences)?))
    }

    fn load(&self, folder: &Path, _: &Limits, _: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(Flair::load(folder)?))
    }
}

/// The intensity of one sequence, from 0, the background, to 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flair {
    /// The sequence's place among those of a slice.
    pub channel: usize,
}

impl Flair {
    /// For slices of these sequences.
    ///
    /// # Errors
    /// When `flair` isn't among them.
    pub fn of(sequences: &[String]) -> Result<Self> {
        let channel = sequences.iter().position(|name| name == "flair");
        let channel = channel
            .ok_or_else(|| Error::config("sequences", "flair among them", sequences.join(", ")))?;
        Ok(Self { channel })
    }

    /// Reads what [`Baseline::save`] wrote into `folder`.
    ///
    /// # Errors
    /// When there is no such file, or it isn't whole.
    pub fn load(folder: &Path) -> Result<Self> {
        use std::io::Read;
        let path = folder.join(FILE);
        let wrong = |message: String, source: Option<crate::error::Cause>| Error::Malformed {
            path: path.clone(),
            message,
            source,
        };
        let mut text = String::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(MOST).read_to_string(&mut text))
            .map_err(|e| wrong("can't be read".to_owned(), Some(e.into())))?;
        let channel = serde_json::from_str(&text)
            .map_err(|e| wrong("expected a sequence's number".to_owned(), Some(e.into())))?;
        Ok(Self { channel })
    }
}

impl Baseline for Flair {
    fn name(&self) -> &'static str {
        "FLAIR"
    }

    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        let (_, c, _, _) = slices.dims4()?;
        if self.channel >= c {
            let expected = format!("more than {} sequences", self.channel);
            return Err(Error::shape("slices", expected, slices.dims()));
        }
        let intensity = slices.narrow(1, self.channel, 1)?.squeeze(1)?;
        Ok(intensity.affine(1.0, 1.0)?)
    }

    /// The brightest pixel.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        largest(&self.maps(slices)?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        Ok(write_atomic(folder.join(FILE), self.channel.to_string())?)
    }
}
