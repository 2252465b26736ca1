//! Measuring one patient.

use ndarray::{Array3, Axis};

use super::depth::shells;
use super::feature::{Aspect, Feature, Scale};
use super::intensity::{Spread, intensities};
use super::picture::{HeadBox, head_box, picture};
use super::skull::dip;
use crate::affine::Orientation;
use crate::preprocess::inside;
use crate::{Error, Patient, Plane, Preprocess, Result, Turned};

/// What was measured of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceProfile {
    /// Its name.
    pub name: String,
    /// Numbers of its own.
    pub features: Vec<Feature>,
    /// A coarse picture of the head, (z, y, x) in the axes of the slices; 0 for the background.
    pub picture: Array3<f64>,
}

/// What was measured of one patient.
#[derive(Debug, Clone, PartialEq)]
pub struct PatientProfile {
    /// The patient.
    pub patient: String,
    /// Which way it is cut.
    pub plane: Plane,
    /// Letters of the directions in which the file's axes grow.
    pub axes: String,
    /// Slices that the model would look at, and all.
    pub slices: [usize; 2],
    /// Numbers that belong to no sequence.
    pub features: Vec<Feature>,
    /// Each sequence.
    pub sequences: Vec<SequenceProfile>,
    /// How far the brightness dips between scalp and brain; none where the head's border isn't seen.
    pub scalp: Option<f64>,
    /// Pairs of sequences that are one image: names, and their correlation in the head.
    pub copies: Vec<(String, String, f64)>,
}

/// Sequences that correlate by more than this in the head are one image.
const SAME_IMAGE: f64 = 0.9995;

/// Names of the axes, for words.
pub(super) const AXES: [&str; 3] = ["slices", "rows", "columns"];

/// Beginnings of the names of features that are in millimetres; the axis follows.
pub(super) const BETWEEN: &str = "mm between ";
pub(super) const OVER_ALL: &str = "mm over all ";
pub(super) const HEAD_OVER: &str = "mm of head over ";

impl PatientProfile {
    /// Measures a patient, as the networks would see it after `preprocess`.
    ///
    /// # Errors
    /// Those of [`Preprocess::apply`]; a volume without a head.
    pub fn of(patient: &Patient, preprocess: &Preprocess) -> Result<Self> {
        Self::of_turned(&preprocess.turn(patient)?)
    }

    /// Measures a patient that was turned to the axes of the slices, by its head that was found then.
    ///
    /// # Errors
    /// For a volume without a head.
    pub fn of_turned(turned: &Turned<'_>) -> Result<Self> {
        let within = head_box(&turned.head).ok_or_else(|| Error::NoSlices {
            patient: turned.id.clone(),
            reason: "no head is found".into(),
        })?;
        let shells = shells(&turned.head);
        let mut features = geometry(turned, within);
        features.extend(heights(&turned.head, within));
        let mut moments = Vec::new();
        let mut scales = Vec::new();
        let mut sequences = Vec::new();
        for (n, name) in turned.names.iter().enumerate() {
            let stack = turned.stacks.whole(n)?;
            let stack = stack.view();
            let values = inside(&stack, &turned.head);
            moments.push(Moments::of(&values));
            let scale = Spread::of(&mut values.clone());
            scales.push(scale);
            sequences.push(SequenceProfile {
                name: name.clone(),
                features: intensities(name, &stack, values, &shells),
                picture: picture(&stack, &turned.head, within, |v| scale.map(v)),
            });
        }
        let axes = Orientation::of(turned.geometry.affine()).codes();
        Ok(Self {
            patient: turned.id.clone(),
            plane: turned.plane(),
            axes: axes.iter().collect(),
            slices: [turned.used.len(), turned.head.dim().0],
            features,
            scalp: dip(&turned.stacks, &scales, &turned.head, turned.spacing)?,
            copies: copies(turned, &moments)?,
            sequences,
        })
    }

    /// All numbers, those of the patient first.
    pub fn all_features(&self) -> impl Iterator<Item = &Feature> {
        let own = self.sequences.iter().flat_map(|s| &s.features);
        self.features.iter().chain(own)
    }
}

pub(super) fn plain(
    aspect: Aspect,
    name: impl Into<String>,
    value: f64,
    tolerance: f64,
) -> Feature {
    Feature {
        aspect,
        sequence: None,
        name: name.into(),
        value,
        scale: Scale::Difference,
        tolerance,
    }
}

