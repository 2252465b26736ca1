//! Scores against labels with no threshold chosen: AUROC, average precision and the best Dice,
//! exact, with ties, from one sort.

use crate::error::{Error, Result, same_shape};
use crate::radix;
use crate::real::Real;
use crate::score::{Score, Undefined};
use ndarray::{ArrayView, Dimension};
use rayon::prelude::*;
use std::borrow::Cow;

/// Sorted scores of the positive and of the negative pixels: one sort serves every metric.
///
/// Memory: one key per pixel, 4 bytes for `f32` scores and 8 for `f64`, and twice that while
/// sorting.
///
/// ```
/// use fndm_metrics::{Ranking, Score};
///
/// let ranking = Ranking::of(&[0.1f32, 0.4, 0.35, 0.8], &[false, false, true, true])?;
/// assert_eq!(ranking.auroc(), Score::Value(0.75));
/// let best = ranking.best_dice();
/// assert_eq!((best.dice, best.threshold), (Score::Value(0.8), Some(0.35)));
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ranking<T: Real> {
    /// Ascending.
    positives: Vec<T::Key>,
    /// Parts of `chunk` keys, each ascending: threads sort a part each.
    negatives: Vec<T::Key>,
    chunk: usize,
}

/// The best threshold for Dice, and the Dice it gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BestDice<T> {
    /// The largest Dice of any threshold; undefined when no pixel is positive.
    pub dice: Score,
    /// The threshold: a pixel counts as found where its score is greater than *or equal to* it.
    /// The highest of the best.
    pub threshold: Option<T>,
}

impl<T: Real> Ranking<T> {
    /// Sorts the pixels of one image, or of many joined.
    ///
    /// # Errors
    /// If the lengths differ, there is no pixel, or a score is NaN or infinite.
    pub fn of(scores: &[T], labels: &[bool]) -> Result<Self> {
        Self::of_images([(scores, labels)])
    }

    /// Sorts the pixels of an image of any dimension and memory layout.
    ///
    /// # Errors
    /// If the shapes differ, there is no pixel, or a score is NaN or infinite.
    pub fn of_arrays<D: Dimension>(
        scores: &ArrayView<'_, T, D>,
        labels: &ArrayView<'_, bool, D>,
    ) -> Result<Self> {
        let (scores, labels) = pixels_of(scores, labels)?;
        Self::of(&scores, &labels)
    }

