//! What a training shows while it runs: a bar for each stage, or a line now and then where the screen is a file.

use std::time::Instant;

use fndm_study::TrainEvent;
use fndm_study::train::StepReport;
use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::common;

/// Seconds between two lines.
const PAUSE_S: u64 = 30;

/// The bars of a whole training.
pub(crate) struct Bars {
    loading: ProgressBar,
    classifier: ProgressBar,
    memory: ProgressBar,
    diffusion: ProgressBar,
    student: ProgressBar,
    /// What validations score by, in words.
    score: &'static str,
    silent: bool,
    last_line: Instant,
}

impl Bars {
    /// `score` is what a validation scores by, in words. Several processes train alike, and all but one are silent.
    pub(crate) fn new(score: &'static str, silent: bool) -> Self {
        let bars = Self {
            loading: common::bar(0, "patients"),
            classifier: common::share_bar("classifier"),
            memory: common::bar(0, "memory bank"),
            diffusion: common::share_bar("diffusion model"),
            student: common::share_bar("student"),
            score,
            silent,
            last_line: Instant::now(),
        };
        if silent {
            for bar in bars.all() {
                bar.set_draw_target(ProgressDrawTarget::hidden());
            }
        }
        bars
    }

    fn all(&self) -> [&ProgressBar; 5] {
        [
            &self.loading,
            &self.classifier,
            &self.memory,
            &self.diffusion,
            &self.student,
        ]
    }

    /// Shows what has happened.
    pub(crate) fn show(&mut self, event: &TrainEvent<'_>) {
        let (bar, name, report, share) = match event {
            TrainEvent::Note(note) => {
                if !self.silent {
                    self.loading.suspend(|| tell!("{note}"));
                }
                return;
            }
            TrainEvent::Loaded(done, total) => {
                self.loading.set_length(*total as u64);
                self.loading.set_position(*done as u64);
                return;
            }
            TrainEvent::Memory(progress) => {
                self.memory.set_length(progress.total as u64);
                self.memory.set_position(progress.done as u64);
                self.memory.set_message(progress.stage.to_string());
                return;
            }
            TrainEvent::Validation(iteration, found) => {
                let dice = found
                    .score
                    .map_or("none".into(), |dice| format!("{dice:.3}"));
                let score = self.score;
                let text = format!("validation after {iteration} iterations: {score} {dice}");
                match (self.silent, self.diffusion.is_hidden()) {
                    (true, _) => {}
                    (false, true) => tell!("{text}"),
                    (false, false) => self.diffusion.suspend(|| tell!("{text}")),
                }
                return;
            }
            TrainEvent::Classifier(report, share) => {
                (&self.classifier, "classifier", *report, *share)
            }
            TrainEvent::Diffusion(report, share) => {
                (&self.diffusion, "diffusion model", *report, *share)
            }
            TrainEvent::Separate(method, report, share) => {
                (&self.diffusion, method.title(), *report, *share)
            }
            TrainEvent::Student(stage, report, share) => {
                self.student.set_prefix(stage.name());
                (&self.student, stage.name(), *report, *share)
            }
            _ => return,
        };
        step(bar, report, share);
        if !self.silent {
            line(bar, &mut self.last_line, name, report);
        }
    }

    /// Leaves them as they stand.
    pub(crate) fn abandon(self) {
        for bar in self.all() {
            bar.abandon();
        }
    }
}

/// A bar in thousandths of a budget, with the loss and the rate.
pub(crate) fn step(bar: &ProgressBar, report: &StepReport, share: f64) {
    bar.set_position((share * 1000.) as u64);
    let accuracy = report
        .accuracy
        .map_or(String::new(), |a| format!(" accuracy {a:.2}"));
    bar.set_message(format!(
        "iteration {} loss {:.4}{accuracy} {:.2} it/s",
        report.iteration,
        report.loss,
        1. / report.step_s
    ));
}

/// Where the screen is a file, bars are silent: a line now and then instead.
pub(crate) fn line(bar: &ProgressBar, last: &mut Instant, what: &str, report: &StepReport) {
    if bar.is_hidden() && last.elapsed().as_secs() >= PAUSE_S {
        *last = Instant::now();
        tell!(
            "{what}: iteration {} loss {:.4} {:.2} it/s {:.0} s",
            report.iteration,
            report.loss,
            1. / report.step_s,
            report.elapsed_s
        );
    }
}
