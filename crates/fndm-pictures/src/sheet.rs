//! Contact sheets: one row a slice, one column a stage of the method, as PNG.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

use std::path::Path;

use ndarray::{ArrayView2, Zip};
use plotters::prelude::*;

use crate::letters::style;
use crate::{Error, Result, rgb_png};

/// Pixels drawn for each pixel of an image.
const ZOOM: usize = 2;
/// Pixels between two tiles, and around them.
const GAP: usize = 4;
/// Height of the line of titles.
const TITLE: usize = 16;
/// Height of its letters.
const LETTER: u32 = 13;
const INK: RGBColor = RGBColor(230, 230, 230);

/// One picture of a sheet.
#[derive(Debug, Clone)]
pub enum Tile<'a> {
    /// An image of `(H, W)` in grey, `low` black and `high` white.
    Grey {
        /// The image.
        image: ArrayView2<'a, f32>,
        /// Drawn black.
        low: f32,
        /// Drawn white.
        high: f32,
    },
    /// A map of `(H, W)` in a black-red-yellow-white scale.
    Heat {
        /// The map.
        map: ArrayView2<'a, f32>,
        /// Drawn black.
        low: f32,
        /// Drawn white.
        high: f32,
    },
    /// A mask over an image in grey (from -1 to 1).
    Overlay {
        /// The image.
        image: ArrayView2<'a, f32>,
        /// The mask, of the image's shape.
        mask: ArrayView2<'a, bool>,
        /// The mask's colour: red, green, blue.
        color: [u8; 3],
    },
}

impl Tile<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Tile::Grey { image, .. } | Tile::Overlay { image, .. } => image.dim(),
            Tile::Heat { map, .. } => map.dim(),
        }
    }

    fn pixel(&self, y: usize, x: usize) -> [u8; 3] {
        match self {
            Tile::Grey { image, low, high } => {
                let g = to_byte(image[[y, x]], *low, *high);
                [g, g, g]
            }
            Tile::Heat { map, low, high } => heat(map[[y, x]], *low, *high),
            Tile::Overlay { image, mask, color } => {
                let g = to_byte(image[[y, x]], -1., 1.);
                if mask.get([y, x]).copied().unwrap_or(false) {
                    color.map(|c| ((u16::from(c) * 3 + u16::from(g) * 2) / 5) as u8)
                } else {
                    [g, g, g]
                }
            }
        }
    }
}

fn unit(value: f32, low: f32, high: f32) -> f32 {
    let u = (value - low) / (high - low);
    // A range of no width, or a value that isn't a number, is drawn black.
    if u.is_finite() { u.clamp(0., 1.) } else { 0. }
}

fn to_byte(value: f32, low: f32, high: f32) -> u8 {
    (unit(value, low, high) * 255.).round() as u8
}

fn heat(value: f32, low: f32, high: f32) -> [u8; 3] {
    let u = unit(value, low, high) * 3.;
    [u, u - 1., u - 2.].map(|c| (c.clamp(0., 1.) * 255.).round() as u8)
}

/// A contact sheet that grows row by row.
#[derive(Debug)]
pub struct Sheet {
    columns: usize,
    tile: (usize, usize),
    width: usize,
    pixels: Vec<u8>,
}

impl Sheet {
    /// A sheet with these column titles, for tiles of `(height, width)` pixels. A title that is wider than its column is cut off.
    ///
    /// # Errors
    /// [`Error::Words`] when a title can't be drawn; [`Error::Row`] for tiles without pixels.
    pub fn new(titles: &[&str], tile: (usize, usize)) -> Result<Self> {
        if tile.0 == 0 || tile.1 == 0 {
            return Err(Error::Row {
                expected: "tiles with pixels".into(),
                got: format!("{tile:?}"),
            });
        }
        let columns = titles.len();
        let step = tile.1 * ZOOM + GAP;
        let width = GAP + columns * step;
        let mut sheet = Self {
            columns,
            tile,
            width,
            pixels: vec![0; width * TITLE * 3],
        };
        for (i, title) in titles.iter().enumerate() {
            sheet.write(title, GAP + i * step, step - GAP)?;
        }
        Ok(sheet)
    }

