//! Changes of a slice that leave its label true.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::cache::{bit, value};
use crate::{Error, Result};

/// A mirror image, a small turn, change of size and shift, and small changes of contrast. All
/// channels move together; contrast changes for each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Probability of a left-right flip (along the last axis).
    pub flip: f64,
    /// Greatest turn in degrees, either way.
    pub rotate: f64,
    /// Greatest change of size: a factor of `exp(u)`, u uniform in `[-scale, scale]`.
    pub scale: f64,
    /// Greatest shift along each axis, as a share of the slice's side.
    pub shift: f64,
    /// Each channel is raised to `exp(u)`, u uniform in `[-gamma, gamma]`, on the scale where the
    /// background is 0 and the top 1.
    pub gamma: f64,
    /// Each channel is multiplied by `1 + u`, u uniform in `[-gain, gain]`, on the same scale, and
    /// cut at 1.
    pub gain: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            flip: 0.5,
            rotate: 5.0,
            scale: 0.05,
            shift: 0.02,
            gamma: 0.05,
            gain: 0.05,
        }
    }
}

/// Steps of the table that contrast is changed by; linear between them.
const STEPS: usize = 512;

impl Augmentation {
    /// No change at all.
    pub const NONE: Self = Self {
        flip: 0.0,
        rotate: 0.0,
        scale: 0.0,
        shift: 0.0,
        gamma: 0.0,
        gain: 0.0,
    };

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn check(&self) -> Result<()> {
        for (name, value, most) in [
            ("flip", self.flip, 1.0),
            ("rotate", self.rotate, 180.0),
            ("scale", self.scale, 1.0),
            ("shift", self.shift, 1.0),
            ("gamma", self.gamma, 1.0),
            ("gain", self.gain, 1.0),
        ] {
            if !(0.0..=most).contains(&value) {
                let what = format!("Augmentation.{name}");
                return Err(Error::config(what, format!("0 to {most}"), value));
            }
        }
        Ok(())
    }

    /// Draws one change. Every number is drawn whatever the settings, so that changing one setting
    /// leaves the others' numbers.
    pub(super) fn draw<R: Rng + ?Sized>(&self, rng: &mut R) -> Move {
        let flip = rng.random::<f64>() < self.flip;
        let mut even = |most: f64| most * (2.0 * rng.random::<f64>() - 1.0);
        let angle = even(self.rotate).to_radians();
        let size = even(self.scale).exp();
        let shift = [even(self.shift), even(self.shift)];
        Move {
            flip,
            turn: (angle != 0.0 || size != 1.0 || shift != [0.0; 2]).then(|| Turn {
                cos: (angle.cos() / size) as f32,
                sin: (angle.sin() / size) as f32,
                shift: shift.map(|s| s as f32),
            }),
        }
    }

    /// Draws and makes one channel's change of contrast.
    pub(super) fn contrast<R: Rng + ?Sized>(&self, rng: &mut R, channel: &mut [f32]) {
        let mut even = |most: f64| most * (2.0 * rng.random::<f64>() - 1.0);
        let exponent = even(self.gamma).exp();
        let gain = 1.0 + even(self.gain);
        if exponent == 1.0 && gain == 1.0 {
            return;
        }
        let table: Vec<f32> = (0..=STEPS + 1)
            .map(|n| (gain * (n as f64 / STEPS as f64).powf(exponent)).min(1.0) as f32)
            .collect();
        for v in channel {
            let place = (0.5 * STEPS as f32) * (*v + 1.0);
            let n = (place as usize).min(STEPS);
            let unit = table[n] + (place - n as f32) * (table[n + 1] - table[n]);
            *v = (2.0 * unit - 1.0).clamp(-1.0, 1.0);
        }
    }
}

/// Where the pixels of one slice come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Move {
    flip: bool,
    turn: Option<Turn>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Turn {
    /// Cosine and sine over the change of size.
    cos: f32,
    sin: f32,
    /// As shares of height and width.
    shift: [f32; 2],
}

