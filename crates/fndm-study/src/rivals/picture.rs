//! Slices with the mask of every method beside them.

use std::path::Path;

use fndm::{ThresholdScope, threshold};
use fndm_data::PatientSlices;
use ndarray::{Array2, Axis, s};

use crate::gallery::{LETTERS, spread_by_dice};
use crate::html::{MASK, TRUTH};
use crate::{Error, Evaluation, Legend, MethodMap, Result, Sheet, Tile};

struct Shown {
    patient: String,
    z: usize,
    sides: [char; 2],
    input: Array2<f32>,
    truth: Array2<bool>,
    masks: Vec<Array2<bool>>,
}

/// A contact sheet: a row for each slice, a column for each method. The masks are by one threshold of Otsu's a slice, as the figures
/// per slice are.
pub struct MethodSheet {
    titles: Vec<String>,
    all: Vec<Shown>,
}

impl std::fmt::Debug for MethodSheet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MethodSheet")
            .field("titles", &self.titles)
            .finish_non_exhaustive()
    }
}

impl MethodSheet {
    /// Of methods of these names.
    #[must_use]
    pub fn new(titles: Vec<String>) -> Self {
        Self {
            titles,
            all: Vec::new(),
        }
    }

    /// Adds the slices of a patient that have a lesion, with the map of each method.
    ///
    /// # Errors
    /// When a map is missing or isn't of these slices, or the patient has no mask.
    pub fn add(&mut self, slices: &PatientSlices, maps: &[&MethodMap]) -> Result<()> {
        let wrong = maps.iter().any(|m| m.anomaly.dim() != slices.head.dim());
        if maps.len() != self.titles.len() || wrong {
            return Err(Error::Input {
                what: format!("maps of patient {}", slices.id),
                expected: format!("{} of {:?}", self.titles.len(), slices.head.dim()),
                got: format!("{} maps", maps.len()),
            });
        }
        let truth = crate::Case::truth_of(slices)?;
        let by_slice = |m: &&MethodMap| {
            let found = threshold(m.anomaly.view(), m.inner_head.view(), ThresholdScope::Slice);
            Ok(found?.mask)
        };
        let masks = maps.iter().map(by_slice).collect::<Result<Vec<_>>>()?;
        let mut names = slices.sequences.iter();
        let channel = names.position(|s| s == "flair").unwrap_or(0);
        for (i, truth) in truth.axis_iter(Axis(0)).enumerate() {
            if truth.iter().any(|&t| t) {
                let of = masks.iter().map(|m| m.index_axis(Axis(0), i).to_owned());
                self.all.push(Shown {
                    patient: slices.id.clone(),
                    z: slices.z[i],
                    sides: slices.geometry.sides(),
                    input: slices.images.slice(s![i, channel, .., ..]).to_owned(),
                    truth: truth.to_owned(),
                    masks: of.collect(),
                });
            }
        }
        Ok(())
    }

    /// Whether no slice with a lesion was added: there is nothing to draw then.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Writes so many slices as PNG, evenly spread from the best to the worst by the Dice of one method; nothing where there is none.
    ///
    /// # Errors
    /// When slices differ in size, or the file can't be written.
    pub fn save(&self, by: &Evaluation, count: usize, path: &Path) -> Result<()> {
        let place = |patient: &str, z: Option<usize>| {
            let is = |s: &Shown| s.patient == patient && Some(s.z) == z;
            self.all.iter().position(is)
        };
        let chosen = spread_by_dice(by, count, place);
        let titles: Vec<&str> = ["input", "truth"]
            .into_iter()
            .chain(self.titles.iter().map(String::as_str))
            .collect();
        let mut sheet: Option<Sheet> = None;
        for shown in chosen.iter().filter_map(|&at| self.all.get(at)) {
            let sheet = match &mut sheet {
                Some(sheet) => sheet,
                None => {
                    let [left, right] = shown.sides;
                    let new = Sheet::new(&titles, shown.input.dim())?;
                    sheet.insert(new.with_sides(left, right))
                }
            };
            sheet.caption(&format!("{}, slice {}", shown.patient, shown.z + 1))?;
            // The picture again in every column would be most of the file.
            let dark = Array2::from_elem(shown.input.dim(), -1f32);
            let over = |mask, color| Tile::Overlay {
                image: dark.view(),
                mask,
                color,
            };
            let mut tiles = vec![
                Tile::Grey {
                    image: shown.input.view(),
                    low: -1.,
                    high: 1.,
                },
                over(shown.truth.view(), TRUTH),
            ];
            let masks = shown.masks.iter();
            tiles.extend(masks.map(|mask| over(mask.view(), MASK)));
            sheet.push(&tiles)?;
        }
        if let Some(mut sheet) = sheet {
            sheet.legend(&[
                Legend::Grey(
                    "input: black -1, white 1, the ends of the sequence's usual intensities".into(),
                ),
                Legend::Mask(TRUTH, "the true mask".into()),
                Legend::Mask(
                    MASK,
                    "the mask of the method by Otsu's threshold of the slice".into(),
                ),
                Legend::Words(LETTERS.into()),
            ])?;
            sheet.save(path)?;
        }
        Ok(())
    }
}
