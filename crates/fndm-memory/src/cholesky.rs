//! Cholesky factors of small symmetric matrices, in f64.

/// Replaces the lower triangle of the symmetric `a` (n x n, row by row) by the inverse of its Cholesky factor:
/// lower triangular, W with W^T W = A^-1. What is above the diagonal becomes 0. None when A isn't positive definite.
pub(crate) fn inverse_factor(a: &mut [f64], n: usize) -> Option<()> {
    for j in 0..n {
        for i in j..n {
            let dot: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            if i == j {
                // NaN and infinity are neither.
                if !(rest > 0.0 && rest < f64::INFINITY) {
                    return None;
                }
                a[j * n + j] = rest.sqrt();
            } else {
                a[i * n + j] = rest / a[j * n + j];
            }
        }
    }
    // Row by row: row i needs the factor's row i and the inverse's earlier rows.
    for i in 0..n {
        let diagonal = a[i * n + i];
        for j in 0..i {
            let dot: f64 = (j..i).map(|k| a[i * n + k] * a[k * n + j]).sum();
            // The factor's value at (i, j) was needed for columns up to j alone.
            a[i * n + j] = -dot / diagonal;
        }
        a[i * n + i] = 1.0 / diagonal;
        a[i * n + i + 1..(i + 1) * n].fill(0.0);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_undoes_the_matrix() {
        let n = 5;
        // B B^T + I for a B of no pattern.
        let b: Vec<f64> = (0..n * n)
            .map(|i| ((i * 37 + 11) % 19) as f64 / 7.0 - 1.0)
            .collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..n).map(|k| b[i * n + k] * b[j * n + k]).sum::<f64>()
                    + f64::from(u8::from(i == j));
            }
        }
        let mut w = a.clone();
        inverse_factor(&mut w, n).unwrap();
        for i in 0..n {
            for j in 0..n {
                // W A W^T = I.
                let v: f64 = (0..n)
                    .flat_map(|k| (0..n).map(move |l| (k, l)))
                    .map(|(k, l)| w[i * n + k] * a[k * n + l] * w[j * n + l])
                    .sum();
                assert!(
                    (v - f64::from(u8::from(i == j))).abs() < 1e-12,
                    "{i} {j}: {v}"
                );
            }
        }
    }

    #[test]
    fn an_indefinite_matrix_has_none() {
        assert!(inverse_factor(&mut [1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(inverse_factor(&mut [f64::NAN], 1).is_none());
        assert!(inverse_factor(&mut [f64::INFINITY], 1).is_none());
    }
}
