//! What is kept of the training patients, and how it is learned.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::feature::{Aspect, Feature, Scale};
use super::identity::Identity;
use super::measure::PatientProfile;
use super::skull::ScalpStatistics;
use super::standing::Standing;
use super::verdict::Light;
use crate::{Error, Limits, Result, text};

/// What training patients are like: the middle and the spread of every number of a [`PatientProfile`], and how far out is too far.
///
/// # The rule
/// A feature's distance is `|x - median| / max(3 * 1.4826 * MAD, tolerance)`: 1 is three robust deviations of the training patients, or
/// what never counts. An aspect's score is the root mean square of its features' distances, for the geometry their largest. Yellow
/// begins above the 99th percentile of the scores that training patients have against all others (leave one out), and above 1 in any case;
/// red begins at twice that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataStatistics {
    /// Version of this record.
    pub format: u32,
    /// The patients, in words.
    pub source: String,
    /// How many patients were measured.
    pub patients: usize,
    /// The sequences, in the order of the images' channels.
    pub sequences: Vec<String>,
    /// Every number.
    pub features: Vec<FeatureStatistics>,
    /// Where yellow and red begin.
    pub limits: Vec<AspectLimit>,
    /// The dip between scalp and brain; none where it could be measured of no patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scalp: Option<ScalpStatistics>,
    /// The head's picture.
    pub standing: Standing,
    /// How sequences are told from each other; none for a single sequence or very few patients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// How the training patients come out when each is judged by what the others say.
    pub false_alarms: FalseAlarms,
}

/// One number over the training patients. Values are as measured, not their logarithms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureStatistics {
    /// What it belongs to.
    pub aspect: Aspect,
    /// The sequence, where it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// What it is.
    pub name: String,
    /// How it is compared.
    pub scale: Scale,
    /// The median, on the axis of comparison.
    pub middle: f64,
    /// The distance of 1 on that axis.
    pub reach: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// From which score on an aspect isn't as in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AspectLimit {
    /// The aspect.
    pub aspect: Aspect,
    /// The sequence, for intensities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// Above this, yellow; above twice this, red.
    pub yellow: f64,
}

/// Lights of the training patients, each against the statistics of all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FalseAlarms {
    /// Patients that were judged.
    pub patients: usize,
    /// Yellow ones.
    pub yellow: usize,
    /// Red ones.
    pub red: usize,
}

/// Deviations of the training patients that count as 1.
const DEVIATIONS: f64 = 3.;
/// From the median absolute deviation to the standard deviation of a Gaussian.
const GAUSSIAN: f64 = 1.4826;
/// Share of the training patients' scores below yellow.
const INSIDE: f64 = 0.99;
/// Most patients that are judged one by one: with more of them, every so-manieth.
const MOST_JUDGED: usize = 64;

impl DataStatistics {
    /// The version that this library writes.
    pub const FORMAT: u32 = 2;

    /// Learns from training patients. `source` says in words who they are.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for no patient, or patients of different sequences.
    pub fn learn(profiles: &[PatientProfile], source: impl Into<String>) -> Result<Self> {
        let Some(first) = profiles.first() else {
            return Err(Error::config("training patients", "at least one", "none"));
        };
        let names = |p: &PatientProfile| -> Vec<String> {
            p.sequences.iter().map(|s| s.name.clone()).collect()
        };
        let sequences = names(first);
        if let Some(other) = profiles.iter().find(|p| names(p) != sequences) {
            return Err(Error::config(
                format!("sequences of patient {}", other.patient),
                sequences.join(", "),
                names(other).join(", "),
            ));
        }
        let all: Vec<&PatientProfile> = profiles.iter().collect();
        let mut learned = Self::of(&all, source.into());
        learned.false_alarms = false_alarms(&all);
        Ok(learned)
    }

