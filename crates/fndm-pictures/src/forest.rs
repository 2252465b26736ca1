//! Estimates with their intervals, one a line, beside a line of no difference.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::letters::style;
use crate::{Axis, Error, Result, rgb_png};

const INK: RGBColor = RGBColor(30, 30, 30);
const GRID: RGBColor = RGBColor(225, 225, 225);
const LETTER: u32 = 14;
/// Width of one letter of that height.
const LETTER_WIDTH: u32 = 9;
/// Height of a line.
const LINE: u32 = 30;
/// Room for the axis below.
const BELOW: u32 = 64;
const MARGIN: u32 = 12;

/// An estimate with its interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// What it is of.
    pub name: String,
    /// The middle.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// A forest plot: estimates with their intervals, one a line from the top.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    /// The axis below.
    pub x: Axis,
    /// Where the line of no difference stands.
    pub reference: f64,
    /// The estimates.
    pub estimates: Vec<Estimate>,
}

impl Forest {
    /// Pixels of the whole picture: its height follows from the number of lines, its width is given, and more where the words need it.
    #[must_use]
    pub fn size(&self, width: u32) -> (u32, u32) {
        let words = self.words();
        let height = 2 * MARGIN + BELOW + LINE * self.estimates.len().max(1) as u32;
        (width.max(words.0 + words.1 + 240), height)
    }

    /// Widths of the names and of the numbers.
    fn words(&self) -> (u32, u32) {
        let most = |words: &dyn Fn(&Estimate) -> String| {
            let lengths = self.estimates.iter().map(|e| words(e).chars().count());
            lengths.max().unwrap_or(0) as u32 * LETTER_WIDTH + 2 * MARGIN
        };
        (most(&|e| e.name.clone()), most(&numbers))
    }

    /// As PNG, of the size that [`Forest::size`] says.
    ///
    /// # Errors
    /// [`Error::Chart`], [`Error::Png`].
    pub fn png(&self, width: u32) -> Result<Vec<u8>> {
        let size = self.size(width);
        let (wide, high) = (size.0 as usize, size.1 as usize);
        let mut pixels = vec![255; 3 * wide * high];
        self.draw(BitMapBackend::with_buffer(&mut pixels, size))?;
        rgb_png(&pixels, wide, high)
    }

    /// As SVG.
    ///
    /// # Errors
    /// [`Error::Chart`].
    pub fn svg(&self, width: u32) -> Result<String> {
        let mut text = String::new();
        self.draw(SVGBackend::with_string(&mut text, self.size(width)))?;
        Ok(text)
    }

    fn draw<B: DrawingBackend>(&self, backend: B) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        self.draw_on(&backend.into_drawing_area())
            .map_err(|source| Error::Chart {
                x: self.x.name.clone(),
                y: "estimates".into(),
                source: source.into(),
            })
    }

    fn draw_on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let (names, figures) = self.words();
        let lines = self.estimates.len().max(1);
        let mut chart = ChartBuilder::on(area)
            .margin(MARGIN)
            .margin_left(names)
            .margin_right(figures)
            .x_label_area_size(BELOW)
            .build_cartesian_2d(self.x.clone(), 0f64..lines as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_labels(6)
            .x_desc(&self.x.name)
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(style(LETTER, INK))
            .axis_desc_style(style(LETTER, INK))
            .draw()?;
        let zero = [(self.reference, 0.), (self.reference, lines as f64)];
        chart.draw_series(LineSeries::new(zero, INK.stroke_width(1)))?;
        let right = area.dim_in_pixel().0 as i32 - figures as i32 + MARGIN as i32;
        for (n, estimate) in self.estimates.iter().enumerate() {
            let y = (lines - n) as f64 - 0.5;
            let line = INK.stroke_width(2);
            let ends = [estimate.low, estimate.high];
            chart.draw_series(LineSeries::new(ends.map(|x| (x, y)), line))?;
            for x in ends {
                chart.draw_series(LineSeries::new([(x, y - 0.15), (x, y + 0.15)], line))?;
            }
            let middle = chart.backend_coord(&(estimate.value, y));
            let square = [(middle.0 - 4, middle.1 - 4), (middle.0 + 4, middle.1 + 4)];
            area.draw(&Rectangle::new(square, RGBColor(24, 78, 152).filled()))?;
            let text = style(LETTER, INK).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(
                estimate.name.as_str(),
                (MARGIN as i32, middle.1),
                text.clone(),
            ))?;
            area.draw(&Text::new(numbers(estimate), (right, middle.1), text))?;
        }
        area.present()
    }
}

/// "+0.012 (-0.003 to +0.027)"
fn numbers(estimate: &Estimate) -> String {
    format!(
        "{:+.3} ({:+.3} to {:+.3})",
        estimate.value, estimate.low, estimate.high
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forest(low: f64) -> Forest {
        Forest {
            x: Axis::linear("difference of Dice", -0.2, 0.2),
            reference: 0.,
            estimates: vec![
                Estimate {
                    name: "CG against <FNDM>".into(),
                    value: -0.05,
                    low,
                    high: 0.01,
                },
                Estimate {
                    name: "student".into(),
                    value: 0.1,
                    low: 0.05,
                    high: 0.15,
                },
            ],
        }
    }

    #[test]
    fn an_svg_has_names_and_numbers() {
        let svg = forest(-0.1).svg(700).unwrap();
        for words in [
            "CG against &lt;FNDM&gt;",
            "student",
            "-0.050 (-0.100 to +0.010)",
            "difference of Dice",
        ] {
            assert!(svg.contains(words), "{words} in {svg}");
        }
    }

    /// In the picture the end of an interval stands where the axis says.
    #[test]
    fn an_interval_ends_where_its_number_stands() {
        for low in [-0.15, -0.1, -0.06] {
            let forest = forest(low);
            let (width, height) = forest.size(700);
            let mut reader = png::Decoder::new(std::io::Cursor::new(forest.png(700).unwrap()))
                .read_info()
                .unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), (width, height));
            let row = MARGIN + LINE / 2;
            let dark = |x: &u32| pixels[(row * width + x) as usize * 3] < 60;
            let (names, figures) = forest.words();
            // Behind the axis at the left.
            let found = (names + 4..width).find(dark).unwrap();
            let share = (low + 0.2) / 0.4;
            let expected = f64::from(names) + share * f64::from(width - names - figures);
            // Half of a line of 2 pixels, and rounding.
            assert!(
                (f64::from(found) - expected).abs() <= 2.,
                "{found} {expected}"
            );
        }
    }
}
