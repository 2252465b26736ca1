//! What is in a data set's folder, what is wrong with it, and which slices would be used.
//!
//! ```text
//! cargo run --example inspect -p fndm-data -- FOLDER flair,t1,t1ce [--z 0.3,0.85] [--size 64] [--sheet heads.png]
//! ```
//!
//! The sheet shows, for each patient, slices from the lower to the upper end with the head's outline.

use std::error::Error;
use std::path::{Path, PathBuf};

use fndm_data::{
    Limits, PatientSlices, Preprocess, Splits, find_identical_sequences, list_patients,
    read_patient,
};
use ndarray::{Array2, Axis};

struct Arguments {
    folder: PathBuf,
    sequences: Vec<String>,
    preprocess: Preprocess,
    sheet: Option<PathBuf>,
}

const USAGE: &str = "usage: inspect FOLDER SEQUENCE[,SEQUENCE...] [--z LOW,HIGH] [--size PIXELS] [--sheet FILE.png]";

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().ok_or(USAGE)?.into();
    let sequences = words.next().ok_or(USAGE)?;
    let mut preprocess = Preprocess::default();
    let mut sheet = None;
    while let Some(word) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        match word.as_str() {
            "--z" => {
                let (low, high) = value.split_once(',').ok_or(USAGE)?;
                preprocess.z_range = (low.parse()?, high.parse()?);
            }
            "--size" => preprocess.image_size = value.parse()?,
            "--sheet" => sheet = Some(value.into()),
            _ => return Err(USAGE.into()),
        }
    }
    preprocess.check()?;
    Ok(Arguments {
        folder,
        sequences: sequences.split(',').map(String::from).collect(),
        preprocess,
        sheet,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let limits = Limits::default();
    let ids = list_patients(&arguments.folder)?;
    println!("{} patients in {}", ids.len(), arguments.folder.display());
    check_splits(&arguments.folder, &limits);

    let (mut slices, mut diseased, mut wrong) = (0, 0, 0);
    let mut rows = Vec::new();
    for id in &ids {
        let folder = arguments.folder.join(id);
        let patient = match read_patient(&folder, &arguments.sequences, &limits) {
            Ok(patient) => patient,
            Err(error) => {
                println!("{id}: WRONG: {error}");
                wrong += 1;
                continue;
            }
        };
        let copies = find_identical_sequences(&patient);
        let cut = match arguments.preprocess.apply(&patient) {
            Ok(cut) => cut,
            Err(error) => {
                println!("{id}: WRONG: {error}");
                wrong += 1;
                continue;
            }
        };
        let volume = patient.reference()?;
        let codes: String = volume.axis_codes().iter().collect();
        let labels = match &cut.labels {
            Some(labels) => {
                let count = labels.iter().filter(|l| **l == 1).count();
                diseased += count;
                format!("{count} diseased")
            }
            None => "no mask".to_string(),
        };
        println!(
            "{id}: {:?} {codes} {:.2?} mm, slices {}..={} used ({}, {labels})",
            volume.shape(),
            volume.spacing(),
            cut.z.first().copied().unwrap_or_default(),
            cut.z.last().copied().unwrap_or_default(),
            cut.len(),
        );
        for (first, second) in &copies {
            println!("{id}: WRONG: {second} is a copy of {first}");
        }
        wrong += usize::from(!copies.is_empty());
        slices += cut.len();
        if arguments.sheet.is_some() {
            rows.push(row(&cut));
        }
    }
    println!("{slices} slices, {diseased} diseased; something is wrong with {wrong} patients");
    if let Some(path) = &arguments.sheet {
        write_sheet(path, &rows)?;
        println!("heads: {}", path.display());
    }
    Ok(())
}

fn check_splits(folder: &Path, limits: &Limits) {
    let path = folder.join("splits.json");
    if !path.is_file() {
        println!("no splits.json");
        return;
    }
    let checked = Splits::read(&path, limits).and_then(|splits| {
        splits.check_folders(folder)?;
        Ok(splits)
    });
    match checked {
        Ok(splits) => println!(
            "splits: {} train, {} val, {} test",
            splits.train.len(),
            splits.val.len(),
            splits.test.len()
        ),
        Err(error) => println!("splits: WRONG: {error}"),
    }
}

/// Ten slices side by side, first channel, with the head's outline in white.
fn row(cut: &PatientSlices) -> Array2<u8> {
    const COUNT: usize = 10;
    let size = cut.images.dim().2;
    let inner = cut.eroded_head(1);
    let mut out = Array2::zeros((size, COUNT * size));
    for place in 0..COUNT {
        let n = place * (cut.len() - 1) / (COUNT - 1);
        let image = cut.images.index_axis(Axis(0), n);
        for ((y, x), &value) in image.index_axis(Axis(0), 0).indexed_iter() {
            let edge = cut.head[(n, y, x)] && !inner[(n, y, x)];
            let grey = ((value + 1.0) * 110.0) as u8;
            out[(y, place * size + x)] = if edge { 255 } else { grey };
        }
    }
    out
}

fn write_sheet(path: &Path, rows: &[Array2<u8>]) -> Result<(), Box<dyn Error>> {
    let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
    let sheet = ndarray::concatenate(Axis(0), &views)?;
    let (height, width) = sheet.dim();
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let pixels: Vec<u8> = sheet.iter().copied().collect();
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}