    fn of(profiles: &[&PatientProfile], source: String) -> Self {
        let columns = columns(profiles);
        let features: Vec<FeatureStatistics> = columns.iter().map(Column::statistics).collect();
        let limits = limits(&columns, profiles.len());
        let sequences: Vec<String> = (profiles.first().into_iter())
            .flat_map(|p| p.sequences.iter().map(|s| s.name.clone()))
            .collect();
        Self {
            format: Self::FORMAT,
            source,
            patients: profiles.len(),
            scalp: ScalpStatistics::learn(profiles.iter().filter_map(|p| p.scalp)),
            standing: Standing::learn(profiles),
            identity: Identity::learn(profiles),
            sequences,
            features,
            limits,
            false_alarms: FalseAlarms::default(),
        }
    }

    /// Reads the record of a model folder.
    ///
    /// # Errors
    /// When the file can't be read, isn't such a record, or is of a newer version.
    pub fn read(path: &Path) -> Result<Self> {
        // The version first: what a later one has more is no fault of the file.
        let whole: serde_json::Value = text::read_json(path, &Limits::default())?;
        let format = whole.get("format").and_then(serde_json::Value::as_u64);
        if format.is_some_and(|format| format > u64::from(Self::FORMAT)) {
            return Err(Error::Text {
                path: path.to_path_buf(),
                reason: format!(
                    "format {}: this version reads up to {}",
                    format.unwrap_or_default(),
                    Self::FORMAT
                ),
            });
        }
        let read: Self = serde_json::from_value(whole).map_err(|e| Error::Json {
            path: path.to_path_buf(),
            source: Box::new(e),
        })?;
        read.check(path)?;
        Ok(read)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |reason: String| {
            Err(Error::Text {
                path: path.to_path_buf(),
                reason,
            })
        };
        let bad = self
            .features
            .iter()
            .find(|f| !(f.reach > 0. && f.middle.is_finite()));
        if let Some(feature) = bad {
            return wrong(format!("{}: expected a reach above 0", feature.name));
        }
        self.standing.check().or_else(wrong)?;
        match &self.identity {
            Some(identity) => identity.check().or_else(wrong),
            None => Ok(()),
        }
    }

    /// The record as the bytes of its file.
    ///
    /// # Errors
    /// [`Error::Json`], which a learned record never gives.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::Json {
            path: "data.json".into(),
            source: Box::new(e),
        })
    }

    /// The training's middle and range of one feature.
    pub(super) fn of_feature(&self, feature: &Feature) -> Option<&FeatureStatistics> {
        self.features.iter().find(|f| {
            f.aspect == feature.aspect && f.sequence == feature.sequence && f.name == feature.name
        })
    }
}

impl FeatureStatistics {
    /// How far a value is out; 1 is the farthest that counts as usual.
    pub(super) fn distance(&self, feature: &Feature) -> f64 {
        let distance = (feature.compared() - self.middle).abs() / self.reach;
        if distance.is_finite() {
            distance
        } else {
            f64::MAX.sqrt()
        }
    }
}

/// One feature over all patients.
struct Column<'a> {
    feature: &'a Feature,
    /// In the order of the patients.
    values: Vec<f64>,
    sorted: Vec<f64>,
}

impl Column<'_> {
    fn statistics(&self) -> FeatureStatistics {
        let (middle, reach) = middle_and_reach(&self.sorted, self.feature.tolerance);
        let back = |v: f64| match self.feature.scale {
            Scale::Difference => v,
            Scale::Ratio => v.exp(),
        };
        let end = |v: Option<&f64>| round(back(v.copied().unwrap_or(middle)));
        FeatureStatistics {
            aspect: self.feature.aspect,
            sequence: self.feature.sequence.clone(),
            name: self.feature.name.clone(),
            scale: self.feature.scale,
            middle: round(middle),
            reach: round(reach),
            low: end(self.sorted.first()),
            high: end(self.sorted.last()),
        }
    }

    /// How far patient `n` is out, by all others.
    fn distance_of(&self, n: usize) -> f64 {
        let value = self.values[n];
        let mut rest = self.sorted.clone();
        if let Ok(at) = rest.binary_search_by(|v| v.total_cmp(&value)) {
            rest.remove(at);
        }
        let (middle, reach) = middle_and_reach(&rest, self.feature.tolerance);
        (value - middle).abs() / reach
    }
}

