//! A patient beside the training's: green, yellow or red, with reasons and advice.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::feature::{Aspect, Feature};
use super::measure::{AXES, BETWEEN, HEAD_OVER, OVER_ALL, PatientProfile};
use super::statistics::{DataStatistics, Part, part_of, round, score};

/// How like the training's patients one is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Light {
    /// As in training.
    #[default]
    Green,
    /// Farther out than training patients are: look at it.
    Yellow,
    /// Not what the model was trained on: results mean little.
    Red,
}

impl fmt::Display for Light {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        })
    }
}

/// One thing that isn't as in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What it is about.
    pub aspect: Aspect,
    /// The sequence, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// Yellow or red.
    pub light: Light,
    /// What was seen, and what is usual.
    pub reason: String,
    /// What to do.
    pub advice: String,
}

/// How far out one aspect is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AspectScore {
    /// The aspect.
    pub aspect: Aspect,
    /// The sequence, for intensities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// The score.
    pub score: f64,
    /// Yellow begins above this, red above twice this.
    pub yellow: f64,
}

/// What is said of one patient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The patient.
    pub patient: String,
    /// The worst of the findings.
    pub light: Light,
    /// What isn't as in training, the worst first.
    pub findings: Vec<Finding>,
    /// How far out each aspect is.
    #[serde(default)]
    pub scores: Vec<AspectScore>,
}

/// Red begins at so many times yellow.
const RED: f64 = 2.;
/// A head that fits another way of standing better by this part of the usual margin is red.
const TURNED: f64 = 0.5;
/// By this part, yellow.
const DOUBTFUL: f64 = 0.2;
/// A head that correlates with the training's by this much less than usual is yellow.
const UNLIKE: f64 = 0.1;
/// The logarithm of how much likelier sequences are mistaken for each other, for red.
const MISTAKEN: f64 = 4.;
/// The least dip between scalp and brain where there is a skull: whole heads have 0.1 to 0.35, brains of 1 mm voxels up to 0.08.
const SKULL: f64 = 0.09;

impl Verdict {
    /// Of findings, in any order.
    #[must_use]
    pub fn new(patient: impl Into<String>, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.light));
        Self {
            patient: patient.into(),
            light: findings.first().map_or(Light::Green, |f| f.light),
            findings,
            scores: Vec::new(),
        }
    }

    /// Red, of a patient that can't be read or measured.
    #[must_use]
    pub fn unreadable(patient: impl Into<String>, reason: impl Into<String>) -> Self {
        let finding = Finding {
            aspect: Aspect::Sequences,
            sequence: None,
            light: Light::Red,
            reason: reason.into(),
            advice: "mend the files, or leave the patient out".into(),
        };
        Self::new(patient, vec![finding])
    }

    /// With a finding more.
    #[must_use]
    pub fn and(self, finding: Finding) -> Self {
        let scores = self.scores;
        let mut findings = self.findings;
        findings.push(finding);
        Self {
            scores,
            ..Self::new(self.patient, findings)
        }
    }
}

impl DataStatistics {
    /// Compares a patient with those of the training.
    #[must_use]
    pub fn judge(&self, patient: &PatientProfile) -> Verdict {
        let mut findings = self.missing(patient);
        findings.extend(copies(patient));
        let (measured, scores) = self.measured(patient);
        // Both compare whole heads, and see strange things in a stripped one.
        let whole = !measured.iter().any(|f| f.aspect == Aspect::Skull);
        findings.extend(measured);
        if whole {
            findings.extend(self.turned(patient));
        }
        if whole && patient.copies.is_empty() {
            findings.extend(self.mistaken(patient));
        }
        Verdict {
            scores,
            ..Verdict::new(&patient.patient, findings)
        }
    }

    fn missing(&self, patient: &PatientProfile) -> Vec<Finding> {
        let there = |name: &String| patient.sequences.iter().any(|s| s.name == *name);
        let missing = self.sequences.iter().filter(|name| !there(name));
        missing
            .map(|name| missing_sequence(name, &self.sequences))
            .collect()
    }

