//! Figures of a method where no mask is known: how well its map tells healthy slices from diseased ones.

use fndm::{DetectConfig, Method};
use fndm_data::PatientSlices;
use fndm_metrics::Ranking;
use ndarray::{Array3, Axis};
use serde::{Deserialize, Serialize};

use crate::report::figure;
use crate::{Error, LabelRecord, LeftOut, MethodMap, Result, markdown};

/// The score of a slice is the mean of this share of its pixels, the highest of them.
const HIGHEST: f64 = 0.005;

/// What a method says of one patient, with the bits of the slices beside it.
#[derive(Debug, Clone)]
pub struct BitCase {
    /// The patient.
    pub patient: String,
    /// 1 for a diseased slice, 0 for a healthy one.
    pub labels: Vec<u8>,
    /// The anomaly map, `(N, H, W)`.
    pub anomaly: Array3<f32>,
    /// Where the map counts, `(N, H, W)`.
    pub inner_head: Array3<bool>,
    /// The mask by the method's own rule, `(N, H, W)`: the one that `detect` writes.
    pub mask: Array3<bool>,
    /// Wall time in milliseconds.
    pub milliseconds: f64,
}

impl BitCase {
    /// A method's map of a patient, beside the patient's bits.
    ///
    /// # Errors
    /// When the slices have no bits.
    pub fn new(slices: &PatientSlices, found: &MethodMap) -> Result<Self> {
        let Some(labels) = slices.labels.clone() else {
            return Err(Error::Input {
                what: format!("patient {}", slices.id),
                expected: "a bit for each slice".into(),
                got: "none".into(),
            });
        };
        Ok(Self {
            patient: slices.id.clone(),
            labels,
            anomaly: found.anomaly.clone(),
            inner_head: found.inner_head.clone(),
            mask: found.mask.clone(),
            milliseconds: found.milliseconds,
        })
    }
}

impl BitCase {
    fn check(&self) -> Result<()> {
        let shape = self.anomaly.dim();
        let wrong = |what: &str, expected: String, got: String| Error::Input {
            what: format!("{what} of patient {}", self.patient),
            expected,
            got,
        };
        if self.labels.len() != shape.0 {
            let expected = format!("{} slices", shape.0);
            return Err(wrong("bits", expected, self.labels.len().to_string()));
        }
        for (what, dim) in [
            ("inner head", self.inner_head.dim()),
            ("mask", self.mask.dim()),
        ] {
            if dim != shape {
                return Err(wrong(
                    what,
                    format!("{shape:?}, as the map"),
                    format!("{dim:?}"),
                ));
            }
        }
        let mut inside = self.anomaly.iter().zip(&self.inner_head);
        match inside.all(|(value, &inside)| !inside || value.is_finite()) {
            true => Ok(()),
            false => Err(wrong("map", "finite values".into(), "others".into())),
        }
    }
}

/// One row of a table without masks. A figure is `None` where there is no slice to take it from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BitRow {
    /// Key of the method.
    pub method: String,
    /// Healthy slices.
    pub healthy: usize,
    /// Diseased slices.
    pub diseased: usize,
    /// Area under the ROC curve of the slice's bit, by the mean of the highest half per cent of the map in each slice.
    pub auroc: Option<f64>,
    /// Average precision of the same.
    pub average_precision: Option<f64>,
    /// Mean share of the inner head that the mask covers in healthy slices, where all of it is false.
    pub false_area: Option<f64>,
    /// Share of the healthy slices whose mask is empty.
    pub empty_when_healthy: Option<f64>,
    /// Share of the diseased slices whose mask isn't empty.
    pub found_when_diseased: Option<f64>,
    /// Mean wall time per slice, in milliseconds; none where figures were joined without times.
    #[serde(default)]
    pub ms_per_slice: Option<f64>,
}

/// Scores a method by the bits of slices alone.
///
/// # Errors
/// When arrays of a case differ in shape, or a map isn't finite.
pub fn evaluate_bits(method: &str, cases: &[BitCase]) -> Result<BitRow> {
    let mut scores = BitScores::new(method);
    for case in cases {
        scores.add_case(case)?;
    }
    scores.finish()
}

/// The scores of one method so far, slice by slice. The cases themselves aren't kept. As JSON it has all but the times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BitScores {
    method: String,
    /// Score and bit of each slice.
    slices: (Vec<f32>, Vec<bool>),
    /// The mask's share of the inner head, of healthy slices and of diseased ones.
    areas: [Vec<f64>; 2],
    #[serde(skip)]
    milliseconds: Option<f64>,
}

