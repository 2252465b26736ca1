//! The joint bilateral filter against its formula in f64, on every instruction set.

use std::sync::{Mutex, PoisonError};

use fndm_kernels::{Isa, JointBilateral, joint_bilateral, set_simd};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The instruction set is global, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

struct Case {
    size: [usize; 4],
    map: Vec<f32>,
    guide: Vec<f32>,
    inside: Vec<bool>,
    pairs: Vec<(usize, usize, f32)>,
    filter: JointBilateral,
}

impl Case {
    fn new(size: [usize; 4], filter: JointBilateral, seed: u64) -> Self {
        let [n, c, h, w] = size;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Every slice with itself, with the next one, and with the next but one.
        let pairs = (0..n).flat_map(|i| {
            let beside = [(i, i, 1.), (i + 1, i, 0.4), (i, i + 2, 0.1)];
            beside.into_iter().filter(|pair| pair.0.max(pair.1) < n)
        });
        Self {
            size,
            map: (0..n * h * w).map(|_| rng.random::<f32>()).collect(),
            guide: (0..n * c * h * w)
                .map(|_| rng.random::<f32>() * 2. - 1.)
                .collect(),
            inside: (0..n * h * w).map(|_| rng.random::<f32>() < 0.8).collect(),
            pairs: pairs.collect(),
            filter,
        }
    }

    fn run(&self) -> candle_core::Result<Vec<f32>> {
        let (map, guide, inside) = (&self.map, &self.guide, &self.inside);
        joint_bilateral(map, guide, inside, self.size, &self.pairs, self.filter)
    }

    /// The mean as it is written down.
    fn slow(&self) -> Vec<f64> {
        let [n, c, h, w] = self.size;
        let JointBilateral {
            space,
            radius,
            step,
            range,
        } = self.filter;
        let at = |slice: usize, y: usize, x: usize| (slice * h + y) * w + x;
        let mut out = vec![0f64; n * h * w];
        for slice in 0..n {
            for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                if !self.inside[at(slice, y, x)] {
                    continue;
                }
                let (mut sum, mut total) = (0., 0.);
                let beside = self.pairs.iter().filter_map(|&(a, b, weight)| {
                    let other = match slice {
                        _ if a == slice => b,
                        _ if b == slice => a,
                        _ => return None,
                    };
                    Some((other, weight))
                });
                for (other, weight) in beside {
                    for yy in y.saturating_sub(radius)..h.min(y + radius + 1) {
                        for xx in x.saturating_sub(radius)..w.min(x + radius + 1) {
                            let off = [yy.abs_diff(y), xx.abs_diff(x)];
                            if off.iter().any(|off| off % step != 0)
                                || !self.inside[at(other, yy, xx)]
                            {
                                continue;
                            }
                            let place = (yy.abs_diff(y).pow(2) + xx.abs_diff(x).pow(2)) as f64;
                            let square: f64 = (0..c)
                                .map(|c_| {
                                    let value = |slice: usize, y: usize, x: usize| {
                                        f64::from(self.guide[((slice * c + c_) * h + y) * w + x])
                                    };
                                    (value(other, yy, xx) - value(slice, y, x)).powi(2)
                                })
                                .sum();
                            let exponent = place / (2. * f64::from(space).powi(2))
                                + square / (2. * c.max(1) as f64 * f64::from(range).powi(2));
                            let weight = f64::from(weight) * (-exponent).exp();
                            sum += weight * f64::from(self.map[at(other, yy, xx)]);
                            total += weight;
                        }
                    }
                }
                out[at(slice, y, x)] = sum / total;
            }
        }
        out
    }
}

fn filter(space: f32, radius: usize, range: f32) -> JointBilateral {
    JointBilateral {
        space,
        radius,
        step: 1,
        range,
    }
}

fn sparse(step: usize, filter: JointBilateral) -> JointBilateral {
    JointBilateral { step, ..filter }
}

#[test]
fn it_is_the_formula() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for isa in Isa::available() {
        set_simd(isa).unwrap();
        for (seed, (size, filter)) in [
            ([3, 3, 20, 33], filter(2., 5, 0.2)),
            ([1, 1, 7, 5], filter(3., 7, 0.05)),
            ([2, 4, 9, 16], filter(0.7, 0, 0.1)),
            ([4, 2, 1, 17], filter(30., 60, 2.)),
            ([2, 1, 21, 19], sparse(3, filter(4., 8, 0.5))),
            ([1, 2, 6, 9], sparse(40, filter(4., 8, 0.5))),
            ([2, 0, 5, 31], filter(1., 2, 1.)),
        ]
        .into_iter()
        .enumerate()
        {
            let case = Case::new(size, filter, seed as u64);
            let got = case.run().unwrap();
            for (got, want) in got.iter().zip(case.slow()) {
                assert!((f64::from(*got) - want).abs() < 3e-6, "{got} {want}");
            }
        }
    }
    set_simd(Isa::available()[0]).unwrap();
}

/// What lies outside has no say, whatever it is, and a map of one value stays so.
#[test]
fn outside_has_no_say_and_a_flat_map_stays_flat() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut case = Case::new([2, 3, 12, 18], filter(2., 5, 0.3), 9);
    let want = case.run().unwrap();
    for (at, inside) in case.inside.clone().iter().enumerate() {
        if !inside {
            case.map[at] = f32::NAN;
            let plane = 12 * 18;
            let (slice, pixel) = (at / plane, at % plane);
            for c in 0..3 {
                case.guide[(slice * 3 + c) * plane + pixel] = f32::INFINITY;
            }
        }
    }
    assert_eq!(case.run().unwrap(), want);
    case.map.fill(0.7);
    for (value, inside) in case.run().unwrap().into_iter().zip(&case.inside) {
        let want = if *inside { 0.7 } else { 0. };
        assert!((value - want).abs() < 1e-6);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let whole = |change: fn(&mut Case)| {
        let mut case = Case::new([2, 1, 4, 4], filter(1., 2, 0.1), 1);
        change(&mut case);
        case.run().is_err()
    };
    assert!(whole(|c| c.map.truncate(3)));
    assert!(whole(|c| c.inside.truncate(3)));
    assert!(whole(|c| c.guide.truncate(3)));
    assert!(whole(|c| c.pairs.push((0, 2, 1.))));
    assert!(whole(|c| c.pairs.push((0, 1, 0.4))));
    assert!(whole(|c| c.pairs[0].2 = f32::NAN));
    assert!(whole(|c| c.pairs[0].2 = 0.));
    assert!(whole(|c| c.filter.space = 0.));
    assert!(whole(|c| c.filter.step = 0));
    assert!(whole(|c| c.filter.range = f32::NAN));
    assert!(whole(|c| c.filter.space = 1e-25));
    assert!(whole(|c| c.filter.range = f32::MIN_POSITIVE));
    // Its square's reciprocal is a number of f32, but not what turns e into 2.
    assert!(whole(|c| c.filter.range = 4.5e-20));
    let mut empty = Case::new([0, 3, 4, 4], filter(1., 2, 0.1), 1);
    assert!(empty.run().unwrap().is_empty());
    empty.size = [0, 3, 0, 0];
    assert!(empty.run().unwrap().is_empty());
}
