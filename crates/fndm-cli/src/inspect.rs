//! What is in a data set's folder, what is wrong with it, and which slices would be used.
//!
//! ```text
//! fndm inspect FOLDER [SEQUENCE,SEQUENCE,...] [--z 0.3,0.85] [--size 64] [--sheet heads.png]
//! ```
//!
//! Without sequences, those that every patient has are taken. The sheet shows, for each patient, slices
//! from the lower to the upper end with the head's outline. Ends with 0 if all is well, 2 if something is
//! wrong with some patients, 1 if nothing could be used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use fndm_data::layout::{find_mask, list_sequences};
use fndm_data::{
    Limits, PatientSlices, Preprocess, Side, Splits, find_identical_sequences, list_patients,
    read_patient_below,
};
use fndm_files::{Inputs, chain, counted};
use fndm_study::{LETTERS, Legend, Sheet, Source, Tile};
use ndarray::{Array2, Axis, s};

use crate::common::labels::TableOptions;
use crate::common::place;

/// Look at a data set's folder: what is there, what is wrong with it, and which slices would be used.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    folder: PathBuf,
    /// Sequences to look at; those that every patient has if not given
    #[arg(value_delimiter = ',', value_name = "NAMES")]
    sequences: Vec<String>,
    /// Lowest and highest slice used, as fractions of the volume's height
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', num_args = 1, default_values_t = [0., 1.])]
    z: Vec<f64>,
    /// Side of the slices in pixels
    #[arg(long, value_name = "PX", default_value_t = 64)]
    size: usize,
    /// A mask beside the sequences that takes the place of the head that is found: brain for <id>_brain.nii.gz
    #[arg(long, value_name = "NAME")]
    brain_mask: Option<String>,
    #[command(flatten)]
    labels: TableOptions,
    /// A picture of each patient's slices with the head's outline
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    #[command(flatten)]
    overwrite: place::Overwrite,
}

fn preprocess(options: &Options) -> Result<Preprocess> {
    let [low, high] = options.z[..] else {
        bail!("--z: expected two numbers, got {}", options.z.len());
    };
    let preprocess = Preprocess {
        image_size: options.size,
        z_range: (low, high),
        brain_mask: options.brain_mask.clone(),
        ..Preprocess::default()
    };
    preprocess.check()?;
    Ok(preprocess)
}

/// Slices and diseased slices of one side of the split.
#[derive(Default)]
struct Count {
    patients: usize,
    slices: usize,
    diseased: usize,
}

/// The split, among the patients that something is wrong with.
const SPLITS: &str = "splits.json";

/// The sequences of a folder's patients.
struct Contents {
    /// Those that all have.
    common: Vec<String>,
    /// Patients without one that most have, and which.
    lacking: Vec<(String, String)>,
}