impl BitScores {
    /// No case yet.
    #[must_use]
    pub fn new(method: &str) -> Self {
        Self {
            method: method.to_string(),
            slices: (Vec::new(), Vec::new()),
            areas: [Vec::new(), Vec::new()],
            milliseconds: None,
        }
    }

    /// Key of the method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Wall time of all cases, in milliseconds, where it was measured.
    #[must_use]
    pub fn milliseconds(&self) -> Option<f64> {
        self.milliseconds
    }

    /// Adds the scores of other patients. Joined in one order they give the figures of a single run in that order, to the last bit.
    ///
    /// # Errors
    /// When they are of another method.
    pub fn join(&mut self, other: Self) -> Result<()> {
        if other.method != self.method {
            return Err(Error::Input {
                what: "scores to be joined".into(),
                expected: self.method.clone(),
                got: other.method,
            });
        }
        self.milliseconds = match self.slices.0.is_empty() {
            true => other.milliseconds,
            false => self
                .milliseconds
                .zip(other.milliseconds)
                .map(|(a, b)| a + b),
        };
        self.slices.0.extend(other.slices.0);
        self.slices.1.extend(other.slices.1);
        for (own, more) in self.areas.iter_mut().zip(other.areas) {
            own.extend(more);
        }
        Ok(())
    }

    /// Scores one case more.
    ///
    /// # Errors
    /// As [`evaluate_bits`].
    pub fn add_case(&mut self, case: &BitCase) -> Result<()> {
        case.check()?;
        for (i, &label) in case.labels.iter().enumerate() {
            let inside = case.inner_head.index_axis(Axis(0), i);
            let map = case.anomaly.index_axis(Axis(0), i);
            let values = map.iter().zip(inside).filter(|&(_, &inside)| inside);
            let mut values: Vec<f32> = values.map(|(&value, _)| value).collect();
            values.sort_unstable_by(|a, b| b.total_cmp(a));
            let pixels = values.len().max(1);
            values.truncate(((map.len() as f64 * HIGHEST).ceil() as usize).max(1));
            let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
            self.slices
                .0
                .push((sum / values.len().max(1) as f64) as f32);
            self.slices.1.push(label == 1);
            let marked = case.mask.index_axis(Axis(0), i);
            let marked = marked.iter().filter(|&&marked| marked).count();
            self.areas[usize::from(label == 1)].push(marked as f64 / pixels as f64);
        }
        *self.milliseconds.get_or_insert(0.) += case.milliseconds;
        Ok(())
    }

    /// The figures over all cases.
    ///
    /// # Errors
    /// When a map isn't finite.
    pub fn finish(self) -> Result<BitRow> {
        let ranking = Ranking::of(&self.slices.0, &self.slices.1)?;
        let mean = |values: &[f64]| {
            let sum: f64 = values.iter().sum();
            (!values.is_empty()).then(|| sum / values.len() as f64)
        };
        let share = |values: &[f64], wanted: fn(f64) -> bool| {
            let count = values.iter().filter(|&&v| wanted(v)).count();
            (!values.is_empty()).then(|| count as f64 / values.len() as f64)
        };
        let [healthy, diseased] = &self.areas;
        Ok(BitRow {
            method: self.method,
            healthy: healthy.len(),
            diseased: diseased.len(),
            auroc: ranking.auroc().value(),
            average_precision: ranking.average_precision().value(),
            false_area: mean(healthy),
            empty_when_healthy: share(healthy, |area| area == 0.),
            found_when_diseased: share(diseased, |area| area > 0.),
            ms_per_slice: self
                .milliseconds
                .map(|ms| ms / self.slices.0.len().max(1) as f64),
        })
    }
}

/// Everything that an evaluation without masks says, as written to `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BitReport {
    /// The command line that made it.
    pub command: String,
    /// Version of the library.
    pub fndm_version: String,
    /// What was examined, in words.
    pub cohort: String,
    /// Where the bits came from.
    pub labels: LabelRecord,
    /// One row a method.
    pub rows: Vec<BitRow>,
    /// The settings of each method.
    pub settings: Vec<(Method, DetectConfig)>,
    /// Patients that couldn't be used, and why.
    pub left_out: Vec<LeftOut>,
    /// Which definitions the figures have, in words.
    pub definitions: Vec<String>,
}

