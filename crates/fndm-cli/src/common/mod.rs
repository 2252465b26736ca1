//! What the programs share: options of the method, progress bars, the device.

pub(crate) mod cohort;
pub(crate) mod labels;
mod or_none;
pub(crate) mod place;
pub(crate) mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use fndm::candle_core::{DType, Device};
use fndm::data::{Side, list_patients};
use fndm::kernels::{MatrixMath, set_matrix_math};
use fndm::memory::{MemoryConfig, Score};
use fndm::solver::{self, Algorithm, Grid};
use fndm::{
    CoarseRule, CoarseSource, DetectConfig, Detector, GuidedSmoothing, Method, Parts, ResidualSide,
    Start, ThresholdScope, VolumeScale,
};
use fndm_files::{Inputs, chain};
use fndm_study::train::StopFlag;
use fndm_study::{Arm, LeftOut, Source};
use indicatif::{ProgressBar, ProgressStyle};
use or_none::OrNone;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Blocks of the classifier that the memory bank sees, and the weight of a patch's place beside them: see docs/coarse-maps.md.
pub(crate) const BLOCKS: &str = "2,3,4";
/// See [`BLOCKS`].
pub(crate) const POSITION_WEIGHT: f64 = 2.;

/// The settings of a memory bank whose rows take at most `budget_bytes`.
pub(crate) fn memory_config(budget_bytes: u64, position_weight: f64, seed: u64) -> MemoryConfig {
    MemoryConfig {
        budget_bytes,
        position_weight,
        // Squared distances have a few huge values, and Otsu's threshold then keeps only the middle of a lesion.
        score: Score::Euclidean,
        seed,
        ..MemoryConfig::default()
    }
}

