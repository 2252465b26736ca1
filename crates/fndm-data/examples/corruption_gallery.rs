//! A picture of masks and corruptions.
//!
//! First row: two masks each of the published brush at 64 px, the brush scaled to the image, the
//! default strokes, blobs, and scattered regions. Below, two kinds of corruption to a row, each as
//! FLAIR with the outline of the mask, then flair, t1, t1ce and t2 corrupted: noise, constant;
//! intensity shift twice; blend with another slice, blur; elastic texture, shuffle.
//!
//! `cargo run -p fndm-data --example corruption_gallery -- docs/images/corruption.png`

mod support;

use std::error::Error;
use std::time::Instant;

use fndm_data::corrupt::Corruption;
use fndm_data::freeform::{Blob, FreeForm, MaskMix};
use fndm_data::phantom::PhantomConfig;
use ndarray::{Array2, Array3, Axis, stack};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// One slice of a healthy phantom as (C, H, W), scaled to [-1, 1].
fn slice(seed: u64, z: usize) -> Result<Array3<f32>, Box<dyn Error>> {
    let patient = PhantomConfig::default().healthy_patient(seed)?;
    let planes: Vec<_> = patient
        .sequences
        .iter()
        .map(|(_, volume)| {
            let white = volume.data.iter().copied().fold(0.0, f32::max) * 0.9;
            let plane = volume.data.index_axis(Axis(2), z);
            plane.t().mapv(|v| (2.0 * v / white - 1.0).clamp(-1.0, 1.0))
        })
        .collect();
    let views: Vec<_> = planes.iter().map(|p| p.view()).collect();
    Ok(stack(Axis(0), &views)?)
}

/// Filled head of a slice: in every row, from the first to the last bright pixel.
fn head(image: &Array3<f32>) -> Array2<bool> {
    let plane = image.index_axis(Axis(0), 0);
    let mut out = Array2::from_elem(plane.raw_dim(), false);
    for (row, mut to) in plane.outer_iter().zip(out.outer_iter_mut()) {
        let bright = |v: &f32| *v > -0.7;
        if let (Some(first), Some(last)) =
            (row.iter().position(bright), row.iter().rposition(bright))
        {
            to.slice_mut(ndarray::s![first..=last]).fill(true);
        }
    }
    out
}

/// Milliseconds of one call: the best mean over some batches.
fn fastest(mut call: impl FnMut()) -> f64 {
    (0..40)
        .map(|_| {
            let started = Instant::now();
            (0..10).for_each(|_| call());
            started.elapsed().as_secs_f64() * 100.0
        })
        .fold(f64::MAX, f64::min)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "corruption.png".into());
    let n = 64;
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut canvas = support::Canvas::new(10, 5, n, 2);
    let forms = [FreeForm::paper(), FreeForm::scaled(n), FreeForm::default()];
    for column in 0..10 {
        let mask = match column / 2 {
            kind @ 0..=2 => forms[kind].draw(&mut rng, n, n),
            3 => Blob::default().draw(&mut rng, n, n),
            _ => Blob::scattered().draw(&mut rng, n, n),
        };
        let mut image = mask.mapv(|m| if m { 0.9 } else { 0.12 });
        // A line keeps neighbouring masks apart.
        image.row_mut(n - 1).fill(0.4);
        image.column_mut(n - 1).fill(0.4);
        canvas.put(column, 0, &image.view(), None);
    }

    let (image, other) = (slice(4, 12)?, slice(9, 12)?);
    let head = head(&image);
    let kinds = [
        Corruption::Noise,
        Corruption::Constant,
        Corruption::IntensityShift,
        Corruption::IntensityShift,
        Corruption::BlendOtherSlice,
        Corruption::Blur,
        Corruption::ElasticTexture,
        Corruption::Shuffle,
    ];
    for (index, kind) in kinds.into_iter().enumerate() {
        let mask = MaskMix::default().draw_in(&mut rng, head.view());
        let mut new = image.clone();
        kind.apply(
            &mut rng,
            new.view_mut(),
            mask.view(),
            other.view(),
            head.view(),
            1.0,
        )?;
        let (left, row) = ((index % 2) * 5, 1 + index / 2);
        let shown =
            |planes: &Array3<f32>, c: usize| planes.index_axis(Axis(0), c).mapv(|v| 0.5 + 0.5 * v);
        canvas.put(left, row, &shown(&image, 0).view(), Some(&mask));
        for c in 0..4 {
            canvas.put(left + 1 + c, row, &shown(&new, c).view(), None);
        }
    }
    canvas.write(&path)?;

    let mix = MaskMix::default();
    println!(
        "mask: {:.3} ms",
        fastest(|| drop(mix.draw_in(&mut rng, head.view())))
    );
    let mask = mix.draw_in(&mut rng, head.view());
    let mut new = image.clone();
    for kind in Corruption::ALL {
        let mut result = Ok(());
        let each = fastest(|| {
            result = kind.apply(
                &mut rng,
                new.view_mut(),
                mask.view(),
                other.view(),
                head.view(),
                1.0,
            );
        });
        result?;
        println!("{kind:?}: {each:.3} ms");
    }
    Ok(())
}
