//! Smoothing that another image guides.

use candle_core::{Result, bail};
use fndm_runtime::parallel;

use crate::memory::{Input, Scratch, filled};
use crate::simd::{Isa, kernel};

/// Pixels side by side.
const LANES: usize = 16;

/// How far a joint bilateral filter looks, and what it takes for alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JointBilateral {
    /// Deviation in pixels of the Gaussian over places, above 0.
    pub space: f32,
    /// Pixels to each side that are looked at.
    pub radius: usize,
    /// Of these only every so many-th in both directions, 1 or more: a wide window then takes the time of a narrow one.
    pub step: usize,
    /// Deviation of the Gaussian over differences of the guide, above 0: the root of their mean square over its channels.
    pub range: f32,
}

/// The joint bilateral filter (Petschnigg et al. 2004; Kopf et al. 2007): the mean of a map's pixels near a pixel that look alike in the
/// guide. A weight is `exp(-|place|^2 / (2 space^2) - |difference|^2 / (2 C range^2))`, times the weight of the slice.
///
/// `map` and `inside` are `(N, H, W)`, `guide` is `(N, C, H, W)`, all finite. Pixels that aren't inside are neither looked at nor written: they are 0.
/// `seen` has for each slice the slices that it looks at, with their weights: itself with 1, and those beside it. One that looks at none is 0.
///
/// # Errors
/// When a length doesn't fit, a slice isn't there, or the filter's values are out of their ranges.
///
/// ```
/// use fndm_kernels::{JointBilateral, joint_bilateral};
///
/// // Two tissues; what the map says of one of them doesn't flow into the other.
/// let guide = [0., 0., 0., 1., 1., 1.];
/// let map = [0.9, 0.6, 0.9, 0.2, 0.0, 0.1];
/// let filter = JointBilateral { space: 2., radius: 4, step: 1, range: 0.1 };
/// let smooth = joint_bilateral(&map, &guide, &[true; 6], [1, 1, 1, 6], &[vec![(0, 1.)]], filter)?;
/// assert!(smooth[2] > 0.75 && smooth[3] < 0.15);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn joint_bilateral(
    map: &[f32],
    guide: &[f32],
    inside: &[bool],
    [n, c, h, w]: [usize; 4],
    seen: &[Vec<(usize, f32)>],
    filter: JointBilateral,
) -> Result<Vec<f32>> {
    let plane = h * w;
    let fits = map.len() == n * plane && inside.len() == map.len() && seen.len() == n;
    if !fits || guide.len() != n * c * plane {
        bail!(
            "joint_bilateral: expected maps, insides and slices to look at for {n} x {h} x {w} and a guide of {c} channels, got {}, {}, {} and {}",
            map.len(),
            inside.len(),
            seen.len(),
            guide.len()
        );
    }
    let positive = |v: f32| v > 0. && v.is_finite();
    if !positive(filter.space) || !positive(filter.range) || filter.step == 0 {
        bail!(
            "joint_bilateral: expected deviations above 0 and a step of 1 or more, got {filter:?}"
        );
    }
    for &(slice, weight) in seen.iter().flatten() {
        if slice >= n || !positive(weight) {
            bail!(
                "joint_bilateral: expected slices below {n} with weights above 0, got {slice} with {weight}"
            );
        }
    }
    if map.is_empty() {
        return Ok(Vec::new());
    }
    // No pixel is farther. The window's middle is one of its pixels.
    let radius = filter.radius.min(h.max(w)) / filter.step * filter.step;
    let s = Sizes {
        c,
        h,
        w,
        radius,
        step: filter.step,
        wide: w.next_multiple_of(LANES) + 2 * radius,
        space: -0.5 / (filter.space * filter.space),
        range: -0.5 / (c.max(1) as f32 * filter.range * filter.range),
    };
    // Of deviations that are too small an infinity, which makes NaN of a distance of 0.
    if !(s.space.is_finite() && s.range.is_finite()) {
        bail!(
            "joint_bilateral: expected deviations whose squares are numbers of f32, got {filter:?}"
        );
    }
    let isa = Isa::current();
    let planes = padded(map, guide, inside, n, &s);
    let planes = Input(&planes);
    // SAFETY: a task writes its slice; the lengths were checked, and the padded planes are as the kernel wants them.
    Ok(unsafe {
        filled(n * plane, |y| {
            parallel(n, |slice| {
                let sums = Scratch::new(2 * s.w.next_multiple_of(LANES));
                slice_of(
                    isa,
                    planes.all(),
                    &s,
                    slice,
                    &seen[slice],
                    sums.ptr(),
                    y.all(),
                );
            });
        })
    })
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    c: usize,
    h: usize,
    w: usize,
    radius: usize,
    step: usize,
    /// Floats of a padded row.
    wide: usize,
    /// What squared distances and squared differences are multiplied by.
    space: f32,
    range: f32,
}

