//! Pictures of phantom slices with lesions, and figures of the cohort.
//!
//! `cargo run -p fndm-data --example phantom_gallery -- phantom.png [first seed]`

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;

use fndm_data::Patient;
use fndm_data::phantom::PhantomConfig;

/// A grey or coloured picture, three bytes a pixel.
struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            rgb: vec![0; 3 * width * height],
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        let at = 3 * (y * self.width + x);
        self.rgb[at..at + 3].copy_from_slice(&colour);
    }

    fn write(&self, path: &str) -> Result<(), Box<dyn Error>> {
        let file = BufWriter::new(File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(())
    }
}

/// The slice in which the lesion is largest, and its number of pixels.
fn largest_slice(patient: &Patient) -> (usize, usize) {
    let Some(mask) = &patient.mask else {
        return (0, 0);
    };
    mask.data
        .axis_iter(ndarray::Axis(2))
        .map(|s| s.iter().filter(|v| **v > 0.0).count())
        .enumerate()
        .max_by_key(|(_, n)| *n)
        .unwrap_or_default()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "phantom.png".into());
    let first: u64 = args.next().map_or(Ok(0), |s| s.parse())?;
    let config = PhantomConfig::default();
    let phantom = config.build()?;
    let n = config.size;
    let zoom = 2;
    // Twelve patients, two to a row: four sequences, then FLAIR with the outline of the mask.
    let mut canvas = Canvas::new(10 * n * zoom, 6 * n * zoom);
    for index in 0..12usize {
        let patient = phantom.patient(first + index as u64);
        let (z, _) = largest_slice(&patient);
        let mask = &patient.mask.as_ref().ok_or("no mask")?.data;
        for tile in 0..5 {
            let data = &patient.sequences[tile % 4].1.data;
            let mut sorted: Vec<f32> = data.iter().copied().collect();
            sorted.sort_by(f32::total_cmp);
            let white = sorted[sorted.len() * 995 / 1000];
            for y in 0..n * zoom {
                for x in 0..n * zoom {
                    let (i, j) = (x / zoom, y / zoom);
                    let grey = (255.0 * (data[[i, j, z]] / white).clamp(0.0, 1.0)) as u8;
                    let inside = mask[[i, j, z]] > 0.0;
                    let edge = [(0isize, 1isize), (1, 0), (0, -1), (-1, 0)]
                        .iter()
                        .any(|d| {
                            let near = (i.wrapping_add_signed(d.0), j.wrapping_add_signed(d.1), z);
                            mask.get(near).is_none_or(|m| *m <= 0.0)
                        });
                    let colour = if tile == 4 && inside && edge {
                        [230, 40, 40]
                    } else {
                        [grey; 3]
                    };
                    let (column, row) = ((index % 2) * 5 + tile, index / 2);
                    canvas.set(column * n * zoom + x, row * n * zoom + y, colour);
                }
            }
        }
    }
    canvas.write(&path)
}
