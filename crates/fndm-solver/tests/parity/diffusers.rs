//! diffusers' schedulers, step by step, in float32 on their side: DPM-Solver multistep, its inverse and singlestep, `UniPC`,
//! DDIM and its inverse.

use candle_core::Tensor;
use fndm_solver::{
    Algorithm, Clip, Error, Grid, LowerOrderFinal, Method, NoiseSchedule, Prediction,
    ScheduleConfig, SecondOrder, Solver, SolverConfig, ThirdOrder, UniPcForm,
};
use serde_json::Value;

use crate::case::{Case, Read};
use crate::common::{Array, Golden, Tally, array, distance, largest};
use crate::{AnyResult, full_schedule, has_inputs, start_of};

const TOLERANCE: f64 = 1e-3;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Multistep,
    Inverse,
    Singlestep,
    UniPc,
    Ddim,
    DdimInverse,
}

impl Kind {
    fn of(name: &str) -> Read<Self> {
        Ok(match name {
            "DPMSolverMultistepScheduler" => Self::Multistep,
            "DPMSolverMultistepInverseScheduler" => Self::Inverse,
            "DPMSolverSinglestepScheduler" => Self::Singlestep,
            "UniPCMultistepScheduler" => Self::UniPc,
            "DDIMScheduler" => Self::Ddim,
            "DDIMInverseScheduler" => Self::DdimInverse,
            other => return Err(format!("{other} is no algorithm of this crate")),
        })
    }

    fn encodes(self) -> bool {
        matches!(self, Self::Inverse | Self::DdimInverse)
    }

    fn is_ddim(self) -> bool {
        matches!(self, Self::Ddim | Self::DdimInverse)
    }
}

/// How the peer spreads its times.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spread {
    /// At training steps: "linspace", "leading" or "trailing".
    Steps,
    Karras,
    Lambda,
    Beta,
}

/// A case as it was read: all that it asks for, and nothing else.
struct Setup<'a> {
    id: &'a str,
    kind: Kind,
    dim: usize,
    steps: usize,
    raises: Option<&'a str>,
    finite: bool,
    labels_stated: Option<usize>,
    round_trip: Option<f64>,
    /// The schedule as the peer solves on it.
    schedule: NoiseSchedule,
    /// The tables that the model may have been made of.
    models: Vec<NoiseSchedule>,
    spread: Spread,
    /// The peer's labels by our own account.
    labels: Vec<usize>,
    /// To pure data, or to the first training step.
    to_zero: bool,
    /// The label before the first, and the distance of labels, of DDIM.
    stride: usize,
    /// Training steps that aren't clipped.
    kept: usize,
    config: SolverConfig,
}

/// The labels of a run in the order of their use.
fn labels_of(
    kind: Kind,
    options: &Case<'_>,
    steps: usize,
    total: usize,
    kept: usize,
) -> Read<Vec<usize>> {
    let usual = if kind.is_ddim() {
        "leading"
    } else {
        "linspace"
    };
    let spacing = if kind == Kind::Singlestep {
        usual
    } else {
        options.text_or("timestep_spacing", usual)?
    };
    let offset = if kind == Kind::Singlestep {
        0
    } else {
        options.whole("steps_offset")?.unwrap_or(0)
    };
    if steps == 0 || steps > total || kept == 0 {
        return Err(format!(
            "{steps} steps of {total}, {kept} of them not clipped"
        ));
    }
    let n = steps as f64;
    // Rising; numpy rounds half to even.
    let mut labels: Vec<usize> = match (spacing, kind) {
        ("linspace", Kind::Ddim) => {
            let gap = (total - 1) as f64 / (n - 1.0).max(1.0);
            (0..steps)
                .map(|i| (i as f64 * gap).round_ties_even() as usize)
                .collect()
        }
        ("leading", Kind::Ddim | Kind::DdimInverse) => {
            (0..steps).map(|i| i * (total / steps) + offset).collect()
        }
        ("linspace", _) if kind != Kind::DdimInverse => {
            let gap = (kept - 1) as f64 / n;
            let rising = (0..=steps).map(|i| (i as f64 * gap).round_ties_even() as usize);
            if kind.encodes() {
                rising.take(steps).collect()
            } else {
                rising.skip(1).collect()
            }
        }
        ("leading", _) => {
            let stride = kept / (steps + 1);
            let first = usize::from(!kind.encodes());
            (first..first + steps)
                .map(|i| i * stride + offset)
                .collect()
        }
        ("trailing", _) => {
            let stride = total as f64 / n;
            let count = (kept as f64 / stride).ceil() as usize;
            let at = |i: usize| (kept as f64 - i as f64 * stride).round_ties_even();
            (0..count)
                .rev()
                .map(|i| at(i).max(1.0) as usize - 1)
                .collect()
        }
        (other, _) => return Err(format!("timestep_spacing {other}")),
    };
    if let Some(label) = labels.iter().find(|&&l| l >= total) {
        return Err(format!("label {label} of {total} training steps"));
    }
    if kind == Kind::Inverse {
        labels.dedup();
    }
    if !kind.encodes() {
        labels.reverse();
    }
    Ok(labels)
}

