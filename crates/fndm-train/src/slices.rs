//! Checks of a slice set before training on it.

use fndm_data::SliceSet;

use crate::{Error, Result};

/// Channels, height and width of a slice.
pub(crate) fn shape(set: &SliceSet) -> [usize; 3] {
    let (_, c, h, w) = set.images.dim();
    [c, h, w]
}

/// Fails where the arrays don't belong together, a label isn't 0 or 1, an intensity isn't finite, or a label is missing
/// that `diseased_share` asks for.
pub(crate) fn check_slices(set: &SliceSet, diseased_share: Option<f64>) -> Result<()> {
    let (n, c, h, w) = set.images.dim();
    let fail = |expected: String, got: String| Err(Error::Data { expected, got });
    if n == 0 || c == 0 || h == 0 || w == 0 {
        return fail(
            "at least one slice of at least one pixel".to_owned(),
            format!("images of shape {:?}", set.images.dim()),
        );
    }
    if set.labels.len() != n || set.patient.len() != n {
        return fail(
            format!("{n} labels and patients, one per slice"),
            format!("{} and {}", set.labels.len(), set.patient.len()),
        );
    }
    if set.head.dim() != (n, h, w) {
        return fail(
            format!("a head mask of shape {:?}", (n, h, w)),
            format!("{:?}", set.head.dim()),
        );
    }
    if let Some(i) = set.labels.iter().position(|&label| label > 1) {
        return fail(
            "labels 0 (healthy) and 1 (diseased)".to_owned(),
            format!("{} at slice {i}", set.labels[i]),
        );
    }
    if let Some(((i, ..), value)) = set.images.indexed_iter().find(|(_, v)| !v.is_finite()) {
        return fail(
            "finite intensities".to_owned(),
            format!("{value} in slice {i}"),
        );
    }
    if let Some(share) = diseased_share {
        let labels = [
            (0, share < 1.0, "one healthy slice (label 0)"),
            (1, share > 0.0, "one diseased slice (label 1)"),
        ];
        for (label, needed, name) in labels {
            if needed && !set.labels.contains(&label) {
                return fail(format!("at least {name}"), format!("none among {n} slices"));
            }
        }
    }
    Ok(())
}

/// Slices as a person finds them: `patient z=12`.
pub(crate) fn names(set: &SliceSet, slices: &[usize]) -> Vec<String> {
    let name = |&slice: &usize| {
        let patient = set.patient.get(slice).and_then(|&p| set.ids.get(p));
        let patient = patient.map_or("unknown patient", String::as_str);
        match set.z.get(slice) {
            Some(z) => format!("{patient} z={z}"),
            None => patient.to_owned(),
        }
    };
    slices.iter().map(name).collect()
}
