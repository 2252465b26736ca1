//! Slices in memory, at two bytes a pixel.

use ndarray::{Array2, Array3, Axis};

use crate::{Error, Result, SliceSet};

/// Stored value of 1.
const ONE: f32 = 32767.0;

/// Slices of a [`SliceSet`], half as large: 16 bits a pixel, one bit for the head. Intensities are
/// within 2e-5 of the set's, which is a hundredth of a grey level of 8 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceCache {
    /// N, C, H, W.
    shape: [usize; 4],
    values: Vec<i16>,
    /// A bit for each pixel of a slice, in whole words for each slice.
    head: Vec<u64>,
    labels: Vec<u8>,
}

impl SliceCache {
    /// Packs the slices. What a slice's patient and place were stays in the set.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an intensity that is not within [-1, 1], or an empty set;
    /// [`Error::Shape`] when the set's arrays do not belong together.
    pub fn new(set: &SliceSet) -> Result<Self> {
        let (n, c, h, w) = set.images.dim();
        if n == 0 || c == 0 || h == 0 || w == 0 {
            return Err(Error::config(
                "slices to cache",
                "at least one pixel of one slice",
                format!("shape {:?}", set.images.dim()),
            ));
        }
        if set.head.dim() != (n, h, w) {
            let expected = format!("{:?}", (n, h, w));
            return Err(Error::shape(
                "head of the slices",
                expected,
                set.head.shape(),
            ));
        }
        if set.labels.len() != n {
            let expected = format!("({n},)");
            return Err(Error::shape(
                "labels of the slices",
                expected,
                &[set.labels.len()],
            ));
        }
        if let Some(value) = set.images.iter().find(|v| !(-1.0..=1.0).contains(*v)) {
            return Err(Error::config("intensity of a slice", "-1 to 1", value));
        }
        let words = (h * w).div_ceil(64);
        let mut head = vec![0u64; n * words];
        for (bits, slice) in head
            .chunks_exact_mut(words)
            .zip(set.head.axis_iter(Axis(0)))
        {
            for (place, _) in slice.iter().enumerate().filter(|(_, inside)| **inside) {
                bits[place / 64] |= 1 << (place % 64);
            }
        }
        Ok(Self {
            shape: [n, c, h, w],
            values: set
                .images
                .iter()
                .map(|v| (v * ONE).round() as i16)
                .collect(),
            head,
            labels: set.labels.clone(),
        })
    }

    /// Number of slices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// Whether there is no slice: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shape[0] == 0
    }

    /// (N, C, H, W).
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// 1 = diseased, 0 = healthy, for each slice.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Bytes that the slices take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        2 * self.values.len() + 8 * self.head.len() + self.labels.len()
    }

    /// Slice `n` (C, H, W) in [-1, 1]; `None` beyond the last.
    #[must_use]
    pub fn image(&self, n: usize) -> Option<Array3<f32>> {
        let [_, c, h, w] = self.shape;
        let stored = self.stored(n)?;
        Array3::from_shape_vec((c, h, w), stored.iter().map(|v| value(*v)).collect()).ok()
    }

    /// Where the head is in slice `n` (H, W); `None` beyond the last.
    #[must_use]
    pub fn head(&self, n: usize) -> Option<Array2<bool>> {
        let [.., h, w] = self.shape;
        let bits = self.head_bits(n)?;
        Some(Array2::from_shape_fn((h, w), |(y, x)| bit(bits, y * w + x)))
    }

    /// The stored values of slice `n`, in the order (C, H, W).
    pub(super) fn stored(&self, n: usize) -> Option<&[i16]> {
        let [_, c, h, w] = self.shape;
        self.values.chunks_exact(c * h * w).nth(n)
    }

    /// The words of the head of slice `n`.
    pub(super) fn head_bits(&self, n: usize) -> Option<&[u64]> {
        let [.., h, w] = self.shape;
        self.head.chunks_exact((h * w).div_ceil(64)).nth(n)
    }
}

/// The intensity of a stored value.
pub(super) fn value(stored: i16) -> f32 {
    f32::from(stored) * (1.0 / ONE)
}

/// One pixel of a head.
pub(super) fn bit(bits: &[u64], place: usize) -> bool {
    bits[place / 64] >> (place % 64) & 1 == 1
}