/// Options of the method; what isn't given is taken from the model folder.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Method (defaults: from the model folder)")]
pub(crate) struct MethodOptions {
    /// ODE solver steps in each direction; each is one evaluation of the UNet
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Order of the solver: 1 (DDIM), 2 or 3
    #[arg(long, value_name = "N")]
    order: Option<usize>,
    /// The solver of both directions; ddim is of order 1
    #[arg(long)]
    solver: Option<SolverName>,
    /// Where a step of order 2 or 3 has its further evaluations from: earlier steps, or inside the step
    #[arg(long)]
    stepping: Option<Stepping>,
    /// How the solver's times are spread
    #[arg(long)]
    grid: Option<GridName>,
    /// The state that sampling begins with: encoded by the ODE, the image with fresh noise, or the image scaled as if there were
    /// noise; the last two take no evaluation
    #[arg(long, value_parser = one_of::<Start>(["encoded", "noised", "scaled"]))]
    start: Option<Start>,
    /// Steps of the encoding; default: as many as of the sampling
    #[arg(long, value_name = "N")]
    encode_steps: Option<usize>,
    /// Time at which encoding ends and sampling starts, in (0, 1]; 1 is pure noise
    #[arg(long, value_name = "T")]
    noise_level: Option<f64>,
    /// Scale of the classifier's gradient in equation (8)
    #[arg(long, value_name = "S")]
    guidance_scale: Option<f64>,
    /// CG: guide the sampling by the classifier's gradient
    #[arg(long, value_name = "BOOL")]
    cg: Option<bool>,
    /// NM: show the input image to the UNet (the non-Markovian condition)
    #[arg(long, value_name = "BOOL")]
    nm: Option<bool>,
    /// MB: show the memory bank's coarse map x_seg to the UNet
    #[arg(long, value_name = "BOOL")]
    mb: Option<bool>,
    /// Which model the coarse map comes from: the memory bank of healthy features, the Gaussians of healthy and of diseased slices
    /// that `train --contrast true` adds, or the student
    #[arg(long, value_parser = one_of::<CoarseSource>(["bank", "contrast", "student"]))]
    coarse_source: Option<CoarseSource>,
    /// How the soft coarse map becomes x_seg: above the calibrated threshold, and above Otsu's of the slice or volume
    #[arg(long, value_parser = one_of::<CoarseRule>(["calibrated", "slice", "volume"]))]
    xseg_rule: Option<CoarseRule>,
    /// Threshold of the soft coarse map; default: calibrated on healthy slices
    #[arg(long, value_name = "X")]
    xseg_threshold: Option<f32>,
    /// Pixels by which x_seg is dilated
    #[arg(long, value_name = "PX")]
    xseg_dilation: Option<usize>,
    /// Show x_seg to the UNet while encoding too
    #[arg(long, value_name = "BOOL")]
    xseg_when_encoding: Option<bool>,
    /// Replace the encoded state inside x_seg by fresh noise of this deviation relative to sigma: 1 for one of the healthy tissues
    /// that may lie there, 0 for the middle of them; "none" keeps the state
    #[arg(long, value_name = "X")]
    region_noise: Option<OrNone<f64>>,
    /// Blank the conditioning image inside x_seg
    #[arg(long, value_name = "BOOL")]
    blank_condition: Option<bool>,
    /// Keep the input outside x_seg: only what the coarse map marks can be an anomaly
    #[arg(long, value_name = "BOOL")]
    keep_outside: Option<bool>,
    /// Label given to the UNet while encoding
    #[arg(long, value_parser = bit())]
    encode_label: Option<u32>,
    /// Label given to the UNet and the classifier while sampling
    #[arg(long, value_parser = bit())]
    sample_label: Option<u32>,
    /// Deviation in pixels of the Gaussian that smooths the anomaly map
    #[arg(long, value_name = "PX")]
    smoothing: Option<f64>,
    /// Deviation in slices of the Gaussian that smooths the anomaly map over z
    #[arg(long, value_name = "SLICES")]
    z_smoothing: Option<f64>,
    /// The anomaly map is multiplied by the soft coarse map to this power, in [0, 4]; 0 is the paper's map
    #[arg(long, value_name = "P")]
    coarse_weight: Option<f64>,
    /// The anomaly map is raised to this power before Otsu's threshold, in (0, 4]; 1 is the paper's map
    #[arg(long, value_name = "P")]
    map_power: Option<f64>,
    /// Largest difference of one sequence that counts, in (0, 2]
    #[arg(long, value_name = "X")]
    residual_limit: Option<f64>,
    /// Which differences of each sequence count, in the model's order: both, brighter (than the reconstruction), darker or neither
    #[arg(long, value_name = "SIDE,SIDE", value_delimiter = ',', value_parser = one_of::<ResidualSide>(["both", "brighter", "darker", "neither"]))]
    residual_sides: Option<Vec<ResidualSide>>,
    /// Outer pixels of the head left out of the anomaly map (scalp, skull)
    #[arg(long, value_name = "PX")]
    head_erosion: Option<usize>,
    /// Bring the anomaly map to the scale of its volume: so steep around Otsu's threshold of the volume, or around the least one after
    /// the colon; "none" for the paper's map
    #[arg(long, value_name = "S:LEAST")]
    volume_scale: Option<OrNone<VolumeScale>>,
    /// Smooth the anomaly map over pixels near by that look alike: deviations in pixels, of intensity (images are in [-1, 1]) and in
    /// slices, for example 5:0.06:1; "none" for the paper's map
    #[arg(long, value_name = "PX:RANGE:Z")]
    guided_smoothing: Option<OrNone<GuidedSmoothing>>,
    /// The threshold of the anomaly map: Otsu's of each slice, of the volume, or 0.5 for a map of probabilities
    #[arg(long, value_parser = one_of::<ThresholdScope>(["slice", "volume", "half"]))]
    threshold: Option<ThresholdScope>,
    /// Slices that the student calls healthy have an empty mask
    #[arg(long, value_name = "BOOL")]
    empty_when_healthy: Option<bool>,
}

/// Options of a run of the method. `train` has a batch and a seed of its own, so they aren't among the method's.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    method: MethodOptions,
    /// Slices in the networks at a time
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Seed of the fresh noise
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl RunOptions {
    /// The given options laid over `config`.
    pub(crate) fn apply(&self, config: &mut DetectConfig) {
        self.method.apply(config);
        config.batch = self.batch.unwrap_or(config.batch);
        config.seed = self.seed.unwrap_or(config.seed);
    }
}

/// Where the networks run, and how exactly.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceOptions {
    /// cpu; cuda or cuda:N where built with the feature cudnn
    #[arg(long, default_value = "cpu")]
    device: String,
    /// What the UNet computes in
    #[arg(long, default_value = "f32")]
    precision: Arithmetic,
}

/// What a network computes in.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Arithmetic {
    /// Single precision throughout
    F32,
    /// On a GPU, convolutions and products on tensor cores, of about three digits
    Tf32,
    /// On a GPU, weights and activations of 16 bits; a CPU computes the same in f32
    Bf16,
}

