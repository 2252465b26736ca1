use rand::seq::SliceRandom;

use crate::random::{Purpose, generator};
use crate::{Error, Result};

/// Which slice comes at which draw: a fresh permutation every epoch, with a fixed share of diseased ones where asked for.
///
/// Draw `g` depends on (seed, g) alone.
#[derive(Debug)]
pub(crate) struct Order {
    seed: u64,
    /// One pool, or healthy then diseased.
    pools: Vec<Pool>,
    diseased_share: Option<f64>,
}

#[derive(Debug)]
struct Pool {
    slices: Vec<usize>,
    epoch: Option<u64>,
    permutation: Vec<usize>,
}

impl Order {
    pub(crate) fn new(labels: &[u8], diseased_share: Option<f64>, seed: u64) -> Result<Self> {
        let of = |wanted: &dyn Fn(u8) -> bool| -> Vec<usize> {
            (0..labels.len()).filter(|&i| wanted(labels[i])).collect()
        };
        let pools = match diseased_share {
            None => vec![of(&|_| true)],
            Some(_) => vec![of(&|l| l == 0), of(&|l| l != 0)],
        };
        let needed = match diseased_share {
            None => vec![true],
            Some(share) => vec![share < 1.0, share > 0.0],
        };
        if let Some(missing) = (0..pools.len()).find(|&p| needed[p] && pools[p].is_empty()) {
            let name = match (diseased_share, missing) {
                (None, _) => "one slice",
                (Some(_), 0) => "one healthy slice (label 0)",
                (Some(_), _) => "one diseased slice (label 1)",
            };
            return Err(Error::Data {
                expected: format!("at least {name}"),
                got: format!("none among {} slices", labels.len()),
            });
        }
        let pools = pools
            .into_iter()
            .map(|slices| Pool {
                slices,
                epoch: None,
                permutation: Vec::new(),
            })
            .collect();
        Ok(Self {
            seed,
            pools,
            diseased_share,
        })
    }

    /// The slice of draw `g`, counted from 0.
    pub(crate) fn at(&mut self, g: u64) -> usize {
        let (pool, position) = match self.diseased_share {
            None => (0, g),
            Some(share) => {
                // The diseased draws are those where g * share passes a whole number.
                let before = (g as f64 * share).floor() as u64;
                let after = ((g + 1) as f64 * share).floor() as u64;
                if after > before {
                    (1, before)
                } else {
                    (0, g - before)
                }
            }
        };
        let chosen = &mut self.pools[pool];
        let n = chosen.slices.len() as u64;
        let epoch = position / n;
        if chosen.epoch != Some(epoch) {
            let number = epoch * 2 + pool as u64;
            chosen.permutation.clone_from(&chosen.slices);
            chosen
                .permutation
                .shuffle(&mut generator(self.seed, Purpose::Order, number));
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
