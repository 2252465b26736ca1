//! Trains a model from slices with one bit each: classifier, memory bank, diffusion model.
//!
//! The phantom: fndm train --phantom 80 --output out/phantom
//! A folder:    fndm train --data DIR --labels labels.csv --sequences flair,t1,t1ce --output out/model

mod bars;
pub(crate) mod student;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::parser::ValueSource;
use clap::{Args, FromArgMatches};
use fndm::data::corrupt::PastedLesion;
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Preprocess, Side};
use fndm::memory::ContrastConfig;
use fndm::models::UNetConfig;
use fndm::{DetectConfig, Method, ModelConfig, Parts};
use fndm_files::{Inputs, WorkFolder};
use fndm_study::student::StudentPlan;
use fndm_study::train::{Alone, ConditionDropout, DiffusionConfig, Group, RateSchedule};
use fndm_study::{
    LabelSource, LeftOut, PHANTOM_SEQUENCES, SeparatePlan, Source, StudentBase, TrainPlan,
    TrainingPlace, ValidationPlan, ValidationScore, add_student, train_model_in,
};

pub(crate) use bars::{Bars, line, step};

use crate::common::labels::TableOptions;
use crate::common::{self, place};
use crate::model_card;
use student::Lesions;

/// Options of the other trainings: where a student is trained alone they would count for nothing.
const OF_OTHERS: [&str; 20] = [
    "student",
    "plan",
    "validate_every",
    "validate_slices",
    "classifier_minutes",
    "classifier_iterations",
    "classifier_batch",
    "minutes",
    "iterations",
    "batch",
    "objective",
    "pasted",
    "lr",
    "cosine",
    "width",
    "feature_blocks",
    "position_weight",
    "contrast",
    "separate",
    "memory_bytes",
];

