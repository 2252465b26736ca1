//! Compares masks with reference masks: two NIfTI files, or two folders of them with equal names.
//!
//! ```text
//! fndm metrics results/ references/ --format markdown
//! ```
//!
//! A voxel is marked where its value is above 0.5. A file of two axes (`dim[0]` = 2) is judged in two dimensions; one of three
//! axes is a volume, also where the third has one slice, as medpy and surface-distance take its array: every pixel of it is
//! on the border then. `--flat` judges such a slice in two dimensions. Prints one row per case and, for folders, their mean with what was skipped and why, an interval
//! for the mean Dice by bootstrap over patients, and the lesions by size.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use fndm::data::{Limits, Note, Volume, nifti};
use fndm::metrics::{
    self, Aggregate, BootstrapConfig, BorderDistances, Cell, Column, Confusion, Connectivity,
    EmptyPolicy, EmptyRules, LesionConfig, LesionReport, LesionSummary, Score, SizeBins,
    SurfelDistances, Table, Undefined, bootstrap_mean, image_diagonal, lesion_detection,
    surface_dice,
};
use fndm_files::{Inputs, chain, write_atomic};
use ndarray::{ArrayD, Axis};

use crate::common::place;
use crate::screen;

/// Segmentation metrics of masks against reference masks (NIfTI). A voxel is marked where its value is above 0.5.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The mask to judge, or a folder of masks.
    result: PathBuf,
    /// The reference mask, or a folder of masks with the same file names.
    reference: PathBuf,
    /// How to print the table.
    #[arg(long, value_enum, default_value_t = Format::Markdown)]
    format: Format,
    /// Write the table to this file too.
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    overwrite: place::Overwrite,
    /// What a distance is when one mask is empty.
    #[arg(long, value_enum, default_value_t = Empty::Skip)]
    empty: Empty,
    /// Tolerance of the surface Dice in mm.
    #[arg(long, default_value_t = 1.0)]
    tolerance: f64,
    /// Smallest lesion in voxels.
    #[arg(long, default_value_t = 1)]
    minimum_lesion: u64,
    /// Where to cut lesions into classes of size, in mm^3 (mm^2 in two dimensions), ascending.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    sizes: Vec<f64>,
    /// Judge volumes of a single slice (X, Y, 1) in two dimensions.
    #[arg(long)]
    flat: bool,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Markdown,
    Csv,
    Json,
    Latex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Empty {
    /// Leave the case out of the mean, and count it.
    Skip,
    /// Count the length of the image's diagonal, as BraTS does.
    Diagonal,
}

/// The scores of one case, in the order of [`columns`], and its lesions.
struct Case {
    name: String,
    scores: Vec<Score>,
    lesions: Option<LesionReport>,
    /// The number of axes that it was judged in.
    axes: Option<usize>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let bins = SizeBins::new(&options.sizes)?;
    let mut failures = Vec::new();
    let mut cases = Vec::new();
    let pairs = pairs(options, &mut failures)?;
    if let Some(path) = &options.output {
        let inputs = pairs
            .iter()
            .fold(Inputs::new(), |all, (_, a, b)| all.file(a).file(b));
        options.overwrite.check(path, &inputs)?;
    }
    for (name, result, reference) in pairs {
        let case = judge(&name, &result, &reference, options).unwrap_or_else(|error| {
            failures.push(format!("{name}: {}", chain(error.as_ref())));
            failed(&name)
        });
        cases.push(case);
    }
    ensure!(
        !cases.is_empty(),
        "expected at least one mask to compare, found none"
    );

    let text = render(&table(&cases)?, options.format)?;
    if let Some(path) = &options.output {
        place::make_parent(path)?;
        write_atomic(path, &text)?;
    }
    screen::print(format_args!("{text}"));
    if options.format == Format::Markdown && cases.len() > 1 {
        screen::print(format_args!("{}", summary(&cases, &bins, options.seed)?));
    }
    for failure in &failures {
        tell!("failed: {failure}");
    }
    // 2: some cases have their figures, others have none.
    let done = cases.iter().any(|case| case.lesions.is_some());
    Ok(match (failures.is_empty(), done) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(2),
        (false, false) => ExitCode::FAILURE,
    })
}

