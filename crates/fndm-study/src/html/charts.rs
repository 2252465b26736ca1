//! Differences between methods with their intervals, and Dice by the size of the lesion.

use std::collections::BTreeMap;

use fndm_metrics::{BootstrapConfig, Paired, Score, SizeBins, paired_comparison, scores_by_size};
use fndm_pictures::{Axis, Chart, Curve, Estimate, Forest};
use fndm_report::{Block, Section};

use crate::report::figure;
use crate::{Arm, CaseScore, Evaluation, Level, Result};

const COLOURS: [[u8; 3]; 6] = [
    [24, 78, 152],
    [200, 90, 30],
    [20, 120, 70],
    [130, 50, 140],
    [90, 90, 90],
    [160, 120, 0],
];

pub(super) struct Charts<'a> {
    pub(super) arms: &'a [Arm],
    pub(super) reference: usize,
    pub(super) evaluations: &'a [Evaluation],
    pub(super) pixel_areas: &'a [(String, f64)],
}

impl Charts<'_> {
    fn of(&self, arm: &Arm, level: Level) -> Option<&Evaluation> {
        let is = |e: &&Evaluation| e.row.method == arm.key && e.row.level == level;
        self.evaluations.iter().find(is)
    }

    /// A forest plot for each level: every other method against the reference, patient by patient.
    pub(super) fn differences(&self) -> Result<Vec<Section>> {
        let Some(reference) = self.arms.get(self.reference) else {
            return Ok(Vec::new());
        };
        let mut blocks = Vec::new();
        let mut tests = vec![
            [
                "Method",
                "Level",
                "Difference",
                "Higher in",
                "Lower in",
                "Wilcoxon p",
            ]
            .map(String::from)
            .to_vec(),
        ];
        for (level, words) in [(Level::Slice, "per slice"), (Level::Volume, "per volume")] {
            let mut estimates = Vec::new();
            for arm in self.arms.iter().filter(|arm| arm.key != reference.key) {
                let Some(paired) = self.paired(arm, reference, level)? else {
                    continue;
                };
                let p = paired.wilcoxon_p;
                tests.push(vec![
                    arm.title.clone(),
                    words.into(),
                    format!("{:+.3}", paired.difference.mean),
                    fndm_files::counted(paired.first_higher, "patient"),
                    fndm_files::counted(paired.second_higher, "patient"),
                    p.map_or_else(|| "-".into(), |p| format!("{p:.2e}")),
                ]);
                estimates.push(Estimate {
                    name: arm.title.clone(),
                    value: paired.difference.mean,
                    low: paired.difference.low,
                    high: paired.difference.high,
                });
            }
            if !estimates.is_empty() {
                blocks.push(forest(&reference.title, words, estimates)?);
            }
        }
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        blocks.push(Block::Table {
            caption: "Of the same cases by both methods. The test is Wilcoxon's signed-rank test on the patients' mean differences; no correction for many comparisons.".into(),
            cells: tests,
        });
        Ok(vec![Section::new("Differences between methods", blocks)])
    }

    fn paired(&self, arm: &Arm, reference: &Arm, level: Level) -> Result<Option<Paired>> {
        let (Some(own), Some(other)) = (self.of(arm, level), self.of(reference, level)) else {
            return Ok(None);
        };
        let key = |case: &CaseScore| (case.patient.clone(), case.z);
        let others: BTreeMap<_, Score> = other
            .cases
            .iter()
            .map(|case| (key(case), case.dice_otsu))
            .collect();
        let pairs = own.cases.iter().filter_map(|case| {
            let second = others.get(&key(case))?;
            Some((case.patient.clone(), case.dice_otsu, *second))
        });
        match paired_comparison(pairs, &BootstrapConfig::default()) {
            Ok(paired) => Ok(Some(paired)),
            // Of fewer than two patients there is no interval.
            Err(fndm_metrics::Error::TooFew { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Dice of slices by the area of the lesion in them: classes of equal count.
    pub(super) fn by_size(&self) -> Result<Vec<Section>> {
        let Some(reference) = self.arms.get(self.reference) else {
            return Ok(Vec::new());
        };
        let sizes = |evaluation: &Evaluation| -> Vec<(f64, Score)> {
            let area = |case: &CaseScore| {
                let found = self.pixel_areas.iter().find(|(id, _)| *id == case.patient);
                found.map(|(_, area)| case.lesion_pixels as f64 * area)
            };
            let cases = evaluation.cases.iter();
            cases
                .filter_map(|case| Some((area(case)?, case.dice_otsu)))
                .collect()
        };
        let Some(all) = self.of(reference, Level::Slice).map(sizes) else {
            return Ok(Vec::new());
        };
        let edges = quartiles(all.iter().map(|(size, _)| *size).collect());
        if edges.is_empty() {
            return Ok(Vec::new());
        }
        let bins = SizeBins::new(&edges)?;
        let mut header = vec!["Lesion in the slice".to_string(), "Slices".to_string()];
        let mut columns = Vec::new();
        let mut curves = vec![slices_of(&reference.title, &all)];
        let middles = middles(&all, &bins);
        for (n, arm) in self.arms.iter().enumerate() {
            let Some(evaluation) = self.of(arm, Level::Slice) else {
                continue;
            };
            let classes = scores_by_size(sizes(evaluation), &bins)?;
            let means = middles.iter().zip(&classes);
            let points = means.filter_map(|(&middle, class)| Some((middle?, class.mean?)));
            curves.push(Curve {
                name: arm.title.clone(),
                colour: COLOURS[n % COLOURS.len()],
                width: 2,
                dots: true,
                points: points.collect(),
            });
            header.push(arm.title.clone());
            columns.push(classes);
        }
        let mut cells = vec![header];
        for class in 0..bins.count() {
            let (low, high) = bins.range(class);
            let range = match high {
                Some(high) => format!("{low:.0} to below {high:.0} mm²"),
                None => format!("{low:.0} mm² and more"),
            };
            let count = all
                .iter()
                .filter(|(size, _)| bins.class(*size) == class)
                .count();
            let mut row = vec![range, count.to_string()];
            row.extend(columns.iter().map(|classes| figure(classes[class].mean, 3)));
            cells.push(row);
        }
        let size = |f: fn(f64, f64) -> f64, start| all.iter().map(|(size, _)| *size).fold(start, f);
        let chart = Chart {
            x: Axis::logarithmic(
                "lesion in the slice (mm², logarithmic)",
                size(f64::min, f64::INFINITY) * 0.9,
                size(f64::max, 0.) * 1.1,
            ),
            // With room for the legend above.
            y: Axis::linear("Dice (Otsu)", 0., 1.3).labelled(vec![0., 0.2, 0.4, 0.6, 0.8, 1.]),
            curves,
        };
        let words = "Means of four classes of about the same number of slices, cut at the quartiles of the lesion's area on the model's grid.";
        Ok(vec![Section::new(
            "Dice by the size of the lesion",
            vec![
                Block::Chart {
                    svg: chart.svg((820, 460))?,
                    alt: "Dice against the lesion's area in the slice. The table below has the same means.".into(),
                    caption: format!("{words} Small dots: the slices of {}.", reference.title),
                },
                Block::Table {
                    caption: format!("Mean Dice at Otsu's threshold. {words}"),
                    cells,
                },
            ],
        )])
    }
}

fn forest(reference: &str, words: &str, estimates: Vec<Estimate>) -> Result<Block> {
    let ends = estimates.iter().flat_map(|e| [e.low, e.high]);
    let reach = ends.fold(0.02, |reach: f64, end| reach.max(end.abs())) * 1.15;
    let described = estimates.iter().map(|e| {
        format!(
            "{}: {:+.3}, from {:+.3} to {:+.3}",
            e.name, e.value, e.low, e.high
        )
    });
    let alt = format!(
        "Differences of Dice {words} from {reference}. {}",
        described.collect::<Vec<_>>().join(". ")
    );
    let forest = Forest {
        x: Axis::linear(
            &format!("Dice {words}, less that of {reference}"),
            -reach,
            reach,
        ),
        reference: 0.,
        estimates,
    };
    Ok(Block::Chart {
        svg: forest.svg(860)?,
        alt,
        caption: format!(
            "Mean difference of Dice at Otsu's threshold {words} from {reference}, with its 95 % interval: bootstrap over patients, 2000 resamples. \
             Left of the line: lower than {reference}."
        ),
    })
}

/// The inner quartiles that differ.
fn quartiles(mut sizes: Vec<f64>) -> Vec<f64> {
    sizes.sort_by(f64::total_cmp);
    let mut edges: Vec<f64> = [1, 2, 3]
        .iter()
        .filter_map(|k| sizes.get(k * sizes.len() / 4).copied())
        .filter(|size| *size > 0.)
        .collect();
    edges.dedup();
    edges
}

/// The middle one of the sizes of each class.
fn middles(all: &[(f64, Score)], bins: &SizeBins) -> Vec<Option<f64>> {
    let middle = |class: usize| {
        let sizes = all.iter().map(|(size, _)| *size);
        let mut own: Vec<f64> = sizes.filter(|size| bins.class(*size) == class).collect();
        own.sort_by(f64::total_cmp);
        own.get(own.len() / 2).copied()
    };
    (0..bins.count()).map(middle).collect()
}

fn slices_of(title: &str, all: &[(f64, Score)]) -> Curve {
    let points = all
        .iter()
        .filter_map(|(size, dice)| Some((*size, dice.value()?)));
    Curve {
        name: format!("slices of {title}"),
        colour: [175, 190, 210],
        width: 0,
        dots: true,
        points: points.collect(),
    }
}
