//! The page of a patient from what a detector says of the patient's slices.

use fndm::SliceMaps;
use fndm_data::{Patient, PatientSlices, SliceImages, Turned, Volume, is_lesion};
use fndm_report::{
    Frame, Layer, Measure, PatientPage, Place, SliceAt, map_range, shrunk, usual_range,
};
use ndarray::{Array3, Array4, ArrayView3, Axis, CowArray, Ix3, s};

use crate::measure::measure;
use crate::{Error, MethodMap, Result};

/// Largest side of an image in a page, in pixels. What is larger is shown by means of squares of pixels.
const MOST_SIDE: usize = 320;

/// What one method says of a patient, as a page shows it. All arrays are `(N, H, W)` on the model's grid; the reconstruction is
/// `(N, C, H, W)`.
#[derive(Debug, Clone, Copy)]
pub struct PageMethod<'a> {
    /// Its name for people.
    pub title: &'a str,
    /// The anomaly map.
    pub anomaly: &'a Array3<f32>,
    /// The mask by the method's own rule.
    pub mask: &'a Array3<bool>,
    /// The threshold of each slice that gave the mask: see [`PatientSlices::to_mask_above`]. Empty where it didn't come about so.
    pub thresholds: &'a [f32],
    /// The coarse map, of methods that have one.
    pub coarse: Option<&'a Array3<f32>>,
    /// The healthy reconstruction in [-1, 1], of methods with diffusion.
    pub healthy: Option<&'a Array4<f32>>,
    /// Whether the anomaly map is of probabilities, which are shown on a scale from 0 to 1.
    pub probability: bool,
}

impl<'a> PageMethod<'a> {
    /// All maps of a method.
    #[must_use]
    pub fn new(title: &'a str, maps: &'a SliceMaps) -> Self {
        let coarse = maps.coarse.iter().any(|&v| v > 0.);
        Self {
            title,
            anomaly: &maps.anomaly,
            mask: &maps.mask,
            thresholds: &maps.thresholds,
            coarse: coarse.then_some(&maps.coarse),
            healthy: maps.healthy.as_ref(),
            probability: maps.probability,
        }
    }

    /// What a comparison has of a method.
    #[must_use]
    pub fn of(title: &'a str, found: &'a MethodMap) -> Self {
        match &found.maps {
            Some(maps) => Self::new(title, maps),
            None => Self {
                title,
                anomaly: &found.anomaly,
                mask: &found.mask,
                thresholds: &found.thresholds,
                coarse: None,
                healthy: None,
                probability: false,
            },
        }
    }
}

/// What a page shows of a patient whatever is found: the sequences, and the truth where it is known. It is a few megabytes at most, so
/// that the volumes needn't be kept until a method is through.
#[derive(Debug, Clone)]
pub struct PageBase {
    frame: Frame,
    /// Where the model's grid lies in the frame, on the grid of the volumes.
    square: Option<Place>,
    images: Vec<Layer>,
    truth: Option<(Layer, Measure)>,
}

impl PageBase {
    /// On the grid of the patient's volumes; images of more than 320 pixels a side are shown by the means of squares of pixels.
    ///
    /// # Errors
    /// When the volumes aren't those that the slices were cut from, as far as their shapes and names tell.
    pub fn of_volumes(slices: &PatientSlices, patient: &Patient) -> Result<Self> {
        slices.check()?;
        check_volumes(slices, patient)?;
        let geometry = &slices.geometry;
        let mut base = Self::on_volumes(slices);
        for (name, volume) in &patient.sequences {
            let stack = geometry.reorder().view(volume.data.view());
            base.images.push(volume_image(name, &stack, &slices.z)?);
        }
        if let Some(mask) = &patient.mask {
            let lesion = Volume {
                data: mask.data.mapv(|v| f32::from(u8::from(is_lesion(v)))),
                affine: mask.affine,
                header: None,
            };
            let measured = measure("truth", &lesion, geometry, &slices.z)?;
            let layer = Layer::truth("truth", bits(slices, &lesion).view())?;
            base.truth = Some((layer, measured));
        }
        Ok(base)
    }

    /// As [`PageBase::of_volumes`], of a patient that was turned to the axes of the slices, without a truth. One sequence is looked at at a
    /// time.
    ///
    /// # Errors
    /// When the slices weren't cut from this patient, as far as their shapes tell, or a sequence can't be read.
    pub fn of_turned<I: SliceImages>(
        slices: &PatientSlices<I>,
        turned: &Turned<'_>,
    ) -> Result<Self> {
        slices.check()?;
        let mut base = Self::on_volumes(slices);
        let [depth, height, width] = slices.geometry.stack();
        for (number, name) in turned.names().iter().enumerate() {
            let stack = turned.sequence(number)?;
            if stack.dim() != (depth, height, width) {
                let expected = format!("{:?}", slices.geometry.stack());
                return wrong(slices, name, expected, format!("{:?}", stack.dim()));
            }
            base.images
                .push(volume_image(name, &stack.view(), &slices.z)?);
        }
        Ok(base)
    }