/// The files to compare: name, result and reference.
fn pairs(options: &Options, failures: &mut Vec<String>) -> Result<Vec<(String, PathBuf, PathBuf)>> {
    let (result, reference) = (&options.result, &options.reference);
    if !result.is_dir() && !reference.is_dir() {
        let name = mask_name(result).unwrap_or_else(|| result.display().to_string());
        return Ok(vec![(name, result.clone(), reference.clone())]);
    }
    if !(result.is_dir() && reference.is_dir()) {
        bail!(
            "expected two files or two folders, found {} and {}",
            result.display(),
            reference.display()
        );
    }
    let references = masks_in(reference)?;
    let results = masks_in(result)?;
    let known: BTreeSet<&String> = references.iter().map(|(name, _)| name).collect();
    for (name, path) in &results {
        if !known.contains(name) {
            failures.push(format!("{}: no reference of that name", path.display()));
        }
    }
    // A reference without a result is a case too: reading fails, and it is counted as failed.
    Ok(references
        .into_iter()
        .map(|(name, path)| {
            let found = results.iter().find(|(other, _)| *other == name);
            let file = path.file_name().unwrap_or_default();
            let result = found.map_or_else(|| result.join(file), |(_, path)| path.clone());
            (name, result, path)
        })
        .collect())
}

/// The NIfTI files of a folder with their names, in order.
fn masks_in(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut masks = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if let Some(name) = mask_name(&path) {
            masks.push((name, path));
        }
    }
    masks.sort();
    if let Some([(name, one), (_, other)]) = masks.array_windows().find(|[a, b]| a.0 == b.0) {
        bail!(
            "two masks of the name {name}: {} and {}",
            one.display(),
            other.display()
        );
    }
    Ok(masks)
}

/// The file's name without `.nii` or `.nii.gz`; none for other files.
fn mask_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".gz").unwrap_or(name);
    Some(name.strip_suffix(".nii")?.to_owned())
}

/// A mask with the axes that it is judged in: those of its file, without the third of one slice where that is asked for.
fn read_mask(path: &Path, flat: bool) -> Result<(Volume, ArrayD<bool>)> {
    let volume = nifti::read(path, &Limits::default())?;
    if let Some((at, _)) = volume.data.indexed_iter().find(|(_, value)| value.is_nan()) {
        bail!(
            "{}: expected a mask of numbers, found NaN at voxel {at:?}",
            path.display()
        );
    }
    let mut mask = volume.data.mapv(|value| value > 0.5).into_dyn();
    let axes = volume
        .header
        .as_ref()
        .map_or(3, |header| header.shape.len());
    for axis in (1..3).rev() {
        let single = axis == 2 && flat && mask.len_of(Axis(2)) == 1;
        if axes <= axis || single {
            mask = mask.index_axis_move(Axis(axis), 0);
        }
    }
    Ok((volume, mask))
}

fn columns() -> Vec<Column> {
    vec![
        Column::number("dice", "Dice", 4),
        Column::number("volumetric_similarity", "VS", 4),
        Column::number("hausdorff", "HD (mm)", 2),
        Column::number("hd95", "HD95 (mm, medpy)", 2),
        Column::number("hd95_surface_distance", "HD95 (mm, surface-distance)", 2),
        Column::number("assd", "ASSD (mm, medpy)", 2),
        Column::number("surface_dice", "Surface Dice", 4),
        Column::number("lesion_sensitivity", "Lesions found", 3),
        Column::number("false_lesions", "False lesions", 2),
        Column::number("lesion_f1", "Lesion F1", 3),
    ]
}

/// Every metric of one pair of files.
fn judge(name: &str, result: &Path, reference: &Path, options: &Options) -> Result<Case> {
    let (result_volume, result_mask) = read_mask(result, options.flat)?;
    let (reference_volume, reference_mask) = read_mask(reference, options.flat)?;
    for (path, volume) in [(result, &result_volume), (reference, &reference_volume)] {
        if let Some(note) = Note::on_values(volume) {
            tell!("note: {name}: {}: {note}", path.display());
        }
    }
    let same_place = result_volume
        .affine
        .iter()
        .flatten()
        .zip(reference_volume.affine.iter().flatten())
        .all(|(a, b)| (a - b).abs() <= 1e-3);
    ensure!(
        same_place,
        "expected one affine, found {:?} in {} and {:?} in {}",
        result_volume.affine,
        result.display(),
        reference_volume.affine,
        reference.display()
    );
    let spacing = &reference_volume.spacing()[..reference_mask.ndim().min(3)];
    if reference_mask.ndim() == 3 && reference_mask.len_of(Axis(2)) == 1 {
        tell!(
            "note: {name}: a volume of one slice, judged in three dimensions: every pixel is on the border (--flat judges it in two)"
        );
    }
    let (a, b) = (result_mask.view(), reference_mask.view());

    let counts = Confusion::of(&a, &b)?;
    let borders = BorderDistances::of(&a, &b, spacing, Connectivity::Faces)?;
    let surfels = SurfelDistances::of(&a, &b, spacing)?;
    let border = |metric: fn(&BorderDistances) -> Result<f64>| match &borders {
        Ok(borders) => metric(borders).map(Score::Value),
        Err(reason) => Ok(Score::Undefined(*reason)),
    };
    let surfel_hd95 = match &surfels {
        Ok(surfels) => Score::Value(surfels.percentile(95.0)?),
        Err(reason) => Score::Undefined(*reason),
    };
    let rules = match options.empty {
        Empty::Skip => EmptyRules::default(),
        Empty::Diagonal => EmptyRules {
            both_empty: EmptyPolicy::Skip,
            result_empty: EmptyPolicy::ImageDiagonal,
            reference_empty: EmptyPolicy::ImageDiagonal,
        },
    };
    let diagonal = image_diagonal(reference_mask.shape(), spacing)?;
    let distance = |score| rules.apply(score, diagonal);

    let config = LesionConfig {
        minimum_voxels: options.minimum_lesion,
        ..LesionConfig::default()
    };
    let lesions = lesion_detection(&a, &b, spacing, &config)?;
    let scores = vec![
        counts.dice(),
        counts.volumetric_similarity(),
        distance(border(|d| Ok(d.hausdorff()))?),
        distance(border(|d| Ok(d.percentile(95.0)?))?),
        distance(surfel_hd95),
        distance(border(|d| Ok(d.average_symmetric()))?),
        surface_dice(&a, &b, spacing, options.tolerance)?,
        lesions.sensitivity(),
        Score::Value(lesions.false_lesions as f64),
        lesions.f1(),
    ];
    Ok(Case {
        name: name.to_owned(),
        scores,
        lesions: Some(lesions),
        axes: Some(a.ndim()),
    })
}

