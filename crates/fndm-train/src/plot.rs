//! A loss curve as a picture.

use std::path::Path;

use fndm_pictures::{Axis, Chart, Curve};

use crate::{Error, Result, StepReport};

/// Pixels of the picture.
const SIZE: (u32, u32) = (960, 540);
/// The dark curve is the mean of about this share of the run.
const SMOOTHING: f64 = 0.02;

/// Draws the losses of a run's log (see [`run`](crate::run)) against the iteration, on a logarithmic axis: as SVG where the name of
/// `picture` ends in `.svg`, as PNG otherwise.
///
/// The light curve is every logged loss, the dark one their running mean. Losses that aren't finite are left out.
///
/// # Errors
/// When the log can't be read or the picture can't be written; [`Error::Data`] when the log has no loss to draw.
pub fn write_loss_curve(log: &Path, picture: &Path) -> Result<()> {
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
    let smooth = running_mean(&points);
    let [mut low, mut high] = [points[0].1; 2];
    for &(_, loss) in &points {
        (low, high) = (low.min(loss), high.max(loss));
    }
    let curve = |name: &str, colour, width, points| Curve {
        name: name.into(),
        colour,
        width,
        dots: false,
        points,
    };
    let chart = Chart {
        x: Axis::linear("iteration", points[0].0, points[points.len() - 1].0),
        // A little air, also where all losses are equal.
        y: Axis::logarithmic("loss", low * 0.9, high * 1.1),
        curves: vec![
            curve("logged", [176, 200, 232], 1, points),
            curve("running mean", [24, 78, 152], 2, smooth),
        ],
    };
    let svg = picture.extension().is_some_and(|end| end == "svg");
    let bytes = match svg {
        true => chart.svg(SIZE)?.into_bytes(),
        false => chart.png(SIZE)?,
    };
    Ok(fndm_files::write_atomic(picture, bytes)?)
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

#[cfg(test)]
mod tests {
    use super::*;

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