/// The schedule that the options make, where they make one.
fn schedule_of(options: &Case<'_>, stored: NoiseSchedule) -> Read<NoiseSchedule> {
    let total = options
        .whole("num_train_timesteps")?
        .unwrap_or(stored.steps());
    let (start, end) = (options.real("beta_start")?, options.real("beta_end")?);
    let kind = options.text_or("beta_schedule", "")?;
    if options.get("trained_betas").is_some() {
        return Err("trained_betas beside the set's own".into());
    }
    if total != stored.steps() {
        return Err(format!(
            "{total} training steps beside the set's {}",
            stored.steps()
        ));
    }
    let (beta_start, beta_end) = (start.unwrap_or(1e-4), end.unwrap_or(0.02));
    let asked = match kind {
        "" if start.is_none() && end.is_none() => return Ok(stored),
        "" | "linear" => ScheduleConfig::Linear {
            steps: total,
            beta_start,
            beta_end,
        },
        "scaled_linear" => ScheduleConfig::ScaledLinear {
            steps: total,
            beta_start,
            beta_end,
        },
        "squaredcos_cap_v2" => ScheduleConfig::cosine(total),
        other => return Err(format!("beta_schedule {other}")),
    };
    let asked = asked.build().map_err(|e| e.to_string())?;
    let same =
        (0..total).all(|i| (asked.alpha_of_index(i) - stored.alpha_of_index(i)).abs() < 1e-6);
    if same {
        Ok(stored)
    } else {
        Err("the config's betas are others than the set's schedule".into())
    }
}

