//! Which slice comes when.

use rand::seq::SliceRandom;

use crate::{Error, Result, stream};

/// The purpose of the permutations' streams.
const ORDER: u64 = 1;

/// An endless order of slices: a fresh permutation every epoch, with a fixed share of diseased
/// slices where one is asked for.
///
/// Draw `g` depends on (labels, seed, g) alone.
///
/// ```
/// use fndm_data::Order;
/// let mut order = Order::new(&[0, 1, 0, 0], Some(0.5), 7)?;
/// // Every second draw is the one diseased slice.
/// let draws: Vec<usize> = (0..6).map(|g| order.at(g)).collect();
/// assert_eq!(draws.iter().filter(|slice| **slice == 1).count(), 3);
/// # Ok::<(), fndm_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    /// One pool, or healthy then diseased.
    pools: Vec<Pool>,
    diseased_share: Option<f64>,
}

#[derive(Debug, Clone)]
struct Pool {
    slices: Vec<usize>,
    epoch: Option<u64>,
    permutation: Vec<usize>,
}

impl Order {
    /// `labels` has 1 for a diseased slice and 0 for a healthy one. Without `diseased_share`, an epoch
    /// is every slice once; with it (0 to 1), healthy and diseased slices have epochs of their own.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a share out of range, or when there is no slice of a label that is needed.
    pub fn new(labels: &[u8], diseased_share: Option<f64>, seed: u64) -> Result<Self> {
        if let Some(share) = diseased_share.filter(|share| !(0.0..=1.0).contains(share)) {
            return Err(Error::config("diseased_share", "0 to 1", share));
        }
        let of = |keep: &dyn Fn(u8) -> bool| -> Vec<usize> {
            (0..labels.len()).filter(|&n| keep(labels[n])).collect()
        };
        let pools = match diseased_share {
            None => vec![(of(&|_| true), true, "slices")],
            Some(share) => vec![
                (of(&|l| l == 0), share < 1.0, "healthy slices"),
                (of(&|l| l != 0), share > 0.0, "diseased slices"),
            ],
        };
        if let Some((.., name)) = pools
            .iter()
            .find(|(slices, needed, _)| *needed && slices.is_empty())
        {
            return Err(Error::config(*name, "at least one", "none"));
        }
        let pool = |(slices, _, _): (Vec<usize>, bool, &str)| Pool {
            slices,
            epoch: None,
            permutation: Vec::new(),
        };
        Ok(Self {
            seed,
            pools: pools.into_iter().map(pool).collect(),
            diseased_share,
        })
    }

    /// The slice of draw `g`, counted from 0.
    pub fn at(&mut self, g: u64) -> usize {
        let (pool, position) = match self.diseased_share {
            None => (0, g),
            // Exact for every g; and the other pool may be empty.
            Some(0.0) => (0, g),
            Some(1.0) => (1, g),
            Some(share) => {
                // The diseased draws are those where g * share passes a whole number.
                let before = (g as f64 * share).floor() as u64;
                let after = (g.saturating_add(1) as f64 * share).floor() as u64;
                if after > before {
                    (1, before)
                } else {
                    (0, g.saturating_sub(before))
                }
            }
        };
        let chosen = &mut self.pools[pool];
        let n = chosen.slices.len() as u64;
        let epoch = position / n;
        if chosen.epoch != Some(epoch) {
            let number = epoch.wrapping_mul(2).wrapping_add(pool as u64);
            chosen.permutation.clone_from(&chosen.slices);
            chosen
                .permutation
                .shuffle(&mut stream(self.seed, ORDER, number));
            chosen.epoch = Some(epoch);
        }
        chosen.permutation[(position % n) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation() {
        let mut order = Order::new(&[0, 1, 0, 0, 1, 0, 0], None, 5).unwrap();
        for epoch in 0..4 {
            let mut seen: Vec<usize> = (0..7).map(|i| order.at(epoch * 7 + i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
        }
    }

    #[test]
    fn the_share_of_diseased_slices_is_exact() {
        let labels: Vec<u8> = (0..50).map(|i| u8::from(i % 10 == 0)).collect();
        for share in [0.0, 0.25, 0.5, 1.0] {
            let mut order = Order::new(&labels, Some(share), 9).unwrap();
            let diseased = (0..400).filter(|&g| labels[order.at(g)] == 1).count();
            assert_eq!(diseased as f64, 400.0 * share);
        }
        assert!(Order::new(&[0, 0], Some(0.5), 1).is_err());
        assert!(Order::new(&[], None, 1).is_err());
    }

    #[test]
    fn a_draw_depends_on_its_number_alone() {
        let labels = [0, 1, 1, 0, 1, 0, 0, 0];
        let mut forward = Order::new(&labels, Some(0.5), 3).unwrap();
        let there: Vec<usize> = (0..40).map(|g| forward.at(g)).collect();
        let mut jump = Order::new(&labels, Some(0.5), 3).unwrap();
        for g in [39, 2, 17, 18, 0] {
            assert_eq!(jump.at(g), there[g as usize]);
        }
    }
}
