//! Pseudo-lesions: what is put into a healthy slice for a network to take out again.

use ndarray::{Array2, ArrayView2, ArrayViewMut3, Axis, Zip};
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::filter::smooth;
use super::{Donors, PastedLesion};
use crate::{Error, Result};

/// A change of brightness of one sequence: normal, of this mean and deviation. The scale is that of slices, -1 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
}

/// Lesion-like changes of a slice: regions of joined discs with a soft border, in which every sequence becomes brighter or
/// darker by an amount of its own, with a texture, on tissue whose detail is weakened.
///
/// Lengths are in pixels of a slice of 64, and grow with the slice. One severity, drawn evenly, multiplies shifts and texture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PseudoLesion {
    /// Least and greatest number of regions.
    pub regions: (u32, u32),
    /// Least and greatest number of discs of a region.
    pub discs: (u32, u32),
    /// Range of a region's first radius.
    pub radius: (f64, f64),
    /// How far a disc may lie from the one before, in each direction.
    pub walk: f64,
    /// Range of the deviation of the Gaussian that softens the border.
    pub edge: (f64, f64),
    /// Range of the severity.
    pub severity: (f64, f64),
    /// The change of each sequence; sequences beyond the last have the last.
    pub shift: Vec<Shift>,
    /// Greatest strength of the texture.
    pub texture: f64,
    /// Greatest share of the tissue's detail that is smoothed away.
    pub flatten: f64,
    /// Deviation of the Gaussian of texture and smoothing.
    pub grain: f64,
    /// Lesions that are cut from diseased slices, in the place of a share of all these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pasted: Option<PastedLesion>,
}

impl Default for PseudoLesion {
    /// For any sequences: as likely darker as brighter.
    fn default() -> Self {
        Self {
            regions: (1, 2),
            discs: (1, 6),
            radius: (2.0, 11.0),
            walk: 6.0,
            edge: (0.3, 1.5),
            severity: (0.15, 1.0),
            shift: vec![Shift {
                mean: 0.0,
                deviation: 0.5,
            }],
            texture: 1.0,
            flatten: 0.7,
            grain: 2.0,
            pasted: None,
        }
    }
}

impl PseudoLesion {
    /// For gliomas in FLAIR, T1 and T1 with contrast agent, in this order: mostly bright, dark, dark.
    #[must_use]
    pub fn glioma() -> Self {
        Self::of_sequences(&["flair", "t1", "t1ce"].map(String::from))
    }

    /// For these sequences: as gliomas are, mostly bright in `flair` and `t2`, dark in `t1` and `t1ce`, and either in any other.
    #[must_use]
    pub fn of_sequences(names: &[String]) -> Self {
        let shift = names.iter().map(|name| {
            let (mean, deviation) = match name.as_str() {
                "flair" | "t2" => (0.25, 0.5),
                "t1" => (-0.1, 0.35),
                "t1ce" => (-0.05, 0.4),
                _ => (0., 0.5),
            };
            Shift { mean, deviation }
        });
        Self {
            shift: shift.collect(),
            ..Self::default()
        }
    }

    /// The same with up to eight small regions, bright in the sequence of this number: as the lesions of multiple sclerosis are in FLAIR.
    #[must_use]
    pub fn small_bright(mut self, sequence: usize) -> Self {
        self.regions = (1, 8);
        self.discs = (1, 3);
        self.radius = (0.5, 2.5);
        self.walk = 2.0;
        self.edge = (0.2, 0.8);
        if let Some(&last) = self.shift.last() {
            // One more than the sequence's: the last is also that of all beyond.
            let length = self.shift.len().max(sequence + 2);
            self.shift.resize(length, last);
            self.shift[sequence] = Shift {
                mean: 0.5,
                deviation: 0.3,
            };
        }
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str, expected: &str, got: String| {
            Err(Error::config(format!("PseudoLesion.{what}"), expected, got))
        };
        for (what, (low, high)) in [("regions", self.regions), ("discs", self.discs)] {
            if !(1 <= low && low <= high && high <= 100) {
                return bad(
                    what,
                    "1 <= least <= greatest <= 100",
                    format!("{low}, {high}"),
                );
            }
        }
        for (what, (low, high), most) in [
            ("radius", self.radius, 64.0),
            ("edge", self.edge, 16.0),
            ("severity", self.severity, 4.0),
        ] {
            if !(0.0 <= low && low <= high && high <= most) {
                let expected = format!("0 <= low <= high <= {most}");
                return bad(what, &expected, format!("{low}, {high}"));
            }
        }
        for (what, value, most) in [
            ("walk", self.walk, 64.0),
            ("texture", self.texture, 10.0),
            ("flatten", self.flatten, 1.0),
            ("grain", self.grain, 16.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return bad(what, &format!("0 to {most}"), value.to_string());
            }
        }
        let good = |s: &Shift| s.mean.abs() <= 2.0 && (0.0..=2.0).contains(&s.deviation);
        if self.shift.is_empty() || !self.shift.iter().all(good) {
            let expected = "one or more, means within -2 and 2, deviations 0 to 2";
            return bad("shift", expected, format!("{:?}", self.shift));
        }
        self.pasted.as_ref().map_or(Ok(()), PastedLesion::check)
    }

