//! Panels of error against evaluations, both logarithmic, as an SVG.

use std::fmt::Write as _;

/// A named line of (evaluations, error).
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) colour: &'static str,
    /// An SVG dash pattern; empty for a solid line.
    pub(crate) dashes: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

const WIDTH: f64 = 265.0;
const HEIGHT: f64 = 250.0;
/// From one panel to the next.
const PITCH: (f64, f64) = (WIDTH + 45.0, HEIGHT + 75.0);
/// Evaluations at the ends of the horizontal axis.
const EVALUATIONS: (f64, f64) = (6.0, 400.0);
/// Powers of ten at the bottom and the top of the error axis.
const POWERS: (i32, i32) = (-8, 0);

fn place(evaluations: f64, error: f64) -> (f64, f64) {
    let x = (evaluations / EVALUATIONS.0).ln() / (EVALUATIONS.1 / EVALUATIONS.0).ln();
    let span = f64::from(POWERS.1 - POWERS.0);
    let y = (f64::from(POWERS.1) - error.log10()) / span;
    (x.clamp(0.0, 1.0) * WIDTH, y.clamp(0.0, 1.0) * HEIGHT)
}

fn axes(svg: &mut String, title: &str) -> std::fmt::Result {
    let middle = WIDTH / 2.0;
    writeln!(
        svg,
        r#"<text x="{middle}" y="-10" text-anchor="middle" font-weight="bold">{title}</text>"#
    )?;
    for power in POWERS.0..=POWERS.1 {
        let (_, y) = place(1.0, 10f64.powi(power));
        writeln!(
            svg,
            r##"<line x1="0" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}" stroke="#dddddd"/>"##
        )?;
        if power % 2 == 0 {
            let low = y + 4.0;
            writeln!(
                svg,
                r#"<text x="-6" y="{low:.1}" text-anchor="end">1e{power}</text>"#
            )?;
        }
    }
    for count in [6, 10, 20, 50, 100, 200, 400] {
        let (x, _) = place(f64::from(count), 1.0);
        let low = HEIGHT + 16.0;
        writeln!(
            svg,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="0" y2="{HEIGHT}" stroke="#eeeeee"/>"##
        )?;
        writeln!(
            svg,
            r#"<text x="{x:.1}" y="{low}" text-anchor="middle">{count}</text>"#
        )?;
    }
    let low = HEIGHT + 34.0;
    writeln!(
        svg,
        r#"<text x="{middle}" y="{low}" text-anchor="middle">network evaluations</text>"#
    )
}

fn draw(svg: &mut String, panel: &Panel) -> std::fmt::Result {
    axes(svg, &panel.title)?;
    for (i, line) in panel.lines.iter().enumerate() {
        let style = format!(
            r#"fill="none" stroke="{}" stroke-width="1.8" stroke-dasharray="{}""#,
            line.colour, line.dashes
        );
        let inside = line
            .points
            .iter()
            .filter(|(n, _)| (EVALUATIONS.0..=EVALUATIONS.1).contains(n));
        let path: Vec<String> = inside
            .map(|&(n, e)| {
                let (x, y) = place(n, e);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        writeln!(svg, r#"<polyline points="{}" {style}/>"#, path.join(" "))?;
        // The curves fall to the right, so the lower left is free.
        let y = HEIGHT - 14.0 - 15.0 * (panel.lines.len() - 1 - i) as f64;
        writeln!(
            svg,
            r#"<path d="M8 {y} h24" {style}/><text x="38" y="{}">{}</text>"#,
            y + 4.0,
            line.name
        )?;
    }
    Ok(())
}

/// Panels side by side, `columns` in a row.
pub(crate) fn figure(panels: &[Panel], columns: usize) -> Result<String, std::fmt::Error> {
    let rows = panels.len().div_ceil(columns);
    let width = PITCH.0 * columns as f64 + 15.0;
    let height = PITCH.1 * rows as f64;
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">"#
    )?;
    writeln!(
        svg,
        r#"<rect width="{width}" height="{height}" fill="white"/>"#
    )?;
    for (i, panel) in panels.iter().enumerate() {
        let left = PITCH.0 * (i % columns) as f64 + 42.0;
        let top = PITCH.1 * (i / columns) as f64 + 28.0;
        writeln!(svg, r#"<g transform="translate({left},{top})">"#)?;
        draw(&mut svg, panel)?;
        writeln!(svg, "</g>")?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}
