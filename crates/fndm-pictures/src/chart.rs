//! Curves in one pair of axes.

use plotters::prelude::*;

use crate::letters::style;
use crate::{Axis, Error, Result, rgb_png};

/// Red, green, blue.
pub type Colour = [u8; 3];

const INK: RGBColor = RGBColor(30, 30, 30);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Height of letters in pixels.
const LETTER: u32 = 15;

/// A curve with its name in the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The name.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
    /// Its width in pixels.
    pub width: u32,
    /// Whether every point has a dot.
    pub dots: bool,
    /// Its points, in their order along the curve. What lies outside the axes is cut off.
    pub points: Vec<(f64, f64)>,
}

/// Curves in one pair of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The curves; later ones lie over earlier ones.
    pub curves: Vec<Curve>,
}

impl Chart {
    /// The chart as PNG, of (width, height) pixels.
    ///
    /// # Errors
    /// [`Error::Chart`], [`Error::Png`].
    pub fn png(&self, size: (u32, u32)) -> Result<Vec<u8>> {
        let (width, height) = (size.0 as usize, size.1 as usize);
        let mut pixels = vec![255; 3 * width * height];
        self.draw(BitMapBackend::with_buffer(&mut pixels, size))?;
        rgb_png(&pixels, width, height)
    }

    /// The chart as SVG, of (width, height) pixels.
    ///
    /// # Errors
    /// [`Error::Chart`].
    pub fn svg(&self, size: (u32, u32)) -> Result<String> {
        let mut text = String::new();
        self.draw(SVGBackend::with_string(&mut text, size))?;
        Ok(text)
    }

    fn draw<B: DrawingBackend>(&self, backend: B) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        self.draw_on(&backend.into_drawing_area())
            .map_err(|source| Error::Chart {
                x: self.x.name.clone(),
                y: self.y.name.clone(),
                source: source.into(),
            })
    }

    fn draw_on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .margin(18)
            .margin_right(36)
            .x_label_area_size(48)
            .y_label_area_size(68)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .x_desc(&self.x.name)
            .y_desc(&self.y.name)
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(style(LETTER, INK))
            .axis_desc_style(style(LETTER, INK))
            .draw()?;
        for curve in &self.curves {
            let [red, green, blue] = curve.colour;
            let line = RGBColor(red, green, blue).stroke_width(curve.width);
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), line))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], line));
            if curve.dots {
                let dot = |&point: &(f64, f64)| Circle::new(point, 4, line.filled());
                chart.draw_series(curve.points.iter().map(dot))?;
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .margin(8)
            .background_style(WHITE)
            .border_style(GRID)
            .label_font(style(LETTER, INK))
            .draw()?;
        area.present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            x: Axis::logarithmic("steps", 5., 300.).labelled(vec![5., 50., 300.]),
            y: Axis::linear("Dice", 0., 1.),
            curves: vec![Curve {
                name: "FNDM".into(),
                colour: [24, 78, 152],
                width: 2,
                dots: true,
                points,
            }],
        }
    }

    #[test]
    fn an_svg_has_names_labels_and_the_curve() {
        let text = chart(vec![(5., 0.5), (300., 0.75)])
            .svg((800, 480))
            .unwrap();
        for words in [
            "steps", "Dice", "FNDM", "50", "300", "0.5", "#184E98", "circle",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
    }

    #[test]
    fn a_png_has_the_curve_and_letters() {
        let size = (800, 480);
        let decoded = |chart: &Chart| {
            let bytes = chart.png(size).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
                .read_info()
                .unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), size);
            pixels
        };
        let of = |pixels: &[u8], colour: Colour| {
            let all = pixels.chunks_exact(3);
            all.filter(|pixel| **pixel == colour).count()
        };
        let full = decoded(&chart(vec![(5., 0.5), (300., 0.75)]));
        let empty = decoded(&chart(Vec::new()));
        // The legend alone is 18 pixels long; the curve goes across.
        assert!(of(&empty, [24, 78, 152]) < 100);
        assert!(of(&full, [24, 78, 152]) > 700);
        // Letters are dark inside, and grey at their edges.
        let grey = empty.chunks_exact(3).filter(|p| p[0] > 40 && p[0] < 200);
        assert!(grey.count() > 200);
    }
}