    fn measured(&self, patient: &PatientProfile) -> (Vec<Finding>, Vec<AspectScore>) {
        let mut parts: BTreeMap<Part, Vec<(f64, &Feature)>> = BTreeMap::new();
        for feature in patient.all_features() {
            if let Some(usual) = self.of_feature(feature) {
                let distance = usual.distance(feature);
                parts
                    .entry(part_of(feature))
                    .or_default()
                    .push((distance, feature));
            }
        }
        let (mut findings, mut scores): (Vec<Finding>, Vec<AspectScore>) = Default::default();
        let mut follow: Vec<&str> = Vec::new();
        for ((aspect, sequence), mut features) in parts {
            let of =
                |l: &&super::statistics::AspectLimit| l.aspect == aspect && l.sequence == sequence;
            let Some(limit) = self.limits.iter().find(of) else {
                continue;
            };
            let distances: Vec<f64> = features.iter().map(|(d, _)| *d).collect();
            let score = score(aspect, &distances);
            scores.push(AspectScore {
                aspect,
                sequence: sequence.clone(),
                score: round(score),
                yellow: limit.yellow,
            });
            let skull = match aspect {
                Aspect::Skull => self.skull(patient),
                _ => None,
            };
            if score <= limit.yellow && skull.is_none() {
                continue;
            }
            // A header's wrong voxel size makes every length wrong. One fault is told once.
            if let (Aspect::FieldOfView | Aspect::HeadSize, Some(_)) = (
                aspect,
                findings.iter_mut().find(|f| f.aspect == Aspect::VoxelSize),
            ) {
                let usual = features
                    .iter()
                    .map(|(_, f)| self.by_usual_voxels(patient, f));
                let distances: Vec<f64> = usual.collect();
                if self::score(aspect, &distances) <= limit.yellow {
                    follow.push(aspect.name());
                    continue;
                }
            }
            features.sort_by(|a, b| b.0.total_cmp(&a.0));
            let by_score = match score > RED * limit.yellow {
                true => Light::Red,
                false => Light::Yellow,
            };
            let (light, reason, advice) = match skull {
                Some((light, reason, advice)) => (by_score.max(light), reason, advice),
                None => (by_score, self.words(&features), advice(aspect)),
            };
            findings.push(Finding {
                aspect,
                sequence,
                light,
                reason,
                advice: advice.to_owned(),
            });
        }
        let voxels = findings.iter_mut().find(|f| f.aspect == Aspect::VoxelSize);
        if let Some(voxels) = voxels.filter(|_| !follow.is_empty()) {
            let words = follow.join(" and ");
            let told = format!("; with the training's voxels {words} would be as in training");
            voxels.reason.push_str(&told);
        }
        (findings, scores)
    }

    /// The features that are farthest out, each beside the training's range.
    fn words(&self, features: &[(f64, &Feature)]) -> String {
        let worst = features
            .iter()
            .take(2)
            .filter(|(distance, _)| *distance > 1.);
        let first = features.iter().take(1);
        let shown: Vec<String> = match worst.clone().count() {
            0 => first.filter_map(|(_, f)| self.beside(f)).collect(),
            _ => worst.filter_map(|(_, f)| self.beside(f)).collect(),
        };
        shown.join("; ")
    }

    fn beside(&self, feature: &Feature) -> Option<String> {
        let usual = self.of_feature(feature)?;
        let digits = if usual.high.abs().max(feature.value.abs()) >= 20. {
            0
        } else {
            2
        };
        let number = |v: f64| format!("{v:.digits$}");
        let (low, high) = (number(usual.low), number(usual.high));
        let range = if low == high {
            low
        } else {
            format!("{low} to {high}")
        };
        let of = feature
            .sequence
            .as_ref()
            .map_or(String::new(), |s| format!("{s} "));
        Some(format!(
            "{of}{} {}, in training {range}",
            number(feature.value),
            feature.name
        ))
    }

    /// The distance of a length if the voxels were as large as in training; that of any other feature as it is.
    fn by_usual_voxels(&self, patient: &PatientProfile, feature: &Feature) -> f64 {
        let axis = [OVER_ALL, HEAD_OVER]
            .iter()
            .find_map(|before| feature.name.strip_prefix(before))
            .and_then(|axis| AXES.into_iter().find(|name| *name == axis));
        let factor = axis.and_then(|axis| {
            let name = format!("{BETWEEN}{axis}");
            let spacing = patient.features.iter().find(|f| f.name == name)?;
            let usual = self.of_feature(spacing)?;
            Some(usual.middle.exp() / spacing.value)
        });
        let value = feature.value * factor.unwrap_or(1.);
        let changed = Feature {
            value,
            ..feature.clone()
        };
        self.of_feature(feature)
            .map_or(0., |usual| usual.distance(&changed))
    }

