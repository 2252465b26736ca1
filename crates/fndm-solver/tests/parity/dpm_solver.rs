//! dpm-solver's runs: both algorithms, orders and methods, all its models, both directions.

use candle_core::Tensor;
use fndm_solver::{
    Algorithm, Answer, Clip, Error, Guidance, LowerOrderFinal, Method, NoiseSchedule, Prediction,
    Query, SecondOrder, SolverConfig, ThirdOrder,
};
use serde_json::Value;

use crate::case::{Case, Read};
use crate::common::{Golden, Mixture, Tally, distance, largest};
use crate::schedules::grid_of;
use crate::{AnyResult, has_inputs, stretched_schedule, trajectory};

type Model<'a> = Box<dyn FnMut(Query<'_>) -> fndm_solver::Result<Answer> + 'a>;

/// A case as it was read.
struct Setup<'a> {
    id: &'a str,
    schedule: NoiseSchedule,
    dim: usize,
    model: &'a str,
    scale: f64,
    class: Vec<usize>,
    sample: bool,
    span: (f64, f64),
    config: SolverConfig,
    raises: Option<&'a str>,
    finite: bool,
    trajectory: bool,
}

fn read<'a>(golden: &Golden, case: &'a Value) -> Read<Setup<'a>> {
    let case = Case::new(case)?;
    let id = case.text("id")?;
    let schedule = stretched_schedule(golden, case.text("schedule")?).map_err(|e| e.to_string())?;
    let sample = match case.text("direction")? {
        "sample" => true,
        "inverse" => false,
        other => return Err(format!("direction {other}")),
    };
    let model = case.text_or("model", "noise")?;
    let clip = match case.get("dynamic_thresholding") {
        None | Some(Value::Bool(false)) => Clip::None,
        Some(Value::Number(ratio)) => Clip::Dynamic {
            ratio: ratio.as_f64().unwrap_or(f64::NAN),
            least: 1.0,
            most: None,
        },
        Some(object) => {
            let object = Case::new(object)?;
            let clip = Clip::Dynamic {
                ratio: object.real_or("ratio", 0.995)?,
                least: object.real_or("max_val", 1.0)?,
                most: None,
            };
            object.all_used()?;
            clip
        }
    };
    let (from, to) = (schedule.t_min(), schedule.t_max());
    let (first, last) = if sample { (to, from) } else { (from, to) };
    let span = (
        case.real_or("t_start", first)?,
        case.real_or("t_end", last)?,
    );
    let config = SolverConfig {
        algorithm: match case.text("algorithm")? {
            "dpmsolver++" => Algorithm::DpmSolverPlusPlus,
            "dpmsolver" => Algorithm::DpmSolver,
            other => return Err(format!("algorithm {other}")),
        },
        order: case.number("order")?,
        method: match case.text("method")? {
            "multistep" => Method::Multistep,
            "singlestep" => Method::Singlestep,
            "singlestep_fixed" => Method::SinglestepFixed,
            "adaptive" => {
                return Err(
                    "adaptive: the peer has one step for the whole batch, this crate one a sample"
                        .into(),
                );
            }
            other => return Err(format!("method {other}")),
        },
        grid: grid_of(case.text("skip_type")?)?,
        steps: case.number("steps")?,
        lower_order_final: if case.flag("lower_order_final", true)? {
            LowerOrderFinal::Below(10)
        } else {
            LowerOrderFinal::Never
        },
        prediction: match model {
            "noise" | "classifier" | "classifier-free" => Prediction::Noise,
            "x_start" => Prediction::X0,
            "v" => Prediction::V,
            "score" => Prediction::Score,
            other => return Err(format!("model {other}")),
        },
        second_order: match case.text_or("solver_type", "dpmsolver")? {
            "taylor" => SecondOrder::Taylor,
            "dpmsolver" => SecondOrder::Midpoint,
            other => return Err(format!("solver_type {other}")),
        },
        third_order: ThirdOrder::Peers,
        clip,
        denoise_to_zero: case.flag("denoise_to_zero", false)?,
        ..SolverConfig::default()
    };
    let setup = Setup {
        id,
        schedule,
        dim: case.number("dim")?,
        model,
        scale: case.real_or("guidance_scale", 0.0)?,
        class: case.numbers("class_components")?.unwrap_or_default(),
        sample,
        span,
        config,
        raises: case.get("raises").map(|v| v.as_str().unwrap_or("an error")),
        finite: case.flag("finite", true)?,
        trajectory: case.flag("trajectory", false)?,
    };
    has_inputs(golden, "dpm_solver", setup.dim, case.text("start")?)?;
    let components = golden.mixture(setup.dim).w.len();
    if let Some(k) = setup.class.iter().find(|&&k| k >= components) {
        return Err(format!("class component {k} of {components}"));
    }
    case.all_used()?;
    Ok(setup)
}