    /// Nothing yet, on the grid of the volumes.
    fn on_volumes<I>(slices: &PatientSlices<I>) -> Self {
        let geometry = &slices.geometry;
        let [_, rows, columns] = geometry.stack();
        let affine = geometry
            .reorder()
            .affine(geometry.affine(), geometry.shape());
        let [_, row, column] = fndm_data::affine::spacing(&affine);
        let (top, left, side) = geometry.square();
        Self {
            frame: Frame {
                rows,
                columns,
                spacing: [row, column],
                directions: geometry.directions(),
            },
            square: Some(Place {
                top: top as f64,
                left: left as f64,
                height: side as f64,
                width: side as f64,
            }),
            images: Vec::new(),
            truth: None,
        }
    }

    /// On the model's grid: smaller, and where there are no volumes.
    ///
    /// # Errors
    /// When the arrays of the slices don't fit each other.
    pub fn of_slices<I: SliceImages>(slices: &PatientSlices<I>) -> Result<Self> {
        slices.check()?;
        let (_, rows, columns) = slices.head.dim();
        let images = slices.sequences.iter().enumerate().map(|(channel, name)| {
            let mut image = Array3::zeros(slices.head.dim());
            for (at, mut image) in image.outer_iter_mut().enumerate() {
                let one = slices.images.part(at..at + 1)?;
                image.assign(&one.slice(s![0, channel, .., ..]));
            }
            Ok(Layer::image(name, image.view(), [-1., 1.])?)
        });
        let images = images.collect::<Result<_>>()?;
        let truth = match &slices.mask {
            Some(mask) => {
                let volume = slices.to_mask(mask)?;
                let measured = measure("truth", &volume, &slices.geometry, &slices.z)?;
                Some((Layer::truth("truth", mask.view())?, measured))
            }
            None => None,
        };
        Ok(Self {
            frame: Frame {
                rows,
                columns,
                spacing: slices.geometry.pixel_spacing(),
                directions: slices.geometry.directions(),
            },
            square: None,
            images,
            truth,
        })
    }

    /// The page of the patient: sequences, what each method says, the truth, volumes and lesions of each mask. Summary and sections are
    /// still to be filled in.
    ///
    /// # Errors
    /// When the maps aren't of these slices, as far as their shapes tell.
    pub fn page<I: SliceImages>(
        mut self,
        slices: &PatientSlices<I>,
        methods: &[PageMethod<'_>],
    ) -> Result<PatientPage> {
        let mut layers = std::mem::take(&mut self.images);
        let mut measures = Vec::new();
        for method in methods {
            check_maps(slices, method)?;
            let (own, measured) = self.method(slices, method)?;
            layers.extend(own);
            measures.push(measured);
        }
        if let Some((layer, measured)) = self.truth {
            layers.push(layer);
            measures.push(measured);
        }
        let geometry = &slices.geometry;
        let at = slices.z.iter().map(|&z| SliceAt {
            z,
            stored: geometry.stored_slice(z),
        });
        Ok(PatientPage {
            id: slices.id.clone(),
            summary: String::new(),
            back: None,
            frame: self.frame,
            slices: at.collect(),
            total_slices: geometry.total_slices(),
            layers,
            measures,
            check: None,
            notes: notes(slices),
            sections: Vec::new(),
        })
    }

    /// A layer on the model's grid, in its place.
    fn small(&self, layer: Layer) -> Layer {
        match self.square {
            Some(place) => layer.at(place),
            None => layer,
        }
    }

    fn method<I>(
        &self,
        slices: &PatientSlices<I>,
        method: &PageMethod<'_>,
    ) -> Result<(Vec<Layer>, Measure)> {
        let title = method.title;
        let mut layers = Vec::new();
        if let Some(coarse) = method.coarse.map(|map| map.view()) {
            layers.push(self.small(Layer::map("coarse map", coarse, map_range(coarse))?));
        }
        if let Some(healthy) = method.healthy {
            for (channel, name) in slices.sequences.iter().enumerate() {
                let name = format!("healthy {name}");
                let image = healthy.slice(s![.., channel, .., ..]);
                layers.push(self.small(Layer::image(&name, image, [-1., 1.])?));
            }
        }
        let anomaly = method.anomaly.view();
        let range = match method.probability {
            true => [0., 1.],
            false => map_range(anomaly),
        };
        layers.push(self.small(Layer::map("anomaly map", anomaly, range)?));
        let volume = slices.to_mask_above(method.anomaly, method.thresholds, method.mask)?;
        layers.push(match self.square {
            Some(_) => Layer::mask("mask", bits(slices, &volume).view())?,
            None => Layer::mask("mask", method.mask.view())?,
        });
        let title = format!("mask by {title}");
        let measured = measure(&title, &volume, &slices.geometry, &slices.z)?;
        let layers = layers
            .into_iter()
            .map(|layer| layer.of_method(method.title));
        Ok((layers.collect(), measured))
    }
}

/// Where the slices of a mask that are shown are set, `(N, rows, columns)`.
fn bits<I>(slices: &PatientSlices<I>, mask: &Volume) -> Array3<bool> {
    let stack = slices.geometry.reorder().view(mask.data.view());
    let (_, rows, columns) = stack.dim();
    let mut bits = Array3::from_elem((slices.z.len(), rows, columns), false);
    for (mut bits, &z) in bits.outer_iter_mut().zip(&slices.z) {
        bits.zip_mut_with(&stack.index_axis(Axis(0), z), |bit, &v| *bit = v > 0.);
    }
    bits
}

/// The slices `z` of a stack.
fn volume_image(name: &str, stack: &ArrayView3<'_, f32>, z: &[usize]) -> Result<Layer> {
    let (slices, rows, columns) = stack.dim();
    // Nothing is copied where all slices are shown, as is usual.
    let whole: CowArray<'_, f32, Ix3> = match z.iter().copied().eq(0..slices) {
        true => stack.view().into(),
        false => stack.select(Axis(0), z).into(),
    };
    let range = usual_range(whole.view());
    let small = shrunk(whole.view(), MOST_SIDE);
    let factor = rows.max(columns).div_ceil(MOST_SIDE).max(1);
    let layer = Layer::image(name, small.view(), range)?;
    // Squares at the lower and right edge may stand out over the frame.
    Ok(layer.at(Place {
        top: 0.,
        left: 0.,
        height: (small.dim().1 * factor) as f64,
        width: (small.dim().2 * factor) as f64,
    }))
}