fn read<'a>(golden: &Golden, case: &'a Value, notes: &mut Vec<String>) -> Read<Setup<'a>> {
    let case = Case::new(case)?;
    let id = case.text("id")?;
    let kind = Kind::of(case.text("scheduler")?)?;
    let (dim, steps) = (case.number("dim")?, case.number("steps")?);
    let empty = Value::Object(serde_json::Map::new());
    let options = case.get("config").unwrap_or(&empty);
    // The options live as long as the case; an absent object has no texts in it.
    let options = Case::new(options)?;
    let stored = full_schedule(golden, case.text("schedule")?).map_err(|e| e.to_string())?;
    let stored = schedule_of(&options, stored)?;
    has_inputs(golden, "diffusers", dim, case.text("start")?)?;

    // What a scheduler has no option for, it goes without.
    let ignored: &[&str] = match kind {
        Kind::Inverse => &[
            "use_lu_lambdas",
            "final_sigmas_type",
            "rescale_betas_zero_snr",
            "use_dynamic_shifting",
        ],
        Kind::Singlestep => &[
            "timestep_spacing",
            "steps_offset",
            "rescale_betas_zero_snr",
            "euler_at_final",
        ],
        Kind::UniPc => &[
            "euler_at_final",
            "algorithm_type",
            "use_lu_lambdas",
            "lambda_min_clipped",
            "variance_type",
        ],
        _ => &[],
    };
    for key in ignored {
        if let Some(value) = options.get(key) {
            notes.push(format!(
                "{id}: the peer has no option {key}, and goes without {value}"
            ));
        }
    }
    let on = |key: &str, otherwise: bool| {
        if ignored.contains(&key) {
            Ok(otherwise)
        } else {
            options.flag(key, otherwise)
        }
    };
    let say = |key: &str, usual: &'static str| -> Read<String> {
        if ignored.contains(&key) {
            Ok(usual.to_string())
        } else {
            Ok(options.text_or(key, usual)?.to_string())
        }
    };

    let prediction = match say("prediction_type", "epsilon")?.as_str() {
        "epsilon" => Prediction::Noise,
        "sample" => Prediction::X0,
        "v_prediction" => Prediction::V,
        other => {
            return Err(format!(
                "prediction_type {other}: another process than this crate's"
            ));
        }
    };
    if on("use_flow_sigmas", false)? || on("use_dynamic_shifting", false)? {
        return Err("flow matching has another process than this crate's".into());
    }
    // They do something with flow matching alone.
    for key in ["flow_shift", "time_shift_type", "shift_terminal"] {
        options.get(key);
    }
    if !ignored.contains(&"variance_type") && options.get("variance_type").is_some() {
        return Err(
            "a learned variance, of which the peer takes three channels whatever the state has"
                .into(),
        );
    }
    let rescaled = on("rescale_betas_zero_snr", false)?;
    let mut turns = 0..0;
    let schedule = if rescaled {
        let rescaled = stored.rescaled_to_zero_snr().map_err(|e| e.to_string())?;
        if kind.is_ddim() {
            rescaled
        } else {
            // Here the peer stops short of pure noise, at an alpha that the steps before it are already below: it turns
            // around there, and only a run that leaves these steps out can be followed.
            let floor = 2f64.powi(-24);
            let mut products: Vec<f64> = (0..rescaled.steps())
                .map(|i| rescaled.alpha_of_index(i).powi(2))
                .collect();
            let last = products.len() - 1;
            let below = products.iter().position(|p| *p <= floor).unwrap_or(last);
            turns = below..last;
            let (high, gaps) = (products[below - 1], (last + 1 - below) as f64);
            for (i, product) in products[below..].iter_mut().enumerate() {
                *product = high * (floor / high).powf((i as f64 + 1.0) / gaps);
            }
            NoiseSchedule::from_alphas_cumprod(&products).map_err(|e| e.to_string())?
        }
    } else {
        stored.clone()
    };
    let models = if rescaled {
        vec![schedule.clone(), stored]
    } else {
        vec![schedule.clone()]
    };
    let total = schedule.steps();
    let lambda_min = if ignored.contains(&"lambda_min_clipped") || kind.is_ddim() {
        f64::NEG_INFINITY
    } else {
        options.real_or("lambda_min_clipped", f64::NEG_INFINITY)?
    };
    let kept = (0..total)
        .filter(|&i| schedule.lambda_of_index(i) >= lambda_min)
        .count();
    let labels = labels_of(kind, &options, steps, total, kept)?;
    if labels.iter().any(|l| turns.contains(l)) {
        return Err("the peer's own sigmas turn around at the end of its rescaled schedule".into());
    }
    let mut spread = Spread::Steps;
    if !kind.is_ddim() {
        for (key, other) in [
            ("use_karras_sigmas", Spread::Karras),
            ("use_exponential_sigmas", Spread::Lambda),
            ("use_lu_lambdas", Spread::Lambda),
            ("use_beta_sigmas", Spread::Beta),
        ] {
            if on(key, false)? {
                if spread != Spread::Steps {
                    return Err(format!("{key} beside another spread"));
                }
                spread = other;
            }
        }
    }

    let clip = if on("thresholding", false)? {
        let most = options.real_or("sample_max_value", 1.0)?;
        let ratio = options.real_or("dynamic_thresholding_ratio", 0.995)?;
        if most > 1.0 {
            Clip::Dynamic {
                ratio,
                least: 1.0,
                most: Some(most),
            }
        } else {
            // With a largest value of 1 the peer's dynamic threshold is a plain limit.
            Clip::Static { max: most }
        }
    } else {
        // Without it they do nothing.
        options.get("sample_max_value");
        options.get("dynamic_thresholding_ratio");
        Clip::None
    };
    let mut config = SolverConfig {
        prediction,
        clip,
        third_order: ThirdOrder::Peers,
        ..SolverConfig::ddim(1)
    };
    let to_zero;
    if kind.is_ddim() {
        let clips = on("clip_sample", true)?;
        options.get("clip_sample_range");
        if clips || clip != Clip::None {
            return Err(
                "DDIM's clipping: the peer keeps the unclipped noise beside the clipped image"
                    .into(),
            );
        }
        to_zero = on("set_alpha_to_one", true)?;
        if case.real_or("eta", 0.0)? != 0.0 {
            return Err("stochastic: its noise is PyTorch's".into());
        }
        if labels
            .windows(2)
            .any(|w| w[0].abs_diff(w[1]) != total / steps)
        {
            return Err(
                "the peer steps by T / steps, which isn't the distance of its labels".into(),
            );
        }
        if kind == Kind::DdimInverse && labels[0] < total / steps && to_zero {
            return Err("it starts at t = 0, where lambda is infinite".into());
        }
    } else {
        to_zero = match say("final_sigmas_type", "zero")?.as_str() {
            "zero" => !kind.encodes(),
            "sigma_min" => false,
            other => return Err(format!("final_sigmas_type {other}")),
        };
        let order = options.whole("solver_order")?.unwrap_or(2);
        let lowered = on("lower_order_final", kind != Kind::Singlestep)?;
        let last = on("euler_at_final", false)?;
        let solver = say(
            "solver_type",
            if kind == Kind::UniPc {
                "bh2"
            } else {
                "midpoint"
            },
        )?;
        if !(1..=3).contains(&order) {
            return Err(format!("solver_order {order}; this crate has 1 to 3"));
        }
        config.order = order;
        if kind == Kind::UniPc {
            config.algorithm = Algorithm::UniPc;
            config.uni_pc_form = match solver.as_str() {
                "bh1" => UniPcForm::Bh1,
                // The peer puts it in the place of DPM-Solver's names.
                "bh2" | "midpoint" | "heun" | "logrho" => UniPcForm::Bh2,
                other => return Err(format!("solver_type {other}")),
            };
            config.lower_order_final = if lowered {
                LowerOrderFinal::Always
            } else {
                LowerOrderFinal::Never
            };
            if !on("predict_x0", true)? {
                return Err("UniPC on the noise; this crate's is on x0".into());
            }
            if options
                .numbers("disable_corrector")?
                .is_some_and(|l| !l.is_empty())
            {
                return Err("UniPC with steps that aren't corrected".into());
            }
            for key in ["solver_p", "sigma_min", "sigma_max"] {
                if options.get(key).is_some() {
                    return Err(format!("UniPC with {key}"));
                }
            }
        } else {
            config.algorithm = match say("algorithm_type", "dpmsolver++")?.as_str() {
                // The peer puts the second in the place of the first.
                "dpmsolver++" | "deis" => Algorithm::DpmSolverPlusPlus,
                "dpmsolver" => Algorithm::DpmSolver,
                other if other.starts_with("sde-") => {
                    return Err("stochastic: its noise is PyTorch's".into());
                }
                other => return Err(format!("algorithm_type {other}")),
            };
            config.second_order = match solver.as_str() {
                "heun" => SecondOrder::Taylor,
                "midpoint" | "logrho" | "bh1" | "bh2" => SecondOrder::Midpoint,
                other => return Err(format!("solver_type {other}")),
            };
            config.lower_order_final = if lowered && labels.len() < 15 {
                LowerOrderFinal::Always
            } else if last {
                LowerOrderFinal::LastStep
            } else {
                LowerOrderFinal::Never
            };
        }
        if kind == Kind::Singlestep {
            // The peer forces it in these cases.
            let lowered = lowered || to_zero || steps % order != 0;
            config.method = if lowered {
                Method::Singlestep
            } else {
                Method::SinglestepFixed
            };
            if order == 3 && config.second_order == SecondOrder::Midpoint {
                return Err(
                    "the peer's step inside a singlestep of order 3 has the midpoint form; \
                            here, as in dpm-solver, it is exact"
                        .into(),
                );
            }
            if order == 2 && lowered && !to_zero && steps.is_multiple_of(2) {
                return Err(
                    "the peer ends an even number of singlesteps of order 2 with two of order 1"
                        .into(),
                );
            }
        }
    }
    let setup = Setup {
        id,
        kind,
        dim,
        steps,
        raises: case.get("raises").map(|v| v.as_str().unwrap_or("an error")),
        finite: case.flag("finite", true)?,
        labels_stated: case.whole("n_timesteps")?,
        round_trip: case.real("round_trip_max_error")?,
        schedule,
        models,
        spread,
        labels,
        to_zero,
        stride: total / steps,
        kept,
        config,
    };
    options.all_used()?;
    case.all_used()?;
    Ok(setup)
}