impl Setup<'_> {
    /// The network of the case: a closure on the schedule that it is solved on.
    fn network(&self, mixture: Mixture) -> Model<'_> {
        let schedule = &self.schedule;
        let (scale, model) = (self.scale, self.model);
        let part = mixture.part(&self.class);
        Box::new(move |query| {
            let t = schedule.time_of_model_time(query.model_time);
            let (x, a, s) = (query.x, schedule.alpha(t), schedule.sigma(t));
            let noise = mixture.noise(x, a, s)?;
            let output = match model {
                "x_start" => ((x - (noise * s)?)? / a)?,
                "v" => {
                    let x0 = ((x - (&noise * s)?)? / a)?;
                    ((noise * a)? - (x0 * s)?)?
                }
                "score" => (noise * (-1.0 / s))?,
                "classifier" => {
                    // ln p(class | x) = ln p(x | class) - ln p(x) + constant, and a score is -noise / sigma.
                    let gradient = ((&noise - part.noise(x, a, s)?)? / s)?;
                    return Ok(Answer::guided(noise, Guidance { scale }, gradient));
                }
                "classifier-free" => {
                    let given = part.noise(x, a, s)?;
                    (&noise + ((given - &noise)? * scale)?)?
                }
                _ => noise,
            };
            Ok(output.into())
        })
    }

    fn states(&self, golden: &Golden, case: &Value) -> fndm_solver::Result<Vec<Tensor>> {
        let span = self.span.0..=self.span.1;
        let solver = if self.sample {
            self.config.sample(&self.schedule, span)?
        } else {
            self.config.encode(&self.schedule, span)?
        };
        let start = golden
            .get("inputs", case["start"].as_str().unwrap_or_default())
            .tensor();
        trajectory(&solver, &start, self.network(golden.mixture(self.dim)))
    }
}

#[test]
fn runs() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("dpm_solver") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for case in golden.cases("dpm_solver") {
        let setup = match read(&golden, &case) {
            Ok(setup) => setup,
            Err(reason) => {
                tally.leave_out(
                    case["id"].as_str().unwrap_or("a case without a name"),
                    &reason,
                );
                continue;
            }
        };
        let id = setup.id;
        let ours = setup.states(&golden, &case);
        if setup.raises.is_some() || !setup.finite {
            let peer = setup.raises.unwrap_or("a result that isn't finite");
            tally.peer_failed(id, peer, ours);
            continue;
        }
        let states = match ours {
            Err(Error::EncodingOnlySampling { field }) => {
                tally.leave_out(id, &format!("{field} while encoding is an error here"));
                continue;
            }
            // The peer takes orders that no formula has for the nearest.
            Err(error @ Error::Config { .. }) => {
                tally.leave_out(id, &format!("refused here: {error}"));
                continue;
            }
            Err(error) => {
                tally.fail(id, &error.to_string());
                continue;
            }
            Ok(states) => states,
        };
        let Some(want) = golden.find("dpm_solver", &format!("{id}.x")) else {
            tally.leave_out(id, "the set has no result of it");
            continue;
        };
        let end = states.last().expect("a state");
        let error = distance(end, want) / largest(want).max(1.0);
        tally.compare(id, "end", error, 1e-9);
        match golden.find("dpm_solver", &format!("{id}.trajectory")) {
            Some(want) => {
                // The trajectory of a singlestep run lacks the start.
                let skipped = usize::from(setup.config.method != Method::Multistep);
                tally.compare_states(id, &states[skipped..], want, 1e-9);
            }
            None if setup.trajectory => tally.fail(id, "the trajectory is missing"),
            None => {}
        }
    }
    tally.finish("dpm-solver");
    Ok(())
}
