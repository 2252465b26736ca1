//! What the coarse map is worth with one extractor or another: pixel AUROC on the validation split, and a picture.
//!
//! ```sh
//! fndm coarse-maps --data DIR \
//!     --classifier out/model/classifier.safetensors --backbone efficientnet_lite0.safetensors
//! ```

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use fndm::candle_core::{DType, Device, Tensor};
use fndm::data::{PatientSlices, Preprocess, Side, SliceSet};
use fndm::memory::{
    BackboneFeatures, ClassifierFeatures, CoarseMap, Contrast, ContrastConfig, FeatureExtractor,
    HealthyModel, MemoryBank, Padim, PadimConfig, Progress, intensities,
};
use fndm::metrics::{Aggregate, Ranking, dice};
use fndm::models::{Backbone, BackboneKind, Classifier, ClassifierConfig, Limits, StateDict};
use fndm::ndarray::{Array3, Array4, Axis, concatenate, s};
use fndm_files::Inputs;
use fndm_study::{LETTERS, Legend, Sheet, Source, Tile, copies, flair_map, upper_end};
use indicatif::ProgressBar;

use crate::common::{self, place};

/// Compare extractors and models of healthy features by their coarse maps. Trained on one bit per slice of the train split.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// JSON file with the lists train, val, test; default: splits.json in the data folder
    #[arg(long, value_name = "FILE")]
    split_file: Option<PathBuf>,
    /// Sequences, in the order of the images' channels
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAMES",
        default_value = "flair,t1,t1ce"
    )]
    sequences: Vec<String>,
    /// Side of the slices in pixels
    #[arg(long, value_name = "PX", default_value_t = 64)]
    image_size: usize,
    /// Lowest slice used, as a fraction of the volume's height
    #[arg(long, value_name = "F", default_value_t = 0.3)]
    z_low: f64,
    /// Highest slice used
    #[arg(long, value_name = "F", default_value_t = 0.85)]
    z_high: f64,
    /// Weights of a classifier that `train` wrote (classifier.safetensors in its folder)
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Input blocks of the classifier whose outputs are the maps, the finer first
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = common::BLOCKS)]
    blocks: Vec<usize>,
    /// Weights of EfficientNet-Lite0
    #[arg(long, value_name = "FILE")]
    backbone: Option<PathBuf>,
    /// Sides to which slices are enlarged for EfficientNet-Lite0
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "PX,PX",
        default_value = "128,256"
    )]
    backbone_sizes: Vec<usize>,
    /// Most bytes that a memory bank's rows may take
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 20)]
    memory_bytes: u64,
    /// Weight of a patch's place in the memory bank, beside its features; 0 for none
    #[arg(long, value_name = "W", default_value_t = common::POSITION_WEIGHT)]
    position_weight: f64,
    /// Channels that the Gaussians per position see
    #[arg(long, value_name = "N", default_value_t = 100)]
    padim_channels: usize,
    /// Slices on the picture
    #[arg(long, value_name = "N", default_value_t = 10)]
    sheet_rows: usize,
    /// The picture
    #[arg(long, value_name = "FILE", default_value = "out/coarse_maps.png")]
    output: PathBuf,
    #[command(flatten)]
    overwrite: place::Overwrite,
    /// Seed of all random choices
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where the extractors run: cpu; cuda or cuda:N where built with the feature cudnn
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// The colour of the true mask.
const TRUTH: [u8; 3] = [60, 220, 80];

/// One training patient in this many calibrates the threshold and isn't seen otherwise.
const APART: usize = 8;

/// Slices as the models take them.
struct Slices {
    images: Tensor,
    head: Array3<bool>,
}

impl Slices {
    fn new(images: &Array4<f32>, head: Array3<bool>, device: &Device) -> Result<Self> {
        let values = images.iter().copied().collect();
        Ok(Self {
            images: Tensor::from_vec::<_, f32>(values, images.dim(), device)?,
            head,
        })
    }

    fn pick(set: &SliceSet, indices: &[usize], device: &Device) -> Result<Self> {
        Self::new(
            &set.images.select(Axis(0), indices),
            set.head.select(Axis(0), indices),
            device,
        )
    }
}

/// What all maps are compared with.
struct Truth {
    lesions: Array3<bool>,
    head: Array3<bool>,
    /// The head without scalp and skull, about.
    inner: Array3<bool>,
    /// The slices with a lesion.
    diseased: Vec<usize>,
}