/// Train the classifier, the memory bank and the diffusion model from slices with one bit each (healthy or diseased).
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz, and without --labels <id>/<id>_seg.nii.gz, of which only the bit of each slice
    /// is used
    #[arg(long, value_name = "DIR", conflicts_with = "phantom")]
    data: Option<PathBuf>,
    /// Folder of patients whose volumes are wholly healthy
    #[arg(long, value_name = "DIR", requires = "diseased", conflicts_with_all = ["data", "phantom", "table", "split_file"])]
    healthy: Option<PathBuf>,
    /// Folder of patients whose volumes have a lesion in every slice used
    #[arg(long, value_name = "DIR", requires = "healthy")]
    diseased: Option<PathBuf>,
    #[command(flatten)]
    labels: TableOptions,
    /// Train on this many patients of the phantom instead
    #[arg(long, value_name = "N")]
    phantom: Option<u64>,
    /// Seed of the phantom's first patient
    #[arg(long, value_name = "N", default_value_t = 0)]
    phantom_seed: u64,
    /// JSON file with the lists train, val, test; default: splits.json in the data folder. Without either all patients are trained on,
    /// but for every eighth where there is a validation
    #[arg(long, value_name = "FILE")]
    split_file: Option<PathBuf>,
    /// Sequences, in the order of the images' channels
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    sequences: Option<Vec<String>>,
    /// The model folder to write; a run that was stopped goes on from the checkpoints in it
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Side of the slices in pixels
    #[arg(long, value_name = "PX", default_value_t = 64)]
    image_size: usize,
    /// Lowest slice used, as a fraction of the volume's height
    #[arg(long, value_name = "F", default_value_t = 0.)]
    z_low: f64,
    /// Highest slice used
    #[arg(long, value_name = "F", default_value_t = 1.)]
    z_high: f64,
    /// A mask beside each patient's sequences that says where the brain is: brain for <id>_brain.nii.gz. It takes the place of the head
    /// that is found, and whoever uses the model needs one too
    #[arg(long, value_name = "NAME", conflicts_with = "student_for")]
    brain_mask: Option<String>,
    /// Time budget of the classifier's training; 15 where no budget is given
    #[arg(long, value_name = "MIN")]
    classifier_minutes: Option<f64>,
    /// Iteration budget of the classifier's training
    #[arg(long, value_name = "N")]
    classifier_iterations: Option<u64>,
    /// Time budget of the diffusion model's training; with --objective paper 60 where no budget is given
    #[arg(long, value_name = "MIN")]
    minutes: Option<f64>,
    /// Iteration budget of the diffusion model's training
    #[arg(long, value_name = "N")]
    iterations: Option<u64>,
    /// Slices per iteration of the diffusion model's training
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Slices per iteration of the classifier's training
    #[arg(long, value_name = "N", default_value_t = 16)]
    classifier_batch: usize,
    /// What the diffusion model learns: removing, to remove pseudo-lesions from healthy slices (1200 iterations unless a budget is given,
    /// one evaluation a slice afterwards), or paper, to reconstruct healthy and diseased slices by their label
    #[arg(long, value_enum, default_value_t = Objective::Removing)]
    objective: Objective,
    /// Share of the healthy slices that get a lesion cut from a diseased slice by the contrast, with --objective removing; the others
    /// get a drawn one. 0 for drawn ones alone
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pasted: f64,
    /// Learning rate of Adam, for both networks [default: 0.0003; with --objective removing 0.001 for the diffusion model]
    #[arg(long, value_name = "LR")]
    lr: Option<f64>,
    /// Let the rate fall by half a cosine to a twentieth at the last iteration; needs both iteration budgets
    #[arg(long, requires = "iterations", requires = "classifier_iterations")]
    cosine: bool,
    /// Width of the UNet's first level, a multiple of 32
    #[arg(long, value_name = "C", default_value_t = 32)]
    width: usize,
    /// Input blocks of the classifier whose outputs the memory bank holds, the finer first
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = common::BLOCKS)]
    feature_blocks: Vec<usize>,
    /// Weight of a patch's place in the memory bank, beside its features; 0 for none
    #[arg(long, value_name = "W", default_value_t = common::POSITION_WEIGHT)]
    position_weight: f64,
    /// Learn Gaussians of healthy and of diseased slices too, for --coarse-source contrast
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    contrast: bool,
    /// Train a student too, last: a small network that gives the probability of a lesion by itself. The model then examines patients
    /// by it where nothing else is asked for
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    student: bool,
    /// Train a student alone, and write this model with it into the output folder
    #[arg(long, value_name = "MODEL", conflicts_with_all = OF_OTHERS)]
    student_for: Option<PathBuf>,
    /// Train a student alone, and write a model of nothing else: minutes instead of hours
    #[arg(long, conflicts_with = "student_for", conflicts_with_all = OF_OTHERS)]
    student_alone: bool,
    /// Iterations of each of the student's two trainings
    #[arg(long, value_name = "N", default_value_t = 1200)]
    student_iterations: u64,
    /// The lesions that are to be found: what a student is taught, and what the diffusion model learns to remove with --objective removing
    #[arg(long, value_enum, default_value = "any", value_name = "KIND")]
    lesions: Lesions,
    /// Any values of the student's plan, as JSON that is laid over it
    #[arg(long, value_name = "JSON")]
    student_plan: Option<String>,
    /// Train networks of their own for the rows CG + NM and CG of the ablation too, each as long as the first. That of CG + NM then
    /// knows nothing of any coarse map: with --objective removing it sees drawn lesions alone
    #[arg(long)]
    separate: bool,
    /// Most bytes that the memory bank's rows may take
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 20)]
    memory_bytes: u64,
    /// Iterations between validations of the diffusion model; the model written is then the best. With masks by Dice, else by how well
    /// the map tells diseased slices from healthy ones. Uses the split's val patients, or five further patients of the phantom
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Diseased slices in a validation, and without masks as many healthy ones
    #[arg(long, value_name = "N", default_value_t = 24)]
    validate_slices: usize,
    /// Seed of the weights, the order of the slices and all noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Any values of the training plan, as JSON that is laid over it; its keys are those of plan in training.json
    #[arg(long, value_name = "JSON")]
    plan: Option<String>,
    /// Train in all processes that mpirun or srun has started
    #[cfg(feature = "mpi")]
    #[arg(long)]
    mpi: bool,
    /// JSON object that is laid over the model's card (metadata.json): name, authors, copyright, licence, intended_use, ...
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
    /// cpu, or cuda where built with that feature
    #[arg(long, default_value = "cpu")]
    device: String,
    #[command(flatten)]
    method: common::MethodOptions,
}

/// What the diffusion model learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Objective {
    /// To remove pseudo-lesions from healthy slices
    Removing,
    /// To reconstruct healthy and diseased slices by their label
    Paper,
}