/// A case that could not be read: it is counted, and has no value.
fn failed(name: &str) -> Case {
    Case {
        name: name.to_owned(),
        scores: vec![Score::Undefined(Undefined::Failed); columns().len()],
        lesions: None,
        axes: None,
    }
}

/// A row per case, and the mean of more than one.
fn table(cases: &[Case]) -> Result<Table> {
    let mut table = Table::new(columns())?;
    for case in cases {
        let cells = case.scores.iter().map(|&score| score.into()).collect();
        table.push(&case.name, &case.name, cells)?;
    }
    if cases.len() > 1 {
        let mean = |column: usize| {
            let scores = cases.iter().map(|case| case.scores[column]);
            Cell::from(Aggregate::of(scores))
        };
        table.push("mean", "mean", (0..columns().len()).map(mean).collect())?;
    }
    Ok(table)
}

fn render(table: &Table, format: Format) -> Result<String> {
    Ok(match format {
        Format::Markdown => table.to_markdown(),
        Format::Csv => table.to_csv(),
        Format::Json => table.to_json()? + "\n",
        Format::Latex => table.to_latex(),
    })
}

/// The interval of the mean Dice and the lesions by size, in words.
fn summary(cases: &[Case], bins: &SizeBins, seed: u64) -> Result<String> {
    let mut text = String::new();
    let dice = cases.iter().map(|case| (&case.name, case.scores[0]));
    let config = BootstrapConfig {
        seed,
        ..BootstrapConfig::default()
    };
    match bootstrap_mean(dice, &config) {
        Ok(interval) => {
            text += &format!(
                "\nMean Dice {:.4}, {} % interval {:.4} to {:.4} ({} cases drawn {} times).\n",
                interval.mean,
                100.0 * interval.confidence,
                interval.low,
                interval.high,
                interval.patients,
                config.resamples
            );
        }
        Err(few @ metrics::Error::TooFew { .. }) => {
            text += &format!("\nNo interval for the mean Dice: {few}.\n");
        }
        Err(error) => return Err(error.into()),
    }
    let reports: Vec<LesionReport> = cases
        .iter()
        .filter_map(|case| case.lesions.clone())
        .collect();
    let summary = LesionSummary::of(&reports, bins);
    text += &format!(
        "\n{} in {}; found: {:.3}; false lesions per volume: {:.3}.\n",
        fndm_files::counted(summary.lesions, "lesion"),
        fndm_files::counted(summary.volumes, "volume"),
        summary.sensitivity,
        summary.false_lesions_per_volume
    );
    let columns = vec![
        Column::number("lesions", "Lesions", 0),
        Column::number("found", "Found", 0),
        Column::number("sensitivity", "Sensitivity", 3),
        Column::number("dice", "Dice", 4),
    ];
    let mut table = Table::new(columns)?;
    let flat = |case: &Case| case.axes == Some(2);
    let unit = match (cases.iter().any(flat), cases.iter().all(flat)) {
        (_, true) => "mm^2",
        (false, _) => "mm^3",
        (true, false) => "mm^3 or mm^2",
    };
    for row in &summary.by_size {
        let title = match row.to {
            Some(to) => format!("{} to {to} {unit}", row.from),
            None => format!("{} {unit} and up", row.from),
        };
        let cells = vec![
            Cell::from(row.lesions as f64),
            Cell::from(row.found as f64),
            row.sensitivity.into(),
            row.dice.clone().into(),
        ];
        table.push(&title, &title, cells)?;
    }
    text += &format!("\n{}", table.to_markdown());
    Ok(text)
}