impl Truth {
    /// AUROC and average precision in the head, AUROC in the inner head.
    fn ranking(&self, scores: &Array3<f32>) -> Result<String> {
        let of = |inside: &Array3<bool>| -> Result<Ranking<f32>> {
            let pixels = scores.iter().zip(&self.lesions).zip(inside);
            let (values, labels): (Vec<f32>, Vec<bool>) = pixels
                .filter(|(_, inside)| **inside)
                .map(|((v, t), _)| (*v, *t))
                .unzip();
            Ok(Ranking::of(&values, &labels)?)
        };
        let text = |v: fndm::metrics::Score| v.value().map_or("none".into(), |v| format!("{v:.3}"));
        let (head, inner) = (of(&self.head)?, of(&self.inner)?);
        Ok(format!(
            "{} | {} | {}",
            text(head.auroc()),
            text(head.average_precision()),
            text(inner.auroc())
        ))
    }

    /// The mean Dice of x_seg over the slices with a lesion.
    fn dice(&self, binary: &Array3<bool>) -> Result<String> {
        let overlaps = self.diseased.iter().map(|&i| {
            dice(
                &binary.index_axis(Axis(0), i),
                &self.lesions.index_axis(Axis(0), i),
            )
        });
        let overlap = Aggregate::of(overlaps.collect::<Result<Vec<_>, _>>()?);
        Ok(overlap.mean.map_or("none".into(), |v| format!("{v:.3}")))
    }
}

fn preprocess(options: &Options) -> Preprocess {
    Preprocess {
        image_size: options.image_size,
        z_range: (options.z_low, options.z_high),
        ..Preprocess::default()
    }
}

fn source(options: &Options, side: Side) -> Result<Source> {
    let file = options.split_file.as_deref();
    Ok(Source::folder(&options.data, Some(side), file)?)
}

fn patients(options: &Options, side: Side) -> Result<Vec<PatientSlices>> {
    let preprocess = preprocess(options);
    let source = source(options, side)?;
    let mut all = Vec::new();
    for (i, id) in source.ids().iter().enumerate() {
        let patient = source.patient(i, &options.sequences)?;
        match copies(&patient) {
            Some(reason) => tell!("left out {id}: {reason}"),
            None => all.push(preprocess.apply(&patient)?),
        }
    }
    ensure!(!all.is_empty(), "no patient of {} can be used", side.name());
    Ok(all)
}

/// What can be checked before anything is computed.
fn check(options: &Options) -> Result<()> {
    preprocess(options).check()?;
    let mut inputs = Inputs::new();
    for file in [&options.classifier, &options.backbone]
        .into_iter()
        .flatten()
    {
        inputs = inputs.file(file);
    }
    for side in [Side::Train, Side::Val] {
        let source = source(options, side)?;
        inputs = common::add_source(inputs, &source, options.split_file.as_deref());
    }
    options.overwrite.check(&options.output, &inputs)
}

fn extractors(
    options: &Options,
    device: &Device,
) -> Result<Vec<(String, Box<dyn FeatureExtractor>)>> {
    let mut all: Vec<(String, Box<dyn FeatureExtractor>)> =
        vec![("intensities".into(), Box::new(intensities))];
    let limits = Limits::default();
    if let Some(path) = &options.classifier {
        let config = ClassifierConfig {
            image_size: options.image_size,
            ..ClassifierConfig::small_64(options.sequences.len())
        };
        let state = StateDict::read(path, &limits)?;
        let classifier = Classifier::from_state_dict(&config, &state, DType::F32, device)?;
        let features = ClassifierFeatures {
            classifier,
            blocks: options.blocks.clone(),
            t: 0.,
            weights: Some(state.fingerprint()?),
        };
        let name = format!("classifier, blocks {:?}", options.blocks);
        all.push((name, Box::new(features)));
    }
    if let Some(path) = &options.backbone {
        let kind = BackboneKind::EfficientNetLite0;
        let backbone = Backbone::load(path, kind, &limits, device)?;
        for &size in &options.backbone_sizes {
            let features = BackboneFeatures::new(backbone.clone()).enlarged_to(size, size);
            all.push((
                format!("EfficientNet-Lite0 at {size} px"),
                Box::new(features),
            ));
        }
    }
    Ok(all)
}