/// Seconds of a training: the default counts only where no iterations were asked for.
fn budget(minutes: Option<f64>, iterations: Option<u64>, default: Option<f64>) -> Option<f64> {
    let asked = minutes.map(|minutes| 60. * minutes);
    asked.or(default.filter(|_| iterations.is_none()))
}

/// One patient in this many is held apart for the validation where no split says which.
const APART: usize = 8;

/// The patients that are trained on, and those of the validation if there is one.
fn sources(options: &Options) -> Result<(Source, Option<Source>)> {
    let validates = options.validate_every.is_some();
    let all = match (
        &options.data,
        options.phantom,
        &options.healthy,
        &options.diseased,
    ) {
        (Some(path), None, None, None) => {
            let file = options.split_file.as_deref();
            if file.is_some() || path.join("splits.json").is_file() {
                let of = |side| Source::folder(path, Some(side), file);
                let validation = validates.then(|| of(Side::Val)).transpose()?;
                return Ok((of(Side::Train)?, validation));
            }
            Source::folder(path, None, None)?
        }
        (None, Some(patients), None, None) => {
            let of = |first_seed, patients| Source::Phantom {
                config: PhantomConfig::default(),
                first_seed,
                patients,
            };
            // Beyond the last seed the plan's check says so.
            let next = options.phantom_seed.saturating_add(patients);
            let validation = validates.then(|| of(next, 5));
            return Ok((of(options.phantom_seed, patients), validation));
        }
        (None, None, Some(healthy), Some(diseased)) => Source::sides(healthy, diseased)?,
        _ => bail!("expected --data DIR, --healthy DIR and --diseased DIR, or --phantom N"),
    };
    // A split names its patients; a folder may have some that can't be read.
    for LeftOut { patient, reason } in common::passed_over(&all, "all")? {
        tell!("left out {patient}: {reason}");
    }
    if !validates {
        return Ok((all, None));
    }
    let Some((source, validation)) = all.held_apart(APART) else {
        bail!(
            "--validate-every: expected at least {APART} patients, of which one is held apart, or a split file; got {}",
            all.ids().len()
        );
    };
    Ok((source, Some(validation)))
}

fn labels(options: &Options, source: &Source) -> LabelSource {
    match (options.labels.source(), source) {
        (Some(table), _) => table,
        (None, Source::Sides { .. }) => LabelSource::Sides,
        (None, _) => LabelSource::Masks,
    }
}

fn sequences(options: &Options, source: &Source) -> Result<Vec<String>> {
    match (&options.sequences, source) {
        (Some(names), _) => Ok(names.clone()),
        (None, Source::Phantom { .. }) => Ok(PHANTOM_SEQUENCES.map(String::from).to_vec()),
        (None, _) => bail!("--sequences: expected names, for example flair,t1,t1ce"),
    }
}

/// What is wrong with options of `fndm train` that stand in another command line; help that was asked for is printed.
fn told(error: &clap::Error) -> anyhow::Error {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    anyhow!("options of train: {}", first.trim_start_matches("error: "))
}

/// The plan of these options of `fndm train`, for slices of this folder whose bits come from masks, and for these lesions. Its student is
/// the one of these options: a program that has its own puts it there.
///
/// # Errors
/// What the program would say of such a command line.
pub(crate) fn asked(arguments: &[String], data: &Path, lesions: Lesions) -> Result<TrainPlan> {
    let command = clap::Command::new("fndm train").no_binary_name(true);
    let data = data.to_string_lossy();
    let own = ["--data", &data, "--output", "."].map(String::from);
    let matches = Options::augment_args(command)
        .try_get_matches_from(own.iter().chain(arguments))
        .map_err(|error| told(&error))?;
    let options = Options::from_arg_matches(&matches)?;
    anyhow::ensure!(
        options.validate_every.is_none()
            && options.student_for.is_none()
            && !options.student_alone
            && options.labels.source().is_none(),
        "options of train: expected neither --validate-every nor --student-for nor --student-alone, and bits from masks"
    );
    // They would count for nothing.
    for (id, option) in [
        ("lesions", "--lesions"),
        ("student_plan", "--plan"),
        ("student_iterations", "--iterations"),
        ("seed", "--seed"),
    ] {
        anyhow::ensure!(
            matches.value_source(id) != Some(ValueSource::CommandLine),
            "options of train: --lesions and the student's --plan, --iterations and --seed stand before the other options, got {option} among them"
        );
    }
    let plan_of_student = options.plan.as_deref().is_some_and(|text| {
        let given: Result<serde_json::Value, _> = serde_json::from_str(text);
        given.is_ok_and(|given| given.get("student").is_some())
    });
    anyhow::ensure!(
        !plan_of_student,
        "options of train: the student's plan stands before the other options, got \"student\" in --plan"
    );
    let options = Options {
        student: true,
        lesions,
        ..options
    };
    let mut plan = plan(&options)?;
    if let Some(text) = &options.plan {
        plan = common::overlay(&plan, text).context("--plan")?;
    }
    Ok(plan)
}