impl Sizes {
    /// Floats of a padded plane.
    fn plane(&self) -> usize {
        (self.h + 2 * self.radius) * self.wide
    }

    /// Floats of a slice: its inside, its map, and the guide's channels.
    fn slice(&self) -> usize {
        (2 + self.c) * self.plane()
    }
}

/// Every slice's planes with zeros around: inside (0 or 1), the map inside, the guide.
fn padded(map: &[f32], guide: &[f32], inside: &[bool], n: usize, s: &Sizes) -> Vec<f32> {
    let plane = s.h * s.w;
    let mut all = vec![0f32; n * s.slice()];
    for (slice, out) in all.chunks_exact_mut(s.slice()).enumerate() {
        let inside = &inside[slice * plane..][..plane];
        for (which, out) in out.chunks_exact_mut(s.plane()).enumerate() {
            let values = match which {
                0 | 1 => &map[slice * plane..][..plane],
                _ => &guide[(slice * s.c + which - 2) * plane..][..plane],
            };
            for y in 0..s.h {
                let row = &mut out[(y + s.radius) * s.wide + s.radius..][..s.w];
                let pixels = values[y * s.w..].iter().zip(&inside[y * s.w..]);
                for (out, (&value, &inside)) in row.iter_mut().zip(pixels) {
                    *out = match (which, inside) {
                        (_, false) => 0.,
                        (0, true) => 1.,
                        _ => value,
                    };
                }
            }
        }
    }
    all
}

kernel! {
    /// A slice of the result. `sums`: two rows of whole vectors.
    unsafe fn slice_of[S](
        planes: *const f32, s: &Sizes, slice: usize, seen: &[(usize, f32)], sums: *mut f32, y: *mut f32,
    ) {
        let s = *s;
        let (side, plane) = (2 * s.radius + 1, s.plane());
        let vectors = s.w.next_multiple_of(LANES);
        let (total, weight) = (sums, sums.add(vectors));
        let range = S::splat(s.range);
        for row in 0..s.h {
            let inside = planes.add(slice * s.slice() + (row + s.radius) * s.wide + s.radius);
            let inside = std::slice::from_raw_parts(inside, s.w);
            let out = y.add((slice * s.h + row) * s.w);
            for (at, lanes) in inside.chunks(LANES).enumerate() {
                let at = at * LANES;
                let (mut num, mut den) = (S::zero(), S::zero());
                if lanes.contains(&1.) {
                    let own = planes.add(slice * s.slice() + 2 * plane + (row + s.radius) * s.wide + s.radius + at);
                    for &(other, of_slice) in seen {
                        let first = planes.add(other * s.slice() + row * s.wide + at);
                        let of_slice = of_slice.ln();
                        for dy in (0..side).step_by(s.step) {
                            for dx in (0..side).step_by(s.step) {
                                let src = first.add(dy * s.wide + dx);
                                let mut square = S::zero();
                                for c in 0..s.c {
                                    let difference = S::sub(S::load(src.add((2 + c) * plane)), S::load(own.add(c * plane)));
                                    square = S::fma(difference, difference, square);
                                }
                                let (y, x) = (dy as f32 - s.radius as f32, dx as f32 - s.radius as f32);
                                let of_place = S::splat(s.space * (y * y + x * x) + of_slice);
                                let w = S::exp(S::fma(square, range, of_place));
                                den = S::fma(w, S::load(src), den);
                                num = S::fma(w, S::load(src.add(plane)), num);
                            }
                        }
                    }
                }
                S::store(total.add(at), num);
                S::store(weight.add(at), den);
            }
            for (x, &inside) in inside.iter().enumerate() {
                // Without weight is who looks at no slice, or at others with nothing alike.
                let weight = *weight.add(x);
                *out.add(x) = if inside > 0. && weight > 0. { *total.add(x) / weight } else { 0. };
            }
        }
    }
}