impl DeviceOptions {
    /// What results depend on: the kind of device, not its number, and the precision.
    pub(crate) fn kind(&self) -> serde_json::Value {
        let kind = self.device.split(':').next().unwrap_or_default();
        serde_json::json!({"device": kind, "precision": self.precision})
    }

    /// The device.
    pub(crate) fn device(&self) -> Result<Device> {
        device(&self.device)
    }

    /// Loads a model folder to the device.
    pub(crate) fn load(&self, model: &Path) -> Result<Detector> {
        let device = device(&self.device)?;
        let dtype = match self.precision {
            Arithmetic::F32 => DType::F32,
            Arithmetic::Tf32 => {
                set_matrix_math(MatrixMath::Tf32);
                DType::F32
            }
            Arithmetic::Bf16 => DType::BF16,
        };
        Ok(Detector::load_in(model, &device, dtype)?)
    }
}

/// The solver of both directions.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SolverName {
    /// DPM-Solver++, the paper's
    DpmSolverPp,
    /// DPM-Solver, on the noise
    DpmSolver,
    /// DDIM
    Ddim,
    /// UniPC: a predictor, and a corrector of one order more
    UniPc,
}

/// Where a step has its evaluations from.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stepping {
    /// One each, and those of earlier steps
    Multistep,
    /// As many inside the step as its order, the last steps of lower orders
    Singlestep,
    /// As many inside each step as its order
    SinglestepFixed,
}

/// How the solver's times are spread.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum GridName {
    /// Evenly in t
    UniformTime,
    /// Evenly in t, at times that the networks were trained at
    Trailing,
    /// Evenly in the log of the signal-to-noise ratio
    UniformLambda,
    /// Evenly in the root of t
    QuadraticTime,
    /// Karras et al., rho = 7
    Karras,
}

/// The method of this key.
pub(crate) fn method(option: &str, key: &str) -> Result<Method> {
    let found = Method::ALL.into_iter().find(|m| m.key() == key);
    found.ok_or_else(|| {
        let known = Method::ALL.map(Method::key).join(", ");
        anyhow!("{option}: expected {known}, got {key}")
    })
}

impl MethodOptions {
    /// What was said of the smoothing along the tissue, if anything was.
    pub(crate) fn guided_smoothing(&self) -> Option<Option<GuidedSmoothing>> {
        self.guided_smoothing.map(|smoothing| smoothing.0)
    }

    /// A row of a table is what its parts are: other parts are another row.
    pub(crate) fn check_parts(&self, row: Method, parts: Parts) -> Result<()> {
        for (option, asked, has) in [
            ("--cg", self.cg, parts.classifier_gradient),
            ("--nm", self.nm, parts.image_condition),
            ("--mb", self.mb, parts.memory_bank),
        ] {
            if let Some(asked) = asked.filter(|&asked| asked != has) {
                bail!(
                    "{option} {asked}: the row {} has {has}; choose another row",
                    row.key()
                );
            }
        }
        Ok(())
    }

