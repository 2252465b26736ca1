//! A picture of twelve phantom patients, two to a row: flair, t1, t1ce and t2 of the slice with
//! the largest lesion, then FLAIR with the outline of the mask.
//!
//! `cargo run -p fndm-data --example phantom_gallery -- docs/images/phantom.png [first seed]`

mod support;

use std::error::Error;

use fndm_data::phantom::PhantomConfig;
use ndarray::{Array3, Axis};

/// The value below which 99.5 % of the voxels lie.
fn white_point(data: &Array3<f32>) -> f32 {
    let mut sorted: Vec<f32> = data.iter().copied().collect();
    sorted.sort_by(f32::total_cmp);
    sorted[sorted.len() * 995 / 1000]
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "phantom.png".into());
    let first: u64 = args.next().map_or(Ok(20), |s| s.parse())?;
    let phantom = PhantomConfig::default().build()?;
    let mut canvas = support::Canvas::new(10, 6, phantom.config().size, 2);
    for (index, seed) in (first..first + 12).enumerate() {
        let patient = phantom.patient(seed);
        let mask = &patient.mask.as_ref().ok_or("no mask")?.data;
        let (z, _) = mask
            .axis_iter(Axis(2))
            .map(|slice| slice.iter().filter(|v| **v > 0.0).count())
            .enumerate()
            .max_by_key(|(_, pixels)| *pixels)
            .ok_or("no slice")?;
        // Volumes are (x, y, z); a picture's rows are y.
        let outline = mask.index_axis(Axis(2), z).t().mapv(|v| v > 0.0);
        for tile in 0..5 {
            let data = &patient.sequences[tile % 4].1.data;
            let white = white_point(data);
            let image = data.index_axis(Axis(2), z).t().mapv(|v| v / white);
            let outline = (tile == 4).then_some(&outline);
            canvas.put((index % 2) * 5 + tile, index / 2, &image.view(), outline);
        }
    }
    canvas.write(&path)
}
