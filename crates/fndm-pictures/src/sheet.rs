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
/// Width of one letter, rounded up.
const LETTER_WIDTH: usize = 8;
/// Width of a legend's sample.
const SAMPLE: usize = 96;
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

/// A line of a sheet's legend: a sample of a scale or colour, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Legend {
    /// Words alone.
    Words(String),
    /// The scale from black to white.
    Grey(String),
    /// The black-red-yellow-white scale.
    Heat(String),
    /// The colour of a mask: red, green, blue.
    Mask([u8; 3], String),
}

impl Legend {
    fn words(&self) -> &str {
        match self {
            Self::Words(words) | Self::Grey(words) | Self::Heat(words) | Self::Mask(_, words) => {
                words
            }
        }
    }

    /// The colour of the sample at a share of its width.
    fn colour(&self, share: f32) -> Option<[u8; 3]> {
        match self {
            Self::Words(_) => None,
            Self::Grey(_) => Some([to_byte(share, 0., 1.); 3]),
            Self::Heat(_) => Some(heat(share, 0., 1.)),
            Self::Mask(colour, _) => Some(*colour),
        }
    }
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

pub(crate) fn to_byte(value: f32, low: f32, high: f32) -> u8 {
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
    /// What lies at the left and at the right edge of the tiles.
    sides: Option<[char; 2]>,
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
            sides: None,
        };
        for (i, title) in titles.iter().enumerate() {
            sheet.write(title, (0, GAP + i * step), step - GAP)?;
        }
        Ok(sheet)
    }

    /// With letters at the sides of the first tile of every row that is added from now on: what lies to the left, and to the right.
    #[must_use]
    pub fn with_sides(mut self, left: char, right: char) -> Self {
        self.sides = Some([left, right]);
        self
    }

    /// Words on black, cut off where there is no more room. Nothing of the picture below them is kept.
    fn write(&mut self, words: &str, (top, left): (usize, usize), room: usize) -> Result<()> {
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
            let at = ((top + row) * self.width + left) * 3;
            self.pixels[at..at + room * 3].copy_from_slice(line);
        }
        Ok(())
    }

    /// Room for so many lines of pixels below; returns where it begins.
    fn grow(&mut self, lines: usize) -> usize {
        let top = self.pixels.len() / (3 * self.width);
        self.pixels.resize((top + lines) * self.width * 3, 0);
        top
    }

    /// Adds a line of words, such as whose slice the next row shows.
    ///
    /// # Errors
    /// [`Error::Words`].
    pub fn caption(&mut self, words: &str) -> Result<()> {
        let top = self.grow(TITLE);
        self.write(words, (top, GAP), self.width - GAP)
    }

    /// Adds a legend. Words that are wider than the sheet go on in the next line.
    ///
    /// # Errors
    /// [`Error::Words`].
    pub fn legend(&mut self, lines: &[Legend]) -> Result<()> {
        for line in lines {
            let sample = line.colour(0.).map_or(0, |_| SAMPLE.min(self.width / 3));
            let left = GAP + sample + if sample > 0 { GAP } else { 0 };
            let room = self.width.saturating_sub(left + GAP).max(1);
            for (n, words) in wrapped(line.words(), room / LETTER_WIDTH)
                .iter()
                .enumerate()
            {
                let top = self.grow(TITLE);
                self.write(words, (top, left), room)?;
                if n > 0 {
                    continue;
                }
                for x in 0..sample {
                    let Some(colour) = line.colour(x as f32 / (sample - 1).max(1) as f32) else {
                        continue;
                    };
                    for y in 3..TITLE - 3 {
                        let at = ((top + y) * self.width + GAP + x) * 3;
                        self.pixels[at..at + 3].copy_from_slice(&colour);
                    }
                }
            }
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
        let top = self.grow(h * ZOOM + GAP);
        for (i, tile) in tiles.iter().enumerate() {
            let left = GAP + i * (w * ZOOM + GAP);
            for y in 0..h * ZOOM {
                for x in 0..w * ZOOM {
                    let at = ((top + y) * self.width + left + x) * 3;
                    self.pixels[at..at + 3].copy_from_slice(&tile.pixel(y / ZOOM, x / ZOOM));
                }
            }
        }
        let Some([left, right]) = self.sides else {
            return Ok(());
        };
        // Not on tiles that the letters would fill.
        if h * ZOOM >= TITLE && w * ZOOM >= 6 * LETTER_WIDTH {
            let middle = top + (h * ZOOM - TITLE) / 2;
            let end = GAP + w * ZOOM - LETTER_WIDTH;
            for (letter, at) in [(left, GAP), (right, end)] {
                self.write(&letter.to_string(), (middle, at), LETTER_WIDTH)?;
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

/// Words in lines of at most so many letters; a longer word stands alone.
fn wrapped(words: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
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

    /// Red, green and blue of a saved sheet.
    fn saved(sheet: &Sheet) -> (usize, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        sheet.save(&path).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width as usize, pixels)
    }

    #[test]
    fn a_legend_has_the_scales_and_letters_stand_at_the_sides() {
        let black = Array2::zeros((32, 32));
        let tile = Tile::Grey {
            image: black.view(),
            low: 0.,
            high: 1.,
        };
        let mut sheet = Sheet::new(&["input"], (32, 32))
            .unwrap()
            .with_sides('R', 'L');
        sheet.push(std::slice::from_ref(&tile)).unwrap();
        let before = sheet.pixels.len() / (3 * sheet.width);
        let words = "black is 0, white the largest value of the slice".to_string();
        sheet
            .legend(&[
                Legend::Heat(words),
                Legend::Mask([1, 200, 3], "mask".into()),
            ])
            .unwrap();
        let (width, pixels) = saved(&sheet);
        let lit = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
            let at = |y: usize, x: usize| pixels[(y * width + x) * 3] > 100;
            rows.flat_map(|y| columns.clone().map(move |x| (y, x)))
                .filter(|&(y, x)| at(y, x))
                .count()
        };
        let middle = TITLE + 24..TITLE + 40;
        assert!(lit(middle.clone(), GAP..GAP + 8) > 5, "R");
        assert!(lit(middle.clone(), GAP + 56..GAP + 64) > 5, "L");
        assert_eq!(lit(middle, GAP + 8..GAP + 56), 0);
        // The scale is black at its left end, and white at its right one.
        let sample = SAMPLE.min(width / 3);
        let y = before + TITLE / 2;
        let at = |y: usize, x: usize| &pixels[(y * width + x) * 3..][..3];
        assert_eq!(
            (at(y, GAP), at(y, GAP + sample - 1)),
            (&[0; 3][..], &[255; 3][..])
        );
        let rows = pixels.len() / (3 * width);
        assert_eq!(at(rows - TITLE / 2, GAP + 1), [1, 200, 3]);
        // The words took several lines.
        assert!(rows - before >= 4 * TITLE);
    }

    #[test]
    fn words_are_wrapped() {
        assert_eq!(wrapped("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrapped("abcdef g", 4), ["abcdef", "g"]);
        assert!(wrapped("", 4).is_empty());
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