    fn write(&mut self, words: &str, left: usize, room: usize) -> Result<()> {
        let mut drawn = vec![0; room * TITLE * 3];
        let area = BitMapBackend::with_buffer(&mut drawn, (room as u32, TITLE as u32));
        let area = area.into_drawing_area();
        area.draw(&Text::new(words, (0, 1), style(LETTER, INK)))
            .and_then(|()| area.present())
            .map_err(|source| Error::Words {
                words: words.into(),
                source: source.into(),
            })?;
        drop(area);
        for (row, line) in drawn.chunks_exact(room * 3).enumerate() {
            let at = (row * self.width + left) * 3;
            self.pixels[at..at + room * 3].copy_from_slice(line);
        }
        Ok(())
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When the number of tiles or the shape of one isn't the sheet's.
    pub fn push(&mut self, tiles: &[Tile<'_>]) -> Result<()> {
        if tiles.len() != self.columns || tiles.iter().any(|t| t.shape() != self.tile) {
            let got: Vec<_> = tiles.iter().map(Tile::shape).collect();
            return Err(Error::Row {
                expected: format!("{} tiles of {:?} pixels", self.columns, self.tile),
                got: format!("{got:?}"),
            });
        }
        let (h, w) = self.tile;
        let top = self.pixels.len() / (3 * self.width);
        self.pixels
            .resize((top + h * ZOOM + GAP) * self.width * 3, 0);
        for (i, tile) in tiles.iter().enumerate() {
            let left = GAP + i * (w * ZOOM + GAP);
            for y in 0..h * ZOOM {
                for x in 0..w * ZOOM {
                    let at = ((top + y) * self.width + left + x) * 3;
                    self.pixels[at..at + 3].copy_from_slice(&tile.pixel(y / ZOOM, x / ZOOM));
                }
            }
        }
        Ok(())
    }

    /// Writes the sheet as PNG.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let height = self.pixels.len() / (3 * self.width);
        let bytes = rgb_png(&self.pixels, self.width, height)?;
        Ok(fndm_files::write_atomic(path, bytes)?)
    }
}

/// The largest finite value of a map, for the upper end of a colour scale; 0 where there is none.
#[must_use]
pub fn upper_end(map: ArrayView2<'_, f32>) -> f32 {
    let mut top = 0f32;
    Zip::from(map).for_each(|&v| {
        if v.is_finite() {
            top = top.max(v);
        }
    });
    top
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn tiles_without_pixels_are_refused() {
        for tile in [(0, 8), (8, 0)] {
            assert!(matches!(Sheet::new(&["a"], tile), Err(Error::Row { .. })));
        }
    }

    #[test]
    fn a_sheet_is_a_png_of_the_expected_size() {
        let image = Array2::from_shape_fn((8, 8), |(y, x)| (y * 8 + x) as f32 / 32. - 1.);
        let mask = image.mapv(|v| v > 0.5);
        let mut sheet = Sheet::new(&["a", "b"], (8, 8)).unwrap();
        sheet
            .push(&[
                Tile::Grey {
                    image: image.view(),
                    low: -1.,
                    high: 1.,
                },
                Tile::Overlay {
                    image: image.view(),
                    mask: mask.view(),
                    color: [255, 0, 0],
                },
            ])
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        sheet.save(&path).unwrap();
        let decoder =
            png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (44, 36));
        // The last pixel, 63 / 32 - 1 on a scale from -1 to 1, is 255 * 63 / 64 in the first tile, reddened in the second.
        let at = |y: usize, x: usize| &pixels[(y * 44 + x) * 3..][..3];
        assert_eq!(at(16 + 15, 4 + 15), [251, 251, 251]);
        assert!(at(16 + 15, 24 + 15)[0] > at(16 + 15, 24 + 15)[1]);
    }

    #[test]
    fn a_row_of_another_shape_is_an_error() {
        let image = Array2::zeros((4, 8));
        let tile = Tile::Heat {
            map: image.view(),
            low: 0.,
            high: 1.,
        };
        let mut sheet = Sheet::new(&["a"], (8, 8)).unwrap();
        assert!(matches!(sheet.push(&[tile]), Err(Error::Row { .. })));
    }
}
