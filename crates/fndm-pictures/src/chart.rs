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
    /// Its width in pixels; 0 for points without a line.
    pub width: u32,
    /// Whether every point has a dot: a circle, or on further curves a square, a triangle, a cross, so that colours aren't needed.
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
        for (n, curve) in self.curves.iter().enumerate() {
            let [red, green, blue] = curve.colour;
            let line = RGBColor(red, green, blue).stroke_width(curve.width.max(1));
            let along = match curve.width {
                0 => &[][..],
                _ => curve.points.as_slice(),
            };
            let (drawn, dots) = (curve.width > 0, curve.dots);
            chart
                .draw_series(LineSeries::new(along.iter().copied(), line))?
                .label(&curve.name)
                .legend(move |at| {
                    let path = if drawn {
                        vec![(0, 0), (18, 0)]
                    } else {
                        Vec::new()
                    };
                    let mark = if dots { marker(n, 9) } else { Vec::new() };
                    EmptyElement::at(at)
                        + PathElement::new(path, line)
                        + Polygon::new(mark, line.color.filled())
                });
            if dots && n % 4 == 0 {
                let dot = |&point: &(f64, f64)| Circle::new(point, 4, line.filled());
                chart.draw_series(curve.points.iter().map(dot))?;
            } else if dots {
                let dot = |&point: &(f64, f64)| {
                    EmptyElement::at(point) + Polygon::new(marker(n, 0), line.color.filled())
                };
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

/// Corners of the dots of curve number `n`, around a point so far to the right.
fn marker(n: usize, right: i32) -> Vec<(i32, i32)> {
    let corners: &[(i32, i32)] = match n % 4 {
        0 => &[
            (-2, -4),
            (2, -4),
            (4, -2),
            (4, 2),
            (2, 4),
            (-2, 4),
            (-4, 2),
            (-4, -2),
        ],
        1 => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        2 => &[(0, -5), (5, 4), (-5, 4)],
        _ => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
    };
    corners.iter().map(|&(x, y)| (x + right, y)).collect()
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

    /// Whoever doesn't tell colours apart tells dots apart.
    #[test]
    fn each_curve_has_dots_of_its_own_and_needs_no_line() {
        let mut chart = chart(vec![(10., 0.5), (100., 0.6)]);
        let lines = |text: &str| text.matches("<polyline").count();
        let one = chart.svg((800, 480)).unwrap();
        let mut second = chart.curves[0].clone();
        second.width = 0;
        chart.curves.push(second);
        let two = chart.svg((800, 480)).unwrap();
        assert_eq!(
            two.matches("<circle").count(),
            one.matches("<circle").count()
        );
        // Two dots, and two markers of the legend.
        assert_eq!(two.matches("<polygon").count(), 4);
        let empty = two.matches("points=\"\"").count();
        assert_eq!(lines(&two) - empty, lines(&one));
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
