//! AUROC and average precision of more pixels than fit in memory, exact: the pixels are gone through several times.

use crate::error::{Error, Result};
use crate::ranking::{Areas, check};
use crate::real::Real;
use crate::score::Score;

/// Leading and trailing halves of a key.
const HALF: u32 = 16;
const HALVES: usize = 1 << HALF;

/// What is exact of very many pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PooledRanking {
    /// As [`Ranking::auroc`](crate::Ranking::auroc).
    pub auroc: Score,
    /// As [`Ranking::average_precision`](crate::Ranking::average_precision).
    pub average_precision: Score,
    /// Positive pixels.
    pub positives: u64,
    /// Negative pixels.
    pub negatives: u64,
    /// How often the pixels were gone through.
    pub passes: usize,
}

/// The pixels whose keys begin with the same half.
enum Group {
    /// The other halves: of positives, and of negatives.
    Keys(Vec<u16>, Vec<u16>),
    /// How often each half occurs, of positives and of negatives.
    Counts(Vec<(u64, u64)>),
}

impl Group {
    /// Bytes of the cheaper kind for so many pixels.
    fn cost(pixels: u64) -> u64 {
        (2 * pixels).min(16 * HALVES as u64)
    }

    fn new((positives, negatives): (u64, u64)) -> Self {
        let pixels = positives + negatives;
        match usize::try_from(pixels) {
            Ok(_) if 2 * pixels == Self::cost(pixels) => Self::Keys(
                Vec::with_capacity(positives as usize),
                Vec::with_capacity(negatives as usize),
            ),
            _ => Self::Counts(vec![(0, 0); HALVES]),
        }
    }

    fn add(&mut self, half: u16, positive: bool) {
        match self {
            Self::Keys(positives, negatives) => match positive {
                true => positives.push(half),
                false => negatives.push(half),
            },
            Self::Counts(counts) => {
                let (positives, negatives) = &mut counts[usize::from(half)];
                match positive {
                    true => *positives += 1,
                    false => *negatives += 1,
                }
            }
        }
    }

    /// Positives and negatives so far.
    fn counts(&self) -> (u64, u64) {
        match self {
            Self::Keys(positives, negatives) => (positives.len() as u64, negatives.len() as u64),
            Self::Counts(counts) => counts
                .iter()
                .fold((0, 0), |(p, n), more| (p + more.0, n + more.1)),
        }
    }

    /// Walks down the halves that positives have: their number, that of equal negatives, and that of negatives of the group above.
    fn walk_down(self, mut visit: impl FnMut(u64, u64, u64)) {
        match self {
            Self::Keys(mut positives, mut negatives) => {
                positives.sort_unstable();
                negatives.sort_unstable();
                let all = negatives.len() as u64;
                for tied in positives.chunk_by(|a, b| a == b).rev() {
                    let half = tied[0];
                    let below = negatives.partition_point(|&other| other < half);
                    let upto = negatives.partition_point(|&other| other <= half);
                    visit(tied.len() as u64, (upto - below) as u64, all - upto as u64);
                }
            }
            Self::Counts(counts) => {
                let mut above = 0;
                for (tied, equal) in counts.into_iter().rev() {
                    if tied > 0 {
                        visit(tied, equal, above);
                    }
                    above += equal;
                }
            }
        }
    }
}

