use std::collections::BTreeSet;

use crate::flows::Mersenne;
use crate::{Error, Result};

/// The channels that the authors' code draws: `dimensions` of `total`, as Python's `random.sample` gives them right after
/// `random.seed(seed)`, in its order. Their seed is 1024.
///
/// # Errors
/// When more are to be drawn than there are, or none, or more than 2^31 are there.
///
/// ```
/// let drawn = fndm_baselines::padim::official_channels(448, 100, 1024)?;
/// assert_eq!(drawn[..4], [408, 9, 247, 435]);
/// # Ok::<(), fndm_baselines::Error>(())
/// ```
pub fn official_channels(total: usize, dimensions: usize, seed: u32) -> Result<Vec<usize>> {
    let most = 1 << 31;
    if dimensions == 0 || dimensions > total || total > most {
        return Err(Error::config(
            "dimensions",
            format!("1 to the {total} there are, at most {most}"),
            dimensions,
        ));
    }
    let mut twister = Mersenne::of_key(&[seed]);
    let mut below = |n: usize| loop {
        // As many bits as n has, until they are below it.
        let bits = usize::BITS - n.leading_zeros();
        let value = twister.word().checked_shr(32 - bits).unwrap_or(0) as usize;
        if value < n {
            return value;
        }
    };
    // Python takes whichever of a list and a set it holds to be smaller.
    let mut set = 21usize;
    if dimensions > 5 {
        let mut power = 1;
        while power < 3 * dimensions {
            power *= 4;
        }
        set += power;
    }
    if total <= set {
        let mut pool: Vec<usize> = (0..total).collect();
        let draw = |n: usize| pool.swap_remove(below(total - n));
        return Ok((0..dimensions).map(draw).collect());
    }
    let mut seen = BTreeSet::new();
    let draw = |_| loop {
        let value = below(total);
        if seen.insert(value) {
            return value;
        }
    };
    Ok((0..dimensions).map(draw).collect())
}
