//! What the values of a lesion mask mean, and what is odd about the files of a patient.

use std::fmt;

use ndarray::{ArrayView3, Zip};

use crate::{Patient, Volume, WholeLesion};

/// Whether a mask's value means lesion: above 0.5. All crates and programs have this one rule.
///
/// Masks of labels (1, 2, 4 in BraTS) are lesion wherever there is a label. A mask that was resampled has values
/// in between; half is where a mask of 0 and 1 has its edge, and ringing of the resampling stays below it.
///
/// ```
/// use fndm_data::is_lesion;
/// assert!(is_lesion(1.0) && is_lesion(4.0) && is_lesion(0.51));
/// assert!(!is_lesion(0.0) && !is_lesion(0.5) && !is_lesion(-1.0));
/// ```
#[must_use]
pub fn is_lesion(value: f32) -> bool {
    value > 0.5
}

/// Whole numbers are missed by no more than this where a mask is stored scaled.
const WHOLE: f32 = 1e-3;
/// A mask that covers more than this share of the head is hardly one of lesions.
const MOST: f64 = 0.5;

/// Something odd about a patient's files, mostly the lesion mask, that is no error: they are used, and the user should know.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// Values that are no labels: the mask was resampled, or is a map of probabilities.
    NotBinary {
        /// Lowest value of the mask.
        low: f32,
        /// Highest value.
        high: f32,
        /// Voxels above 0 that aren't lesion, being no more than 0.5.
        below: usize,
        /// Voxels of lesion.
        lesion: usize,
    },
    /// The mask covers most of the head: it may be a mask of the brain.
    CoversHead {
        /// Share of the head's voxels, 0 to 1.
        share: f64,
    },
    /// Part of the lesion lies in slices that aren't used. Figures of whole volumes count it as missed, all others not at all.
    NotUsed {
        /// Its voxels in such slices.
        outside: usize,
        /// All of its voxels.
        lesion: usize,
    },
    /// The header of the first sequence has neither an sform nor a qform.
    NoOrientation {
        /// Where the axes are taken to point, as nibabel takes them.
        taken: [char; 3],
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBinary {
                low,
                high,
                below,
                lesion,
            } => write!(
                f,
                "the lesion mask isn't binary: its values go from {low} to {high}; {lesion} voxels above 0.5 are \
                 taken for lesion, {below} above 0 are not"
            ),
            Self::CoversHead { share } => write!(
                f,
                "the lesion mask covers {:.0} % of the head: is it a mask of the brain?",
                100.0 * share
            ),
            Self::NoOrientation { taken: [i, j, k] } => write!(
                f,
                "the files don't say how they lie (neither sform nor qform): the axes are taken to point to {i}, {j} and {k}, and which \
                 side is which isn't known"
            ),
            Self::NotUsed { outside, lesion } => write!(
                f,
                "{outside} of {lesion} lesion voxels lie in slices that aren't used: no figure counts them but those of whole volumes, as missed"
            ),
        }
    }
}

impl Note {
    /// A note where a mask covers most of the head. Both are (N, H, W).
    pub(crate) fn on_head(mask: ArrayView3<'_, f32>, head: ArrayView3<'_, bool>) -> Option<Self> {
        let (mut inside, mut covered) = (0usize, 0usize);
        Zip::from(mask).and(head).for_each(|&value, &head| {
            inside += usize::from(head);
            covered += usize::from(head && is_lesion(value));
        });
        let share = covered as f64 / inside.max(1) as f64;
        (share > MOST).then_some(Self::CoversHead { share })
    }

    /// A note where a lesion has voxels in slices that aren't among those of `used`.
    pub(crate) fn on_used(lesion: &WholeLesion, used: &[usize]) -> Option<Self> {
        let all = lesion.voxels() as usize;
        let inside: u64 = used.iter().map(|&z| lesion.voxels_in(z)).sum();
        let outside = all - inside as usize;
        (outside > 0).then_some(Self::NotUsed {
            outside,
            lesion: all,
        })
    }

    /// A note where the values of a mask are no labels. What isn't finite is passed over.
    #[must_use]
    pub fn on_values(mask: &Volume) -> Option<Self> {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        let (mut odd, mut below, mut lesion) = (false, 0, 0);
        // `for_each` goes in the order of memory, `iter` does not.
        mask.data.for_each(|&value| {
            if value.is_finite() {
                low = low.min(value);
                high = high.max(value);
            }
            odd |= (value - value.round()).abs() > WHOLE || value < -WHOLE;
            lesion += usize::from(is_lesion(value));
            below += usize::from(value > 0.0 && !is_lesion(value));
        });
        odd.then_some(Self::NotBinary {
            low,
            high,
            below,
            lesion,
        })
    }
}

impl Patient {
    /// What is odd about the values of the lesion mask. Voxels that aren't finite are an error of
    /// [`check`](Self::check), and passed over here.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        let mask = self.mask.as_ref();
        mask.and_then(Note::on_values).into_iter().collect()
    }
}
