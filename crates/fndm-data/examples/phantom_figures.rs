//! Figures of the phantom cohort: how far FLAIR alone gets, whether position or brightness tells
//! the label, how large the lesions are, and how long a patient takes.
//!
//! `cargo run --release -p fndm-data --example phantom_figures -- [patients] [first seed]`

use std::error::Error;
use std::time::Instant;

use fndm_data::phantom::PhantomConfig;
use ndarray::{Array2, ArrayView2, Axis};

/// Filled head: in every row, from the first to the last pixel above a tenth of the white point.
fn head(image: &ArrayView2<f32>) -> Array2<bool> {
    let mut out = Array2::from_elem(image.raw_dim(), false);
    for (row, mut to) in image.outer_iter().zip(out.outer_iter_mut()) {
        let first = row.iter().position(|v| *v > 0.15);
        let last = row.iter().rposition(|v| *v > 0.15);
        if let (Some(first), Some(last)) = (first, last) {
            to.slice_mut(ndarray::s![first..=last]).fill(true);
        }
    }
    out
}

fn erode(mask: &Array2<bool>, times: usize) -> Array2<bool> {
    let mut out = mask.clone();
    for _ in 0..times {
        let old = out.clone();
        out = Array2::from_shape_fn(old.raw_dim(), |(i, j)| {
            let near = |di: isize, dj: isize| {
                old.get((i.wrapping_add_signed(di), j.wrapping_add_signed(dj)))
                    .is_some_and(|v| *v)
            };
            old[[i, j]] && near(0, 1) && near(1, 0) && near(0, -1) && near(-1, 0)
        });
    }
    out
}

fn otsu(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let total: f64 = sorted.iter().map(|v| f64::from(*v)).sum();
    let (mut below, mut best, mut threshold) = (0.0, 0.0, f32::MAX);
    for (i, v) in sorted
        .iter()
        .enumerate()
        .take(sorted.len().saturating_sub(1))
    {
        below += f64::from(*v);
        let (n, m) = ((i + 1) as f64, (sorted.len() - i - 1) as f64);
        let between = n * m * (below / n - (total - below) / m).powi(2);
        if between > best {
            (best, threshold) = (between, *v);
        }
    }
    threshold
}

fn dice(predicted: impl Iterator<Item = bool>, truth: &[bool]) -> f64 {
    let (mut both, mut sum) = (0usize, 0usize);
    for (p, t) in predicted.zip(truth) {
        both += usize::from(p && *t);
        sum += usize::from(p) + usize::from(*t);
    }
    if sum == 0 {
        1.0
    } else {
        2.0 * both as f64 / sum as f64
    }
}

/// Chance that a diseased slice scores above a healthy one.
fn auroc(scores: &[(f64, bool)]) -> f64 {
    let (mut wins, mut pairs) = (0.0, 0.0);
    for (a, _) in scores.iter().filter(|s| s.1) {
        for (b, _) in scores.iter().filter(|s| !s.1) {
            pairs += 1.0;
            wins += if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            };
        }
    }
    wins / pairs
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let patients: u64 = args.next().map_or(Ok(10), |s| s.parse())?;
    let first: u64 = args.next().map_or(Ok(0), |s| s.parse())?;
    let phantom = PhantomConfig::default().build()?;

    let started = Instant::now();
    let cohort: Vec<_> = (first..first + patients)
        .map(|s| phantom.patient(s))
        .collect();
    let each = started.elapsed().as_secs_f64() / patients as f64;

    let (mut areas, mut by_otsu, mut position, mut brightness) = (vec![], vec![], vec![], vec![]);
    let mut slices = vec![];
    for patient in &cohort {
        let mask = &patient.mask.as_ref().ok_or("no mask")?.data;
        let whites: Vec<f32> = patient
            .sequences
            .iter()
            .map(|(_, v)| {
                let mut sorted: Vec<f32> = v.data.iter().copied().collect();
                sorted.sort_by(f32::total_cmp);
                sorted[sorted.len() * 995 / 1000]
            })
            .collect();
        let flair = patient.sequences[0].1.data.mapv(|v| v / whites[0]);
        for (z, truth) in mask.axis_iter(Axis(2)).enumerate() {
            let image = flair.index_axis(Axis(2), z);
            let whole = head(&image);
            let inner = erode(&whole, 5);
            let ill = truth.iter().any(|v| *v > 0.0);
            let middle = (z as f64 - 0.5 * (mask.dim().2 - 1) as f64).abs();
            position.push((-middle, ill));
            let n = whole.iter().filter(|h| **h).count() as f64;
            for (s, (_, volume)) in patient.sequences.iter().enumerate() {
                let plane = volume.data.index_axis(Axis(2), z);
                let sum: f64 = plane
                    .iter()
                    .zip(&whole)
                    .filter(|p| *p.1)
                    .map(|p| f64::from(*p.0))
                    .sum();
                brightness.push((s, sum / n / f64::from(whites[s]), ill));
            }
            if ill {
                let truth: Vec<bool> = truth.iter().map(|v| *v > 0.0).collect();
                areas.push(truth.iter().filter(|t| **t).count());
                let values: Vec<f32> = image
                    .iter()
                    .zip(&inner)
                    .map(|(v, h)| if *h { *v } else { f32::MIN })
                    .collect();
                let within: Vec<f32> = values.iter().copied().filter(|v| *v > f32::MIN).collect();
                let threshold = otsu(&within);
                by_otsu.push(dice(values.iter().map(|v| *v > threshold), &truth));
                slices.push((values, truth));
            }
        }
    }

    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let at = |threshold: f32| -> Vec<f64> {
        slices
            .iter()
            .map(|(values, truth)| dice(values.iter().map(|v| *v > threshold), truth))
            .collect()
    };
    let best = (1..200)
        .map(|i| i as f32 / 160.0)
        .map(|t| (t, mean(&at(t))))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or_default();
    let mut per_slice: Vec<f64> = slices
        .iter()
        .map(|(values, truth)| {
            (1..60)
                .map(|i| dice(values.iter().map(|v| *v > i as f32 / 50.0), truth))
                .fold(0.0, f64::max)
        })
        .collect();
    areas.sort_unstable();
    per_slice.sort_by(f64::total_cmp);
    println!("{patients} patients, {:.0} ms each", 1e3 * each);
    println!("diseased slices: {} of {}", areas.len(), position.len());
    let q = |p: usize| areas[(areas.len() - 1) * p / 100];
    println!(
        "lesion pixels per slice: 5 % {}, 25 % {}, median {}, 75 % {}, 95 % {}",
        q(5),
        q(25),
        q(50),
        q(75),
        q(95)
    );
    println!("FLAIR, Otsu in eroded head: Dice {:.3}", mean(&by_otsu));
    println!(
        "FLAIR, best threshold for all ({:.2}): Dice {:.3}",
        best.0, best.1
    );
    println!(
        "FLAIR, best threshold for each slice: Dice {:.3}",
        mean(&per_slice)
    );
    println!(
        "label from nearness to the middle slice: AUROC {:.3}",
        auroc(&position)
    );
    for (s, name) in fndm_data::phantom::SEQUENCES.iter().enumerate() {
        let scores: Vec<_> = brightness
            .iter()
            .filter(|b| b.0 == s)
            .map(|b| (b.1, b.2))
            .collect();
        println!("label from mean {name}: AUROC {:.3}", auroc(&scores));
    }
    Ok(())
}