    /// Pools the pixels of a set of images: all pixels count alike, whatever image they are from.
    ///
    /// # Errors
    /// As [`Ranking::of`], for any of the images; there must be a pixel in the set as a whole.
    pub fn of_images<'a>(images: impl IntoIterator<Item = (&'a [T], &'a [bool])>) -> Result<Self> {
        let mut positives = Vec::new();
        let mut negatives = Vec::new();
        let mut before = 0;
        for (scores, labels) in images {
            check(scores, labels, before)?;
            before += scores.len();
            let positive = labels.iter().filter(|&&label| label).count();
            positives.reserve_exact(positive);
            negatives.reserve_exact(labels.len() - positive);
            for (score, &label) in scores.iter().zip(labels) {
                if label {
                    positives.push(score.key());
                } else {
                    negatives.push(score.key());
                }
            }
        }
        if positives.is_empty() && negatives.is_empty() {
            return Err(Error::NoValues { what: "scores" });
        }
        radix::sort::<T>(&mut positives);
        let parts = rayon::current_num_threads().min(negatives.len() >> 16);
        let chunk = negatives.len().div_ceil(parts.max(1)).max(1);
        radix::sort_chunks::<T>(&mut negatives, chunk);
        Ok(Self {
            positives,
            negatives,
            chunk,
        })
    }

    /// The number of positive pixels.
    #[must_use]
    pub fn positives(&self) -> usize {
        self.positives.len()
    }

    /// The number of negative pixels.
    #[must_use]
    pub fn negatives(&self) -> usize {
        self.negatives.len()
    }

    /// Walks down the distinct scores of positive pixels. Gives the score's key and the numbers of
    /// positives equal to it, of negatives equal to it and of negatives above it.
    fn walk_down(&self, mut visit: impl FnMut(T::Key, u64, u64, u64)) {
        // Takes the keys off the end of a part for as long as they are to go.
        fn pop<K: Copy>(keys: &mut &[K], go: impl Fn(K) -> bool) -> u64 {
            let stay = keys.iter().rposition(|&key| !go(key)).map_or(0, |i| i + 1);
            let gone = keys.len() - stay;
            *keys = &keys[..stay];
            gone as u64
        }
        let mut positive = self.positives.as_slice();
        let mut negatives: Vec<&[T::Key]> = self.negatives.chunks(self.chunk).collect();
        let mut above = 0;
        while let Some(&key) = positive.last() {
            let mut equal = 0;
            for part in &mut negatives {
                above += pop(part, |k| k > key);
                equal += pop(part, |k| k == key);
            }
            let tied = pop(&mut positive, |k| k == key);
            visit(key, tied, equal, above);
            above += equal;
        }
    }

    /// The area under the ROC curve: the chance that a positive scores above a negative, ties
    /// counting one half (scikit-learn `roc_auc_score`). Undefined if a class is missing.
    #[must_use]
    pub fn auroc(&self) -> Score {
        self.areas().auroc(self.positives.len() as u64)
    }

    /// Average precision: the sum of recall steps times precision, equal scores as one threshold,
    /// no interpolation (scikit-learn `average_precision_score`). Undefined if no pixel is
    /// positive, where scikit-learn warns and says 0.
    #[must_use]
    pub fn average_precision(&self) -> Score {
        self.areas().average_precision(self.positives.len() as u64)
    }

    fn areas(&self) -> Areas {
        let mut areas = Areas::new(self.negatives.len() as u64);
        self.walk_down(|_, tied, equal, above| areas.add(tied, equal, above));
        areas
    }

    /// The ceiling of Dice: the best over all thresholds on the pooled pixels. It looks at the
    /// labels to choose, so it bounds a method from above and is no result of it.
    #[must_use]
    pub fn best_dice(&self) -> BestDice<T> {
        let positives = self.positives.len() as u64;
        let mut found = 0;
        let mut best: Option<(f64, T::Key)> = None;
        self.walk_down(|key, tied, equal, above| {
            found += tied;
            let dice = (2 * found) as f64 / (positives + found + equal + above) as f64;
            if best.is_none_or(|(most, _)| dice > most) {
                best = Some((dice, key));
            }
        });
        match best {
            Some((dice, key)) => BestDice {
                dice: Score::Value(dice),
                threshold: Some(T::of_key(key)),
            },
            None => BestDice {
                dice: Score::Undefined(Undefined::NoPositive),
                threshold: None,
            },
        }
    }
}

/// The areas below two curves, summed from the highest score of a positive down.
pub(crate) struct Areas {
    negatives: u64,
    /// Twice the number of pairs in order, in integers: exact.
    twice: u128,
    found: u64,
    precision: f64,
}

impl Areas {
    /// None so far, of so many negatives.
    pub(crate) fn new(negatives: u64) -> Self {
        Self {
            negatives,
            twice: 0,
            found: 0,
            precision: 0.0,
        }
    }

    /// So many positives of the next score, negatives equal to it, and negatives above it.
    pub(crate) fn add(&mut self, tied: u64, equal: u64, above: u64) {
        self.twice += u128::from(tied) * u128::from(2 * (self.negatives - above) - equal);
        self.found += tied;
        let precision = self.found as f64 / (self.found + equal + above) as f64;
        self.precision += tied as f64 * precision;
    }

    pub(crate) fn auroc(&self, positives: u64) -> Score {
        if positives == 0 {
            return Score::Undefined(Undefined::NoPositive);
        }
        if self.negatives == 0 {
            return Score::Undefined(Undefined::NoNegative);
        }
        let pairs = u128::from(positives) * u128::from(self.negatives);
        Score::Value(self.twice as f64 / (2.0 * pairs as f64))
    }