/// Builds, calibrates and applies one model.
fn examine<M: HealthyModel>(
    build: impl FnOnce(&mut dyn FnMut(Progress) -> ControlFlow<()>) -> fndm::memory::Result<M>,
    extractor: &dyn FeatureExtractor,
    apart: &Slices,
    test: &Slices,
    bar: &ProgressBar,
) -> Result<(M, (CoarseMap, f64))> {
    let mut on_progress = |p: Progress| {
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
        bar.set_message(p.stage.to_string());
        ControlFlow::Continue(())
    };
    let mut model = build(&mut on_progress)?;
    model.calibrate(
        extractor,
        &apart.images,
        apart.head.view(),
        &mut on_progress,
    )?;
    let start = Instant::now();
    let maps = model.coarse(extractor, &test.images, test.head.view())?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3 / test.head.dim().0 as f64;
    Ok((model, (maps, milliseconds)))
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    check(options)?;
    let device = common::device(&options.device)?;
    let extractors = extractors(options, &device)?;
    let train = patients(options, Side::Train)?.into_iter().map(|mut p| {
        // Only the bit of each slice goes on from here.
        p.mask = None;
        p
    });
    let set = SliceSet::from_patients(train)?;
    let healthy = |apart: bool| -> Vec<usize> {
        (0..set.labels.len())
            .filter(|&i| set.labels[i] == 0 && (set.patient[i] % APART == APART - 1) == apart)
            .collect()
    };
    let (kept, apart) = (healthy(false), healthy(true));
    say!(
        "{}: {} to build from, {} to calibrate on",
        fndm_files::counted(set.ids.len(), "patient"),
        fndm_files::counted(kept.len(), "healthy slice"),
        apart.len()
    );
    // The contrast of healthy and diseased slices learns from all slices of the same patients.
    let learned: Vec<usize> = (0..set.labels.len())
        .filter(|&i| set.patient[i] % APART != APART - 1)
        .collect();
    let labels: Vec<u8> = learned.iter().map(|&i| set.labels[i]).collect();
    let learned = Slices::pick(&set, &learned, &device)?;
    let (kept, apart) = (
        Slices::pick(&set, &kept, &device)?,
        Slices::pick(&set, &apart, &device)?,
    );

    let val = patients(options, Side::Val)?;
    let images: Vec<_> = val.iter().map(|p| p.images.view()).collect();
    let images = concatenate(Axis(0), &images)?;
    let truth = truth(options, &val)?;
    let test = Slices::new(&images, truth.head.clone(), &device)?;
    say!(
        "{} of the validation split: {}, {} with a lesion\n",
        fndm_files::counted(val.len(), "patient"),
        fndm_files::counted(truth.lesions.dim().0, "slice"),
        truth.diseased.len()
    );

    say!(
        "| map | extractor | model | size | AUROC | AP | AUROC, inner | Dice of x_seg | ms a slice |"
    );
    say!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let flair = join(&val, |p| Ok(flair_map(p, 0, 0.)?.0))?;
    let figures = truth.ranking(&flair)?;
    say!("| | FLAIR's intensity | none | | {figures} | | |");
    let bar = common::bar(0, "models");
    let mut all: Vec<CoarseMap> = Vec::new();
    for (name, extractor) in &extractors {
        let extractor = extractor.as_ref();
        let mut add = |model: &str, size: String, (maps, ms): (CoarseMap, f64)| -> Result<()> {
            let figures = truth.ranking(&maps.soft)?;
            let overlap = truth.dice(&maps.binary)?;
            all.push(maps);
            let number = all.len();
            bar.suspend(|| {
                say!("| {number} | {name} | {model} | {size} | {figures} | {overlap} | {ms:.1} |");
            });
            Ok(())
        };
        let config =
            common::memory_config(options.memory_bytes, options.position_weight, options.seed);
        let (bank, found) = examine(
            |p| MemoryBank::build(&config, extractor, &kept.images, Some(kept.head.view()), p),
            extractor,
            &apart,
            &test,
            &bar,
        )?;
        let megabytes = bank.bytes() as f64 / 1e6;
        add(
            "bank",
            format!("{} rows, {megabytes:.1} MB", bank.len()),
            found,
        )?;
        let config = PadimConfig {
            random_channels: options.padim_channels,
            seed: options.seed,
            ..PadimConfig::default()
        };
        let (padim, found) = examine(
            |p| Padim::build(&config, extractor, &kept.images, p),
            extractor,
            &apart,
            &test,
            &bar,
        )?;
        let (h, w) = padim.grid();
        let channels = padim.mean()?.ncols();
        add("PaDiM", format!("{h} x {w} Gaussians of {channels}"), found)?;
        let (contrast, found) = examine(
            |p| {
                let config = ContrastConfig::default();
                Contrast::build(&config, extractor, &learned.images, &labels, p)
            },
            extractor,
            &apart,
            &test,
            &bar,
        )?;
        let (h, w) = contrast.grid();
        add("contrast", format!("{h} x {w} pairs of Gaussians"), found)?;
    }
    bar.finish_and_clear();
    save_sheet(options, &val, &images, &truth, &all)?;
    Ok(ExitCode::SUCCESS)
}