    /// The given options laid over `config`.
    pub(crate) fn apply(&self, config: &mut DetectConfig) {
        fn set<T: Clone>(target: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                target.clone_from(value);
            }
        }
        set(&mut config.steps, &self.steps);
        set(&mut config.order, &self.order);
        let solver = self.solver.map(|solver| match solver {
            SolverName::DpmSolverPp => Algorithm::DpmSolverPlusPlus,
            SolverName::DpmSolver => Algorithm::DpmSolver,
            SolverName::Ddim => Algorithm::Ddim,
            SolverName::UniPc => Algorithm::UniPc,
        });
        set(&mut config.solver.algorithm, &solver);
        if self.order.is_none() && solver == Some(Algorithm::Ddim) {
            config.order = 1;
        }
        let stepping = self.stepping.map(|stepping| match stepping {
            Stepping::Multistep => solver::Method::Multistep,
            Stepping::Singlestep => solver::Method::Singlestep,
            Stepping::SinglestepFixed => solver::Method::SinglestepFixed,
        });
        set(&mut config.solver.method, &stepping);
        let grid = self.grid.map(|grid| match grid {
            GridName::UniformTime => Grid::UniformTime,
            GridName::Trailing => Grid::Trailing,
            GridName::UniformLambda => Grid::UniformLambda,
            GridName::QuadraticTime => Grid::QuadraticTime,
            GridName::Karras => Grid::karras(),
        });
        set(&mut config.solver.grid, &grid);
        set(&mut config.start, &self.start);
        if self.encode_steps.is_some() {
            config.encode_steps = self.encode_steps;
        }
        set(&mut config.noise_level, &self.noise_level);
        set(&mut config.guidance_scale, &self.guidance_scale);
        set(&mut config.parts.classifier_gradient, &self.cg);
        set(&mut config.parts.image_condition, &self.nm);
        set(&mut config.parts.memory_bank, &self.mb);
        set(&mut config.coarse_rule, &self.xseg_rule);
        set(&mut config.coarse_source, &self.coarse_source);
        if self.xseg_threshold.is_some() {
            config.coarse_threshold = self.xseg_threshold;
        }
        set(&mut config.coarse_dilation, &self.xseg_dilation);
        set(&mut config.coarse_when_encoding, &self.xseg_when_encoding);
        set(&mut config.region_noise, &self.region_noise.map(|n| n.0));
        set(&mut config.keep_outside, &self.keep_outside);
        set(&mut config.blank_condition, &self.blank_condition);
        set(&mut config.encode_label, &self.encode_label);
        set(&mut config.sample_label, &self.sample_label);
        set(&mut config.smoothing, &self.smoothing);
        set(&mut config.z_smoothing, &self.z_smoothing);
        set(&mut config.empty_when_healthy, &self.empty_when_healthy);
        set(&mut config.coarse_weight, &self.coarse_weight);
        set(&mut config.map_power, &self.map_power);
        set(&mut config.residual_limit, &self.residual_limit);
        set(&mut config.residual_sides, &self.residual_sides);
        set(&mut config.head_erosion, &self.head_erosion);
        set(&mut config.guided_smoothing, &self.guided_smoothing());
        set(
            &mut config.volume_scale,
            &self.volume_scale.map(|scale| scale.0),
        );
        set(&mut config.threshold, &self.threshold);
    }
}

/// A value of a library's own type, by the names that it has in files.
pub(crate) fn one_of<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    names: impl Into<PossibleValuesParser>,
) -> impl TypedValueParser<Value = T> {
    let parser: PossibleValuesParser = names.into();
    parser.try_map(|name| serde_json::from_value::<T>(name.into()))
}

/// The bit of a slice, by its name.
fn bit() -> impl TypedValueParser<Value = u32> {
    PossibleValuesParser::new(["healthy", "diseased"]).map(|name| u32::from(name == "diseased"))
}

/// The device of `--device`: see [`fndm::kernels::device`].
pub(crate) fn device(name: &str) -> Result<Device> {
    // Without the backtrace that candle may put behind its message.
    fndm::kernels::device(name).map_err(|e| {
        let message = e.to_string();
        anyhow!("--device {}", message.lines().next().unwrap_or_default())
    })
}

/// A bar with a rate and the time left.
pub(crate) fn bar(length: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix:<22} [{bar:32}] {pos}/{len} {per_sec} {eta} left {msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("=> ");
    let bar = ProgressBar::new(length).with_style(style);
    bar.set_prefix(what.to_string());
    bar
}

/// A bar in thousandths of a budget.
pub(crate) fn share_bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<22} [{bar:32}] {percent}% {eta} left {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    let bar = ProgressBar::new(1000).with_style(style);
    bar.set_prefix(what.to_string());
    bar
}

/// A flag that Ctrl-C sets, for trainings that end with a checkpoint.
pub(crate) fn stop_by_ctrl_c() -> Result<StopFlag> {
    let stop = StopFlag::new();
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        tell!("\nstopping after this iteration, with a checkpoint");
        flag.stop();
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

/// The command line as a user would type it.
pub(crate) fn command() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+".contains(c);
    // Not `args`, which panics where a path isn't UTF-8.
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .map(
            |argument| match !argument.is_empty() && argument.chars().all(plain) {
                true => argument,
                // As a shell takes it for one argument.
                false => format!("'{}'", argument.replace('\'', "'\\''")),
            },
        )
        .collect();
    let program = std::env::args_os().next().map(PathBuf::from);
    let program = program.as_deref().and_then(Path::file_stem);
    let program = match program.and_then(|name| name.to_str()) {
        Some("quickstart") if arguments.is_empty() => "cargo run --release --example quickstart",
        Some("quickstart") => "cargo run --release --example quickstart --",
        _ => "fndm",
    };
    [&[program.to_owned()], arguments.as_slice()]
        .concat()
        .join(" ")
}