fn plan(options: &Options) -> Result<TrainPlan> {
    check_student(options)?;
    let (source, validation) = sources(options)?;
    let labels = labels(options, &source);
    let sequences = sequences(options, &source)?;
    let channels = sequences.len();
    let mut plan = TrainPlan::small(source, labels, sequences, options.image_size);
    // What the row of CG learns is the paper's whatever the others do: it sees no image that could be corrupted.
    let mut of_paper = (plan.unet.clone(), plan.diffusion_training.clone());
    if options.objective == Objective::Removing {
        plan = plan.removing();
        if let Some(lesion) = &mut plan.diffusion_training.lesion {
            lesion.pasted = (options.pasted != 0.).then(|| PastedLesion {
                share: options.pasted,
                ..PastedLesion::default()
            });
        }
    }
    plan.preprocess.z_range = (options.z_low, options.z_high);
    plan.preprocess.brain_mask.clone_from(&options.brain_mask);
    plan.unet.model_channels = options.width;
    plan.features.blocks.clone_from(&options.feature_blocks);
    plan.memory =
        common::memory_config(options.memory_bytes, options.position_weight, options.seed);
    plan.contrast = options.contrast.then(ContrastConfig::default);
    plan.seed = options.seed;
    let rate = if options.cosine {
        RateSchedule::Cosine { final_share: 0.05 }
    } else {
        RateSchedule::Constant
    };
    let classifier = &mut plan.classifier_training;
    classifier.batch = options.classifier_batch;
    classifier.iterations = options.classifier_iterations;
    classifier.time_budget_s = budget(
        options.classifier_minutes,
        options.classifier_iterations,
        classifier.time_budget_s,
    );
    let diffusion = &mut plan.diffusion_training;
    for (training, default) in [(&mut *diffusion, None), (&mut of_paper.1, Some(60. * 60.))] {
        training.batch = options.batch;
        if options.iterations.is_some() || options.minutes.is_some() {
            training.iterations = options.iterations;
        }
        training.time_budget_s = budget(options.minutes, training.iterations, default);
    }
    let optimizers = [
        &mut classifier.optimizer,
        &mut diffusion.optimizer,
        &mut of_paper.1.optimizer,
    ];
    for optimizer in optimizers {
        optimizer.lr = options.lr.unwrap_or(optimizer.lr);
        optimizer.rate = rate;
    }
    plan.validation = match (options.validate_every, validation) {
        (Some(every), Some(source)) => Some(ValidationPlan {
            source,
            every,
            slices: options.validate_slices,
        }),
        _ => None,
    };
    for (row, config) in &mut plan.detect {
        if let Some(parts) = row.parts() {
            options.method.check_parts(*row, parts)?;
        }
        options.method.apply(config);
    }
    if options.separate {
        // Each is always shown all that it takes; labels are withheld from the last one at times, for DiffANO has none.
        diffusion.condition_dropout = ConditionDropout::NONE;
        of_paper.1.condition_dropout = ConditionDropout::NONE;
        let mut rows = vec![(Method::Cg, 1, 0.2, of_paper)];
        // What is pasted was cut by a coarse map, which CG + NM has none of.
        let mut drawn = diffusion.clone();
        if let Some(lesion) = &mut drawn.lesion {
            lesion.pasted = None;
        }
        rows.push((Method::CgNm, 2, 0., (plan.unet.clone(), drawn)));
        for (method, inputs, label_dropout, (unet, training)) in rows {
            let unet = UNetConfig {
                in_channels: inputs * channels,
                model_channels: options.width,
                num_classes: unet
                    .num_classes
                    .map(|n| n + usize::from(label_dropout > 0.)),
                ..unet
            };
            let training = DiffusionConfig {
                label_dropout,
                ..training
            };
            plan.separate
                .insert(method, SeparatePlan { unet, training });
        }
        // Without networks of their own there are no such rows: CG where lesions are removed, and DiffANO, which knows no labels.
        let whole = plan.detect.get(&Method::Fndm);
        let cg = DetectConfig {
            parts: Parts::CG,
            // Every row alike.
            guided_smoothing: whole.and_then(|row| row.guided_smoothing),
            ..DetectConfig::default()
        };
        let cg = plan.detect.entry(Method::Cg).or_insert(cg);
        options.method.apply(cg);
        let diffano = DetectConfig {
            order: 1,
            label_condition: false,
            ..cg.clone()
        };
        plan.detect.insert(Method::Diffano, diffano);
    }
    if options.student {
        plan.student = Some(student_plan(options, &plan.sequences, options.image_size)?);
    }
    if options.lesions == Lesions::SmallBright {
        let flair = student::flair(&plan.sequences)?;
        plan = plan.small_bright(flair);
        // What was asked for by name stays.
        for config in plan.detect.values_mut() {
            options.method.apply(config);
        }
    }
    Ok(plan)
}