/// A feature whose values are compared by ratio; up to `factor` never counts.
fn ratio(aspect: Aspect, name: impl Into<String>, value: f64, factor: f64) -> Feature {
    Feature {
        scale: Scale::Ratio,
        tolerance: factor.ln(),
        ..plain(aspect, name, value, 0.)
    }
}

fn geometry(turned: &Turned<'_>, within: HeadBox) -> Vec<Feature> {
    let shape = [0, 1, 2].map(|axis| turned.head.len_of(Axis(axis)));
    let mut out = Vec::new();
    for (axis, name) in AXES.into_iter().enumerate() {
        let spacing = turned.spacing[axis];
        let cells = within[axis].1 + 1 - within[axis].0;
        out.push(ratio(
            Aspect::VoxelSize,
            format!("{BETWEEN}{name}"),
            spacing,
            1.25,
        ));
        out.push(ratio(
            Aspect::FieldOfView,
            format!("{OVER_ALL}{name}"),
            spacing * shape[axis] as f64,
            1.25,
        ));
        out.push(ratio(
            Aspect::HeadSize,
            format!("{HEAD_OVER}{name}"),
            spacing * cells as f64,
            1.15,
        ));
    }
    // What is resized is a square: its side is the longer one.
    let side = shape[1].max(shape[2]).max(1) as f64;
    for axis in [1, 2] {
        let share = (within[axis].1 + 1 - within[axis].0) as f64 / side;
        let name = format!("of the picture's {} filled by the head", AXES[axis]);
        out.push(ratio(Aspect::HeadSize, name, share, 1.15));
    }
    out.push(ratio(
        Aspect::SliceRange,
        "slices that the model looks at",
        turned.used.len() as f64,
        1.5,
    ));
    out
}

/// Bins of height, from the lowest slice of the head to the highest.
const HEIGHTS: usize = 6;

/// The head's area at each height, relative to the largest.
fn heights(head: &Array3<bool>, within: HeadBox) -> Vec<Feature> {
    let (first, last) = within[0];
    let area = |k: usize| head.index_axis(Axis(0), k).iter().filter(|b| **b).count() as f64;
    let areas: Vec<f64> = (first..=last).map(area).collect();
    let most = areas.iter().copied().fold(1., f64::max);
    (0..HEIGHTS)
        .map(|bin| {
            let from = bin * areas.len() / HEIGHTS;
            let to = ((bin + 1) * areas.len() / HEIGHTS).max(from + 1);
            let part = &areas[from..to];
            let value = part.iter().sum::<f64>() / part.len() as f64 / most;
            let name = format!("of the largest area at height {} of {HEIGHTS}", bin + 1);
            plain(Aspect::SliceRange, name, value, 0.1)
        })
        .collect()
}

/// What a correlation needs of one sequence.
struct Moments {
    mean: f64,
    /// The sum of the squared distances from the mean.
    squares: f64,
}

impl Moments {
    fn of(values: &[f32]) -> Self {
        let wide = || values.iter().map(|&v| f64::from(v));
        let mean = wide().sum::<f64>() / values.len().max(1) as f64;
        let mut squares = 0.;
        for value in wide() {
            squares += (value - mean) * (value - mean);
        }
        Self { mean, squares }
    }
}

/// Pairs that correlate in the head like one image. All sequences are gone through at once, slice by slice: two of them needn't be in
/// memory.
fn copies(turned: &Turned<'_>, moments: &[Moments]) -> Result<Vec<(String, String, f64)>> {
    let count = moments.len();
    let pairs = (0..count).flat_map(|n| (n + 1..count).map(move |m| (n, m)));
    let mut sums: Vec<(usize, usize, f64)> = pairs.map(|(n, m)| (n, m, 0.)).collect();
    for (z, head) in turned.head.outer_iter().enumerate() {
        let slices = (0..count).map(|n| turned.stacks.slice(n, z));
        let slices = slices.collect::<Result<Vec<_>>>()?;
        for (n, m, sum) in &mut sums {
            let both = slices[*n].iter().zip(&slices[*m]).zip(&head);
            for ((&x, &y), _) in both.filter(|(_, inside)| **inside) {
                *sum += (f64::from(x) - moments[*n].mean) * (f64::from(y) - moments[*m].mean);
            }
        }
    }
    let name = |n: usize| turned.names[n].clone();
    let found = sums.into_iter().filter_map(|(n, m, sum)| {
        let scale = (moments[n].squares * moments[m].squares).sqrt();
        let r = if scale > 0. { sum / scale } else { 0. };
        (r > SAME_IMAGE).then(|| (name(n), name(m), r))
    });
    Ok(found.collect())
}