/// The ranking of pixels that are somewhere else, in a file say. `go_through` hands on all of them, image by image, in any order; it is
/// called several times, and must hand on the same pixels each time. `bytes` is how much memory may be used, of which there is 3 MB at
/// least.
///
/// The first pass counts pixels by the leading half of their keys; those that follow look at the other half where a positive has the
/// leading one, as many groups at a time as fit. The numbers have the bits of [`Ranking`](crate::Ranking)'s.
///
/// # Errors
/// Those of `go_through`; as [`Ranking::of_images`](crate::Ranking::of_images); when the pixels differ from pass to pass.
pub fn rank_in_passes<E: From<Error>>(
    bytes: u64,
    mut go_through: impl FnMut(
        &mut dyn FnMut(&[f32], &[bool]) -> Result<()>,
    ) -> std::result::Result<(), E>,
) -> std::result::Result<PooledRanking, E> {
    let mut leading = vec![(0u64, 0u64); HALVES];
    let mut before = 0;
    go_through(&mut |scores, labels| {
        check(scores, labels, before)?;
        before += scores.len();
        for (score, &positive) in scores.iter().zip(labels) {
            let (positives, negatives) = &mut leading[(score.key() >> HALF) as usize];
            match positive {
                true => *positives += 1,
                false => *negatives += 1,
            }
        }
        Ok(())
    })?;
    if before == 0 {
        return Err(Error::NoValues { what: "scores" }.into());
    }
    let positives: u64 = leading.iter().map(|counts| counts.0).sum();
    let negatives: u64 = leading.iter().map(|counts| counts.1).sum();
    let mut areas = Areas::new(negatives);
    let mut passes = 1;
    // From the top: where the next pass begins, and the negatives above.
    let mut top = HALVES;
    let mut above = 0;
    while top > 0 {
        let mut groups = Vec::new();
        let mut place = vec![usize::MAX; HALVES];
        let mut bottom = top;
        let mut cost = 0;
        while bottom > 0 {
            let counts = leading[bottom - 1];
            if counts.0 > 0 {
                cost += Group::cost(counts.0 + counts.1);
                if cost > bytes && !groups.is_empty() {
                    break;
                }
                place[bottom - 1] = groups.len();
                groups.push(Group::new(counts));
            }
            bottom -= 1;
        }
        if !groups.is_empty() {
            passes += 1;
            go_through(&mut |scores, labels| {
                check(scores, labels, 0)?;
                for (score, &positive) in scores.iter().zip(labels) {
                    let key = score.key();
                    if let Some(group) = groups.get_mut(place[(key >> HALF) as usize]) {
                        group.add((key & 0xffff) as u16, positive);
                    }
                }
                Ok(())
            })?;
        }
        let mut groups = groups.into_iter();
        for counts in leading[bottom..top].iter().rev() {
            if counts.0 > 0
                && let Some(group) = groups.next()
            {
                if group.counts() != *counts {
                    return Err(Error::PassesDiffer { pass: passes }.into());
                }
                group.walk_down(|tied, equal, within| areas.add(tied, equal, above + within));
            }
            above += counts.1;
        }
        top = bottom;
    }
    Ok(PooledRanking {
        auroc: areas.auroc(positives),
        average_precision: areas.average_precision(positives),
        positives,
        negatives,
        passes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ranking;
    use proptest::prelude::*;

    type Images = Vec<(Vec<f32>, Vec<bool>)>;

    fn of(bytes: u64, images: &Images) -> Result<PooledRanking> {
        rank_in_passes(bytes, |next| {
            images.iter().try_for_each(|(s, l)| next(s, l))
        })
    }

    /// Against the ranking that sorts all pixels in memory, whose own truth is every pair counted: the same bits.
    fn same(bytes: u64, images: &Images) -> PooledRanking {
        let all = images.iter().map(|(s, l)| (s.as_slice(), l.as_slice()));
        let sorted = Ranking::of_images(all).unwrap();
        let found = of(bytes, images).unwrap();
        assert_eq!(found.auroc, sorted.auroc());
        assert_eq!(found.average_precision, sorted.average_precision());
        assert_eq!(found.positives, sorted.positives() as u64);
        assert_eq!(found.negatives, sorted.negatives() as u64);
        found
    }

    /// Scores that tie, scores that differ in the last bits alone, and scores of all sizes and both signs.
    fn score() -> impl Strategy<Value = f32> {
        prop_oneof![
            (0u8..6).prop_map(|n| f32::from(n) / 8. - 0.25),
            (0u32..40).prop_map(|n| f32::from_bits(0.5f32.to_bits() + n)),
            any::<f32>().prop_filter("finite", |v| v.is_finite()),
            Just(-0.),
        ]
    }

    proptest! {
        #[test]
        fn the_bits_of_one_sort(
            images in prop::collection::vec(prop::collection::vec((score(), any::<bool>()), 0..80), 1..5),
            bytes in 0u64..400,
        ) {
            let images: Images = images.into_iter().map(|image| image.into_iter().unzip()).collect();
            if images.iter().any(|(scores, _)| !scores.is_empty()) {
                same(bytes, &images);
            }
        }
    }

    /// So many pixels of one beginning that they are counted and not kept, beside some that are kept.
    #[test]
    fn many_pixels_of_one_beginning() {
        let mut state = 7u32;
        let mut images = Images::new();
        for _ in 0..3 {
            let mut image = (Vec::new(), Vec::new());
            for _ in 0..300_000 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = state >> 12;
                let near = f32::from_bits(0.5f32.to_bits() + noise % 60_000);
                let far = (noise % 977) as f32 / 977.;
                image.0.push(if state >> 28 > 1 { near } else { far });
                image.1.push(state >> 25 & 7 == 1);
            }
            images.push(image);
        }
        const { assert!(2 * 700_000 > 16 * HALVES, "else they would be kept") };
        let one = same(u64::MAX, &images);
        assert_eq!(one.passes, 2);
        // As many passes as memory asks for.
        assert!(same(1 << 17, &images).passes > 3);
    }

    #[test]
    fn what_cannot_be_ranked_is_told() {
        let nan = vec![
            (vec![0.5], vec![true]),
            (vec![0.1, f32::NAN], vec![false; 2]),
        ];
        let error = of(1 << 20, &nan).unwrap_err().to_string();
        assert!(error.contains("position 2"), "{error}");
        assert!(of(0, &Images::new()).is_err());
        assert!(of(0, &vec![(vec![0.5], vec![])]).is_err());
        for label in [true, false] {
            same(0, &vec![(vec![0.5, 0.25], vec![label; 2])]);
        }
        // Another file than a moment ago.
        let mut pass = 0;
        let changing = rank_in_passes(0, |next| {
            pass += 1;
            next(&[0.5, 0.5][..pass.min(2)], &[true, false][..pass.min(2)])
        });
        let error: Error = changing.unwrap_err();
        assert!(matches!(error, Error::PassesDiffer { pass: 2 }), "{error}");
    }
}