/// What `of` makes of each patient, one after the other.
fn join<T: Clone>(
    patients: &[PatientSlices],
    of: impl Fn(&PatientSlices) -> Result<Array3<T>>,
) -> Result<Array3<T>> {
    let parts = patients.iter().map(of).collect::<Result<Vec<_>>>()?;
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    Ok(concatenate(Axis(0), &views)?)
}

fn truth(options: &Options, val: &[PatientSlices]) -> Result<Truth> {
    let lesions = join(val, |p| {
        let mask = p.mask.clone();
        mask.with_context(|| format!("{} has no lesion mask", p.id))
    })?;
    let diseased = (0..lesions.dim().0)
        .filter(|&i| lesions.index_axis(Axis(0), i).iter().any(|v| *v))
        .collect();
    Ok(Truth {
        lesions,
        head: join(val, |p| Ok(p.head.clone()))?,
        inner: join(val, |p| Ok(p.eroded_head(options.image_size * 5 / 64)))?,
        diseased,
    })
}

/// Slices spread evenly over those with a lesion, in the order of patients.
fn save_sheet(
    options: &Options,
    val: &[PatientSlices],
    images: &Array4<f32>,
    truth: &Truth,
    maps: &[CoarseMap],
) -> Result<()> {
    let channel = options
        .sequences
        .iter()
        .position(|s| s == "flair")
        .unwrap_or(0);
    let mut titles = vec!["input".to_string(), "truth".to_string()];
    titles.extend((1..=maps.len()).map(|i| format!("map {i}")));
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let mut sheet = Sheet::new(&titles, (options.image_size, options.image_size))?;
    // All are cut the same way.
    if let Some(first) = val.first() {
        let [left, right] = first.geometry.sides();
        sheet = sheet.with_sides(left, right);
    }
    let places: Vec<(&str, usize)> = val
        .iter()
        .flat_map(|p| p.z.iter().map(|&z| (p.id.as_str(), z)))
        .collect();
    let count = options.sheet_rows.min(truth.diseased.len());
    for at in 0..count {
        let i = truth.diseased[at * truth.diseased.len() / count];
        let (patient, z) = places[i];
        sheet.caption(&format!("{patient}, slice {}", z + 1))?;
        let input = images.slice(s![i, channel, .., ..]);
        let mut tiles = vec![
            Tile::Grey {
                image: input,
                low: -1.,
                high: 1.,
            },
            Tile::Overlay {
                image: input,
                mask: truth.lesions.index_axis(Axis(0), i),
                color: TRUTH,
            },
        ];
        for map in maps {
            let map = map.soft.index_axis(Axis(0), i);
            // From the head's smallest value: no patch lies on the bank's rows.
            let head = truth.head.index_axis(Axis(0), i);
            let inside = map.iter().zip(&head).filter(|(_, head)| **head);
            tiles.push(Tile::Heat {
                map,
                low: inside.fold(f32::INFINITY, |low, (v, _)| low.min(*v)),
                high: upper_end(map),
            });
        }
        sheet.push(&tiles)?;
    }
    let mut legend = vec![
        Legend::Grey(
            "input: black -1, white 1, the ends of the sequence's usual intensities".into(),
        ),
        Legend::Mask(TRUTH, "the true mask".into()),
        Legend::Heat("maps: from the head's smallest value to the slice's largest".into()),
    ];
    legend.push(Legend::Words(
        "maps are numbered as the rows of the table".into(),
    ));
    legend.push(Legend::Words(LETTERS.into()));
    sheet.legend(&legend)?;
    place::make_parent(&options.output)?;
    sheet.save(&options.output)?;
    say!("\nwrote {}", options.output.display());
    Ok(())
}
