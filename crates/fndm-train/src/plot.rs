//! A loss curve as a picture.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;

use crate::{Error, Result, StepReport};

const WIDTH: usize = 960;
const HEIGHT: usize = 540;
/// Left, right, top, bottom.
const MARGIN: [usize; 4] = [90, 20, 40, 60];
/// The dark curve is the mean of about this share of the run.
const SMOOTHING: f64 = 0.02;

type Colour = [u8; 3];
const WHITE: Colour = [255; 3];
const GRID: Colour = [225; 3];
const BLACK: Colour = [30; 3];
const RAW: Colour = [176, 200, 232];
const SMOOTH: Colour = [24, 78, 152];

/// Draws the losses of a run's log (see [`run`](crate::run)) against the iteration, on a logarithmic axis, as a PNG file.
///
/// The light curve is every logged loss, the dark one their running mean. Losses that aren't finite are left out.
///
/// # Errors
/// When the log can't be read or the picture can't be written; [`Error::Data`] when the log has no loss to draw.
pub fn write_loss_curve(log: &Path, png: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).map_err(|e| Error::io(log, e))?;
    let points: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<StepReport>(line).ok())
        .filter(|report| report.loss.is_finite() && report.loss > 0.0)
        .map(|report| (report.iteration as f64, report.loss))
        .collect();
    if points.is_empty() {
        return Err(Error::Data {
            expected: format!("lines with a loss in {}", log.display()),
            got: format!("none among {}", text.lines().count()),
        });
    }
    let canvas = draw(&points);
    let mut bytes = Vec::new();
    let written = (|| {
        let mut encoder = png::Encoder::new(&mut bytes, WIDTH as u32, HEIGHT as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&canvas.pixels)
    })();
    written.map_err(|e| Error::io(png, e.into()))?;
    Ok(fndm_files::write_atomic(png, bytes)?)
}

fn draw(points: &[(f64, f64)]) -> Canvas {
    let mut canvas = Canvas::new();
    let smooth = running_mean(points);
    let first = points[0].0;
    let last = points[points.len() - 1].0.max(first + 1.0);
    let low = points.iter().fold(f64::INFINITY, |m, p| m.min(p.1));
    let high = points.iter().fold(0.0_f64, |m, p| m.max(p.1));
    // A little air, also where all losses are equal.
    let (bottom, top) = (low.ln() - 0.1, high.ln() + 0.1);
    let [left, right, above, below] = MARGIN.map(|m| m as f64);
    let (width, height) = (WIDTH as f64 - left - right, HEIGHT as f64 - above - below);
    let x_of = |x: f64| left + (x - first) / (last - first) * width;
    let y_of = |y: f64| above + (top - y.ln()) / (top - bottom) * height;

    for value in ticks_log(bottom.exp(), top.exp()) {
        let y = y_of(value);
        canvas.line((left, y), (left + width, y), GRID);
        let label = format!("{value}");
        canvas.text(
            left as usize - 8 - 8 * label.len().min(9),
            y as usize - 4,
            &label,
        );
    }
    for value in ticks_linear(first, last) {
        let x = x_of(value);
        canvas.line((x, above), (x, above + height), GRID);
        let label = format!("{value}");
        let start = (x as usize).saturating_sub(4 * label.len());
        canvas.text(
            start.min(WIDTH - 8 * label.len()),
            HEIGHT - MARGIN[3] + 10,
            &label,
        );
    }
    let corners = [
        (left, above),
        (left, above + height),
        (left + width, above + height),
    ];
    canvas.line(corners[0], corners[1], BLACK);
    canvas.line(corners[1], corners[2], BLACK);
    canvas.text(MARGIN[0], 16, "loss (light: logged, dark: running mean)");
    canvas.text(WIDTH / 2 - 36, HEIGHT - 22, "iteration");

    for (curve, colour, thick) in [(points, RAW, false), (&smooth, SMOOTH, true)] {
        for pair in curve.windows(2) {
            let place = |p: (f64, f64)| (x_of(p.0), y_of(p.1));
            let (a, b) = (place(pair[0]), place(pair[1]));
            canvas.line(a, b, colour);
            if thick {
                canvas.line((a.0, a.1 + 1.0), (b.0, b.1 + 1.0), colour);
            }
        }
    }
    canvas
}

/// Mean of the points so far, the recent ones weighing most.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let memory = (points.len() as f64 * SMOOTHING).max(1.0);
    let keep = 1.0 - 1.0 / memory;
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            sum = keep * sum + y;
            weight = keep * weight + 1.0;
            (x, sum / weight)
        })
        .collect()
}

/// 1, 2 and 5 times powers of ten within the range.
fn ticks_log(low: f64, high: f64) -> Vec<f64> {
    let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (from..=to)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| (digit, power)))
        // By way of text, so that 5e-2 is written 0.05.
        .filter_map(|(digit, power)| format!("{digit}e{power}").parse().ok())
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

/// Round numbers in the range, at most about eight.
fn ticks_linear(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 8.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|&step| step >= rough)
        .unwrap_or(rough)
        .max(1.0);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

struct Canvas {
    pixels: Vec<u8>,
}

impl Canvas {
    fn new() -> Self {
        Self {
            pixels: WHITE.repeat(WIDTH * HEIGHT),
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if x < WIDTH && y < HEIGHT {
            let at = 3 * (y * WIDTH + x);
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    fn line(&mut self, a: (f64, f64), b: (f64, f64), colour: Colour) {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let steps = dx.abs().max(dy.abs()).ceil().max(1.0);
        for i in 0..=steps as usize {
            let share = i as f64 / steps;
            let (x, y) = (a.0 + share * dx, a.1 + share * dy);
            self.set(x.round() as usize, y.round() as usize, colour);
        }
    }

    fn text(&mut self, x: usize, y: usize, text: &str) {
        for (i, byte) in text.bytes().enumerate() {
            let Some(glyph) = BASIC_LEGACY.get(usize::from(byte)) else {
                continue;
            };
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    self.set(x + 8 * i + column, y + row, BLACK);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks_log(0.03, 3.0), [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]);
        assert_eq!(
            ticks_linear(1.0, 40.0),
            [5., 10., 15., 20., 25., 30., 35., 40.]
        );
        assert_eq!(ticks_linear(1.0, 3.0), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn the_running_mean_of_a_constant_is_the_constant() {
        let points: Vec<_> = (0..500).map(|i| (f64::from(i), 0.25)).collect();
        assert!(
            running_mean(&points)
                .iter()
                .all(|p| (p.1 - 0.25).abs() < 1e-12)
        );
    }
}