    pub(crate) fn average_precision(&self, positives: u64) -> Score {
        if positives == 0 {
            return Score::Undefined(Undefined::NoPositive);
        }
        Score::Value(self.precision / positives as f64)
    }
}

/// The pixels of two arrays in one order; a copy only where they do not lie so in memory.
#[allow(clippy::type_complexity)]
pub(crate) fn pixels_of<'a, T: Real, D: Dimension>(
    scores: &'a ArrayView<'_, T, D>,
    labels: &'a ArrayView<'_, bool, D>,
) -> Result<(Cow<'a, [T]>, Cow<'a, [bool]>)> {
    same_shape("labels", scores.shape(), labels.shape())?;
    Ok(match (scores.as_slice(), labels.as_slice()) {
        (Some(scores), Some(labels)) => (Cow::Borrowed(scores), Cow::Borrowed(labels)),
        _ => (
            Cow::Owned(scores.iter().copied().collect()),
            Cow::Owned(labels.iter().copied().collect()),
        ),
    })
}

/// Checks the pixels of an image; `before` is the number of pixels of the images before it.
pub(crate) fn check<T: Real>(scores: &[T], labels: &[bool], before: usize) -> Result<()> {
    same_shape("labels", &[scores.len()], &[labels.len()])?;
    if let Some(position) = scores.iter().position(|score| !score.finite()) {
        return Err(Error::NotFinite {
            what: "scores",
            found: scores[position].as_f64(),
            position: before + position,
        });
    }
    Ok(())
}

/// [`Ranking::auroc`] of one list of pixels.
///
/// # Errors
/// As [`Ranking::of`].
pub fn auroc<T: Real>(scores: &[T], labels: &[bool]) -> Result<Score> {
    Ok(Ranking::of(scores, labels)?.auroc())
}

/// [`Ranking::average_precision`] of one list of pixels.
///
/// # Errors
/// As [`Ranking::of`].
pub fn average_precision<T: Real>(scores: &[T], labels: &[bool]) -> Result<Score> {
    Ok(Ranking::of(scores, labels)?.average_precision())
}

/// [`Ranking::best_dice`] of one list of pixels.
///
/// # Errors
/// As [`Ranking::of`].
pub fn best_dice<T: Real>(scores: &[T], labels: &[bool]) -> Result<BestDice<T>> {
    Ok(Ranking::of(scores, labels)?.best_dice())
}

/// [`Ranking::best_dice`] over a set of images, one threshold for all, their pixels pooled.
///
/// # Errors
/// As [`Ranking::of_images`].
pub fn best_dice_pooled<'a, T: Real>(
    images: impl IntoIterator<Item = (&'a [T], &'a [bool])>,
) -> Result<BestDice<T>> {
    Ok(Ranking::of_images(images)?.best_dice())
}

