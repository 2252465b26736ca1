//! All scalars of a run, worked out before it: one stage per network evaluation.

use crate::coefficients::{Integrand, Node, Segment};
use crate::config::{Algorithm, LowerOrderFinal, Method, SecondOrder, ThirdOrder, UniPcForm};
use crate::{Clip, Error, Grid, NoiseSchedule, Prediction, Result, SolverConfig};

/// A linear combination of the anchor state and of past evaluations, newest first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Update {
    pub(crate) anchor: f64,
    pub(crate) history: Vec<f64>,
}

/// One network evaluation and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stage {
    /// Where the network is evaluated.
    pub(crate) node: Node,
    /// What is interpolated of this evaluation.
    pub(crate) integrand: Integrand,
    pub(crate) model_time: f64,
    /// Takes the place of the evaluation before it, which was at the same time but a worse state.
    pub(crate) replaces: bool,
    /// Replaces the anchor, before the prediction, by a better estimate of the state at `node`.
    pub(crate) correct: Option<Update>,
    /// The state at which the next stage evaluates the network, or the result.
    pub(crate) predict: Update,
    /// Whether the predicted state becomes the anchor.
    pub(crate) commit: bool,
    /// Whether the predicted state belongs to one of the run's times, and not to a point inside a step.
    pub(crate) lands: bool,
    /// Weight of fresh noise added to the predicted state.
    pub(crate) noise: f64,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) stages: Vec<Stage>,
    pub(crate) times: Vec<f64>,
    /// How many evaluations a stage can look back to, itself included.
    pub(crate) memory: usize,
    pub(crate) prediction: Prediction,
    pub(crate) learned_variance: bool,
    pub(crate) clip: Clip,
    pub(crate) seed: u64,
}

/// A past evaluation nearer than this part of a step isn't extrapolated from: its rounding errors would be blown up.
const NEAREST: f64 = 1e-3;

/// Units of lambda that the repeated start of an encoding may span.
const LONGEST: f64 = 1.0;

impl Plan {
    pub(crate) fn new(
        config: &SolverConfig,
        schedule: &NoiseSchedule,
        from: f64,
        to: f64,
    ) -> Result<Self> {
        let builder = Builder {
            config,
            schedule,
            integrand: match config.algorithm {
                Algorithm::DpmSolverPlusPlus | Algorithm::UniPc => Integrand::X0,
                Algorithm::DpmSolver | Algorithm::Ddim => Integrand::Noise,
            },
            stages: Vec::new(),
        };
        builder.build(from, to)
    }
}

/// How a multistep run begins.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    /// With a step of order 1.
    Plain,
    /// With a step of order 1 that the next evaluation corrects, at no cost.
    Corrected,
    /// As [`Start::Corrected`], with one more evaluation of the corrected state. The first step's end lies at this
    /// part of the first two steps.
    Repeated(f64),
}

struct Builder<'a> {
    config: &'a SolverConfig,
    schedule: &'a NoiseSchedule,
    integrand: Integrand,
    stages: Vec<Stage>,
}

