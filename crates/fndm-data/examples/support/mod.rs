//! A picture of tiles, written as PNG.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;

use ndarray::{Array2, ArrayView2};

/// Shades of grey, few enough for a small file; the next place in the palette is red.
const RED: u8 = 28;

/// A picture made of square tiles.
pub(crate) struct Canvas {
    tile: usize,
    zoom: usize,
    width: usize,
    height: usize,
    /// Index into the palette of each pixel.
    pixels: Vec<u8>,
}

impl Canvas {
    /// A black picture of `columns` by `rows` tiles of `tile` pixels, each shown `zoom` times as large.
    pub(crate) fn new(columns: usize, rows: usize, tile: usize, zoom: usize) -> Self {
        let (width, height) = (columns * tile * zoom, rows * tile * zoom);
        Self {
            tile,
            zoom,
            width,
            height,
            pixels: vec![0; width * height],
        }
    }

    /// Puts an image with values from 0 to 1, axes (row, column), into a tile; the border of
    /// `outline` is drawn in red.
    pub(crate) fn put(
        &mut self,
        column: usize,
        row: usize,
        image: &ArrayView2<f32>,
        outline: Option<&Array2<bool>>,
    ) {
        for ((i, j), value) in image.indexed_iter() {
            let edge = outline.is_some_and(|mask| {
                let near = |di: isize, dj: isize| {
                    mask.get((i.wrapping_add_signed(di), j.wrapping_add_signed(dj)))
                        .is_some_and(|m| *m)
                };
                mask[[i, j]] && !(near(0, 1) && near(1, 0) && near(0, -1) && near(-1, 0))
            });
            let grey = (f32::from(RED) * value.clamp(0.0, 1.0)) as u8;
            let colour = if edge { RED } else { grey.min(RED - 1) };
            for y in 0..self.zoom {
                for x in 0..self.zoom {
                    let y = (row * self.tile + i) * self.zoom + y;
                    let x = (column * self.tile + j) * self.zoom + x;
                    self.pixels[y * self.width + x] = colour;
                }
            }
        }
    }

    /// Writes the picture.
    pub(crate) fn write(&self, path: &str) -> Result<(), Box<dyn Error>> {
        let file = BufWriter::new(File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Indexed);
        let grey = |i: u8| [(f32::from(i) * 255.0 / f32::from(RED - 1)) as u8; 3];
        let mut palette: Vec<u8> = (0..RED).flat_map(grey).collect();
        palette.extend([230, 40, 40]);
        encoder.set_palette(palette);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        encoder.write_header()?.write_image_data(&self.pixels)?;
        Ok(())
    }
}