/// The one threshold for a set of images that makes the *mean of the images' Dice* largest.
///
/// Images without a positive pixel have no Dice here and are left out. Undefined if that leaves
/// none. Memory: 16 bytes per pixel for `f64` scores, 8 for `f32`.
///
/// # Errors
/// As [`Ranking::of_images`], and if there are more than 2^31 images.
pub fn best_mean_dice<'a, T: Real>(
    images: impl IntoIterator<Item = (&'a [T], &'a [bool])>,
) -> Result<BestDice<T>> {
    // Each pixel as (key, image * 2 + label).
    let mut pixels: Vec<(T::Key, u32)> = Vec::new();
    let mut positives: Vec<u64> = Vec::new();
    let mut seen = 0;
    for (scores, labels) in images {
        check(scores, labels, seen)?;
        seen += scores.len();
        let positive = labels.iter().filter(|&&label| label).count() as u64;
        if positive == 0 {
            continue;
        }
        let image = u32::try_from(positives.len() * 2).map_err(|_| Error::Parameter {
            what: "images",
            expected: "at most 2^31",
            found: positives.len() as f64,
        })?;
        positives.push(positive);
        pixels.reserve_exact(scores.len());
        for (score, &label) in scores.iter().zip(labels) {
            pixels.push((score.key(), image + u32::from(label)));
        }
    }
    if seen == 0 {
        return Err(Error::NoValues { what: "scores" });
    }
    pixels.par_sort_unstable_by(|a, b| b.cmp(a));

    let dice_of = |(found, marked): (u64, u64), positive: u64| {
        (2 * found) as f64 / (positive + marked) as f64
    };
    let mut counts = vec![(0u64, 0u64); positives.len()];
    let mut sum = 0.0;
    let mut best: Option<(f64, T::Key)> = None;
    for group in pixels.chunk_by(|a, b| a.0 == b.0) {
        for &(_, tag) in group {
            let image = (tag / 2) as usize;
            let before = dice_of(counts[image], positives[image]);
            counts[image].0 += u64::from(tag % 2);
            counts[image].1 += 1;
            sum += dice_of(counts[image], positives[image]) - before;
        }
        // A tie up to rounding of the running sum stays with the higher threshold.
        if best.is_none_or(|(most, _)| sum > most + 1e-12) {
            best = Some((sum, group[0].0));
        }
    }
    let Some((_, threshold)) = best else {
        return Ok(BestDice {
            dice: Score::Undefined(Undefined::NoPositive),
            threshold: None,
        });
    };
    // The running sum has rounding in it: count once more at the threshold that won.
    counts.fill((0, 0));
    for &(_, tag) in pixels.iter().take_while(|pixel| pixel.0 >= threshold) {
        let count = &mut counts[(tag / 2) as usize];
        count.0 += u64::from(tag % 2);
        count.1 += 1;
    }
    let sum: f64 = counts
        .iter()
        .zip(&positives)
        .map(|(&count, &positive)| dice_of(count, positive))
        .sum();
    Ok(BestDice {
        dice: Score::Value(sum / positives.len() as f64),
        threshold: Some(T::of_key(threshold)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Confusion;
    use proptest::prelude::*;

    fn pixels() -> impl Strategy<Value = (Vec<f32>, Vec<bool>)> {
        // Few distinct scores, so that ties are the rule.
        prop::collection::vec((0u8..12, any::<bool>()), 1..60).prop_map(|pixels| {
            pixels
                .into_iter()
                .map(|(score, label)| (f32::from(score) / 8.0 - 0.5, label))
                .unzip()
        })
    }

    fn dice_at(scores: &[f32], labels: &[bool], threshold: f32) -> f64 {
        let found: Vec<bool> = scores.iter().map(|&s| s >= threshold).collect();
        let counts = Confusion::of_slices(&found, labels).unwrap();
        counts.dice().value().unwrap_or(0.0)
    }

    proptest! {
        #[test]
        fn auroc_is_the_share_of_pairs_in_order((scores, labels) in pixels()) {
            let (mut sum, mut pairs) = (0.0, 0.0);
            for (a, _) in scores.iter().zip(&labels).filter(|p| *p.1) {
                for (b, _) in scores.iter().zip(&labels).filter(|p| !*p.1) {
                    pairs += 1.0;
                    sum += if a > b { 1.0 } else if a == b { 0.5 } else { 0.0 };
                }
            }
            match auroc(&scores, &labels).unwrap() {
                Score::Value(value) => prop_assert!((value - sum / pairs).abs() < 1e-12),
                Score::Undefined(_) => prop_assert_eq!(pairs, 0.0),
            }
        }

        #[test]
        fn average_precision_is_the_sum_over_thresholds((scores, labels) in pixels()) {
            let positives = labels.iter().filter(|&&l| l).count() as f64;
            let mut thresholds = scores.clone();
            thresholds.sort_by(|a, b| b.total_cmp(a));
            thresholds.dedup();
            let (mut sum, mut recall_before) = (0.0, 0.0);
            for t in thresholds {
                let found: Vec<bool> = scores.iter().map(|&s| s >= t).collect();
                let c = Confusion::of_slices(&found, &labels).unwrap();
                let recall = c.recall().value().unwrap_or(0.0);
                sum += (recall - recall_before) * c.precision().value().unwrap();
                recall_before = recall;
            }
            match average_precision(&scores, &labels).unwrap() {
                Score::Value(value) => prop_assert!((value - sum).abs() < 1e-12),
                Score::Undefined(_) => prop_assert_eq!(positives, 0.0),
            }
        }

        #[test]
        fn best_dice_is_the_best_of_all_thresholds((scores, labels) in pixels()) {
            let best = best_dice(&scores, &labels).unwrap();
            let brute = scores.iter().map(|&t| dice_at(&scores, &labels, t)).fold(0.0, f64::max);
            if let (Score::Value(dice), Some(threshold)) = (best.dice, best.threshold) {
                prop_assert_eq!(dice, brute);
                prop_assert_eq!(dice_at(&scores, &labels, threshold), brute);
            } else {
                prop_assert!(!labels.contains(&true));
            }
        }

        #[test]
        fn best_mean_dice_is_the_best_of_all_thresholds(
            images in prop::collection::vec(pixels(), 1..5)
        ) {
            let views = || images.iter().map(|(s, l)| (s.as_slice(), l.as_slice()));
            let with: Vec<_> = images.iter().filter(|i| i.1.contains(&true)).collect();
            let mean_at = |t: f32| {
                with.iter().map(|(s, l)| dice_at(s, l, t)).sum::<f64>() / with.len() as f64
            };
            let best = best_mean_dice(views()).unwrap();
            let all = images.iter().flat_map(|i| &i.0);
            let brute = all.map(|&t| mean_at(t)).fold(0.0, f64::max);
            if let (Score::Value(dice), Some(threshold)) = (best.dice, best.threshold) {
                prop_assert!((dice - brute).abs() < 1e-10);
                prop_assert!((mean_at(threshold) - dice).abs() < 1e-12);
            } else {
                prop_assert!(with.is_empty());
            }
            // Pooling is joining.
            let scores: Vec<f32> = images.iter().flat_map(|i| i.0.clone()).collect();
            let labels: Vec<bool> = images.iter().flat_map(|i| i.1.clone()).collect();
            prop_assert_eq!(
                best_dice_pooled(views()).unwrap(),
                best_dice(&scores, &labels).unwrap()
            );
        }
    }

    #[test]
    fn bad_scores_are_errors() {
        assert!(matches!(
            auroc(&[0.1f32, f32::NAN], &[true, false]),
            Err(Error::NotFinite { position: 1, .. })
        ));
        // In a set of images the position counts on.
        let (good, bad) = ([0.1f32, 0.2], [0.3f32, f32::INFINITY]);
        let labels = [true, false];
        let set = || [(&good[..], &labels[..]), (&bad[..], &labels[..])];
        for error in [
            best_dice_pooled(set()).unwrap_err(),
            best_mean_dice(set()).unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotFinite { position: 3, .. }));
        }
        assert!(auroc(&[0.1f64], &[true, false]).is_err());
        assert!(auroc::<f32>(&[], &[]).is_err());
        assert!(best_mean_dice::<f32>([]).is_err());
    }

    #[test]
    fn arrays_of_any_layout_rank_as_their_pixels() {
        let scores = ndarray::Array2::from_shape_fn((7, 5), |(y, x)| (x * 3 + y * 5 % 7) as f32);
        let labels = ndarray::Array2::from_shape_fn((7, 5), |(y, x)| (x + y) % 3 == 0);
        let plain = auroc(scores.as_slice().unwrap(), labels.as_slice().unwrap()).unwrap();
        let whole = Ranking::of_arrays(&scores.view(), &labels.view()).unwrap();
        assert_eq!(whole.auroc(), plain);
        let turned = Ranking::of_arrays(&scores.t(), &labels.t()).unwrap();
        assert_eq!(turned.auroc(), plain);
        let mixed = labels.t().as_standard_layout().into_owned();
        let mixed = Ranking::of_arrays(&scores.t(), &mixed.view()).unwrap();
        assert_eq!(mixed.auroc(), plain);
        assert!(Ranking::of_arrays(&scores.view(), &labels.t()).is_err());
    }

    #[test]
    fn the_two_zeros_tie() {
        assert_eq!(
            auroc(&[0.0f32, -0.0], &[true, false]).unwrap(),
            Score::Value(0.5)
        );
    }
}
