//! Smoothing that another image guides.

use std::collections::HashSet;
use std::f32::consts::LOG2_E;

use candle_core::{Result, bail};
use fndm_runtime::parallel;

use crate::memory::{Input, Shared, filled};
use crate::simd::{Isa, Simd, kernel};

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
/// guide. A weight is `exp(-|place|^2 / (2 space^2) - |difference|^2 / (2 C range^2))`, times the weight of the pair of slices.
///
/// `map` and `inside` are `(N, H, W)`, `guide` is `(N, C, H, W)`, all finite. Pixels that aren't inside are neither looked at nor written: they are 0.
/// `pairs` has the slices that look at each other, with their weights; of a slice with itself too. One that is in no pair is 0. A slice's
/// sums are taken in the order of its pairs. Neighbours in it that share no slice are worked on side by side.
///
/// # Errors
/// When a length doesn't fit, a slice isn't there, a pair comes twice, or the filter's values are out of their ranges.
///
/// ```
/// use fndm_kernels::{JointBilateral, joint_bilateral};
///
/// // Two tissues; what the map says of one of them doesn't flow into the other.
/// let guide = [0., 0., 0., 1., 1., 1.];
/// let map = [0.9, 0.6, 0.9, 0.2, 0.0, 0.1];
/// let filter = JointBilateral { space: 2., radius: 4, step: 1, range: 0.1 };
/// let smooth = joint_bilateral(&map, &guide, &[true; 6], [1, 1, 1, 6], &[(0, 0, 1.)], filter)?;
/// assert!(smooth[2] > 0.75 && smooth[3] < 0.15);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn joint_bilateral(
    map: &[f32],
    guide: &[f32],
    inside: &[bool],
    [n, c, h, w]: [usize; 4],
    pairs: &[(usize, usize, f32)],
    filter: JointBilateral,
) -> Result<Vec<f32>> {
    let plane = h * w;
    let fits = map.len() == n * plane && inside.len() == map.len();
    if !fits || guide.len() != n * c * plane {
        bail!(
            "joint_bilateral: expected maps and insides for {n} x {h} x {w} and a guide of {c} channels, got {}, {} and {}",
            map.len(),
            inside.len(),
            guide.len()
        );
    }
    let positive = |v: f32| v > 0. && v.is_finite();
    if !positive(filter.space) || !positive(filter.range) || filter.step == 0 {
        bail!(
            "joint_bilateral: expected deviations above 0 and a step of 1 or more, got {filter:?}"
        );
    }
    let mut once = HashSet::new();
    for &(a, b, weight) in pairs {
        if a >= n || b >= n || !positive(weight) || !once.insert((a.min(b), a.max(b))) {
            bail!(
                "joint_bilateral: expected pairs of slices below {n}, each once, with weights above 0, got {a} and {b} with {weight}"
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
        // A vector may start at the last pixel. Rows of an odd number of cache lines don't meet in the same places of a cache.
        wide: ((w + LANES + 2 * radius).div_ceil(LANES) | 1) * LANES,
        space: -0.5 * LOG2_E / (filter.space * filter.space),
        range: -0.5 * LOG2_E / (c.max(1) as f32 * filter.range * filter.range),
    };
    // Of deviations that are too small an infinity, which makes NaN of a distance of 0.
    if !(s.space.is_finite() && s.range.is_finite()) {
        bail!(
            "joint_bilateral: expected deviations whose squares are numbers of f32, got {filter:?}"
        );
    }
    let isa = Isa::current();
    let values = padded(map, guide, inside, n, &s);
    let values = Input(&values);
    let extents: Vec<Extents> = (0..n).map(|k| Extents::new(inside, k, &s)).collect();
    let mut sums = vec![0f32; n * s.sums()];
    let sums = Shared::new(&mut sums);
    // Weights are measured by the greatest: none is above 1.
    let greatest = pairs.iter().fold(0f32, |most, pair| most.max(pair.2));
    for round in rounds(pairs, n) {
        parallel(round.len(), |at| {
            let (a, b, weight) = round[at];
            let places = s.places(weight / greatest);
            // SAFETY: no other pair of this round has one of the two slices; the lengths were checked, and the padded slices and the
            // extents are as the kernel wants them.
            unsafe {
                let of = |slice| Part {
                    values: values.at(slice * s.slice(), s.slice()),
                    sums: sums.at(slice * s.sums(), s.sums()),
                    extents: &extents[slice],
                };
                pair(isa, &of(a), &of(b), a == b, &places, &s);
            }
        });
    }
    // SAFETY: a task writes its slice, and reads sums that nobody writes any more.
    Ok(unsafe {
        filled(n * plane, |y| {
            parallel(n, |slice| {
                let sums =
                    std::slice::from_raw_parts(sums.at(slice * s.sums(), s.sums()), s.sums());
                let y = y.at(slice * plane, plane);
                for (at, &inside) in inside[slice * plane..][..plane].iter().enumerate() {
                    let place = 2 * s.row(at / w) + s.radius + at % w;
                    let (total, weight) = (sums[place], sums[s.wide + place]);
                    // Without weight is who is in no pair, or has nothing alike in the others.
                    *y.add(at) = if inside && weight > 0. {
                        total / weight
                    } else {
                        0.
                    };
                }
            });
        })
    })
}

/// The pairs in rounds, in none of which a slice comes twice: a pair adds to the sums of both of its slices. Each slice meets its pairs in
/// the order given, so that its sums have the same bits whatever other slices are there.
fn rounds(pairs: &[(usize, usize, f32)], n: usize) -> Vec<Vec<(usize, usize, f32)>> {
    // For each slice the first round after those that it is in.
    let mut next = vec![0usize; n];
    let mut rounds: Vec<Vec<_>> = Vec::new();
    for &(a, b, weight) in pairs {
        let round = next[a].max(next[b]);
        (next[a], next[b]) = (round + 1, round + 1);
        if round == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[round].push((a, b, weight));
    }
    rounds
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
    /// What squared distances and squared differences are multiplied by in two's logarithm of a weight.
    space: f32,
    range: f32,
}

impl Sizes {
    /// Pixels of the window in a direction.
    fn side(&self) -> usize {
        2 * self.radius + 1
    }

    /// Where a padded row begins, of one value a pixel.
    fn row(&self, y: usize) -> usize {
        y * self.wide
    }

    /// Values of a pixel: its inside, its map, and the guide's channels.
    fn values(&self) -> usize {
        2 + self.c
    }

    /// Floats of a padded slice: of each row all values one after another, so that a window lies in few pages.
    fn slice(&self) -> usize {
        self.values() * self.row(self.h)
    }

    /// Floats of a slice's sums, laid out alike: weighted values, and weights.
    fn sums(&self) -> usize {
        2 * self.row(self.h)
    }

    /// Two's logarithm of the weight of each place of the window, `(dx, dy)`.
    fn places(&self, of_slice: f32) -> Vec<f32> {
        let off = |d: usize| (d as f32 - self.radius as f32).powi(2);
        let places = (0..self.side()).flat_map(|dx| {
            (0..self.side()).map(move |dy| self.space * (off(dy) + off(dx)) + of_slice.log2())
        });
        places.collect()
    }
}

/// Every slice with zeros to both sides: inside (0 or 1), the map inside, the guide.
fn padded(map: &[f32], guide: &[f32], inside: &[bool], n: usize, s: &Sizes) -> Vec<f32> {
    let plane = s.h * s.w;
    let mut all = vec![0f32; n * s.slice()];
    for (slice, out) in all.chunks_exact_mut(s.slice()).enumerate() {
        let inside = &inside[slice * plane..][..plane];
        for which in 0..s.values() {
            let values = match which {
                0 | 1 => &map[slice * plane..][..plane],
                _ => &guide[(slice * s.c + which - 2) * plane..][..plane],
            };
            for y in 0..s.h {
                let row = s.values() * s.row(y) + s.row(which) + s.radius;
                let row = &mut out[row..][..s.w];
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

/// Where a slice has pixels inside: what lies elsewhere is passed over.
struct Extents {
    /// Of each row the first and the last, or nothing.
    rows: Vec<Option<(usize, usize)>>,
    /// Of each vector, by the padded column where it starts, its first row and the one after its last; the two are equal where there is none.
    columns: Vec<(usize, usize)>,
}

impl Extents {
    fn new(inside: &[bool], slice: usize, s: &Sizes) -> Self {
        let plane = &inside[slice * s.h * s.w..][..s.h * s.w];
        let rows = (0..s.h).map(|y| {
            let row = &plane[y * s.w..][..s.w];
            let first = row.iter().position(|&inside| inside)?;
            Some((first, row.iter().rposition(|&inside| inside)?))
        });
        let column = |x: usize| {
            let mut rows = (0..s.h).filter(|y| plane[y * s.w + x]);
            let first = rows.next()?;
            Some((first, rows.next_back().unwrap_or(first) + 1))
        };
        let pixels: Vec<Option<(usize, usize)>> = (0..s.w).map(column).collect();
        let columns = (0..s.w + 2 * s.radius).map(|start| {
            let first = start.saturating_sub(s.radius).min(s.w);
            let end = (start + LANES).saturating_sub(s.radius).min(s.w);
            let lanes = pixels[first..end.max(first)].iter().flatten();
            lanes
                .copied()
                .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
                .unwrap_or_default()
        });
        Self {
            rows: rows.collect(),
            columns: columns.collect(),
        }
    }
}

/// A slice as the kernel sees it.
struct Part<'a> {
    /// It with zeros to both sides.
    values: *const f32,
    sums: *mut f32,
    extents: &'a Extents,
}

kernel! {
    /// What two slices, or one with itself, add to the sums of both. A weight is reckoned once and counts for both pixels.
    unsafe fn pair[S](a: &Part<'_>, b: &Part<'_>, same: bool, places: &[f32], s: &Sizes) {
        match s.c {
            1 => rows::<S, 1>(a, b, same, places, s),
            2 => rows::<S, 2>(a, b, same, places, s),
            3 => rows::<S, 3>(a, b, same, places, s),
            4 => rows::<S, 4>(a, b, same, places, s),
            _ => rows::<S, ANY>(a, b, same, places, s),
        }
    }
}

/// In place of a number of channels: the one that is told.
const ANY: usize = usize::MAX;

/// As [`pair`], for `C` channels.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn rows<S: Simd, const C: usize>(
    a: &Part<'_>,
    b: &Part<'_>,
    same: bool,
    places: &[f32],
    s: &Sizes,
) {
    let s = *s;
    for (row, extent) in a.extents.rows.iter().enumerate() {
        let Some((first, last)) = *extent else {
            continue;
        };
        for x in (first..=last).step_by(LANES) {
            // SAFETY: the vectors of both start at a pixel that isn't among the last `LANES` of its padded row.
            unsafe { vector::<S, C>(a, b, same, places, &s, row, x) };
        }
    }
}

/// As [`pair`], for the pixels of a vector.
///
/// # Safety
/// As there; `x` lies in the slice.
#[inline(always)]
unsafe fn vector<S: Simd, const C: usize>(
    a: &Part<'_>,
    b: &Part<'_>,
    same: bool,
    places: &[f32],
    s: &Sizes,
    row: usize,
    x: usize,
) {
    let channels = if C == ANY { s.c } else { C };
    // From one value of a pixel to the next.
    let next = s.wide;
    // SAFETY: the caller's contract; the rows of b that are looked at lie within it.
    unsafe {
        let (own, column) = (s.row(row), s.radius + x);
        let values = a.values.add(s.values() * own + column);
        let inside = S::load(values);
        let value = S::load(values.add(next));
        let guide = values.add(2 * next);
        let range = S::splat(s.range);
        let (mut num, mut den) = (S::zero(), S::zero());
        // Columns outside, rows inside: what is added to b then never meets what was just stored there.
        for dx in (0..s.side()).step_by(s.step) {
            let (top, bottom) = b.extents.columns[x + dx];
            // Of a slice with itself half of the window: the other half is the same pairs.
            let least = match same {
                true if dx > s.radius => s.radius,
                true => s.radius + s.step,
                false => 0,
            };
            // Places of the window whose rows lie in b and have a pixel inside.
            let first = (top + s.radius).saturating_sub(row).max(least);
            let end = (bottom + s.radius).saturating_sub(row).min(s.side());
            for dy in (first.next_multiple_of(s.step)..end).step_by(s.step) {
                let (at, column) = (s.row(row + dy - s.radius), x + dx);
                let src = b.values.add(s.values() * at + column);
                let other = src.add(2 * next);
                let mut square = S::zero();
                for c in 0..channels {
                    let difference =
                        S::sub(S::load(other.add(c * next)), S::load(guide.add(c * next)));
                    square = match c {
                        0 => S::mul(difference, difference),
                        _ => S::fma(difference, difference, square),
                    };
                }
                let place = S::splat(*places.get_unchecked(dx * s.side() + dy));
                let w = S::exp2(S::fma(square, range, place));
                den = S::fma(w, S::load(src), den);
                num = S::fma(w, S::load(src.add(next)), num);
                let total = b.sums.add(2 * at + column);
                let weight = total.add(next);
                S::store(total, S::fma(w, value, S::load(total)));
                S::store(weight, S::fma(w, inside, S::load(weight)));
            }
        }
        if same {
            // With itself, a pixel counts once.
            let w = S::exp2(S::splat(places[s.radius * s.side() + s.radius]));
            den = S::fma(w, inside, den);
            num = S::fma(w, value, num);
        }
        let total = a.sums.add(2 * own + column);
        let weight = total.add(next);
        S::store(total, S::add(num, S::load(total)));
        S::store(weight, S::add(den, S::load(weight)));
    }
}