fn student_plan(options: &Options, sequences: &[String], size: usize) -> Result<StudentPlan> {
    let numbers = (options.student_iterations, options.seed);
    let more = options.student_plan.as_deref();
    let more = more.map(|text| ("--student-plan", text));
    let mut plan = student::plan(options.lesions, sequences, size, numbers, more)?;
    if let Some(smoothing) = options.method.guided_smoothing() {
        plan.guided_smoothing = smoothing;
    }
    Ok(plan)
}

/// Options of a student where none is trained would do nothing.
fn check_student(options: &Options) -> Result<()> {
    let trained = options.student || options.student_alone || options.student_for.is_some();
    anyhow::ensure!(
        trained || options.student_plan.is_none(),
        "--student-plan: expected with --student, --student-alone or --student-for, whose training they are of"
    );
    Ok(())
}

/// A card that can't be laid over any other is told before the training.
fn check_card(options: &Options) -> Result<()> {
    let Some(path) = &options.card else {
        return Ok(());
    };
    // What the training says of the model itself has every key that is needed.
    let any = ModelConfig::without_diffusion(Vec::new(), Preprocess::default());
    let card = fndm::ModelCard::of(&any).with(path);
    card.and_then(|card| card.check()).context("--card")
}

/// Adds a student to a model, or to nothing.
fn add(options: &Options, model: Option<&Path>) -> Result<ExitCode> {
    check_card(options)?;
    let device = common::device(&options.device)?;
    let (source, _) = sources(options)?;
    let labels = labels(options, &source);
    labels.open(&source)?;
    let names = match model {
        Some(_) => Vec::new(),
        None => sequences(options, &source)?,
    };
    let preprocess = Preprocess {
        image_size: options.image_size,
        z_range: (options.z_low, options.z_high),
        brain_mask: options.brain_mask.clone(),
        ..Preprocess::default()
    };
    let base = match model {
        Some(model) => StudentBase::Model(model),
        None => StudentBase::Nothing {
            sequences: &names,
            preprocess: &preprocess,
        },
    };
    let config = base.config()?;
    let plan = student_plan(options, &config.sequences, config.preprocess.image_size)?;
    // Before there is a folder.
    StudentBase::check(&config, &plan, &source)?;
    let inputs = match options.labels.file() {
        Some(table) => Inputs::new().file(table),
        None => Inputs::new(),
    };
    let inputs = common::add_source(inputs, &source, options.split_file.as_deref());
    let inputs = match model {
        Some(model) if model.canonicalize().ok() != options.output.canonicalize().ok() => {
            inputs.whole(model)
        }
        _ => inputs,
    };
    let maker = place::maker("train", "model");
    place::check_work(&options.output, &maker, &inputs)?;
    let _folder = WorkFolder::open(&options.output, &maker, &inputs)?;
    let stop = common::stop_by_ctrl_c()?;
    let mut bars = Bars::new(ValidationScore::of(&labels).name(), false);
    let record = add_student(
        &plan,
        &source,
        &labels,
        &base,
        TrainingPlace::new(&options.output, &device, &stop),
        &common::command(),
        &mut |event| bars.show(&event),
    )?;
    bars.abandon();
    if let (Some(card), Some(_)) = (&options.card, &record) {
        model_card::add(&options.output, card)?;
    }
    match record {
        None => say!("stopped; run the same command again to go on"),
        Some(record) => say!(
            "{}: a student of {}, by {}, in {:.0} s",
            options.output.display(),
            fndm_files::counted(record.patients.len(), "patient"),
            record.labels.source,
            record.seconds,
        ),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "mpi"))]
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    train(options, Arc::new(Alone))
}

