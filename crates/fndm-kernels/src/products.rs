//! Products of rows with rows, a panel of rows at a time: what nearest neighbours are made of.

use candle_core::{Result, bail};

use crate::simd::{Isa, kernel};
use crate::tile::{Onto, product_rows, to_lanes};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 32;

kernel! {
    /// `rows <= 32` rows of `k` floats to `k` rows of 32, the missing ones zero.
    unsafe fn pack[S](src: *const f32, rows: usize, k: usize, panel: *mut f32) {
        let first = rows.min(16);
        to_lanes::<S>(src, k, first, k, panel, PANEL_ROWS);
        to_lanes::<S>(src.add(first * k), k, rows - first, k, panel.add(16), PANEL_ROWS);
    }
}

kernel! {
    /// `m` rows of `k` floats with a panel: `m` rows of 32.
    unsafe fn products[S](rows: *const f32, m: usize, k: usize, panel: *const f32, out: *mut f32) {
        product_rows::<S>(
            m, PANEL_ROWS, |r| rows.add(r * k), &[(0, 0)], k, panel, PANEL_ROWS,
            |r| out.add(r * PANEL_ROWS), Onto::Nothing,
        );
    }
}

/// Values of a panel.
fn length(k: usize) -> Result<usize> {
    match k.checked_mul(PANEL_ROWS) {
        Some(length) if length > 0 => Ok(length),
        _ => bail!("expected rows that fit into memory, of 1 value or more, got {k}"),
    }
}

/// Packs rows `(n, k)`, n at most [`PANEL_ROWS`], into a panel `(k, 32)`; what is missing becomes zeros.
///
/// # Errors
/// When a length doesn't fit.
pub fn pack_panel(rows: &[f32], k: usize, panel: &mut [f32]) -> Result<()> {
    let length = length(k)?;
    if !rows.len().is_multiple_of(k) || rows.len() > length {
        bail!(
            "pack_panel: expected at most {PANEL_ROWS} rows of {k} values, got {}",
            rows.len()
        );
    }
    if panel.len() != length {
        bail!(
            "pack_panel: expected a panel of {k} x {PANEL_ROWS} values, got {}",
            panel.len()
        );
    }
    // SAFETY: `rows` holds n rows of k floats and `panel` k rows of 32, of which 16 lanes are written at 0 and at 16.
    unsafe {
        pack(
            Isa::current(),
            rows.as_ptr(),
            rows.len() / k,
            k,
            panel.as_mut_ptr(),
        );
    }
    Ok(())
}

/// The product of each of the rows `(m, k)` with each row of a panel of [`pack_panel`]: `(m, 32)`. One thread's work.
///
/// Each product is summed in the order of k, with fused multiply-adds where the machine has them, so its bits don't depend on
/// what stands beside it.
///
/// # Errors
/// When a length doesn't fit.
pub fn panel_products(rows: &[f32], panel: &[f32], k: usize, out: &mut [f32]) -> Result<()> {
    if panel.len() != length(k)? || !rows.len().is_multiple_of(k) {
        bail!(
            "panel_products: expected rows of {k} values and a panel of {k} x {PANEL_ROWS}, got {} and {}",
            rows.len(),
            panel.len()
        );
    }
    let m = rows.len() / k;
    if out.len() != m * PANEL_ROWS {
        bail!(
            "panel_products: expected room for {m} x {PANEL_ROWS} products, got {}",
            out.len()
        );
    }
    // SAFETY: `rows` holds m rows of k floats, `panel` k rows of 32, `out` m rows of 32.
    unsafe {
        products(
            Isa::current(),
            rows.as_ptr(),
            m,
            k,
            panel.as_ptr(),
            out.as_mut_ptr(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut x = seed;
        (0..n)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    /// 32 times such a length is 0 in 64 bits: an empty panel would seem to hold it.
    #[test]
    fn rows_beyond_all_memory_are_refused() {
        for k in [0, 1 << 59, usize::MAX] {
            assert!(pack_panel(&[], k, &mut []).is_err());
            assert!(panel_products(&[], &[], k, &mut []).is_err());
        }
    }

    #[test]
    fn products_are_those_of_f64() {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 16, 7),
            (8, 32, 16),
            (21, 17, 33),
            (40, 31, 130),
        ] {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let mut panel = vec![f32::NAN; k * PANEL_ROWS];
            pack_panel(&b, k, &mut panel).unwrap();
            let mut out = vec![f32::NAN; m * PANEL_ROWS];
            panel_products(&a, &panel, k, &mut out).unwrap();
            for (i, row) in a.chunks_exact(k).enumerate() {
                for j in 0..PANEL_ROWS {
                    let expected: f64 = match b.get(j * k..(j + 1) * k) {
                        Some(b) => row
                            .iter()
                            .zip(b)
                            .map(|(a, b)| f64::from(*a) * f64::from(*b))
                            .sum(),
                        None => 0.,
                    };
                    let got = f64::from(out[i * PANEL_ROWS + j]);
                    assert!(
                        (got - expected).abs() < 1e-6 * (k as f64).sqrt(),
                        "{got} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_neighbours() {
        let k = 77;
        let (a, b) = (values(13 * k, 3), values(32 * k, 4));
        let product = |a: &[f32], b: &[f32]| {
            let mut panel = vec![0.; k * PANEL_ROWS];
            pack_panel(b, k, &mut panel).unwrap();
            let mut out = vec![0.; a.len() / k * PANEL_ROWS];
            panel_products(a, &panel, k, &mut out).unwrap();
            out
        };
        let all = product(&a, &b);
        for i in 0..13 {
            for j in [0, 15, 16, 31] {
                let one = product(&a[i * k..][..k], &b[j * k..][..k]);
                assert_eq!(one[0].to_bits(), all[i * PANEL_ROWS + j].to_bits());
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let mut panel = vec![0.; 4 * PANEL_ROWS];
        assert!(pack_panel(&[0.; 7], 4, &mut panel).is_err());
        assert!(pack_panel(&[0.; 33 * 4], 4, &mut panel).is_err());
        assert!(pack_panel(&[0.; 8], 4, &mut panel[1..]).is_err());
        assert!(pack_panel(&[], 0, &mut []).is_err());
        assert!(panel_products(&[0.; 8], &panel, 4, &mut [0.; 32]).is_err());
        assert!(panel_products(&[0.; 9], &panel, 4, &mut [0.; 64]).is_err());
        assert!(panel_products(&[0.; 8], &panel, 4, &mut [0.; 64]).is_ok());
    }
}