fn wrong<T, I>(slices: &PatientSlices<I>, what: &str, expected: String, got: String) -> Result<T> {
    Err(Error::Input {
        what: format!("page of {}: {what}", slices.id),
        expected,
        got,
    })
}

fn check_maps<I: SliceImages>(slices: &PatientSlices<I>, method: &PageMethod<'_>) -> Result<()> {
    let expected = slices.head.dim();
    let coarse = method.coarse.map_or(expected, Array3::dim);
    let maps = [method.anomaly.dim(), method.mask.dim(), coarse];
    let healthy = method.healthy.map(Array4::dim);
    if maps.iter().all(|dim| *dim == expected)
        && healthy.is_none_or(|dim| dim == slices.images.dim())
    {
        return Ok(());
    }
    let got = format!("{maps:?}, {healthy:?}");
    wrong(slices, method.title, format!("{expected:?}"), got)
}

fn check_volumes(slices: &PatientSlices, patient: &Patient) -> Result<()> {
    let shape = slices.geometry.shape();
    let mask = patient.mask.iter().map(|mask| ("mask", mask));
    let all = patient.sequences.iter().map(|(name, v)| (name.as_str(), v));
    for (name, volume) in all.chain(mask) {
        if volume.shape() != shape {
            let got = format!("{:?}", volume.shape());
            return wrong(slices, name, format!("{shape:?}"), got);
        }
    }
    Ok(())
}

/// What was left out of the volume, and what is odd about its mask.
fn notes<I>(slices: &PatientSlices<I>) -> Vec<String> {
    let mut notes = Vec::new();
    let total = slices.geometry.total_slices();
    let missing: Vec<usize> = (0..total).filter(|z| !slices.z.contains(z)).collect();
    if !missing.is_empty() {
        notes.push(format!(
            "{} of {total} slices weren't examined, by the model's range of slices or for want of head in them or of a label: {}. \
             The mask is empty there.",
            missing.len(),
            ranges(&missing)
        ));
    }
    notes.extend(slices.notes.iter().map(ToString::to_string));
    notes
}

/// "1 to 3, 7", counted from 1.
fn ranges(indices: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &index in indices {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == index => run.1 = index,
            _ => runs.push((index, index)),
        }
    }
    let words = runs.iter().map(|&(first, last)| match first == last {
        true => format!("{}", first + 1),
        false => format!("{} to {}", first + 1, last + 1),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_from_one() {
        assert_eq!(ranges(&[0, 1, 2, 6]), "1 to 3, 7");
        assert_eq!(ranges(&[]), "");
    }
}
