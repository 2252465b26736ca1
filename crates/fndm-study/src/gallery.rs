//! Slices of many patients, of which some are drawn on a contact sheet when all are known.

use std::path::Path;

use fndm::SliceMaps;
use fndm_data::{PatientSlices, SliceImages};
use ndarray::{Array2, Array4, Axis, s};

use crate::html::{MASK, TRUTH};
use crate::{Error, Evaluation, Legend, Result, Sheet, Tile, upper_end};

/// What a sheet's letters and numbers are.
pub const LETTERS: &str = "Letters: which side of the patient lies there. Slices are counted from 1 at the lower end. Not a medical device.";

/// What is drawn of one slice; all arrays are `(H, W)`.
#[derive(Debug, Clone)]
struct Shown {
    patient: String,
    z: usize,
    /// Which side of the patient lies to the left, and which to the right; the same for all slices cut the same way.
    sides: [char; 2],
    input: Array2<f32>,
    /// Coarse map and reconstruction, of rows with diffusion.
    diffusion: Option<[Array2<f32>; 2]>,
    anomaly: Array2<f32>,
    /// Whether the anomaly map is of probabilities.
    probability: bool,
    mask: Array2<bool>,
    truth: Array2<bool>,
}

/// The slices that a contact sheet may show: those with a lesion, or all where no truth is known.
#[derive(Debug, Clone, Default)]
pub struct Gallery {
    all: Vec<Shown>,
    /// Most slices that are kept; none where all are.
    most: Option<usize>,
    /// Of the slices that came, each so-manieth is kept: two to this power.
    halvings: u32,
    came: usize,
}

