//! What the outputs of a segmenter are judged by. Tensors are `(B, C, H, W)`, weights `(B, 1, H, W)`.

use candle_core::Tensor;

use super::ImageLoss;
use crate::{Loss, Result};

/// The weighted difference of two images, averaged over all values.
pub(super) fn image(
    output: &Tensor,
    target: &Tensor,
    weight: &Tensor,
    loss: ImageLoss,
) -> Result<Loss> {
    let difference = (output - target)?;
    let difference = match loss {
        ImageLoss::L1 => difference.abs()?,
        ImageLoss::L2 => difference.sqr()?,
    };
    let each = difference.broadcast_mul(weight)?.flatten_from(1)?.mean(1)?;
    Loss::mean(&each)
}

/// Cross entropy of logits, averaged over all pixels by their weights, plus `dice_weight` times 1 less the soft Dice, whose
/// sums have a 1 added so that an empty slice has one, too.
pub(super) fn segmentation(
    logits: &Tensor,
    target: &Tensor,
    weight: &Tensor,
    dice_weight: f64,
) -> Result<Loss> {
    // log(1 + exp(x)) - t x, by the form that doesn't overflow.
    let softplus = (logits.relu()? + (logits.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    let entropy = ((softplus - (logits * target)?)? * weight)?;
    let sum = |x: &Tensor| x.flatten_from(1)?.sum(1);
    let pixels = (sum(weight)? + 1e-6)?;
    let entropy = (sum(&entropy)? / pixels)?;

    let probability = (candle_nn::ops::sigmoid(logits)? * weight)?;
    let wanted = (target * weight)?;
    let both = (sum(&(&probability * target)?)? * 2.0)?;
    let all = (sum(&probability)? + sum(&wanted)?)?;
    let dice = ((both + 1.0)? / (all + 1.0)?)?;
    Loss::mean(&(entropy + dice.affine(-dice_weight, dice_weight)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (2, 1, 1, 3), &Device::Cpu).unwrap()
    }

    const LOGITS: [f32; 6] = [0.0, -2.0, 3.0, 90.0, -90.0, 0.5];
    const TARGET: [f32; 6] = [1.0, 0.0, 0.3, 1.0, 0.0, 0.0];
    const WEIGHT: [f32; 6] = [1.0, 0.5, 2.0, 1.0, 1.0, 0.0];

    /// The loss as it is defined, in f64.
    fn slow(logits: &[f64], dice_weight: f64) -> f64 {
        let mut total = 0.0;
        for i in 0..2 {
            let (mut entropy, mut pixels, mut both, mut all) = (0.0, 0.0, 0.0, 0.0);
            for j in 3 * i..3 * i + 3 {
                let (t, w) = (f64::from(TARGET[j]), f64::from(WEIGHT[j]));
                let p = 1.0 / (1.0 + (-logits[j]).exp());
                // Of ln(1 - p) where p is 1 within rounding.
                let q = 1.0 / (1.0 + logits[j].exp());
                entropy -= w * (t * p.ln().max(-1e3) + (1.0 - t) * q.ln().max(-1e3));
                pixels += w;
                both += w * p * t;
                all += w * (p + t);
            }
            total += entropy / pixels + dice_weight * (1.0 - (2.0 * both + 1.0) / (all + 1.0));
        }
        total / 2.0
    }

    #[test]
    fn the_loss_of_a_segmentation_and_its_gradient_are_the_definition() {
        let logits = Var::from_tensor(&tensor(&LOGITS)).unwrap();
        let (target, weight) = (tensor(&TARGET), tensor(&WEIGHT));
        for dice_weight in [0.0, 0.5] {
            let answer = segmentation(&logits, &target, &weight, dice_weight).unwrap();
            let value = f64::from(answer.mean.to_scalar::<f32>().unwrap());
            let wide: Vec<f64> = LOGITS.iter().map(|&v| f64::from(v)).collect();
            assert!((value - slow(&wide, dice_weight)).abs() < 1e-5);
            let mean = answer.plain.iter().sum::<f32>() / 2.0;
            assert!((f64::from(mean) - value).abs() < 1e-6);
            let gradients = answer.mean.backward().unwrap();
            let gradient = gradients.get(&logits).unwrap().flatten_all().unwrap();
            for (j, got) in gradient.to_vec1::<f32>().unwrap().into_iter().enumerate() {
                let at = |step: f64| {
                    let mut moved = wide.clone();
                    moved[j] += step;
                    slow(&moved, dice_weight)
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (f64::from(got) - expected).abs() < 1e-5,
                    "{j}: {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn images_are_compared_by_their_weights() {
        let (a, b) = (tensor(&LOGITS), tensor(&TARGET));
        let weight = tensor(&WEIGHT);
        let rows = LOGITS.iter().zip(TARGET).zip(WEIGHT);
        let (l1, l2) = rows.fold((0.0, 0.0), |(l1, l2), ((a, b), w)| {
            (l1 + w * (a - b).abs() / 6.0, l2 + w * (a - b).powi(2) / 6.0)
        });
        for (loss, expected) in [(ImageLoss::L1, l1), (ImageLoss::L2, l2)] {
            let answer = image(&a, &b, &weight, loss).unwrap();
            let value = answer.mean.to_dtype(DType::F32).unwrap();
            let value = value.to_scalar::<f32>().unwrap();
            assert!(
                (value - expected).abs() < 1e-4 * expected,
                "{value} {expected}"
            );
        }
    }
}