/// The definitions of a [`BitRow`]'s figures, in words.
pub const BIT_DEFINITIONS: [&str; 4] = [
    "mask: by the method's own rule, the one that detect writes",
    "AUROC, AP: of the slice's bit, by the mean of the highest half per cent of the anomaly map in each slice",
    "false area: mean share of the eroded head that the mask covers in healthy slices, where all of it is false",
    "empty when healthy, found when diseased: share of the slices whose mask is empty, is not empty",
];

/// The table that the programs print, in Markdown.
#[must_use]
pub fn bit_table(rows: &[BitRow]) -> String {
    let header = [
        "method",
        "AUROC of the slice",
        "AP",
        "false area in healthy",
        "empty when healthy",
        "found when diseased",
        "ms/slice",
    ];
    let mut cells = vec![header.map(String::from).to_vec()];
    for row in rows {
        let title = Method::ALL.into_iter().find(|m| m.key() == row.method);
        cells.push(vec![
            title.map_or_else(|| row.method.clone(), |m| m.title().to_string()),
            figure(row.auroc, 3),
            figure(row.average_precision, 3),
            figure(row.false_area, 4),
            figure(row.empty_when_healthy, 3),
            figure(row.found_when_diseased, 3),
            figure(row.ms_per_slice, 1),
        ]);
    }
    markdown(&cells)
}

#[cfg(test)]
mod tests {
    use ndarray::s;

    use super::*;

    /// Four slices of 20 x 20: two healthy ones, of which one has a faint spot, and two diseased ones.
    fn case() -> BitCase {
        let mut anomaly = Array3::zeros((4, 20, 20));
        anomaly.slice_mut(s![1, 0..2, 0..2]).fill(0.2f32);
        anomaly.slice_mut(s![2, 5..9, 5..9]).fill(0.6);
        anomaly.slice_mut(s![3, 5..7, 5..9]).fill(0.1);
        let mask = anomaly.mapv(|value| value > 0.);
        BitCase {
            patient: "a".into(),
            labels: vec![0, 0, 1, 1],
            anomaly,
            inner_head: Array3::from_elem((4, 20, 20), true),
            mask,
            milliseconds: 8.,
        }
    }

    #[test]
    fn the_figures_are_those_counted_by_hand() {
        let row = evaluate_bits("fndm", &[case()]).unwrap();
        assert_eq!((row.healthy, row.diseased), (2, 2));
        // Scores 0, 0.2 against 0.6, 0.1: three of four pairs are in order.
        assert_eq!(row.auroc, Some(0.75));
        // A slice without any value has no mask; four of 400 pixels in the other healthy one.
        assert_eq!(row.empty_when_healthy, Some(0.5));
        assert!((row.false_area.unwrap() - 0.005).abs() < 1e-12);
        assert_eq!(row.found_when_diseased, Some(1.));
        assert_eq!(row.ms_per_slice, Some(2.));
    }

    #[test]
    fn scores_of_parts_are_joined_to_the_digit() {
        let mut other = case();
        other.patient = "b".into();
        other.anomaly.slice_mut(s![0, .., 3]).fill(0.1 / 3.);
        let mut whole = BitScores::new("fndm");
        let mut joined = whole.clone();
        for case in [&case(), &other] {
            whole.add_case(case).unwrap();
            let mut part = BitScores::new("fndm");
            part.add_case(case).unwrap();
            let text = serde_json::to_string(&part).unwrap();
            joined.join(serde_json::from_str(&text).unwrap()).unwrap();
        }
        assert!(joined.join(BitScores::new("cg")).is_err());
        let mut whole = whole.finish().unwrap();
        assert!(whole.ms_per_slice.take().is_some());
        assert_eq!(joined.finish().unwrap(), whole);
    }

    /// Whatever the map would give by Otsu's threshold.
    #[test]
    fn the_mask_is_the_methods_own() {
        let mut case = case();
        case.mask.fill(false);
        let row = evaluate_bits("student", &[case.clone()]).unwrap();
        assert_eq!(row.empty_when_healthy, Some(1.));
        assert_eq!(row.false_area, Some(0.));
        assert_eq!(row.found_when_diseased, Some(0.));
        assert_eq!(row.auroc, Some(0.75));
        case.mask = Array3::from_elem((4, 20, 19), false);
        assert!(evaluate_bits("student", &[case]).is_err());
    }

    #[test]
    fn one_kind_of_slices_has_no_ranking() {
        let mut case = case();
        case.labels = vec![0; 4];
        let row = evaluate_bits("fndm", &[case.clone()]).unwrap();
        assert_eq!((row.auroc, row.found_when_diseased), (None, None));
        case.labels.pop();
        assert!(evaluate_bits("fndm", &[case]).is_err());
    }
}
