use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::maps::norm_at_least;
use crate::{Error, Result};

/// Norms of feature vectors are taken to be this at least.
const LEAST: f64 = 1e-12;

/// How the differences of all pixels become one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossScale {
    /// The mean over slices and pixels, summed over layers: the authors' code.
    #[default]
    Official,
    /// Half the mean over pixels, summed over slices and layers.
    Anomalib,
}

/// `|t / |t| - s / |s||^2` at every pixel, layer by layer: maps `(B, C, H, W)` of teacher and student to `(B, 1, H, W)`.
///
/// # Errors
/// When the student's maps aren't of the teacher's shapes, or there are none.
pub fn layer_differences(teacher: &[Tensor], student: &[Tensor]) -> Result<Vec<Tensor>> {
    let shapes = |maps: &[Tensor]| maps.iter().map(|t| t.dims().to_vec()).collect::<Vec<_>>();
    if teacher.is_empty() || shapes(teacher) != shapes(student) {
        return Err(Error::shape(
            "the student's maps",
            format!("those of the teacher, {:?}", shapes(teacher)),
            shapes(student),
        ));
    }
    let unit =
        |x: &Tensor| -> Result<Tensor> { Ok(x.broadcast_div(&norm_at_least(x, 1, LEAST)?)?) };
    teacher
        .iter()
        .zip(student)
        .map(|(t, s)| {
            let difference = (unit(&t.detach())? - unit(s)?)?;
            Ok(difference.sqr()?.sum_keepdim(1)?)
        })
        .collect()
}

/// The loss of each slice, `(B)`; the mean of them is the batch's.
///
/// # Errors
/// As [`layer_differences`].
pub fn loss(teacher: &[Tensor], student: &[Tensor], scale: LossScale) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for layer in layer_differences(teacher, student)? {
        let own = layer.flatten_from(1)?.mean(D::Minus1)?;
        sum = Some(match sum {
            Some(sum) => (sum + own)?,
            None => own,
        });
    }
    let sum = sum.ok_or_else(|| Error::config("layers", "1 or more", 0))?;
    Ok(match scale {
        LossScale::Official => sum,
        LossScale::Anomalib => {
            let batch = sum.dim(0)? as f64;
            (sum * (0.5 * batch))?
        }
    })
}