/// The patients of one side of a split, or all: `train`, `val`, `test`, `all`.
pub(crate) fn folder(path: &Path, split: &str, file: Option<&Path>) -> Result<Source> {
    let side = match split {
        "all" => None,
        name => match Side::ALL.into_iter().find(|side| side.name() == name) {
            Some(side) => Some(side),
            None => bail!("--split: expected train, val, test or all, got {name}"),
        },
    };
    if let (None, Some(file)) = (side, file) {
        bail!(
            "--split-file {}: expected one of its sides, got --split all, which takes every patient of the folder",
            file.display()
        );
    }
    Ok(Source::folder(path, side, file)?)
}

/// What [`folder`] passed over: folders that can't be read, names that aren't UTF-8. A split names its patients itself.
pub(crate) fn passed_over(source: &Source, split: &str) -> Result<Vec<LeftOut>> {
    if split != "all" {
        return Ok(Vec::new());
    }
    let folders = match source {
        Source::Folder { path, .. } => vec![path],
        Source::Sides {
            healthy, diseased, ..
        } => vec![healthy, diseased],
        Source::Phantom { .. } | Source::Files { .. } | Source::Given { .. } => Vec::new(),
    };
    let mut all = Vec::new();
    for path in folders {
        let listed = list_patients(path)?.left_out.into_iter();
        all.extend(listed.map(|folder| LeftOut {
            patient: folder.path.display().to_string(),
            reason: chain(&folder.reason),
        }));
    }
    Ok(all)
}

/// The settings of one method: the model's, with the options laid over them.
fn settings(detector: &Detector, method: Method, options: &RunOptions) -> Result<DetectConfig> {
    let mut config = detector.config().detect_config(method);
    options.apply(&mut config);
    if let Some(parts) = method.parts() {
        options.method.check_parts(method, parts)?;
        config.parts = parts;
    }
    Ok(config)
}

/// The rows of the usual table that the model can serve, the student where it has one, and the model's own row.
pub(crate) fn usual_methods(detector: &Detector) -> Vec<Method> {
    let config = detector.config();
    let student = detector.student().map(|_| Method::Student);
    let shown = |method: &Method| Method::TABLE.contains(method) || *method == Method::Student;
    let own = Some(config.method).filter(|method| !shown(method));
    Method::TABLE
        .into_iter()
        .filter(|method| match method {
            Method::Flair => config.sequences.iter().any(|name| name == "flair"),
            &method => config.unet.is_some() && config.has_network(method),
        })
        .chain(student)
        .chain(own)
        .collect()
}

/// An arm for each of these methods, its settings checked.
pub(crate) fn arms(
    detector: &Detector,
    methods: &[Method],
    options: &RunOptions,
) -> Result<Vec<Arm>> {
    let arm = |&method: &Method| {
        let config = settings(detector, method, options)?;
        detector.config().check_row(method, &config)?;
        Ok(Arm::new(method, config))
    };
    methods.iter().map(arm).collect()
}

/// And the patients of a source, and its split file: no output may change them.
pub(crate) fn add_source(inputs: Inputs, source: &Source, split_file: Option<&Path>) -> Inputs {
    let mut inputs = match split_file {
        Some(file) => inputs.file(file),
        None => inputs,
    };
    match source {
        Source::Folder { path, patients } => {
            inputs = inputs.folder(path);
            for id in patients {
                inputs = inputs.folder(path.join(id));
            }
        }
        Source::Sides {
            healthy, diseased, ..
        } => {
            for side in [healthy, diseased] {
                inputs = inputs.whole(side);
            }
        }
        Source::Files { path, patients } => {
            inputs = inputs.folder(path);
            for files in patients {
                let all = files.sequences.iter().map(|(_, path)| path);
                inputs = all.chain(&files.mask).fold(inputs, Inputs::file);
            }
        }
        Source::Phantom { .. } | Source::Given { .. } => {}
    }
    inputs
}

/// A value with some of its fields changed by a JSON text: see [`fndm_study::overlay`].
pub(crate) fn overlay<T: Serialize + DeserializeOwned>(value: &T, patch: &str) -> Result<T> {
    Ok(fndm_study::overlay(value, &serde_json::from_str(patch)?)?)
}