#[cfg(feature = "mpi")]
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !options.mpi {
        return train(options, Arc::new(Alone));
    }
    // Before MPI is started: one process alone may say so.
    anyhow::ensure!(
        !options.student_alone && options.student_for.is_none(),
        "--mpi: a student is a small network, which one process trains: expected neither --student-alone nor --student-for"
    );
    let group = Arc::new(fndm_study::train::MpiGroup::new()?);
    match train(options, group.clone()) {
        Ok(code) => Ok(code),
        Err(error) => {
            tell!(
                "process {}: {}",
                group.rank(),
                fndm_files::chain(error.as_ref())
            );
            // Others may wait for this one.
            group.abort(1)
        }
    }
}

/// The folder to train in: a new one, or one that a training has been in before.
fn open_folder(options: &Options, plan: &TrainPlan) -> Result<WorkFolder> {
    let file = options.split_file.as_deref();
    let inputs = Inputs::new();
    let inputs = match options.labels.file() {
        Some(table) => inputs.file(table),
        None => inputs,
    };
    let mut inputs = common::add_source(inputs, &plan.source, file);
    if let Some(validation) = &plan.validation {
        inputs = common::add_source(inputs, &validation.source, file);
    }
    let maker = place::maker("train", "model");
    place::check_work(&options.output, &maker, &inputs)?;
    Ok(WorkFolder::open(&options.output, &maker, &inputs)?)
}

fn train(options: &Options, group: Arc<dyn Group>) -> Result<ExitCode> {
    if options.student_alone || options.student_for.is_some() {
        return add(options, options.student_for.as_deref());
    }
    check_card(options)?;
    let first = group.rank() == 0;
    let device = common::device(&options.device)?;
    let mut plan = plan(options)?;
    if let Some(text) = &options.plan {
        plan = common::overlay(&plan, text).context("--plan")?;
    }
    plan.check_for(group.size())?;
    // The plan is written beside the weights: a path that can't be is told now.
    serde_json::to_value(&plan).context("the plan of the training")?;
    // Before there is a folder: a table that can't be used.
    plan.labels.open(&plan.source)?;
    // The first process writes, and holds the folder until the end.
    let _folder = match first {
        true => Some(open_folder(options, &plan)?),
        false => None,
    };
    let stop = common::stop_by_ctrl_c()?;
    let command = common::command();

    // Every process reads the patients and examines them alike: one tells of it.
    let mut bars = Bars::new(ValidationScore::of(&plan.labels).name(), !first);
    let record = train_model_in(
        group,
        &plan,
        TrainingPlace::new(&options.output, &device, &stop),
        &command,
        &mut |event| bars.show(&event),
    )?;
    bars.abandon();
    if let (Some(card), Some(_), true) = (&options.card, &record, first) {
        model_card::add(&options.output, card)?;
    }
    let unreadable = record.as_ref().map_or(0, |record| record.unreadable);
    match record {
        _ if !first => {}
        None => say!("stopped; run the same command again to go on"),
        Some(record) if stop.is_set() => say!(
            "stopped after {} iterations of the diffusion model, which {} has as it is so far; run the same command \
             again to go on",
            record.diffusion.iterations,
            options.output.display(),
        ),
        Some(record) => say!(
            "{}: {}, {} healthy and {} diseased slices by {}; classifier {} iterations{}; \
             diffusion model {} iterations{}; memory bank {} rows",
            options.output.display(),
            fndm_files::counted(record.patients.len(), "patient"),
            record.healthy_slices,
            record.diseased_slices,
            record.labels.source,
            record.classifier.iterations,
            loss(record.classifier.loss),
            record.diffusion.iterations,
            loss(record.diffusion.loss),
            record.memory_rows,
        ),
    }
    Ok(ExitCode::from(if unreadable == 0 { 0 } else { 2 }))
}

fn loss(loss: Option<f64>) -> String {
    loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"))
}