impl Builder<'_> {
    fn build(mut self, from: f64, to: f64) -> Result<Plan> {
        let mut times = match self.config.method {
            Method::Multistep => self.multistep(from, to)?,
            Method::Singlestep | Method::SinglestepFixed => self.singlestep(from, to)?,
        };
        if self.config.denoise_to_zero {
            times.push(0.0);
        }
        self.check_pure_noise()?;
        let memory = self
            .stages
            .iter()
            .flat_map(|s| {
                [
                    s.predict.history.len(),
                    s.correct.as_ref().map_or(0, |c| c.history.len()),
                ]
            })
            .max()
            .unwrap_or(0);
        Ok(Plan {
            stages: self.stages,
            times,
            memory,
            prediction: self.config.prediction,
            learned_variance: self.config.learned_variance,
            clip: self.config.clip,
            seed: self.config.seed,
        })
    }

    /// In pure noise the state is the noise, and a network that predicts it says nothing.
    fn check_pure_noise(&self) -> Result<()> {
        let says_nothing = matches!(
            self.config.prediction,
            Prediction::Noise | Prediction::Score
        );
        match self.stages.iter().find(|s| s.node.is_pure_noise()) {
            Some(stage) if says_nothing => Err(Error::config(
                "prediction",
                format!(
                    "v or x0, as the network is asked in pure noise (alpha = 0 at t = {}), where the noise doesn't \
                     determine the clean image",
                    stage.node.t
                ),
                format!("{:?}", self.config.prediction),
            )),
            _ => Ok(()),
        }
    }

    fn nodes(&self, times: &[f64]) -> Vec<Node> {
        times
            .iter()
            .map(|&t| {
                if t <= 0.0 {
                    Node::DATA
                } else {
                    Node::at(self.schedule, t)
                }
            })
            .collect()
    }

    /// Where a final jump to pure data or pure noise goes, if one is asked for.
    fn jump(&self) -> Option<Node> {
        if self.config.denoise_to_zero {
            Some(Node::DATA)
        } else if self.config.encode_to_noise {
            Some(Node::NOISE)
        } else {
            None
        }
    }

    /// A step out of pure noise integrates x0: the noise is known there, and says nothing of the image.
    fn integrand_at(&self, node: Node) -> Integrand {
        if node.is_pure_noise() {
            Integrand::X0
        } else {
            self.integrand
        }
    }

    fn segment(&self, from: Node, to: Node) -> Segment {
        Segment::new(self.integrand_at(from), from, to)
    }

    fn push(&mut self, node: Node, segment: Segment, history: Vec<f64>, commit: bool, lands: bool) {
        self.stages.push(Stage {
            node,
            integrand: self.integrand_at(node),
            model_time: self.schedule.model_time(node.t),
            replaces: false,
            correct: None,
            predict: Update {
                anchor: segment.base(),
                history,
            },
            commit,
            lands,
            noise: 0.0,
        });
    }

    fn multistep(&mut self, from: f64, to: f64) -> Result<Vec<f64>> {
        let times = self
            .config
            .grid
            .times(self.schedule, from, to, self.config.steps)?;
        let mut nodes = self.nodes(&times);
        let steps = nodes.len() - 1;
        nodes.extend(self.jump());
        // A step out of pure noise has no history and leaves none: what is said of a run's start begins after it.
        let begin = usize::from(nodes[0].is_pure_noise());
        let start = self.start(&nodes, begin, steps);
        let uni_pc = self.config.algorithm == Algorithm::UniPc;
        let mut previous_order = 0;
        for i in 0..nodes.len() - 1 {
            let segment = self.segment(nodes[i], nodes[i + 1]);
            let points = past_points(&nodes[..=i], segment.h);
            let order = self.order_of_step(i + 1, steps).min(points.len());
            let mut predict = Update {
                anchor: segment.base(),
                history: self.multistep_weights(&segment, &points[..order]),
            };
            let correct = if i > begin && (uni_pc || (start == Start::Corrected && i == begin + 1))
            {
                self.correction(&nodes[..=i], previous_order)
            } else {
                None
            };
            let noise = self.stochastic(nodes[i], nodes[i + 1], &mut predict);
            self.stages.push(Stage {
                node: nodes[i],
                integrand: self.integrand_at(nodes[i]),
                model_time: self.schedule.model_time(nodes[i].t),
                replaces: false,
                correct,
                predict,
                // A state that the next evaluation corrects is only a guess: the anchor stays where it is.
                commit: i < begin || !(uni_pc || (start == Start::Corrected && i == begin)),
                lands: true,
                noise,
            });
            previous_order = order;
        }
        if let Start::Repeated(middle) = start {
            self.repeat_start(&nodes[begin..], begin, middle);
        }
        Ok(times)
    }

    /// How a multistep run of order 3 makes up for having no history. Its first step would leave an error of a lower
    /// order than all others.
    fn start(&self, nodes: &[Node], begin: usize, steps: usize) -> Start {
        let nodes = &nodes[begin..];
        if self.config.order < 3 || self.config.third_order == ThirdOrder::Peers || nodes.len() < 3
        {
            return Start::Plain;
        }
        if self.config.algorithm != Algorithm::UniPc {
            return Start::Corrected;
        }
        if nodes.len() < 4 || self.order_of_step(begin + 3, steps) < 3 {
            return Start::Plain;
        }
        // The repeated start integrates x0 over two steps at once: see `start_of_encoding`.
        let long = nodes[0].lambda - nodes[2].lambda > LONGEST;
        let middle = (nodes[1].lambda - nodes[0].lambda) / (nodes[2].lambda - nodes[0].lambda);
        if !long && middle > NEAREST && middle < 1.0 - NEAREST {
            Start::Repeated(middle)
        } else {
            Start::Plain
        }
    }

    fn multistep_weights(&self, segment: &Segment, points: &[f64]) -> Vec<f64> {
        let uni_pc = self.config.algorithm == Algorithm::UniPc;
        match *points {
            [_, p] if uni_pc && self.config.uni_pc_form != UniPcForm::Exact => {
                segment.uni_pc(p, self.config.uni_pc_form)
            }
            [_, p] if !uni_pc && self.config.second_order == SecondOrder::Midpoint => {
                segment.midpoint(p)
            }
            [_, p, q] if !uni_pc && self.config.third_order == ThirdOrder::Peers => {
                segment.peers_third(p, q)
            }
            _ => segment.weights(points),
        }
    }

    /// Rewrites the first three stages of a `UniPC` run so that its first two steps together have a local error of
    /// fourth order: the network is asked a second time at the first step's end, once its state is corrected, and the
    /// evaluation after two steps corrects both at once, from the start.
    fn repeat_start(&mut self, nodes: &[Node], begin: usize, middle: f64) {
        let one = self.segment(nodes[0], nodes[1]);
        let two = self.segment(nodes[0], nodes[2]);
        let [first, second, third, ..] = &mut self.stages[begin..] else {
            return;
        };
        first.lands = false;
        let again = Stage {
            correct: None,
            predict: Update {
                anchor: one.base(),
                history: one.weights(&[1.0, 0.0]),
            },
            ..second.clone()
        };
        second.replaces = true;
        second.correct = None;
        second.predict = Update {
            anchor: two.base(),
            history: two.weights(&[middle, 0.0]),
        };
        third.correct = Some(Update {
            anchor: two.base(),
            history: two.weights(&[1.0, middle, 0.0]),
        });
        self.stages.insert(begin + 1, again);
    }

    /// Order of multistep step `step` (from 1) of `steps`, before what the history allows.
    fn order_of_step(&self, step: usize, steps: usize) -> usize {
        let order = self.config.order;
        if step > steps {
            return 1;
        }
        let left = steps + 1 - step;
        match self.config.lower_order_final {
            LowerOrderFinal::Below(limit) if steps < limit => order.min(left),
            LowerOrderFinal::Always => order.min(left),
            LowerOrderFinal::LastStep if left == 1 => 1,
            LowerOrderFinal::Below(_) | LowerOrderFinal::LastStep | LowerOrderFinal::Never => order,
        }
    }

    /// The state at the last of `nodes` from the one before, with the evaluation there and `order` before it.
    fn correction(&self, nodes: &[Node], order: usize) -> Option<Update> {
        let (&to, before) = nodes.split_last()?;
        let segment = self.segment(*before.last()?, to);
        if segment.h == 0.0 || !segment.h.is_finite() {
            return None;
        }
        let form = self.config.uni_pc_form;
        let peers = self.config.algorithm == Algorithm::UniPc && form != UniPcForm::Exact;
        if !peers && let Some(by_noise) = self.start_of_encoding(nodes) {
            return Some(by_noise);
        }
        let mut points = vec![1.0];
        let past = past_points(before, segment.h);
        points.extend(past.iter().take(order));
        let history = if peers && points.len() == 2 {
            let mut weights = segment.uni_pc(1.0, form);
            weights.reverse();
            weights
        } else {
            segment.weights(&points)
        };
        Some(Update {
            anchor: segment.base(),
            history,
        })
    }

    /// The correction of the first step of an encoding that integrates x0, by way of the noise; nothing for other
    /// steps. Both are of the same order. But a run that starts next to no noise has a first step of some units of
    /// lambda, and an error of x0 at its end would be blown up by its exponential; one of the noise isn't.
    fn start_of_encoding(&self, nodes: &[Node]) -> Option<Update> {
        let &[from, to] = nodes else { return None };
        let segment = self.segment(from, to);
        if self.integrand != Integrand::X0 || segment.h >= 0.0 {
            return None;
        }
        let noise = Segment::new(Integrand::Noise, from, to);
        let weights = noise.weights(&[1.0, 0.0]);
        // The noise is (x - alpha x0) / sigma, with the anchor at one end, and at the other what the first step made of it.
        let (end, start) = (weights[0] / to.sigma, weights[1] / from.sigma);
        Some(Update {
            anchor: noise.base() + end * segment.base() + start,
            history: vec![-end * to.alpha, end * segment.first() - start * from.alpha],
        })
    }

    /// DDIM's fresh noise (Song et al. 2021, eq. 12 and 16): its weight, with `predict` changed to make room for it.
    fn stochastic(&self, from: Node, to: Node, predict: &mut Update) -> f64 {
        if self.config.eta <= 0.0 {
            return 0.0;
        }
        let kept = (2.0 * (from.log_alpha - to.log_alpha)).exp();
        let noise = (self.config.eta * (to.sigma / from.sigma) * (1.0 - kept).max(0.0).sqrt())
            .min(to.sigma);
        let direction = (to.sigma * to.sigma - noise * noise).max(0.0).sqrt();
        if from.is_pure_noise() {
            predict.anchor = direction / from.sigma;
            predict.history = vec![to.alpha - direction * from.alpha / from.sigma];
        } else {
            predict.history = vec![direction - predict.anchor * from.sigma];
        }
        noise
    }

    fn singlestep(&mut self, from: f64, to: f64) -> Result<Vec<f64>> {
        let steps = match (self.config.method, &self.config.grid) {
            (Method::SinglestepFixed, Grid::Explicit(_)) => self.config.steps,
            (Method::SinglestepFixed, _) => {
                self.config.steps / self.config.order * self.config.order
            }
            _ => self.config.steps,
        };
        let mut times = Vec::new();
        let mut end = from;
        if self.config.grid == Grid::UniformLambda && from != to {
            // The outer steps are even in lambda whatever their order.
            let orders = self.orders(steps);
            let outer = self
                .config
                .grid
                .times(self.schedule, from, to, orders.len())?;
            for (pair, &order) in outer.windows(2).zip(&orders) {
                let inner = self
                    .config
                    .grid
                    .times(self.schedule, pair[0], pair[1], order)?;
                self.single(&inner);
                times.push(pair[0]);
                end = pair[1];
            }
        } else {
            // A step of order k spans k gaps of the fine grid, whose points are its own.
            let fine = self.config.grid.times(self.schedule, from, to, steps)?;
            let mut rest = &fine[..];
            for order in self.orders(fine.len() - 1) {
                self.single(&rest[..=order]);
                times.push(rest[0]);
                end = rest[order];
                rest = &rest[order..];
            }
        }
        times.push(end);
        if let Some(jump) = self.jump() {
            let node = Node::at(self.schedule, end);
            let segment = self.segment(node, jump);
            self.push(node, segment, vec![segment.first()], true, true);
        }
        Ok(times)
    }

    /// Orders of the steps that together take `evaluations`.
    fn orders(&self, evaluations: usize) -> Vec<usize> {
        let order = self.config.order;
        let (full, rest) = (evaluations / order, evaluations % order);
        let mut orders = vec![order; full];
        match (order, rest) {
            // A run ends with a step of order 1 or 2: it steadies the end, where lambda moves fastest.
            (3, 0) if self.config.method == Method::Singlestep && full > 0 => {
                orders.pop();
                orders.extend([2, 1]);
            }
            (_, 0) => {}
            (_, rest) => orders.push(rest),
        }
        orders
    }

    /// One step whose order is the number of gaps between `times`.
    fn single(&mut self, times: &[f64]) {
        let nodes = self.nodes(times);
        let (Some(&start), Some(&end)) = (nodes.first(), nodes.last()) else {
            return;
        };
        let whole = self.segment(start, end);
        let points: Vec<f64> = nodes
            .iter()
            .map(|n| (n.lambda - start.lambda) / whole.h)
            .collect();
        let spread = points.windows(2).all(|w| w[1] - w[0] > NEAREST);
        if !whole.h.is_finite() || !spread || nodes.len() == 2 {
            for pair in nodes.windows(2) {
                let segment = self.segment(pair[0], pair[1]);
                self.push(
                    pair[0],
                    segment,
                    vec![segment.first()],
                    true,
                    pair[1].t == end.t,
                );
            }
            return;
        }
        let taylor = self.config.second_order == SecondOrder::Taylor;
        let inner = self.segment(start, nodes[1]);
        self.push(start, inner, vec![inner.first()], false, false);
        if nodes.len() == 3 {
            let mut weights = if taylor {
                whole.weights(&points[..2])
            } else {
                whole.midpoint(points[1])
            };
            weights.reverse();
            self.push(nodes[1], whole, weights, true, true);
            return;
        }
        let middle = self.segment(start, nodes[2]);
        let mut weights = middle.weights(&[0.0, points[1] / points[2]]);
        weights.reverse();
        self.push(nodes[1], middle, weights, false, false);
        let weights = if taylor {
            let mut weights = whole.weights(&points[..3]);
            weights.reverse();
            weights
        } else {
            let weights = whole.weights(&[0.0, points[2]]);
            vec![weights[1], 0.0, weights[0]]
        };
        self.push(nodes[2], whole, weights, true, true);
    }
}

/// Where past evaluations lie, newest first, in units of the coming step: 0, then negative values. Stops at the first
/// that is too near to the one after it.
fn past_points(nodes: &[Node], h: f64) -> Vec<f64> {
    let mut points = vec![0.0];
    if h == 0.0 || !h.is_finite() {
        return points;
    }
    let mut newest_first = nodes.iter().rev();
    let Some(newest) = newest_first.next() else {
        return points;
    };
    let mut last = 0.0;
    for node in newest_first {
        let point = (node.lambda - newest.lambda) / h;
        if !point.is_finite() || last - point < NEAREST {
            break;
        }
        points.push(point);
        last = point;
    }
    points
}