/// A place between four pixels.
#[derive(Debug, Clone, Copy, Default)]
struct Source {
    /// Row and column of the upper left one.
    corner: (isize, isize),
    /// Whether all four are pixels of the slice.
    inner: bool,
    /// Way to the next row and to the next column.
    part: (f32, f32),
}

impl Source {
    fn at((y, x): (f32, f32), (h, w): (usize, usize)) -> Self {
        let (top, left) = (y.floor(), x.floor());
        let (i, j) = (top as isize, left as isize);
        Self {
            corner: (i, j),
            inner: i >= 0 && j >= 0 && i + 1 < h as isize && j + 1 < w as isize,
            part: (y - top, x - left),
        }
    }

    /// The value there. Beyond the slice is background.
    fn pixel(&self, plane: &[i16], (h, w): (usize, usize)) -> f32 {
        let (i, j) = self.corner;
        let (s, t) = self.part;
        let [a, b, c, d] = if self.inner {
            let start = i as usize * w + j as usize;
            let near = &plane[start..start + w + 2];
            [near[0], near[1], near[w], near[w + 1]].map(value)
        } else {
            [(i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)].map(|(i, j)| {
                let inside = i >= 0 && j >= 0 && i < h as isize && j < w as isize;
                if inside {
                    value(plane[i as usize * w + j as usize])
                } else {
                    -1.0
                }
            })
        };
        let (above, below) = (a + t * (b - a), c + t * (d - c));
        above + s * (below - above)
    }
}

impl Move {
    /// Moves a slice of channels (C, H, W). Pixels from beyond the slice are background.
    pub(super) fn images(&self, from: &[i16], (h, w): (usize, usize), to: &mut [f32]) {
        let Some(turn) = self.turn else {
            for (from, to) in from.chunks_exact(w).zip(to.chunks_exact_mut(w)) {
                if self.flip {
                    to.iter_mut()
                        .zip(from.iter().rev())
                        .for_each(|(to, v)| *to = value(*v));
                } else {
                    to.iter_mut().zip(from).for_each(|(to, v)| *to = value(*v));
                }
            }
            return;
        };
        let mut sources = vec![Source::default(); w];
        for row in 0..h {
            for (column, source) in sources.iter_mut().enumerate() {
                *source = Source::at(self.source(turn, (h, w), row, column), (h, w));
            }
            let planes = from.chunks_exact(h * w).zip(to.chunks_exact_mut(h * w));
            for (from, to) in planes {
                let to = &mut to[row * w..(row + 1) * w];
                for (to, source) in to.iter_mut().zip(&sources) {
                    *to = source.pixel(from, (h, w));
                }
            }
        }
    }

    /// Moves a head, to the nearest pixel.
    pub(super) fn head(&self, from: &[u64], (h, w): (usize, usize), to: &mut [bool]) {
        for (row, to) in to.chunks_exact_mut(w).enumerate() {
            for (column, to) in to.iter_mut().enumerate() {
                *to = match self.turn {
                    None if self.flip => bit(from, row * w + w - 1 - column),
                    None => bit(from, row * w + column),
                    Some(turn) => {
                        let (y, x) = self.source(turn, (h, w), row, column);
                        let (y, x) = (y.round(), x.round());
                        let inside = y >= 0.0 && x >= 0.0 && y < h as f32 && x < w as f32;
                        inside && bit(from, y as usize * w + x as usize)
                    }
                };
            }
        }
    }

    /// Where a pixel comes from, about the middle of the slice.
    fn source(&self, turn: Turn, (h, w): (usize, usize), row: usize, column: usize) -> (f32, f32) {
        let middle = (0.5 * (h as f32 - 1.0), 0.5 * (w as f32 - 1.0));
        let y = row as f32 - middle.0 - turn.shift[0] * h as f32;
        let x = column as f32 - middle.1 - turn.shift[1] * w as f32;
        let down = turn.cos * y - turn.sin * x;
        let right = turn.sin * y + turn.cos * x;
        let right = if self.flip { -right } else { right };
        (down + middle.0, right + middle.1)
    }
}