fn columns<'a>(profiles: &[&'a PatientProfile]) -> Vec<Column<'a>> {
    let rows: Vec<Vec<&Feature>> = profiles
        .iter()
        .map(|p| p.all_features().collect())
        .collect();
    let count = rows.iter().map(Vec::len).min().unwrap_or(0);
    (0..count)
        .map(|n| {
            let values: Vec<f64> = rows.iter().map(|row| row[n].compared()).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            Column {
                feature: rows[0][n],
                values,
                sorted,
            }
        })
        .collect()
}

/// Median and distance of 1 of sorted values.
fn middle_and_reach(sorted: &[f64], tolerance: f64) -> (f64, f64) {
    let middle = quantile(sorted, 0.5);
    let mut away: Vec<f64> = sorted.iter().map(|v| (v - middle).abs()).collect();
    away.sort_by(f64::total_cmp);
    let deviation = DEVIATIONS * GAUSSIAN * quantile(&away, 0.5);
    (middle, deviation.max(tolerance))
}

/// Linear between the sorted values; 0 where there is none.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.;
    };
    let rank = q * last as f64;
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64)
}

/// Four digits are plenty for what is compared by its spread.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The parts that have a score: geometry as a whole, intensities by sequence.
pub(super) type Part = (Aspect, Option<String>);

pub(super) fn part_of(feature: &Feature) -> Part {
    match feature.aspect {
        Aspect::Intensity => (feature.aspect, feature.sequence.clone()),
        aspect => (aspect, None),
    }
}

/// The score of one part of a patient, from its features' distances.
pub(super) fn score(aspect: Aspect, distances: &[f64]) -> f64 {
    match aspect {
        Aspect::VoxelSize | Aspect::FieldOfView | Aspect::HeadSize => {
            distances.iter().copied().fold(0., f64::max)
        }
        _ => {
            let squares: f64 = distances.iter().map(|d| d * d).sum();
            (squares / distances.len().max(1) as f64).sqrt()
        }
    }
}

fn limits(columns: &[Column<'_>], patients: usize) -> Vec<AspectLimit> {
    let mut parts: BTreeMap<Part, Vec<&Column<'_>>> = BTreeMap::new();
    for column in columns {
        parts
            .entry(part_of(column.feature))
            .or_default()
            .push(column);
    }
    let limit = |((aspect, sequence), columns): (Part, Vec<&Column<'_>>)| {
        let of = |n: usize| {
            let distances: Vec<f64> = columns.iter().map(|c| c.distance_of(n)).collect();
            score(aspect, &distances)
        };
        let mut scores: Vec<f64> = match patients {
            0 | 1 => Vec::new(),
            _ => (0..patients).map(of).collect(),
        };
        scores.sort_by(f64::total_cmp);
        AspectLimit {
            aspect,
            sequence,
            yellow: round(quantile(&scores, INSIDE).max(1.)),
        }
    };
    parts.into_iter().map(limit).collect()
}

fn false_alarms(profiles: &[&PatientProfile]) -> FalseAlarms {
    let every = profiles.len().div_ceil(MOST_JUDGED).max(1);
    let mut found = FalseAlarms::default();
    if profiles.len() < 2 {
        return found;
    }
    for (n, patient) in profiles.iter().enumerate().step_by(every) {
        let mut rest = profiles.to_vec();
        rest.remove(n);
        let verdict = DataStatistics::of(&rest, String::new()).judge(patient);
        found.patients += 1;
        match verdict.light {
            Light::Green => {}
            Light::Yellow => found.yellow += 1,
            Light::Red => found.red += 1,
        }
    }
    found
}