/// A head that covers more than this share of the slices leaves no background.
const ALL_HEAD: f64 = 0.9;

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let preprocess = preprocess(options)?;
    let limits = Limits::default();
    let listed = list_patients(&options.folder)?;
    let ids = listed.ids;
    if let Some(path) = &options.sheet {
        // Beside the patients a picture may lie.
        let inputs = Inputs::new().file(options.folder.join(SPLITS));
        let inputs = ids
            .iter()
            .fold(inputs, |all, id| all.folder(options.folder.join(id)));
        let inputs = match options.labels.file() {
            Some(table) => inputs.file(table),
            None => inputs,
        };
        options.overwrite.check(path, &inputs)?;
    }
    say!("{}: {}", options.folder.display(), patients(ids.len()));
    let left_out: Vec<String> = listed.left_out.iter().map(|l| chain(&l.reason)).collect();
    for reason in &left_out {
        say!("left out: {reason}");
    }
    let Contents { common, lacking } = contents(&options.folder, &ids)?;
    let sequences = if options.sequences.is_empty() {
        say!("looked at: {}", common.join(", "));
        common
    } else {
        options.sequences.clone()
    };
    let (splits, wrong_splits) = splits(&options.folder, &limits);
    let source = Source::Folder {
        path: options.folder.clone(),
        patients: ids.clone(),
    };
    let labels = options.labels.source();
    let labelling = labels
        .as_ref()
        .map(|labels| labels.open(&source))
        .transpose()?;
    if let Some(labels) = &labels {
        say!("labels: {}", labels.words());
    }
    say!("");

    let names = preprocess.names_to_read(&sequences);
    let mut sides: BTreeMap<&str, Count> = BTreeMap::new();
    let mut grids: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong: Vec<(&str, String)> = Vec::new();
    wrong.extend(wrong_splits.map(|reason| (SPLITS, reason)));
    if options.sequences.is_empty() {
        wrong.extend(
            lacking
                .iter()
                .map(|(id, reason)| (id.as_str(), reason.clone())),
        );
    }
    let mut rows = Vec::new();
    let mut used = 0;
    say!(
        "{:28} {:>15}  axes  {:>18}  slices used, counted from 1 at the lower end",
        "patient",
        "voxels",
        "mm"
    );
    for (index, id) in ids.iter().enumerate() {
        let cut = match &labelling {
            None => read_patient_below(&options.folder, id, &names, &limits)
                .and_then(|patient| Ok((preprocess.apply(&patient)?, patient, None)))
                .map_err(fndm_study::Error::from),
            Some(labelling) => labelling
                .patient(&source, index, &names)
                .and_then(|patient| {
                    let cut = preprocess.apply(&patient)?;
                    let bits = labelling.label(cut.clone())?.1;
                    Ok((cut, patient, Some(bits)))
                }),
        };
        let (cut, patient, bits) = match cut {
            Ok(both) => both,
            Err(error) => {
                say!("{id:28} WRONG, see below");
                wrong.push((id, chain(&error)));
                continue;
            }
        };
        used += 1;
        let volume = patient.reference()?;
        let codes: String = volume.axis_codes().iter().collect();
        let shares = cut.head_fractions();
        let head = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        let size = volume.shape().map(|n| n.to_string()).join("x");
        let spacing = volume.spacing().map(|s| format!("{s:.2}")).join(" x ");
        *grids.entry(format!("{codes}, {spacing} mm")).or_default() += 1;
        let side = side_of(splits.as_ref(), id);
        let count = sides.entry(side).or_default();
        count.patients += 1;
        count.slices += cut.len();
        let labels = match (&cut.labels, bits) {
            (_, Some(bits)) => {
                count.diseased += bits.diseased;
                format!(
                    "{} healthy, {} diseased, {} unknown",
                    bits.healthy, bits.diseased, bits.unknown
                )
            }
            (Some(labels), None) => {
                let diseased = labels.iter().filter(|l| **l == 1).count();
                count.diseased += diseased;
                format!("{diseased} diseased")
            }
            (None, None) => "no mask".to_string(),
        };
        say!(
            "{id:28} {size:>15}  {codes}   {spacing:>18}  {} of {} ({} to {}), head {:.0} %, {labels}",
            cut.len(),
            cut.geometry.total_slices(),
            cut.z.first().map_or(0, |z| z + 1),
            cut.z.last().map_or(0, |z| z + 1),
            100.0 * head,
        );
        if head > ALL_HEAD {
            let told =
                "the head fills the slices: no background was found, or the volume is cut to it";
            wrong.push((id, told.to_string()));
        }
        for note in &cut.notes {
            wrong.push((id, note.to_string()));
        }
        let copies = find_identical_sequences(&patient);
        if !copies.is_empty() {
            let told = copies
                .iter()
                .map(|(first, second)| format!("{second} is a copy of {first}"));
            wrong.push((id, told.collect::<Vec<_>>().join(", ")));
        }
        if options.sheet.is_some() {
            rows.push(Row::of(&cut));
        }
    }

    let sheet = options.sheet.as_ref().filter(|_| !rows.is_empty());
    if let Some(path) = sheet {
        write_sheet(path, &rows)?;
    }
    say!("");
    for (grid, patients) in &grids {
        say!("grid: {grid}: {}", self::patients(*patients));
    }
    for (side, count) in &sides {
        say!(
            "{side}: {}, {}, {} diseased",
            patients(count.patients),
            counted(count.slices, "slice"),
            count.diseased
        );
    }
    if wrong.is_empty() && left_out.is_empty() {
        say!("nothing is wrong");
    } else if !wrong.is_empty() {
        let names = wrong.iter().map(|(id, _)| *id).filter(|&id| id != SPLITS);
        match names.collect::<BTreeSet<&str>>().len() {
            0 => say!("something is wrong:"),
            count => say!("something is wrong with {}:", patients(count)),
        }
        for (id, reason) in &wrong {
            say!("  {id}: {reason}");
        }
    }
    if let Some(path) = sheet {
        say!("heads: {}", path.display());
    }
    Ok(match (used, wrong.len() + left_out.len()) {
        (0, _) => ExitCode::FAILURE,
        (_, 0) => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    })
}

fn patients(count: usize) -> String {
    counted(count, "patient")
}

