//! Curves as a picture.

use anyhow::Result;
use font8x8::legacy::BASIC_LEGACY;

const SIZE: (usize, usize) = (800, 480);
/// Left, right, top, bottom.
const MARGIN: [f64; 4] = [70., 20., 40., 60.];
const LETTER: usize = 8;

type Colour = [u8; 3];
const GRID: Colour = [225; 3];
const BLACK: Colour = [30; 3];

/// A curve with its name in the legend.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) colour: Colour,
    /// x above 0, drawn on a logarithmic axis; y in [0, 1].
    pub(crate) points: Vec<(f64, f64)>,
}

struct Canvas(Vec<u8>);

impl Canvas {
    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if x < SIZE.0 && y < SIZE.1 {
            let at = 3 * (y * SIZE.0 + x);
            self.0[at..at + 3].copy_from_slice(&colour);
        }
    }

    fn line(&mut self, a: (f64, f64), b: (f64, f64), width: usize, colour: Colour) {
        let steps = (b.0 - a.0).abs().max((b.1 - a.1).abs()).ceil().max(1.);
        for i in 0..=steps as usize {
            let share = i as f64 / steps;
            let (x, y) = (a.0 + share * (b.0 - a.0), a.1 + share * (b.1 - a.1));
            for extra in 0..width {
                self.set(x.round() as usize, y.round() as usize + extra, colour);
            }
        }
    }

    fn dot(&mut self, centre: (f64, f64), colour: Colour) {
        for dy in -3..=3i32 {
            for dx in -3..=3i32 {
                if dx * dx + dy * dy <= 10 {
                    let at = (centre.0 as i32 + dx, centre.1 as i32 + dy);
                    self.set(at.0.max(0) as usize, at.1.max(0) as usize, colour);
                }
            }
        }
    }

    fn text(&mut self, x: usize, y: usize, text: &str, colour: Colour) {
        for (i, byte) in text.bytes().enumerate() {
            let Some(glyph) = BASIC_LEGACY.get(usize::from(byte)) else {
                continue;
            };
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    self.set(x + LETTER * i + column, y + row, colour);
                }
            }
        }
    }
}

fn draw(curves: &[Curve], x_name: &str, y_name: &str) -> Canvas {
    let mut canvas = Canvas(vec![255; 3 * SIZE.0 * SIZE.1]);
    let [left, right, above, below] = MARGIN;
    let (width, height) = (SIZE.0 as f64 - left - right, SIZE.1 as f64 - above - below);
    let mut xs: Vec<f64> = curves.iter().flat_map(|c| &c.points).map(|p| p.0).collect();
    xs.sort_unstable_by(f64::total_cmp);
    xs.dedup();
    let (first, last) = match (xs.first(), xs.last()) {
        (Some(&first), Some(&last)) => (first.ln(), last.ln()),
        _ => (0., 1.),
    };
    let x_of = |x: f64| left + (x.ln() - first) / (last - first).max(1e-9) * (width - 20.) + 10.;
    let y_of = |y: f64| above + (1. - y) * height;
    for tenth in 0..=10 {
        let y = y_of(f64::from(tenth) / 10.);
        canvas.line((left, y), (left + width, y), 1, GRID);
        let label = format!("{:.1}", f64::from(tenth) / 10.);
        canvas.text(left as usize - 32, y as usize - 4, &label, BLACK);
    }
    for &x in &xs {
        let at = x_of(x);
        canvas.line((at, above), (at, above + height), 1, GRID);
        let label = format!("{x}");
        let start = (at as usize).saturating_sub(LETTER * label.len() / 2);
        canvas.text(start, (above + height) as usize + 10, &label, BLACK);
    }
    canvas.line((left, above), (left, above + height), 1, BLACK);
    let bottom = above + height;
    canvas.line((left, bottom), (left + width, bottom), 1, BLACK);
    let middle = SIZE.0 / 2 - LETTER * x_name.len() / 2;
    canvas.text(middle, SIZE.1 - 22, x_name, BLACK);
    canvas.text(left as usize, 16, y_name, BLACK);
    let mut legend = left as usize + 80;
    for curve in curves {
        canvas.line(
            (legend as f64, 19.),
            (legend as f64 + 24., 19.),
            2,
            curve.colour,
        );
        canvas.text(legend + 32, 16, curve.name, BLACK);
        legend += 60 + LETTER * curve.name.len();
        let places: Vec<_> = curve
            .points
            .iter()
            .map(|p| (x_of(p.0), y_of(p.1)))
            .collect();
        for pair in places.windows(2) {
            canvas.line(pair[0], pair[1], 2, curve.colour);
        }
        for &place in &places {
            canvas.dot(place, curve.colour);
        }
    }
    canvas
}

/// The curves as PNG, with a dot at every point.
pub(crate) fn png(curves: &[Curve], x_name: &str, y_name: &str) -> Result<Vec<u8>> {
    let canvas = draw(curves, x_name, y_name);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIZE.0 as u32, SIZE.1 as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&canvas.0)?;
    Ok(bytes)
}
