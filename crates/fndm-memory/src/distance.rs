//! Distances between rows, in sums that the compiler turns into vector instructions.

const LANES: usize = 16;

/// The squared Euclidean distance in f32, in a fixed order of summation.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            let d = a - b;
            *sum += d * d;
        }
    }
    let rest: f32 = rest_a
        .iter()
        .zip(rest_b)
        .map(|(a, b)| (a - b) * (a - b))
        .sum();
    sums.iter().sum::<f32>() + rest
}

/// [`squared_distance`] of `a - shift` and `b`, in the same bits.
pub(crate) fn shifted_squared_distance(a: &[f32], shift: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_s, rest_s) = shift.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    for ((a, s), b) in blocks_a.iter().zip(blocks_s).zip(blocks_b) {
        for (((sum, a), s), b) in sums.iter_mut().zip(a).zip(s).zip(b) {
            let d = (a - s) - b;
            *sum += d * d;
        }
    }
    let rest: f32 = (rest_a.iter().zip(rest_s).zip(rest_b))
        .map(|((a, s), b)| ((a - s) - b) * ((a - s) - b))
        .sum();
    sums.iter().sum::<f32>() + rest
}

/// The squared Euclidean distance, summed in f64.
pub(crate) fn exact_squared_distance(a: &[f32], b: impl Iterator<Item = f64>) -> f32 {
    a.iter()
        .zip(b)
        .map(|(&a, b)| (f64::from(a) - b).powi(2))
        .sum::<f64>() as f32
}

/// The squared norm, summed in f64.
pub(crate) fn squared_norm(a: &[f32]) -> f32 {
    a.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() as f32
}
