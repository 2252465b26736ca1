//! Students from slice bits, fold by fold: trains teachers and students, keeps their maps, scores them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use clap::{Parser, Subcommand};
use fndm::student::{
    probability, residual, residual_map, smooth_z, volume_thresholds, weighted_product,
};
use fndm::{SliceCalibration, ThresholdScope, batch_tensor, threshold};
use fndm_data::corrupt::PseudoLesion;
use fndm_data::{Folds, Limits, PatientSlices, Preprocess, SliceSet, Splits};
use fndm_memory::{
    Contrast, ContrastConfig, Edge, HealthyModel, gaussian_blur, intensities, silent,
};
use fndm_metrics::{BootstrapConfig, Score, paired_comparison};
use fndm_models::{Segmenter, SegmenterConfig};
use fndm_study::{Case, Level, Source, copies, evaluate};
use fndm_train::{
    PixelTargets, RemoverConfig, RunConfig, SegmenterTrainer, StopFlag, StudentConfig, run,
};
use ndarray::{Array3, Array4, Axis, s};
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: fndm_kernels::CachingAlloc = fndm_kernels::CachingAlloc::new();

#[derive(Parser)]
struct Options {
    /// Folder of the data set.
    #[arg(long)]
    data: PathBuf,
    /// File of the folds.
    #[arg(long)]
    folds: PathBuf,
    /// Folder of what is made.
    #[arg(long)]
    out: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the file of the folds.
    Folds {
        #[arg(long, default_value_t = 4)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Contrast of the other folds.
    Contrast { fold: usize },
    /// Trains a remover on the other folds.
    Remover {
        fold: usize,
        #[arg(long, default_value = "remover")]
        name: String,
        #[arg(long, default_value_t = 1200)]
        iterations: u64,
        /// JSON of changed settings.
        #[arg(long, default_value = "{}")]
        set: String,
        #[arg(long, default_value = "{}")]
        model: String,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Trains a student on the other folds.
    Student {
        fold: usize,
        #[arg(long)]
        name: String,
        /// `mask`, or maps with powers: `remover:0.5,contrast:0.5`.
        #[arg(long)]
        teacher: String,
        #[arg(long, default_value_t = 1200)]
        iterations: u64,
        #[arg(long, default_value = "{}")]
        set: String,
        #[arg(long, default_value = "{}")]
        model: String,
        #[arg(long, default_value_t = 0.0)]
        band: f64,
        /// The teacher's threshold: Otsu's of the volume (0) or of the slice (1), or between them in logarithms.
        #[arg(long, default_value_t = 0.0)]
        by_slice: f64,
        /// Learn from every second patient alone: the even (0) or the odd (1) ones.
        #[arg(long)]
        half: Option<usize>,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Scores maps on the folds that they haven't seen.
    Score {
        #[arg(long, value_delimiter = ',')]
        folds: Vec<usize>,
        /// `name@erosion` or `a:0.5,b:0.5@erosion`; rows are compared with the first.
        #[arg(long)]
        row: Vec<String>,
    },
}

const SEQUENCES: [&str; 3] = ["flair", "t1", "t1ce"];
const Z_SIGMA: f64 = 0.7;

fn preprocess() -> Preprocess {
    Preprocess {
        image_size: 64,
        z_range: (0.3, 0.85),
        ..Preprocess::default()
    }
}

/// All patients of the folds.
struct Cohort {
    patients: BTreeMap<String, PatientSlices>,
    folds: Folds,
    /// Of those that are trained on.
    passed_over: Vec<String>,
}

impl Cohort {
    fn load(options: &Options) -> Result<Self> {
        let folds = Folds::read(&options.folds, &Limits::default())?;
        let ids: Vec<String> = folds.folds.iter().flatten().cloned().collect();
        let sequences: Vec<String> = SEQUENCES.iter().map(|s| (*s).to_owned()).collect();
        let source = Source::Folder {
            path: options.data.clone(),
            patients: ids.clone(),
        };
        let patients = (0..ids.len())
            .into_par_iter()
            .map(|i| {
                let patient = source.patient(i, &sequences)?;
                Ok((ids[i].clone(), preprocess().apply(&patient)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            patients,
            folds,
            passed_over: Vec::new(),
        })
    }

    /// Slices with bits of the patients that fold `i` trains on. No pixel of a mask is in it.
    fn train_set(&self, i: usize) -> Result<SliceSet> {
        let ids = self.learned(i)?;
        Ok(SliceSet::from_patients(ids.iter().map(|id| {
            let mut slices = self.patients[id].clone();
            slices.mask = None;
            slices
        }))?)
    }

    fn learned(&self, i: usize) -> Result<Vec<String>> {
        let all = self.folds.train(i)?.into_iter();
        Ok(all.filter(|id| !self.passed_over.contains(id)).collect())
    }

    /// The real masks of the same slices: for the bound.
    fn train_masks(&self, i: usize) -> Result<Array3<f32>> {
        let ids = self.learned(i)?;
        let masks: Vec<_> = ids
            .iter()
            .filter_map(|id| self.patients[id].mask.as_ref())
            .map(|m| m.mapv(|m| f32::from(u8::from(m))))
            .collect();
        let views: Vec<_> = masks.iter().map(|m| m.view()).collect();
        Ok(ndarray::concatenate(Axis(0), &views)?)
    }
}

fn eroded(set: &SliceSet, cohort: &Cohort, pixels: usize) -> Result<Array3<bool>> {
    let heads: Vec<_> = set
        .ids
        .iter()
        .map(|id| cohort.patients[id].eroded_head(pixels))
        .collect();
    let views: Vec<_> = heads.iter().map(|m| m.view()).collect();
    Ok(ndarray::concatenate(Axis(0), &views)?)
}

/// Two Gaussians at every position from the slices whose patient `learns`.
fn contrast(set: &SliceSet, learns: impl Fn(usize) -> bool) -> Result<Contrast> {
    let chosen: Vec<usize> = (0..set.len()).filter(|&n| learns(set.patient[n])).collect();
    let images = set.images.select(Axis(0), &chosen);
    let labels: Vec<u8> = chosen.iter().map(|&n| set.labels[n]).collect();
    let images = batch_tensor(&images.view(), &Device::Cpu)?;
    let config = ContrastConfig::default();
    Ok(Contrast::build(
        &config,
        &intensities,
        &images,
        &labels,
        &mut silent,
    )?)
}

fn maps_file(options: &Options, fold: usize, name: &str) -> PathBuf {
    options.out.join(format!("fold{fold}/{name}.safetensors"))
}

/// Makes maps of every patient and keeps them.
fn write_maps(
    path: &Path,
    cohort: &Cohort,
    make: impl Fn(&PatientSlices) -> Result<Array4<f32>>,
) -> Result<()> {
    let mut tensors = std::collections::HashMap::new();
    for (id, slices) in &cohort.patients {
        let map = make(slices)?;
        let shape = map.dim();
        let values: Vec<f32> = map.iter().copied().collect();
        tensors.insert(id.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    let temporary = path.with_extension("tmp");
    candle_core::safetensors::save(&tensors, &temporary)?;
    Ok(std::fs::rename(temporary, path)?)
}

type Maps = BTreeMap<String, Array4<f32>>;

fn read_maps(path: &Path) -> Result<Maps> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)
        .with_context(|| path.display().to_string())?;
    tensors
        .into_iter()
        .map(|(id, t)| {
            let shape = t.dims4()?;
            let values = t.flatten_all()?.to_vec1::<f32>()?;
            Ok((id, Array4::from_shape_vec(shape, values)?))
        })
        .collect()
}

/// The product of named maps to their powers, each smoothed over z: by patient.
fn mixed(
    options: &Options,
    cohort: &Cohort,
    fold: usize,
    what: &str,
) -> Result<BTreeMap<String, Array3<f32>>> {
    let mut parts = Vec::new();
    for part in what.split(',') {
        let (name, power) = match part.split_once(':') {
            Some((name, power)) => (name, power.parse::<f64>()?),
            None => (part, 1.0),
        };
        // `name/bright`: brighter than its reconstruction in FLAIR alone; `name/signed`: sums of signs that lesions have.
        let (file, kind) = name.split_once('/').unwrap_or((name, ""));
        let mut maps = read_maps(&maps_file(options, fold, file))?;
        // `name/cross`: of `name0` and `name1`, which have learned from the even and the odd patients, the one that hasn't seen the
        // patient; the mean of both for patients that neither has.
        if kind == "cross" {
            let other = file.replace('0', "1");
            let other = read_maps(&maps_file(options, fold, &other))?;
            let learned = cohort.folds.train(fold)?;
            for (id, map) in &mut maps {
                match learned.iter().position(|l| l == id).map(|at| at % 2) {
                    Some(0) => map.clone_from(&other[id]),
                    Some(_) => {}
                    None => *map = (&*map + &other[id]) * 0.5,
                }
            }
        }
        let usual = match kind {
            "norm" => Some(usual(cohort, fold, &maps)?),
            _ => None,
        };
        parts.push((maps, kind.to_owned(), power, usual));
    }
    cohort
        .patients
        .iter()
        .map(|(id, slices)| {
            let patient = vec![0; slices.z.len()];
            let mut smooth = Vec::new();
            for (maps, kind, power, usual) in &parts {
                let map = &maps[id];
                let map = match (map.dim().1, kind.as_str()) {
                    (1, _) => map.index_axis(Axis(1), 0).to_owned(),
                    (_, "bright") => {
                        let mut bright = map.slice(s![.., 0..1, .., ..]).mapv(|v| v.max(0.0));
                        bright = blurred(&bright)?;
                        bright.index_axis(Axis(1), 0).to_owned()
                    }
                    _ => residual_map(map.view(), 1.0)?,
                };
                let map = match usual {
                    Some(usual) => map / usual,
                    None => map,
                };
                smooth.push((smooth_z(&map, &patient, &slices.z, Z_SIGMA)?, *power));
            }
            let refs: Vec<_> = smooth.iter().map(|(m, p)| (m, *p)).collect();
            Ok((id.clone(), weighted_product(&refs)?))
        })
        .collect()
}

/// What the residual map is on healthy slices of the patients that were trained on, at each position.
fn usual(cohort: &Cohort, fold: usize, maps: &Maps) -> Result<ndarray::Array2<f32>> {
    let mut sum = Array3::zeros((1, 64, 64));
    let mut count = 0.0;
    for id in cohort.folds.train(fold)? {
        let map = residual_map(maps[&id].view(), 1.0)?;
        let labels = cohort.patients[&id].labels.clone().unwrap_or_default();
        for (map, _) in map
            .outer_iter()
            .zip(labels)
            .filter(|(_, label)| *label == 0)
        {
            sum.index_axis_mut(Axis(0), 0)
                .zip_mut_with(&map, |s, v| *s += v);
            count += 1.0;
        }
    }
    sum /= count;
    gaussian_blur(&mut sum, 2.0, Edge::Symmetric)?;
    let mean = sum.mean().unwrap_or(1.0);
    Ok(sum.index_axis(Axis(0), 0).mapv(|v| v + 0.1 * mean))
}

fn blurred(map: &Array4<f32>) -> Result<Array4<f32>> {
    Ok(residual_map(map.view(), 1.0)?.insert_axis(Axis(1)))
}

/// Changes settings by JSON, one level deep or more.
fn changed<C: serde::Serialize + serde::de::DeserializeOwned>(config: &C, json: &str) -> Result<C> {
    fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
        match (into, from) {
            (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }
    let mut value = serde_json::to_value(config)?;
    merge(&mut value, serde_json::from_str(json)?);
    Ok(serde_json::from_value(value)?)
}

fn train(trainer: &mut SegmenterTrainer, folder: PathBuf) -> Result<Segmenter> {
    let place = RunConfig {
        folder,
        checkpoint_every: 200,
        keep: 1,
        log_every: 20,
        ..RunConfig::default()
    };
    std::fs::create_dir_all(&place.folder)?;
    let mut sum = (0.0, 0);
    run(trainer, &place, &StopFlag::new(), |_, report| {
        sum = (sum.0 + report.loss, sum.1 + 1);
        if report.iteration.is_multiple_of(100) {
            let mean = sum.0 / f64::from(sum.1);
            println!(
                "{:5} {mean:.5} {:.0} s (step {:.3}, waited {:.3})",
                report.iteration, report.elapsed_s, report.step_s, report.wait_s
            );
            sum = (0.0, 0);
        }
    })?;
    Ok(trainer.ema_network()?)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = Device::Cpu;
    match &options.command {
        Command::Folds { count, seed } => {
            let splits = Splits::read(options.data.join("splits.json"), &Limits::default())?;
            splits.check_folders(&options.data)?;
            let mut patients = Vec::new();
            for id in splits.train.iter().chain(&splits.val) {
                let sequences: Vec<String> = SEQUENCES.iter().map(|s| (*s).to_owned()).collect();
                let source = Source::Folder {
                    path: options.data.clone(),
                    patients: vec![id.clone()],
                };
                let patient = source.patient(0, &sequences)?;
                if copies(&patient).is_none() {
                    let site: Vec<&str> = id.split('_').take(2).collect();
                    patients.push((id.clone(), site.join("_")));
                }
            }
            let folds = Folds::stratified(&patients, *count, *seed)?;
            folds.write(&options.folds)?;
            println!(
                "{} patients: {:?}",
                patients.len(),
                folds.folds.iter().map(Vec::len).collect::<Vec<_>>()
            );
        }
        Command::Contrast { fold } => {
            let cohort = Cohort::load(&options)?;
            let set = cohort.train_set(*fold)?;
            // Training patients are scored by contrasts that haven't seen them.
            let parts = 4;
            let of_part = |part: usize| contrast(&set, |p| p % parts != part);
            let apart = (0..parts).map(of_part).collect::<Result<Vec<_>>>()?;
            let all = contrast(&set, |_| true)?;
            write_maps(&maps_file(&options, *fold, "contrast"), &cohort, |slices| {
                let model = match set.ids.iter().position(|id| *id == slices.id) {
                    Some(p) => &apart[p % parts],
                    None => &all,
                };
                let map = model.score_maps(
                    &intensities,
                    &batch_tensor(&slices.images.view(), &Device::Cpu)?,
                    None,
                )?;
                Ok(map.insert_axis(Axis(1)))
            })?;
        }
        Command::Remover {
            fold,
            name,
            iterations,
            set,
            model,
            seed,
        } => {
            let cohort = Cohort::load(&options)?;
            let base = RemoverConfig {
                lesion: PseudoLesion::glioma(),
                ..RemoverConfig::of(*iterations)
            };
            let config = changed(&base, set)?;
            let model = changed(&SegmenterConfig::remover_64(3), model)?;
            let slices = Arc::new(cohort.train_set(*fold)?);
            let mut trainer = SegmenterTrainer::remover(&config, &model, slices, *seed, &device)?;
            let folder = options.out.join(format!("fold{fold}/{name}"));
            let network = train(&mut trainer, folder)?;
            write_maps(&maps_file(&options, *fold, name), &cohort, |slices| {
                Ok(residual(&network, slices.images.view(), &Device::Cpu)?)
            })?;
        }
        Command::Student {
            fold,
            name,
            teacher,
            iterations,
            set,
            model,
            band,
            by_slice,
            half,
            seed,
        } => {
            let mut cohort = Cohort::load(&options)?;
            if let Some(half) = half {
                let left_out = cohort.folds.train(*fold)?;
                let left_out = left_out.iter().skip(1 - half).step_by(2);
                cohort.passed_over = left_out.cloned().collect();
            }
            let slices = cohort.train_set(*fold)?;
            let targets = match teacher.as_str() {
                "mask" => {
                    let masks = cohort.train_masks(*fold)?;
                    let ones = Array3::ones(masks.dim());
                    PixelTargets::new(&slices, masks, ones)?
                }
                mix => {
                    let maps = mixed(&options, &cohort, *fold, mix)?;
                    let views: Vec<_> = slices.ids.iter().map(|id| maps[id].view()).collect();
                    let maps = ndarray::concatenate(Axis(0), &views)?;
                    let inside = eroded(&slices, &cohort, 3)?;
                    {
                        let volume = volume_thresholds(&maps, &inside, &slices.patient)?;
                        let slice = threshold(maps.view(), inside.view(), ThresholdScope::Slice)?
                            .thresholds;
                        let between = |(v, s): (f32, f32)| match *by_slice {
                            share if v > 0. && s > 0. && s.is_finite() => {
                                v * (s / v).powf(share as f32)
                            }
                            _ => v,
                        };
                        let thresholds: Vec<f32> =
                            volume.into_iter().zip(slice).map(between).collect();
                        PixelTargets::from_teacher(&slices, &maps, &inside, &thresholds, *band)?
                    }
                }
            };
            let config = changed(&StudentConfig::of(*iterations), set)?;
            let model = changed(&SegmenterConfig::small_64(3), model)?;
            let mut trainer = SegmenterTrainer::student(
                &config,
                &model,
                Arc::new(slices),
                Arc::new(targets),
                *seed,
                &device,
            )?;
            let network = train(&mut trainer, options.out.join(format!("fold{fold}/{name}")))?;
            write_maps(&maps_file(&options, *fold, name), &cohort, |slices| {
                let patient = vec![0; slices.z.len()];
                let map = probability(
                    &network,
                    slices.images.view(),
                    &patient,
                    &slices.z,
                    true,
                    &device,
                )?;
                Ok(map.insert_axis(Axis(1)))
            })?;
        }
        Command::Score { folds, row } => score(&options, folds, row)?,
    }
    Ok(())
}

/// The cases of one row: every patient by maps that haven't seen it.
fn cases(options: &Options, cohort: &Cohort, folds: &[usize], row: &str) -> Result<Vec<Case>> {
    let (mix, erosion) = row.split_once('@').unwrap_or((row, "3"));
    let erosion: usize = erosion.parse()?;
    let mut cases = Vec::new();
    for &fold in folds {
        let maps = mixed(options, cohort, fold, mix)?;
        for id in cohort.folds.held_out(fold)? {
            let slices = &cohort.patients[id];
            let inner = slices.eroded_head(erosion);
            let mut anomaly = maps[id].clone();
            anomaly.zip_mut_with(&inner, |v, &inside| {
                if !inside {
                    *v = 0.0;
                }
            });
            let [y, x] = slices.geometry.pixel_spacing();
            cases.push(Case {
                patient: id.clone(),
                z: slices.z.clone(),
                anomaly,
                inner_head: inner,
                head: slices.head.clone(),
                truth: slices.mask.clone().context("a mask")?,
                spacing: [slices.geometry.slice_spacing(), y, x],
                mask: None,
                diseased: None,
                milliseconds: 0.0,
            });
        }
    }
    Ok(cases)
}

fn score(options: &Options, folds: &[usize], rows: &[String]) -> Result<()> {
    let cohort = Cohort::load(options)?;
    println!(
        "| map | slice | ceiling | volume | vol. ceiling | AUROC | AP | slice less first | volume less first | slice by fold | bit AUROC |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut rules = Vec::new();
    let mut first: Option<[Vec<(String, Score)>; 2]> = None;
    for row in rows {
        let cases = cases(options, &cohort, folds, row)?;
        let slice = evaluate(row, Level::Slice, &cases, 0, 0)?;
        let volume = evaluate(row, Level::Volume, &cases, 0, 0)?;
        let of = |e: &fndm_study::Evaluation| -> Vec<(String, Score)> {
            e.cases
                .iter()
                .map(|c| (c.patient.clone(), c.dice_otsu))
                .collect()
        };
        let own = [of(&slice), of(&volume)];
        let mut less = Vec::new();
        if let Some(first) = &first {
            for (a, b) in own.iter().zip(first) {
                let pairs = a.iter().zip(b).map(|((p, x), (_, y))| (p.clone(), *x, *y));
                let paired = paired_comparison(pairs, &BootstrapConfig::default())?;
                let d = &paired.difference;
                less.push(format!(
                    "{:+.3} ({:+.3} to {:+.3}), {}/{}",
                    d.mean, d.low, d.high, paired.first_higher, paired.second_higher
                ));
            }
        } else {
            less = vec![String::new(); 2];
        }
        let by_fold: Vec<String> = folds
            .iter()
            .map(|&fold| {
                let held = cohort.folds.held_out(fold).unwrap_or_default();
                let of: Vec<f64> = own[0]
                    .iter()
                    .filter(|(p, _)| held.contains(p))
                    .filter_map(|(_, s)| s.value())
                    .collect();
                format!("{:.3}", of.iter().sum::<f64>() / of.len() as f64)
            })
            .collect();
        let number = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.3}"));
        println!(
            "| {row} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            number(slice.row.dice_otsu),
            number(slice.row.dice_ceiling),
            number(volume.row.dice_otsu),
            number(volume.row.dice_ceiling),
            number(slice.row.auroc),
            number(slice.row.average_precision),
            less[0],
            less[1],
            by_fold.join(" "),
            number(bit_auroc(&cases)),
        );
        rules.push((row, masks(&cohort, folds, &cases)?));
        if first.is_none() {
            first = Some(own);
        }
    }
    println!("\n| map | mask | slice | volume | healthy empty | diseased found |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (row, lines) in rules {
        for line in lines {
            println!("| {row} | {line} |");
        }
    }
    Ok(())
}

/// What masks by several rules are worth: thresholds, and slices emptied that few healthy slices of other folds look worse than.
fn masks(cohort: &Cohort, folds: &[usize], cases: &[Case]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (name, scope) in [
        ("Otsu per slice", ThresholdScope::Slice),
        ("Otsu per volume", ThresholdScope::Volume),
        ("0.5", ThresholdScope::Half),
    ] {
        for share in [0.0, 0.8, 0.9] {
            let calibrations = calibrate(cohort, folds, cases, share)?;
            let own = cases.iter().map(|case| {
                let found = threshold(case.anomaly.view(), case.inner_head.view(), scope)?;
                let mut mask = found.mask;
                let calibration = &calibrations[&case.patient];
                for (mut mask, map) in mask.outer_iter_mut().zip(case.anomaly.outer_iter()) {
                    if calibration.slice(map.iter().copied()) < calibration.healthy_below {
                        mask.fill(false);
                    }
                }
                Ok(Case {
                    mask: Some(mask),
                    ..case.clone()
                })
            });
            let own = own.collect::<Result<Vec<_>>>()?;
            let slice = evaluate("", Level::Slice, &own, 0, 0)?.row;
            let volume = evaluate("", Level::Volume, &own, 0, 0)?.row;
            let (mut found, mut diseased) = (0, 0);
            for case in &own {
                let masks = case.mask.as_ref().context("a mask")?;
                for (mask, truth) in masks.outer_iter().zip(case.truth.outer_iter()) {
                    if truth.iter().any(|&v| v) {
                        diseased += 1;
                        found += usize::from(mask.iter().any(|&v| v));
                    }
                }
            }
            let number = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.3}"));
            lines.push(format!(
                "{name}, {:.0} % | {} | {} | {} | {:.3}",
                100. * share,
                number(slice.dice_mask),
                number(volume.dice_mask),
                number(slice.empty_when_healthy),
                f64::from(found as u32) / f64::from(diseased.max(1) as u32),
            ));
        }
    }
    Ok(lines)
}

/// For each patient what the slices of the other folds say by their bits. No mask is looked at.
fn calibrate(
    cohort: &Cohort,
    folds: &[usize],
    cases: &[Case],
    share: f64,
) -> Result<BTreeMap<String, SliceCalibration>> {
    let mut out = BTreeMap::new();
    for &fold in folds {
        let held = cohort.folds.held_out(fold).unwrap_or_default();
        // With one fold alone there is no other: its own slices then.
        let others: Vec<&Case> = cases
            .iter()
            .filter(|case| folds.len() == 1 || !held.contains(&case.patient))
            .collect();
        let maps: Vec<_> = others.iter().map(|case| case.anomaly.view()).collect();
        let labels = others.iter().flat_map(|case| {
            let labels = cohort.patients[&case.patient].labels.as_deref();
            labels.unwrap_or_default().to_vec()
        });
        let labels: Vec<u8> = labels.collect();
        let maps = ndarray::concatenate(Axis(0), &maps)?;
        let found = SliceCalibration::learn(&maps, &labels, share)?;
        for id in held {
            out.insert(id.clone(), found);
        }
    }
    Ok(out)
}

/// AUROC of the bit of a slice by the mean of its 20 highest values.
fn bit_auroc(cases: &[Case]) -> Option<f64> {
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for case in cases {
        for (map, truth) in case.anomaly.outer_iter().zip(case.truth.outer_iter()) {
            let mut v: Vec<f32> = map.iter().copied().collect();
            v.sort_by(|a, b| b.total_cmp(a));
            values.push(v[..20].iter().sum::<f32>() / 20.0);
            labels.push(truth.iter().any(|&t| t));
        }
    }
    fndm_metrics::auroc(&values, &labels).ok()?.value()
}
