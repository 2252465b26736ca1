//! A run's state as named tensors, to be stored and resumed.

use std::collections::{HashMap, VecDeque};

use candle_core::{DType, Device, Tensor};

use crate::checks::expect_like;
use crate::plan::Stage;
use crate::stepper::{Evaluation, State};
use crate::{Error, Result, Solver, Stepper};

/// Name of the tensor that tells where a run stands: evaluations done, evaluations of the whole run, and the time
/// of the next one.
const RUN: &str = "run";

impl Stepper {
    /// The whole state by name, for storage; [`Solver::resume`] goes on from it, in the same bits.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor, safetensors};
    /// use fndm_solver::{ScheduleConfig, SolverConfig};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("run.safetensors");
    /// # let network = |query: fndm_solver::Query<'_>| -> fndm_solver::Result<Tensor> { Ok((query.x * 0.5)?) };
    /// let schedule = ScheduleConfig::linear(1000).build()?;
    /// let solver = SolverConfig::dpm_solver_pp(3, 8).encode(&schedule, schedule.span())?;
    /// let mut stepper = solver.stepper(&Tensor::ones((1, 4), DType::F32, &Device::Cpu)?)?;
    /// for _ in 0..5 {
    ///     let query = stepper.query().ok_or("a run of 8 evaluations")?;
    ///     let output = network(query)?;
    ///     stepper.advance(output)?;
    /// }
    /// safetensors::save(&stepper.tensors()?, &path)?;
    ///
    /// let stored = safetensors::load(&path, &Device::Cpu)?;
    /// let end = solver.resume(&stored)?.run(network)?;
    /// assert_eq!(end.to_vec2::<f32>()?, stepper.run(network)?.to_vec2::<f32>()?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let mut tensors = HashMap::new();
        let run = position(&self.solver, self.evaluation);
        tensors.insert(RUN.to_string(), Tensor::new(&run, &Device::Cpu)?);
        tensors.insert("x".to_string(), self.x.clone());
        tensors.insert("anchor".to_string(), self.anchor.tensor.clone());
        for (i, e) in self.history.iter().enumerate() {
            tensors.insert(format!("history.{i}.output"), e.output.clone());
            if let Some(x) = &e.x {
                tensors.insert(format!("history.{i}.x"), x.tensor.clone());
            }
        }
        Ok(tensors)
    }

    pub(crate) fn resume(solver: &Solver, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let get = |name: &str| -> Result<&Tensor> {
            tensors.get(name).ok_or_else(|| Error::Tensor {
                what: name.to_string(),
                expected: "a tensor of a stored run".into(),
                got: "none".into(),
            })
        };
        let evaluation = evaluations_done(solver, get(RUN)?)?;
        let mut stepper = Self::new(solver.clone(), get("x")?)?;
        let fitting = |name: &str| -> Result<Tensor> {
            let tensor = get(name)?;
            expect_like(name, tensor, &stepper.x)?;
            Ok(tensor.contiguous()?.detach())
        };
        let plan = solver.plan();
        // Which state is which, as `advance` numbers them.
        let (mut anchor, mut past): (usize, Vec<(usize, &Stage)>) = (0, Vec::new());
        for (e, stage) in plan.stages.iter().take(evaluation).enumerate() {
            if stage.replaces {
                past.pop();
            }
            past.push((2 * e, stage));
            if stage.correct.is_some() {
                anchor = 2 * e + 1;
            }
            if stage.commit {
                anchor = 2 * e + 2;
            }
        }
        let mut history = VecDeque::new();
        for (i, (number, stage)) in past.into_iter().rev().take(plan.memory).enumerate() {
            let mix = plan.mix(stage);
            let x = if mix.x == 0.0 {
                None
            } else {
                Some(State {
                    number,
                    tensor: fitting(&format!("history.{i}.x"))?,
                })
            };
            let output = fitting(&format!("history.{i}.output"))?;
            history.push_back(Evaluation { x, output, mix });
        }
        stepper.anchor = State {
            number: anchor,
            tensor: fitting("anchor")?,
        };
        stepper.evaluation = evaluation;
        stepper.history = history;
        Ok(stepper)
    }
}

fn position(solver: &Solver, evaluation: usize) -> [f64; 3] {
    let next = solver.plan().stages.get(evaluation).map(|s| s.node.t);
    let t = next.or(solver.times().last().copied()).unwrap_or(0.0);
    [evaluation as f64, solver.evaluations() as f64, t]
}

/// The number of evaluations in a stored run, which has to be one of this solver.
fn evaluations_done(solver: &Solver, run: &Tensor) -> Result<usize> {
    let stored = match (run.dims(), run.dtype()) {
        ([3], DType::F64) => run.to_vec1::<f64>()?,
        (dims, dtype) => {
            return Err(Error::Tensor {
                what: RUN.into(),
                expected: "[3] F64".into(),
                got: format!("{dims:?} {dtype:?}"),
            });
        }
    };
    let done = stored[0] as usize;
    let ours = position(solver, done.min(solver.evaluations()));
    if ours.iter().zip(&stored).all(|(a, b)| (a - b).abs() < 1e-9) {
        return Ok(done);
    }
    let shown = |p: &[f64]| format!("evaluation {} of {} at t = {}", p[0], p[1], p[2]);
    Err(Error::Stepper {
        expected: format!("a stored run of this solver: {}", shown(&ours)),
        got: shown(&stored),
    })
}
