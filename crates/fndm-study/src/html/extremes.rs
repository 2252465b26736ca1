//! Slices good and bad, chosen by rule.

use fndm_data::PatientSlices;
use fndm_metrics::Confusion;
use fndm_report::{Block, Picture, Section};
use ndarray::{Array3, Axis};

use super::slice_picture;
use crate::Result;

/// So many of each kind.
const MOST: usize = 6;
/// Least height of a picture in pixels.
const HEIGHT: usize = 192;

/// A slice that is shown for its score.
#[derive(Debug)]
struct Shown {
    score: f64,
    patient: String,
    z: usize,
    page: String,
    png: Vec<u8>,
}

/// Title, rule, slices, and the words below each.
type Kind<'a> = (&'a str, String, Vec<Shown>, &'a dyn Fn(&Shown) -> String);

/// The best and the worst slices with a lesion, and the healthy ones with most marked in them.
#[derive(Debug, Default)]
pub(super) struct Extremes {
    worst: Vec<Shown>,
    best: Vec<Shown>,
    /// Scored by the marked area in square millimetres, below 0, so that the largest stands first.
    false_areas: Vec<Shown>,
}

impl Extremes {
    pub(super) fn add(
        &mut self,
        slices: &PatientSlices,
        mask: &Array3<bool>,
        page: &str,
    ) -> Result<()> {
        let Some(truth) = &slices.mask else {
            return Ok(());
        };
        let [row, column] = slices.geometry.pixel_spacing();
        for (at, &z) in slices.z.iter().enumerate() {
            let (found, true_) = (mask.index_axis(Axis(0), at), truth.index_axis(Axis(0), at));
            let keep = |list: &mut Vec<Shown>, score: f64| -> Result<()> {
                if list.len() == MOST && list[MOST - 1].score <= score {
                    return Ok(());
                }
                // Behind its equals, so that of these the first stays first.
                let place = list.partition_point(|shown| shown.score <= score);
                let shown = Shown {
                    score,
                    patient: slices.id.clone(),
                    z,
                    page: page.into(),
                    png: slice_picture(slices, mask, at, HEIGHT)?,
                };
                list.insert(place, shown);
                list.truncate(MOST);
                Ok(())
            };
            if true_.iter().any(|&v| v) {
                if let Some(dice) = Confusion::of(&found, &true_)?.dice().value() {
                    keep(&mut self.worst, dice)?;
                    keep(&mut self.best, -dice)?;
                }
            } else {
                let pixels = found.iter().filter(|&&v| v).count();
                if pixels > 0 {
                    keep(&mut self.false_areas, -(pixels as f64) * row * column)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn sections(self, method: &str) -> Vec<Section> {
        let line =
            "Solid red: the mask. Dashed green: the truth. A picture leads to the patient's page.";
        let dice = format!(
            "of the mask by {method}, by its own rule, of all slices with a lesion on the model's grid; of equal ones the first come first"
        );
        let of_dice = |shown: &Shown| format!("Dice {:.3}", shown.score.abs());
        let kinds: [Kind<'_>; 3] = [
            (
                "Worst slices",
                format!("The {MOST} lowest Dice {dice}."),
                self.worst,
                &of_dice,
            ),
            (
                "Best slices",
                format!("The {MOST} highest Dice {dice}."),
                self.best,
                &of_dice,
            ),
            (
                "Most marked in slices without a lesion",
                format!(
                    "The {MOST} largest areas of the mask by {method} in slices without a lesion."
                ),
                self.false_areas,
                &|shown: &Shown| format!("{:.0} mm² marked", -shown.score),
            ),
        ];
        let kinds = kinds
            .into_iter()
            .filter(|(_, _, shown, _)| !shown.is_empty());
        kinds
            .map(|(title, rule, shown, words)| {
                let pictures = shown.iter().map(|shown| picture(shown, &words(shown)));
                let rule = format!("{rule} {line}");
                Section::new(
                    title,
                    vec![Block::Text(rule), Block::Pictures(pictures.collect())],
                )
            })
            .collect()
    }
}

fn picture(shown: &Shown, words: &str) -> Picture {
    let caption = format!("{}, slice {}: {words}", shown.patient, shown.z + 1);
    Picture {
        png: shown.png.clone(),
        alt: format!("Outlines of mask and truth, {caption}"),
        caption,
        link: Some((shown.page.clone(), format!("slice={}", shown.z + 1))),
    }
}