impl Setup<'_> {
    /// The run's times by our own means, from labels and grids alone; nothing where we have none.
    fn own_times(&self) -> fndm_solver::Result<Option<Vec<f64>>> {
        let at = |label: usize| self.schedule.time_of_index(label);
        let mut times: Vec<f64> = self.labels.iter().map(|&l| at(l)).collect();
        match self.kind {
            Kind::Ddim => times.push(if self.to_zero { 0.0 } else { at(0) }),
            Kind::DdimInverse => {
                let before = self.labels[0].saturating_sub(self.stride);
                times.insert(0, at(before));
            }
            _ => {
                let grid = match self.spread {
                    Spread::Steps => None,
                    Spread::Karras => Some(Grid::karras()),
                    Spread::Lambda => Some(Grid::UniformLambda),
                    Spread::Beta => return Ok(None),
                };
                if let Some(grid) = grid {
                    if self.steps < 2 {
                        return Ok(None);
                    }
                    let config = SolverConfig {
                        grid,
                        prediction: Prediction::X0,
                        ..SolverConfig::ddim(self.steps - 1)
                    };
                    // The peer spreads them over the whole schedule, whatever is clipped.
                    let (schedule, span) = (&self.schedule, self.schedule.span());
                    let solver = if self.kind.encodes() {
                        config.encode(schedule, span)?
                    } else {
                        config.sample(schedule, span)?
                    };
                    times = solver.times().to_vec();
                }
                times.push(match (self.kind.encodes(), self.to_zero) {
                    // Labels end one gap before the noisiest step that isn't clipped; other spreads at the whole's end.
                    (true, _) if self.spread == Spread::Steps => at(self.kept - 1),
                    (true, _) => times[times.len() - 1],
                    (false, true) => 0.0,
                    (false, false) => at(0),
                });
            }
        }
        Ok(Some(times))
    }

    fn solver(&self, times: &[f64], config: &SolverConfig) -> fndm_solver::Result<Solver> {
        let config = SolverConfig {
            steps: times.len() - 1,
            grid: Grid::Explicit(times.to_vec()),
            ..config.clone()
        };
        let span = times[0]..=times[times.len() - 1];
        if self.kind.encodes() {
            config.encode(&self.schedule, span)
        } else {
            config.sample(&self.schedule, span)
        }
    }

    /// The states from the start on; after every evaluation, as the peer's singlesteps show those inside steps too.
    fn states(
        &self,
        golden: &Golden,
        solver: &Solver,
        start: &Tensor,
        labels: &[f64],
        table: &NoiseSchedule,
    ) -> fndm_solver::Result<Vec<Tensor>> {
        let mixture = golden.mixture(self.dim);
        let mut stepper = solver.stepper(start)?;
        let mut states = vec![start.clone()];
        while let Some(query) = stepper.query() {
            // The model is handed the peer's integer label.
            let t = table.time_of_index(labels[query.evaluation] as usize);
            let (a, s) = (table.alpha(t), table.sigma(t));
            let (noise, x0) = mixture.noise_and_x0(query.x, a, s)?;
            let output = match self.config.prediction {
                Prediction::X0 => x0,
                Prediction::V => ((noise * a)? - (x0 * s)?)?,
                Prediction::Noise | Prediction::Score => noise,
            };
            stepper.advance(&output)?;
            states.push(stepper.x().clone());
        }
        Ok(states)
    }

    /// Where the peer has no result: what ours does by its own account.
    fn by_ourselves(&self, golden: &Golden, case: &Value) -> fndm_solver::Result<Vec<Tensor>> {
        let times = self.own_times()?.ok_or_else(|| Error::Span {
            expected: "a spread of times that this crate has".into(),
            got: format!("{:?}", self.spread),
        })?;
        let start = start_of(golden, "diffusers", case).tensor();
        let solver = self.solver(&times, &self.config)?;
        let labels: Vec<f64> = self.labels.iter().map(|&l| l as f64).collect();
        // A run that drops times without length asks fewer times; one of singlesteps never asks more.
        self.states(golden, &solver, &start, &labels, &self.schedule)
    }
}

