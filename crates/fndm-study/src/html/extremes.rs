//! Slices good and bad, chosen by rule.

use fndm_data::PatientSlices;
use fndm_metrics::Confusion;
use fndm_report::{Block, Picture, Section};
use ndarray::{Array3, Axis};
use serde::{Deserialize, Serialize};

use super::slice_picture;
use crate::Result;

/// So many of each kind.
const MOST: usize = 6;
/// Least height of a picture in pixels.
const HEIGHT: usize = 192;

/// A slice that is shown for its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Shown {
    score: f64,
    patient: String,
    z: usize,
    /// The page of the patient, relative to the index.
    #[serde(skip)]
    page: Option<String>,
    #[serde(skip)]
    png: Vec<u8>,
}

/// Title, rule, slices, and the words below each.
type Kind<'a> = (&'a str, String, Vec<Shown>, &'a dyn Fn(&Shown) -> String);

/// The best and the worst slices with a lesion, and the healthy ones with most marked in them.
///
/// As JSON they lack their pictures and the pages that these lead to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
                if !is_among_first(list, score) {
                    return Ok(());
                }
                let shown = Shown {
                    score,
                    patient: slices.id.clone(),
                    z,
                    page: Some(page.into()),
                    png: slice_picture(slices, mask, at, HEIGHT)?,
                };
                insert(list, shown);
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

    fn kinds_mut(&mut self) -> [&mut Vec<Shown>; 3] {
        [&mut self.worst, &mut self.best, &mut self.false_areas]
    }

    /// Names and bytes of the pictures of one patient, in an order that [`Extremes::give_pictures`] knows.
    pub(super) fn pictures(&self) -> impl Iterator<Item = (String, &[u8])> {
        let kinds = [&self.worst, &self.best, &self.false_areas];
        KINDS.iter().zip(kinds).flat_map(|(kind, shown)| {
            let shown = shown.iter().enumerate();
            shown.map(move |(n, shown)| (picture_name(kind, n), shown.png.as_slice()))
        })
    }

    /// Gives the slices of one patient the pictures of these names, and the page that they lead to.
    pub(super) fn give_pictures<E>(
        &mut self,
        page: Option<&str>,
        read: &mut dyn FnMut(&str) -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<(), E> {
        for (kind, all) in KINDS.iter().zip(self.kinds_mut()) {
            for (n, shown) in all.iter_mut().enumerate() {
                shown.png = read(&picture_name(kind, n))?;
                shown.page = page.map(String::from);
            }
        }
        Ok(())
    }

    /// Adds the slices of a later patient.
    pub(super) fn join(&mut self, mut other: Self) {
        for (own, more) in self.kinds_mut().into_iter().zip(other.kinds_mut()) {
            for shown in more.drain(..) {
                if is_among_first(own, shown.score) {
                    insert(own, shown);
                }
            }
        }
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

/// What the pictures of each kind are called.
const KINDS: [&str; 3] = ["worst", "best", "false"];

fn picture_name(kind: &str, n: usize) -> String {
    format!("{kind}-{}.png", n + 1)
}

fn is_among_first(list: &[Shown], score: f64) -> bool {
    list.get(MOST - 1).is_none_or(|last| last.score > score)
}

/// Behind its equals, so that of these the first stays first.
fn insert(list: &mut Vec<Shown>, shown: Shown) {
    let place = list.partition_point(|other| other.score <= shown.score);
    list.insert(place, shown);
    list.truncate(MOST);
}

fn picture(shown: &Shown, words: &str) -> Picture {
    let caption = format!("{}, slice {}: {words}", shown.patient, shown.z + 1);
    Picture {
        png: shown.png.clone(),
        alt: format!("Outlines of mask and truth, {caption}"),
        caption,
        link: shown
            .page
            .clone()
            .map(|page| (page, format!("slice={}", shown.z + 1))),
    }
}
