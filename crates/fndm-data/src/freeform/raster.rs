//! Drawing of filled shapes into a mask.

use ndarray::Array2;

/// Sets every pixel within `radius` of the line from `from` to `to`, points given as (x, y) at
/// pixel centres. Parts outside the mask are left out.
pub(super) fn thick_line(mask: &mut Array2<bool>, from: (f64, f64), to: (f64, f64), radius: f64) {
    let (h, w) = mask.dim();
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let squared = dx * dx + dy * dy;
    let rows = span(from.1.min(to.1) - radius, from.1.max(to.1) + radius, h);
    let columns = span(from.0.min(to.0) - radius, from.0.max(to.0) + radius, w);
    for i in rows {
        for j in columns.clone() {
            let (px, py) = (j as f64 - from.0, i as f64 - from.1);
            let t = if squared > 0.0 {
                ((px * dx + py * dy) / squared).clamp(0.0, 1.0)
            } else {
                0.0
            };
            if (px - t * dx).powi(2) + (py - t * dy).powi(2) <= radius * radius {
                mask[[i, j]] = true;
            }
        }
    }
}

/// Sets every pixel of a star-shaped region: those nearer to the centre (x, y) than
/// `boundary(angle)`, measured in the frame of an ellipse with the given half axes and turn.
pub(super) fn star(
    mask: &mut Array2<bool>,
    centre: (f64, f64),
    half_axes: (f64, f64),
    turn: f64,
    reach: f64,
    boundary: impl Fn(f64) -> f64,
) {
    let (h, w) = mask.dim();
    let far = half_axes.0.max(half_axes.1) * reach;
    let (sin, cos) = turn.sin_cos();
    let columns = span(centre.0 - far, centre.0 + far, w);
    for i in span(centre.1 - far, centre.1 + far, h) {
        for j in columns.clone() {
            let (x, y) = (j as f64 - centre.0, i as f64 - centre.1);
            let u = (cos * x + sin * y) / half_axes.0;
            let v = (cos * y - sin * x) / half_axes.1;
            let r = (u * u + v * v).sqrt();
            if r <= reach && r <= boundary(v.atan2(u)) {
                mask[[i, j]] = true;
            }
        }
    }
}

/// Whole numbers from `low` to `high` that are indices below `n`.
fn span(low: f64, high: f64, n: usize) -> std::ops::Range<usize> {
    let from = low.ceil().clamp(0.0, n as f64) as usize;
    let to = (high.floor() + 1.0).clamp(from as f64, n as f64) as usize;
    from..to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(mask: &Array2<bool>) -> f64 {
        mask.iter().filter(|m| **m).count() as f64
    }

    #[test]
    fn line_covers_a_rectangle_with_round_ends() {
        let mut mask = Array2::from_elem((100, 200), false);
        thick_line(&mut mask, (40.0, 50.0), (160.0, 50.0), 10.0);
        let expected = 120.0 * 20.0 + std::f64::consts::PI * 100.0;
        assert!((area(&mask) / expected - 1.0).abs() < 0.06);
    }

    #[test]
    fn star_with_boundary_one_is_an_ellipse() {
        let mut mask = Array2::from_elem((100, 100), false);
        star(&mut mask, (50.0, 50.0), (30.0, 15.0), 0.4, 1.0, |_| 1.0);
        let expected = std::f64::consts::PI * 30.0 * 15.0;
        assert!((area(&mask) / expected - 1.0).abs() < 0.03);
    }

    #[test]
    fn far_outside_draws_nothing() {
        let mut mask = Array2::from_elem((8, 8), false);
        thick_line(&mut mask, (-50.0, -50.0), (-40.0, -50.0), 3.0);
        star(&mut mask, (100.0, 100.0), (3.0, 3.0), 0.0, 1.0, |_| 1.0);
        assert_eq!(area(&mask), 0.0);
    }
}