/// The largest error of any state relative to the largest value of its reference.
fn worst(states: &[Tensor], want: &Array) -> f64 {
    if states.len() != want.shape[0] {
        return f64::INFINITY;
    }
    let errors = states.iter().enumerate().map(|(i, state)| {
        let want = want.entry(i);
        distance(state, &want) / largest(&want).max(1.0)
    });
    errors.fold(0.0, |most, e| if e <= most { most } else { e })
}

fn compare(golden: &Golden, case: &Value, setup: &Setup<'_>, tally: &mut Tally) -> AnyResult {
    let id = setup.id;
    let Some(want) = golden.find("diffusers", &format!("{id}.trajectory")) else {
        tally.leave_out(id, "the set has no trajectory of it");
        return Ok(());
    };
    let Some(labels) = golden.find("diffusers", &format!("{id}.timesteps")) else {
        tally.leave_out(id, "the set has no timesteps of it");
        return Ok(());
    };
    let labels = &labels.values;
    if let Some(stated) = setup.labels_stated {
        let error = stated.abs_diff(labels.len()) as f64;
        tally.compare(id, "n_timesteps", error, 0.0);
    }
    if setup.spread == Spread::Steps {
        let same = labels.len() == setup.labels.len()
            && labels
                .iter()
                .zip(&setup.labels)
                .all(|(a, &b)| *a == b as f64);
        if !same {
            tally.fail(id, &format!("labels {labels:?}, ours {:?}", setup.labels));
            return Ok(());
        }
    }
    let own = setup.own_times()?;
    let times: Vec<f64> = match golden.find("diffusers", &format!("{id}.sigmas")) {
        Some(sigmas) if !setup.kind.is_ddim() => {
            // The inverse scheduler drops repeated labels, but not their sigmas: its last steps are missing.
            let times: Vec<f64> = sigmas.values[..=labels.len()]
                .iter()
                .map(|s| {
                    setup
                        .schedule
                        .lambda_inverse(-s.ln())
                        .clamp(0.0, setup.schedule.t_max())
                })
                .collect();
            if let Some(own) =
                own.filter(|own| own.len() >= times.len() && labels.len() == setup.steps)
            {
                // To a tenth of a training step: their float32 betas leave the ends of lambda unsure by 3e-5. Rescaled in
                // float32 the first beta, 4e-5 for cosine, is unsure by some 1e-7: lambda by 2e-3, a time by half a step.
                let allowed = if setup.models.len() > 1 { 5e-4 } else { 1e-4 };
                let errors = own.iter().zip(&times).map(|(a, b)| (a - b).abs());
                tally.compare(id, "times", errors.fold(0.0, f64::max), allowed);
            }
            times
        }
        _ => match own {
            Some(own) => own,
            None => {
                tally.leave_out(
                    id,
                    "the set has no sigmas of it, and this crate no such spread",
                );
                return Ok(());
            }
        },
    };
    let ends = [times[0], times[times.len() - 1]].map(|t| setup.schedule.alpha(t));
    let rounding = f64::from(f32::EPSILON) * ends[1] / ends[0];
    if setup.config.algorithm == Algorithm::DpmSolver && rounding > TOLERANCE {
        tally.leave_out(
            id,
            &format!(
                "the peer takes the difference of two terms that are {:.0e} times as large in float32, which alone is off \
                 by {rounding:.1e}",
                ends[1] / ends[0]
            ),
        );
        return Ok(());
    }
    let encodes = setup.kind.encodes();
    let backwards = |w: &[f64]| if encodes { w[0] > w[1] } else { w[0] < w[1] };
    if times.windows(2).any(backwards) {
        tally.leave_out(id, "the peer's sigmas turn around on the way");
        return Ok(());
    }
    let mut config = setup.config.clone();
    let still = times.windows(2).filter(|w| w[0] == w[1]).count();
    if times[times.len() - 1] == times[times.len() - 2] && still == 1 {
        // The peer's last step has no length, which we drop, and its lowered order goes there.
        let lowered = config.lower_order_final != LowerOrderFinal::Never;
        if lowered && (config.order == 3 || config.algorithm == Algorithm::UniPc) {
            tally.leave_out(id, "the peer lowers the order of a step without length");
            return Ok(());
        }
        config.lower_order_final = LowerOrderFinal::Never;
    } else if still > 0 {
        tally.leave_out(id, "the peer takes steps without length on the way");
        return Ok(());
    }
    let solver = match setup.solver(&times, &config) {
        Err(Error::EncodingOnlySampling { field }) => {
            tally.leave_out(id, &format!("{field} while encoding is an error here"));
            return Ok(());
        }
        other => other?,
    };
    let start = start_of(golden, "diffusers", case).tensor();
    let start = start.reshape(want.shape[1..].to_vec())?;
    let mut best: Option<(f64, Vec<Tensor>)> = None;
    for (i, table) in setup.models.iter().enumerate() {
        let mut states = setup.states(golden, &solver, &start, labels, table)?;
        // Steps without length, which only the peer takes.
        while let (true, Some(end)) = (states.len() < want.shape[0], states.last()) {
            states.push(end.clone());
        }
        let error = worst(&states, want);
        let least = best.as_ref().map_or(f64::INFINITY, |(least, _)| *least);
        if error < least || best.is_none() {
            if least > TOLERANCE && i > 0 {
                println!(
                    "  {id}: off by {least:.1e} with the rescaled schedule in the model, by {error:.1e} with the betas as \
                     stored"
                );
            }
            best = Some((error, states));
        }
    }
    let (_, states) = best.ok_or("no model")?;
    tally.compare_states(id, &states, want, TOLERANCE);
    if let (Some(stated), Some(end)) = (setup.round_trip, states.last()) {
        let data = golden.get("inputs", &format!("d{}.data", setup.dim));
        let ours = array(end);
        let errors = ours
            .values
            .iter()
            .zip(&data.values)
            .map(|(a, b)| (a - b).abs());
        let error = (errors.fold(0.0, f64::max) - stated).abs() / largest(data).max(1.0);
        tally.compare(id, "round trip", error, TOLERANCE);
    }
    Ok(())
}

#[test]
fn runs() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("diffusers") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for case in golden.cases("diffusers") {
        let mut notes = Vec::new();
        let setup = match read(&golden, &case, &mut notes) {
            Ok(setup) => setup,
            Err(reason) => {
                tally.leave_out(
                    case["id"].as_str().unwrap_or("a case without a name"),
                    &reason,
                );
                continue;
            }
        };
        for note in notes {
            println!("  {note}");
        }
        match (setup.raises, setup.finite) {
            (Some(error), _) => {
                tally.peer_failed(setup.id, error, setup.by_ourselves(&golden, &case));
            }
            (None, false) => {
                let ours = setup.by_ourselves(&golden, &case);
                tally.peer_failed(setup.id, "a result that isn't finite", ours);
            }
            (None, true) => {
                if let Err(error) = compare(&golden, &case, &setup, &mut tally) {
                    tally.fail(setup.id, &error.to_string());
                }
            }
        }
    }
    tally.finish("diffusers");
    Ok(())
}