/// At most so many places, evenly spread from the best Dice at Otsu's threshold to the worst. `place` says where a case is, by its
/// patient and its position in the volume.
pub(crate) fn spread_by_dice(
    evaluation: &Evaluation,
    count: usize,
    place: impl Fn(&str, Option<usize>) -> Option<usize>,
) -> Vec<usize> {
    let mut scored: Vec<(f64, usize)> = Vec::new();
    for case in &evaluation.cases {
        scored.extend(case.dice_otsu.value().zip(place(&case.patient, case.z)));
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let count = count.min(scored.len());
    let last = scored.len().saturating_sub(1);
    let chosen = (0..count).map(|k| scored[k * last / (count - 1).max(1)].1);
    chosen.collect()
}

/// At most `count` of so many places, evenly spread.
fn spread(all: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(all);
    (0..count).map(move |row| row * all / count)
}

/// The slices that may be shown: those with a lesion, or all where no truth is known.
fn shown_of<I>(slices: &PatientSlices<I>) -> impl Iterator<Item = usize> {
    let labels = slices.labels.as_ref();
    (0..slices.len()).filter(move |&i| labels.is_none_or(|bits| bits[i] == 1))
}

fn check<I: SliceImages>(slices: &PatientSlices<I>, maps: &SliceMaps) -> Result<()> {
    slices.check()?;
    let healthy = maps.healthy.as_ref().map(Array4::dim);
    let maps_of = [maps.anomaly.dim(), maps.coarse.dim(), maps.mask.dim()];
    if maps_of.iter().any(|dim| *dim != slices.head.dim())
        || healthy.is_some_and(|dim| dim != slices.images.dim())
    {
        return Err(Error::Input {
            what: format!("maps of patient {}", slices.id),
            expected: format!("{:?}, as the slices", slices.head.dim()),
            got: format!("{maps_of:?}, {healthy:?}"),
        });
    }
    Ok(())
}

impl Shown {
    fn of<I: SliceImages>(slices: &PatientSlices<I>, maps: &SliceMaps, i: usize) -> Result<Self> {
        let mut names = slices.sequences.iter();
        let channel = names.position(|s| s == "flair").unwrap_or(0);
        let image = slices.images.part(i..i + 1)?;
        let input = image.slice(s![0, channel, .., ..]).to_owned();
        Ok(Self {
            patient: slices.id.clone(),
            z: slices.z[i],
            sides: slices.geometry.sides(),
            diffusion: maps.healthy.as_ref().map(|healthy| {
                let coarse = maps.coarse.index_axis(Axis(0), i).to_owned();
                [coarse, healthy.slice(s![i, channel, .., ..]).to_owned()]
            }),
            anomaly: maps.anomaly.index_axis(Axis(0), i).to_owned(),
            probability: maps.probability,
            mask: maps.mask.index_axis(Axis(0), i).to_owned(),
            truth: match &slices.mask {
                Some(mask) => mask.index_axis(Axis(0), i).to_owned(),
                None => Array2::from_elem(input.dim(), false),
            },
            input,
        })
    }
}

impl Gallery {
    /// Keeps at most so many slices, at least two, of however many come: every slice, then every second, every fourth and so on.
    #[must_use]
    pub fn of_at_most(slices: usize) -> Self {
        Self {
            most: Some(slices.max(2)),
            ..Self::default()
        }
    }

    /// Whether the next slice is kept; makes room for it.
    fn takes_next(&mut self) -> bool {
        let number = self.came;
        self.came += 1;
        if !number.is_multiple_of(1 << self.halvings) {
            return false;
        }
        if self.most.is_some_and(|most| self.all.len() >= most) {
            let mut number = 0;
            self.all.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.halvings += 1;
            return (self.came - 1).is_multiple_of(1 << self.halvings);
        }
        true
    }

    /// Adds the slices of a patient: input and reconstruction of FLAIR, which shows most lesions best; without it, of the first sequence.
    ///
    /// # Errors
    /// When the maps aren't of these slices, as far as their shapes tell, or images can't be read.
    pub fn add<I: SliceImages>(
        &mut self,
        slices: &PatientSlices<I>,
        maps: &SliceMaps,
    ) -> Result<()> {
        check(slices, maps)?;
        for i in shown_of(slices) {
            if self.takes_next() {
                self.all.push(Shown::of(slices, maps, i)?);
            }
        }
        Ok(())
    }

    /// Adds at most so many slices of a patient, evenly spread: those that [`Gallery::spread`] would choose if this patient were the only
    /// one, without holding the others.
    ///
    /// # Errors
    /// As [`Gallery::add`].
    pub fn add_spread<I: SliceImages>(
        &mut self,
        slices: &PatientSlices<I>,
        maps: &SliceMaps,
        count: usize,
    ) -> Result<()> {
        check(slices, maps)?;
        let all: Vec<usize> = shown_of(slices).collect();
        for at in spread(all.len(), count) {
            if self.takes_next() {
                self.all.push(Shown::of(slices, maps, all[at])?);
            }
        }
        Ok(())
    }

    /// Whether there is nothing to draw from.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// At most so many slices, spread evenly over all.
    #[must_use]
    pub fn spread(&self, count: usize) -> Vec<usize> {
        spread(self.all.len(), count).collect()
    }

    /// At most so many slices, good and bad by rule: sorted by their Dice at Otsu's threshold, evenly spread from the best to the worst.
    #[must_use]
    pub fn by_dice(&self, evaluation: &Evaluation, count: usize) -> Vec<usize> {
        spread_by_dice(evaluation, count, |patient, z| {
            let is = |shown: &Shown| shown.patient == patient && Some(shown.z) == z;
            self.all.iter().position(is)
        })
    }

    /// Draws these slices, one row each, and writes them as PNG; nothing where there is none.
    ///
    /// # Errors
    /// When slices differ in size, or the file can't be written.
    pub fn save(&self, chosen: &[usize], path: &Path) -> Result<()> {
        let mut sheet: Option<Sheet> = None;
        for shown in chosen.iter().filter_map(|&at| self.all.get(at)) {
            let titles: &[&str] = match shown.diffusion {
                Some(_) => &["input", "coarse map", "healthy", "anomaly", "mask", "truth"],
                None => &["input", "anomaly", "mask", "truth"],
            };
            let sheet = match &mut sheet {
                Some(sheet) => sheet,
                None => {
                    let [left, right] = shown.sides;
                    let new = Sheet::new(titles, shown.input.dim())?;
                    sheet.insert(new.with_sides(left, right))
                }
            };
            sheet.caption(&format!("{}, slice {}", shown.patient, shown.z + 1))?;
            let grey = |image| Tile::Grey {
                image,
                low: -1.,
                high: 1.,
            };
            let heat = |map| Tile::Heat {
                map,
                low: 0.,
                high: upper_end(map),
            };
            let over = |mask, color| Tile::Overlay {
                image: shown.input.view(),
                mask,
                color,
            };
            let mut tiles = vec![grey(shown.input.view())];
            if let Some([coarse, healthy]) = &shown.diffusion {
                tiles.extend([heat(coarse.view()), grey(healthy.view())]);
            }
            let anomaly = shown.anomaly.view();
            tiles.extend([
                match shown.probability {
                    false => heat(anomaly),
                    // Of probabilities next to nothing should look like it.
                    true => Tile::Heat {
                        map: anomaly,
                        low: 0.,
                        high: 1.,
                    },
                },
                over(shown.mask.view(), MASK),
                over(shown.truth.view(), TRUTH),
            ]);
            sheet.push(&tiles)?;
        }
        let Some(mut sheet) = sheet else {
            return Ok(());
        };
        let first = chosen.iter().find_map(|&at| self.all.get(at));
        let of = |is: fn(&Shown) -> bool| first.is_some_and(is);
        sheet.legend(&legend(
            of(|shown| shown.diffusion.is_some()),
            of(|shown| shown.probability),
        ))?;
        Ok(sheet.save(path)?)
    }
}

/// What the columns are.
fn legend(diffusion: bool, probability: bool) -> Vec<Legend> {
    let images = match diffusion {
        true => "input, and healthy reconstruction",
        false => "input",
    };
    let mut lines = vec![Legend::Grey(format!(
        "{images}: black -1, white 1, the ends of the sequence's usual intensities"
    ))];
    let scale = match (diffusion, probability) {
        (true, _) => "coarse map and anomaly map: black 0, white the largest value of the slice",
        (false, true) => "anomaly map: black 0, white 1, the probability of a lesion",
        (false, false) => "anomaly map: black 0, white the largest value of the slice",
    };
    lines.extend([
        Legend::Heat(scale.into()),
        Legend::Mask(MASK, "the mask of the method, over the input".into()),
        Legend::Mask(TRUTH, "the true mask; none where it isn't known".into()),
        Legend::Words(LETTERS.into()),
    ]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of however many slices, so many at most, evenly spread.
    #[test]
    fn a_part_of_many_slices_is_kept() {
        let kept = |most: Option<usize>, came: usize| -> Vec<usize> {
            let mut gallery = most.map_or_else(Gallery::default, Gallery::of_at_most);
            for z in 0..came {
                if gallery.takes_next() {
                    gallery.all.push(Shown {
                        patient: "a".into(),
                        z,
                        sides: ['L', 'R'],
                        input: Array2::zeros((1, 1)),
                        diffusion: None,
                        anomaly: Array2::zeros((1, 1)),
                        probability: false,
                        mask: Array2::from_elem((1, 1), false),
                        truth: Array2::from_elem((1, 1), false),
                    });
                }
            }
            gallery.all.iter().map(|shown| shown.z).collect()
        };
        assert_eq!(kept(None, 7), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(kept(Some(4), 4), [0, 1, 2, 3]);
        assert_eq!(kept(Some(4), 5), [0, 2, 4]);
        assert_eq!(kept(Some(4), 9), [0, 4, 8]);
        assert_eq!(kept(Some(4), 16), [0, 4, 8, 12]);
        assert_eq!(kept(Some(3), 100), [0, 64]);
        for came in 1..200 {
            let all = kept(Some(8), came);
            assert!(
                all.len() <= 8 && (came < 8 || all.len() > 3),
                "{came}: {all:?}"
            );
        }
    }

    /// Intensities and distances are no probabilities.
    #[test]
    fn the_scale_is_that_of_the_map() {
        let words = |diffusion, probability| {
            let lines = legend(diffusion, probability);
            let heat = lines.iter().find_map(|line| match line {
                Legend::Heat(words) => Some(words.clone()),
                _ => None,
            });
            heat.unwrap()
        };
        assert!(words(false, true).contains("the probability of a lesion"));
        for diffusion in [false, true] {
            let words = words(diffusion, false);
            assert!(words.contains("white the largest value") && !words.contains("probability"));
        }
    }
}