/// Prints how many patients have which sequence.
fn contents(folder: &Path, ids: &[String]) -> Result<Contents> {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut each = Vec::new();
    let mut masks = 0;
    for id in ids {
        // What can't be read is told with the patient, below.
        if let Ok(names) = list_sequences(folder.join(id)) {
            for name in &names {
                *found.entry(name.clone()).or_default() += 1;
            }
            each.push((id, names));
        }
        // Two files that could be the mask are told with the patient, below.
        masks += usize::from(!matches!(find_mask(folder.join(id)), Ok(None)));
    }
    let listed: Vec<String> = found
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    say!("files: {}, mask {masks}", listed.join(", "));
    let mut lacking = Vec::new();
    for (id, names) in each {
        let missing = found.iter().filter(|(name, _)| !names.contains(name));
        // What few patients have may be there by chance, and what most have is missing.
        let missing: Vec<String> = missing
            .filter(|&(_, &n)| 2 * n >= ids.len())
            .map(|(name, n)| format!("no {name}, which {n} of {} patients have", ids.len()))
            .collect();
        if !missing.is_empty() {
            lacking.push((id.clone(), missing.join("; ")));
        }
    }
    let all = found.into_iter().filter(|(_, n)| *n == ids.len());
    Ok(Contents {
        common: all.map(|(name, _)| name).collect(),
        lacking,
    })
}

/// The split and, where the file is no split of this folder, why.
fn splits(folder: &Path, limits: &Limits) -> (Option<Splits>, Option<String>) {
    let path = folder.join(SPLITS);
    if !path.is_file() {
        say!("splits: none (no splits.json)");
        return (None, None);
    }
    let checked = Splits::read(path, limits).and_then(|splits| {
        splits.check_folders(folder)?;
        Ok(splits)
    });
    match checked {
        Ok(splits) => {
            let counts =
                Side::ALL.map(|side| format!("{} {}", side.name(), splits.side(side).len()));
            say!("splits: {}; no patient on two sides", counts.join(", "));
            (Some(splits), None)
        }
        Err(error) => {
            let reason = chain(&error);
            say!("splits: WRONG: {reason}");
            (None, Some(reason))
        }
    }
}

fn side_of(splits: Option<&Splits>, id: &str) -> &'static str {
    let Some(splits) = splits else { return "all" };
    let side = Side::ALL
        .into_iter()
        .find(|side| splits.side(*side).iter().any(|p| p == id));
    side.map_or("on no side", Side::name)
}

/// Slices in a row of the picture.
const COUNT: usize = 10;
/// The colour of the head's outline.
const OUTLINE: [u8; 3] = [255, 190, 0];

/// Slices of one patient from the lowest used to the highest, of the first sequence, and the head's border.
struct Row {
    words: String,
    sides: [char; 2],
    images: Vec<Array2<f32>>,
    outlines: Vec<Array2<bool>>,
}

impl Row {
    fn of(cut: &PatientSlices) -> Self {
        let inner = cut.eroded_head(1);
        let shown: Vec<usize> = (0..COUNT)
            .map(|place| place * cut.len().saturating_sub(1) / (COUNT - 1))
            .collect();
        let number = |n: Option<&usize>| n.map_or(0, |&n| cut.z[n] + 1);
        let outline = |&n: &usize| {
            let (head, inner) = (
                cut.head.index_axis(Axis(0), n),
                inner.index_axis(Axis(0), n),
            );
            let mut edge = head.to_owned();
            edge.zip_mut_with(&inner, |edge, &inner| *edge &= !inner);
            edge
        };
        Self {
            words: format!(
                "{}, {}, slices {} to {} of {}",
                cut.id,
                cut.sequences.first().map_or("", String::as_str),
                number(shown.first()),
                number(shown.last()),
                cut.geometry.total_slices()
            ),
            sides: cut.geometry.sides(),
            images: (shown.iter())
                .map(|&n| cut.images.slice(s![n, 0, .., ..]).to_owned())
                .collect(),
            outlines: shown.iter().map(outline).collect(),
        }
    }
}

fn write_sheet(path: &Path, rows: &[Row]) -> Result<()> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let mut titles = [""; COUNT];
    (titles[0], titles[COUNT - 1]) = ("lowest", "highest");
    let [left, right] = first.sides;
    let mut sheet = Sheet::new(&titles, first.images[0].dim())?.with_sides(left, right);
    for row in rows {
        sheet.caption(&row.words)?;
        let tiles = row.images.iter().zip(&row.outlines);
        let tiles = tiles.map(|(image, outline)| Tile::Overlay {
            image: image.view(),
            mask: outline.view(),
            color: OUTLINE,
        });
        sheet.push(&tiles.collect::<Vec<_>>())?;
    }
    sheet.legend(&[
        Legend::Grey(
            "black -1, white 1, the ends of the sequence's usual intensities; black outside the head"
                .into(),
        ),
        Legend::Mask(OUTLINE, "the border of the head that was found".into()),
        Legend::Words(LETTERS.into()),
    ])?;
    place::make_parent(path)?;
    Ok(sheet.save(path)?)
}