    /// Words where scalp and skull are there and weren't in training, or the other way round.
    fn skull(&self, patient: &PatientProfile) -> Option<(Light, String, &'static str)> {
        let own = patient.scalp?;
        let usual = self.scalp.as_ref()?;
        if own < SKULL.min(usual.low) && usual.middle > 1.5 * SKULL {
            let reason = format!(
                "no bright scalp over a dark skull is seen ({own:.2}; in training {:.2}): the skull seems to be stripped",
                usual.middle
            );
            let light = match own < 0.5 * usual.low {
                true => Light::Red,
                false => Light::Yellow,
            };
            let advice = "give the images as they were before the skull was removed, or train a model on stripped ones";
            return Some((light, reason, advice));
        }
        if own > SKULL.max(usual.high) && usual.middle < SKULL {
            let reason = format!(
                "a bright scalp over a dark skull is seen ({own:.2}; in training {:.2}): the skull seems to be there",
                usual.middle
            );
            let light = match own > 2. * usual.high {
                true => Light::Red,
                false => Light::Yellow,
            };
            let advice =
                "strip the skull as it was done for the training, or train a model on whole heads";
            return Some((light, reason, advice));
        }
        None
    }

    fn turned(&self, patient: &PatientProfile) -> Option<Finding> {
        let fit = self.standing.fit(patient)?;
        let least = self.standing.lowest() - UNLIKE;
        let (light, reason, advice) = match fit.other {
            // Turned, it must look like a head of the training.
            Some(other) if other.better > DOUBTFUL && other.fit >= least => {
                let light = match other.better > TURNED {
                    true => Light::Red,
                    false => Light::Yellow,
                };
                let reason = format!(
                    "the head looks {} (its picture correlates with the training's by {:.2} then, and by {:.2} as it stands)",
                    other.turn.words(patient.plane),
                    other.fit,
                    fit.own
                );
                let advice = "look at it in a viewer: the header's orientation is wrong where front, back, top or bottom are";
                (light, reason, advice)
            }
            _ if fit.own < least => {
                let reason = format!(
                    "the head's picture correlates with the training's by {:.2}; training patients have {:.2} or more",
                    fit.own,
                    self.standing.lowest()
                );
                let advice = "look at it in a viewer: is it a whole head, upright, in the axes that its header says?";
                (Light::Yellow, reason, advice)
            }
            _ => return None,
        };
        Some(Finding {
            aspect: Aspect::Orientation,
            sequence: None,
            light,
            reason,
            advice: advice.into(),
        })
    }

    fn mistaken(&self, patient: &PatientProfile) -> Option<Finding> {
        let mistaken = self.identity.as_ref()?.mistaken(patient)?;
        let light = match mistaken.margin > MISTAKEN {
            true => Light::Red,
            false => Light::Yellow,
        };
        let told = mistaken
            .pairs
            .iter()
            .map(|(is, given)| format!("what is given as {given} looks like the training's {is}"));
        let told: Vec<String> = told.collect();
        let first = mistaken.pairs.first().map(|(_, given)| given.clone());
        Some(Finding {
            aspect: Aspect::Sequences,
            sequence: first.filter(|_| mistaken.pairs.len() == 1),
            light,
            reason: told.join(", and "),
            advice: "check which file is which sequence".into(),
        })
    }
}

/// Red, of a sequence that isn't there.
#[must_use]
pub fn missing_sequence(name: &str, all: &[String]) -> Finding {
    Finding {
        aspect: Aspect::Sequences,
        sequence: Some(name.to_owned()),
        light: Light::Red,
        reason: format!("{name} is missing: the model takes {}", all.join(", ")),
        advice: "add the file, or use a model that was trained without it".into(),
    }
}

fn copies(patient: &PatientProfile) -> Vec<Finding> {
    let finding = |(first, second, r): &(String, String, f64)| Finding {
        aspect: Aspect::Copies,
        sequence: Some(second.clone()),
        light: Light::Red,
        reason: format!("{second} and {first} are one image (correlation {r:.4})"),
        advice: "find the right file; where it was never acquired, this model can't be used".into(),
    };
    patient.copies.iter().map(finding).collect()
}

fn advice(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::VoxelSize => {
            "check the voxel size in the header; where it is right, train on scans like this one"
        }
        Aspect::FieldOfView => {
            "check the voxel size in the header; else crop or pad to the training's extent"
        }
        Aspect::HeadSize => {
            "check the voxel size in the header, and whether the volume is cut or padded otherwise than in training"
        }
        Aspect::SliceRange => "check which part of the head the volume has: slices may be missing",
        Aspect::Skull => "look at the rim of the head: skull stripping, a helmet, a coil's shading",
        Aspect::Intensity => {
            "look at it: another scanner or protocol, a bias field, an artefact, or another sequence"
        }
        _ => "look at it",
    }
}