    /// Whether there are lesions to paste, where some are to be.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if not, or when they aren't of slices of this shape (C, H, W).
    pub fn check_donors(&self, donors: Option<&Donors>, shape: [usize; 3]) -> Result<()> {
        let what = "PseudoLesion.pasted";
        match (&self.pasted, donors) {
            (Some(_), None) => {
                let expected = "none, where no lesions were cut from diseased slices";
                Err(Error::config(what, expected, "some"))
            }
            (Some(_), Some(donors)) if donors.shape() != shape => {
                let expected = format!("lesions of slices of {shape:?}");
                Err(Error::config(
                    what,
                    expected,
                    format!("{:?}", donors.shape()),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Puts a lesion into `image` `(C, H, W)` in `[-1, 1]`, inside `head` `(H, W)`: one that is drawn, or in the share of
    /// [`PastedLesion`] one of the donors'. Says where it lies: weights from 0 to 1, `(H, W)`.
    ///
    /// # Errors
    /// As [`check`](Self::check) and [`check_donors`](Self::check_donors); [`Error::Shape`] when the head has another size.
    pub fn put_into<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        image: ArrayViewMut3<f32>,
        head: ArrayView2<bool>,
        donors: Option<&Donors>,
    ) -> Result<Array2<f32>> {
        let (c, h, w) = image.dim();
        self.check_donors(donors, [c, h, w])?;
        if let (Some(pasted), Some(donors)) = (&self.pasted, donors)
            && rng.random::<f64>() < pasted.share
        {
            return donors.paste(pasted, rng, image, head);
        }
        let region = self.draw_region(rng, head)?;
        self.apply(rng, image, region.view())?;
        Ok(region)
    }

    /// Where a pseudo-lesion lies: weights from 0 to 1 `(H, W)`, 0 outside the head `(H, W)`. All 0 for an empty head.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn draw_region<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        head: ArrayView2<bool>,
    ) -> Result<Array2<f32>> {
        self.check()?;
        let (h, w) = head.dim();
        let scale = h.max(w) as f64 / 64.0;
        let inside: Vec<(usize, usize)> = head
            .indexed_iter()
            .filter_map(|(at, &head)| head.then_some(at))
            .collect();
        let mut region = Array2::zeros((h, w));
        if inside.is_empty() {
            return Ok(region);
        }
        for _ in 0..between(rng, self.regions) {
            let (y, x) = inside[rng.random_range(0..inside.len())];
            let (mut y, mut x) = (y as f64, x as f64);
            let mut radius = scale * rng.random_range(self.radius.0..=self.radius.1);
            for _ in 0..between(rng, self.discs) {
                disc(&mut region, (y, x), radius, rng.random_range(0.7..1.4));
                let walk = scale * self.walk;
                y += rng.random_range(-walk..=walk);
                x += rng.random_range(-walk..=walk);
                let most = scale * self.radius.1;
                radius = (radius * rng.random_range(0.6..1.3)).clamp((scale * 1.5).min(most), most);
            }
        }
        let edge = scale * rng.random_range(self.edge.0..=self.edge.1);
        let mut region = smooth(&region, edge);
        Zip::from(&mut region).and(head).for_each(|v, &head| {
            *v = if head { v.clamp(0.0, 1.0) } else { 0.0 };
        });
        Ok(region)
    }

    /// Changes `image` `(C, H, W)` in `[-1, 1]` where `region` `(H, W)` isn't 0, and keeps it in that range.
    ///
    /// # Errors
    /// [`Error::Shape`] when the region has another size; as [`check`](Self::check).
    pub fn apply<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        mut image: ArrayViewMut3<f32>,
        region: ArrayView2<f32>,
    ) -> Result<()> {
        self.check()?;
        let (channels, h, w) = image.dim();
        if region.dim() != (h, w) {
            let got = [region.dim().0, region.dim().1];
            return Err(Error::shape("region", format!("[{h}, {w}]"), &got));
        }
        let grain = self.grain * h.max(w) as f64 / 64.0;
        let severity = rng.random_range(self.severity.0..=self.severity.1) as f32;
        let texture = (self.texture * rng.random::<f64>()) as f32;
        let flatten = (self.flatten * rng.random::<f64>()) as f32;
        let last = self.shift.len().saturating_sub(1);
        for c in 0..channels {
            let of = self.shift.get(c.min(last)).copied().unwrap_or(Shift {
                mean: 0.0,
                deviation: 0.0,
            });
            let normal: f64 = rng.sample(StandardNormal);
            let shift = (of.mean + of.deviation * normal) as f32;
            let noise = Array2::from_shape_simple_fn((h, w), || rng.sample(StandardNormal));
            let noise = smooth(&noise, grain);
            let mut plane = image.index_axis_mut(Axis(0), c);
            let flat = smooth(&plane.to_owned(), grain);
            Zip::from(&mut plane)
                .and(region)
                .and(&flat)
                .and(&noise)
                .for_each(|v, &m, &flat, &noise| {
                    if m > 0.0 {
                        let tissue = *v + flatten * m * (flat - *v);
                        let change = severity * m * (shift + texture * noise);
                        *v = (tissue + change).clamp(-1.0, 1.0);
                    }
                });
        }
        Ok(())
    }
}

/// Sets a disc, stretched along x by `1 / squeeze`, to 1.
fn disc(region: &mut Array2<f32>, (y, x): (f64, f64), radius: f64, squeeze: f64) {
    let (h, w) = region.dim();
    let reach = (radius / squeeze).max(radius).ceil();
    let span = |at: f64, n: usize| {
        let first = (at - reach).floor().max(0.0) as usize;
        let last = (at + reach).ceil().min(n as f64 - 1.0);
        first..if last < 0.0 { 0 } else { last as usize + 1 }
    };
    for i in span(y, h) {
        for j in span(x, w) {
            let (dy, dx) = (i as f64 - y, (j as f64 - x) * squeeze);
            if dy * dy + dx * dx < radius * radius {
                region[[i, j]] = 1.0;
            }
        }
    }
}

fn between<R: Rng + ?Sized>(rng: &mut R, (low, high): (u32, u32)) -> u32 {
    rng.random_range(low..=high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn head() -> Array2<bool> {
        Array2::from_shape_fn((64, 64), |(y, x)| {
            (y as f64 - 31.5).hypot(x as f64 - 31.5) < 26.0
        })
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        for lesion in [
            PseudoLesion {
                radius: (5.0, 3.0),
                ..PseudoLesion::default()
            },
            PseudoLesion {
                severity: (f64::NAN, 1.0),
                ..PseudoLesion::default()
            },
            PseudoLesion {
                walk: -1.0,
                ..PseudoLesion::default()
            },
        ] {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            assert!(lesion.draw_region(&mut rng, head().view()).is_err());
            let mut image = Array3::zeros((1, 64, 64));
            let region = Array2::ones((64, 64));
            let applied = lesion.apply(&mut rng, image.view_mut(), region.view());
            assert!(applied.is_err());
        }
    }

    /// A few pixels each, and brighter in their own sequence, whatever the others do.
    #[test]
    fn small_bright_lesions_are_small_and_bright() {
        for sequence in [0, 2] {
            let lesion = PseudoLesion::default().small_bright(sequence);
            lesion.check().unwrap();
            let head = head();
            let (mut most, mut change) = (0.0_f32, [0.0; 3]);
            for seed in 0..200 {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let region = lesion.draw_region(&mut rng, head.view()).unwrap();
                most = most.max(region.sum());
                let before = Array3::from_elem((3, 64, 64), -0.2);
                let mut image = before.clone();
                lesion
                    .apply(&mut rng, image.view_mut(), region.view())
                    .unwrap();
                for (c, change) in change.iter_mut().enumerate() {
                    let of = (&image - &before).index_axis(Axis(0), c).sum();
                    *change += of / region.sum() / 200.0;
                }
            }
            // Eight regions of three discs of 2.5 pixels.
            assert!(most < 24.0 * 3.2 * 3.2 * 3.15, "{most}");
            for (c, change) in change.into_iter().enumerate() {
                assert_eq!(change > 0.1, c == sequence, "{c}: {change}");
            }
        }
    }

    #[test]
    fn only_the_region_changes_and_it_lies_in_the_head() {
        let lesion = PseudoLesion::glioma();
        lesion.check().unwrap();
        let head = head();
        let before = Array3::from_shape_fn((3, 64, 64), |(c, y, x)| {
            0.5 * ((c + y) as f32 * 0.3).sin() * (x as f32 * 0.2).cos()
        });
        let (mut covered, mut brighter, mut darker) = (0.0, 0, 0);
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let region = lesion.draw_region(&mut rng, head.view()).unwrap();
            assert!(region.iter().any(|&m| m > 0.5), "{seed}");
            let mut image = before.clone();
            lesion
                .apply(&mut rng, image.view_mut(), region.view())
                .unwrap();
            for ((c, y, x), &v) in image.indexed_iter() {
                assert!((-1.0..=1.0).contains(&v));
                assert!(head[[y, x]] || region[[y, x]] == 0.0);
                assert!(region[[y, x]] > 0.0 || v == before[[c, y, x]]);
            }
            covered += region.sum() / 200.0;
            let change = (&image - &before).index_axis(Axis(0), 0).sum();
            brighter += usize::from(change > 0.0);
            darker += usize::from(change < 0.0);
        }
        // FLAIR is brighter in 69 % of the draws: a normal of mean 0.25 and deviation 0.5.
        assert!((120..160).contains(&brighter), "{brighter} and {darker}");
        assert!((100.0..800.0).contains(&covered), "{covered} px");
    }

    #[test]
    fn gliomas_have_the_shifts_of_their_sequences() {
        let shift = |mean, deviation| Shift { mean, deviation };
        let glioma = PseudoLesion {
            shift: vec![shift(0.25, 0.5), shift(-0.1, 0.35), shift(-0.05, 0.4)],
            ..PseudoLesion::default()
        };
        assert_eq!(PseudoLesion::glioma(), glioma);
        let other = PseudoLesion::of_sequences(&["adc".to_string()]);
        assert_eq!(other, PseudoLesion::default());
    }

    #[test]
    fn without_spread_the_change_is_the_shift() {
        let lesion = PseudoLesion {
            severity: (0.5, 0.5),
            shift: vec![
                Shift {
                    mean: 0.4,
                    deviation: 0.0,
                },
                Shift {
                    mean: -0.2,
                    deviation: 0.0,
                },
            ],
            texture: 0.0,
            flatten: 0.0,
            ..PseudoLesion::default()
        };
        let mut image = Array3::zeros((3, 8, 8));
        let region = Array2::from_shape_fn((8, 8), |(y, _)| if y < 4 { 1.0 } else { 0.25 });
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        lesion
            .apply(&mut rng, image.view_mut(), region.view())
            .unwrap();
        for ((c, y, _), &v) in image.indexed_iter() {
            let expected = [0.2, -0.1, -0.1][c] * if y < 4 { 1.0 } else { 0.25 };
            assert!((v - expected as f32).abs() < 1e-6);
        }
    }

    #[test]
    fn an_empty_head_has_no_lesion_and_a_draw_is_its_seeds() {
        let lesion = PseudoLesion::default();
        let empty = Array2::from_elem((9, 12), false);
        let draw = |seed, head: &Array2<bool>| {
            lesion
                .draw_region(&mut ChaCha8Rng::seed_from_u64(seed), head.view())
                .unwrap()
        };
        assert!(draw(1, &empty).iter().all(|&m| m == 0.0));
        assert_eq!(draw(2, &head()), draw(2, &head()));
        assert_ne!(draw(2, &head()), draw(3, &head()));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let base = PseudoLesion::default();
        for (lesion, name) in [
            (
                PseudoLesion {
                    regions: (0, 1),
                    ..base.clone()
                },
                "regions",
            ),
            (
                PseudoLesion {
                    discs: (3, 2),
                    ..base.clone()
                },
                "discs",
            ),
            (
                PseudoLesion {
                    radius: (2.0, f64::NAN),
                    ..base.clone()
                },
                "radius",
            ),
            (
                PseudoLesion {
                    severity: (-0.1, 1.0),
                    ..base.clone()
                },
                "severity",
            ),
            (
                PseudoLesion {
                    flatten: 1.5,
                    ..base.clone()
                },
                "flatten",
            ),
            (
                PseudoLesion {
                    shift: vec![],
                    ..base.clone()
                },
                "shift",
            ),
        ] {
            let error = lesion.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
