//! The rows of the tables, which grow fold by fold.

use anyhow::{Result, ensure};
use fndm::data::PatientSlices;
use fndm_study::student::{FoldRow, StudentPlan};
use fndm_study::{Arm, Case, Evaluation, Level, MaskScores, MethodMap, flair_quantile};

/// Scores of each row, in the order in which rows were met.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<(String, MaskScores)>,
}

impl Rows {
    /// The names of the rows, for people.
    pub(super) fn titles(&self) -> Vec<String> {
        self.rows.iter().map(|(title, _)| title.clone()).collect()
    }

    /// The figures of every row, per slice and per volume.
    pub(super) fn finish(self) -> Result<Vec<Vec<Evaluation>>> {
        let mut found = Vec::with_capacity(self.rows.len());
        for (_, scores) in self.rows {
            found.push(scores.finish()?);
        }
        Ok(found)
    }

    /// Adds scores of other patients to the row of this title.
    fn join(&mut self, title: &str, scores: MaskScores) -> Result<()> {
        match self.rows.iter_mut().find(|(known, _)| known == title) {
            Some((_, own)) => own.join(scores)?,
            None => self.rows.push((title.to_owned(), scores)),
        }
        Ok(())
    }

    /// What the student, its teachers or its bound say.
    pub(super) fn add_cases(
        &mut self,
        row: FoldRow,
        cases: &[Case],
        plan: &StudentPlan,
    ) -> Result<()> {
        let evaluations = match row {
            FoldRow::Student | FoldRow::Bound => 1 + usize::from(plan.mirror),
            FoldRow::Contrast => 0,
            FoldRow::Remover | FoldRow::Teacher => 1,
        };
        let mut scores = MaskScores::new(row.key(), &Level::ALL).with_evaluations(evaluations, 0);
        for case in cases {
            scores.add_case(case)?;
        }
        self.join(row.title(), scores)
    }

    /// The brightest FLAIR of every slice.
    pub(super) fn add_flair(
        &mut self,
        (quantile, erosion, clear): (f64, usize, bool),
        patients: &[PatientSlices],
    ) -> Result<()> {
        let (key, words) = match clear {
            true => ("_clear", ", without what goes on into the rim"),
            false => ("", ""),
        };
        let mut scores = MaskScores::new(&format!("flair_{quantile}_{erosion}{key}"), &Level::ALL);
        for slices in patients {
            let (anomaly, inner_head, milliseconds) =
                flair_quantile(slices, erosion, quantile, clear)?;
            let mask = anomaly.mapv(|v| v > 0.);
            let found = MethodMap::plain(anomaly, inner_head, mask, milliseconds);
            scores.add_case(&Case::new(slices, &found)?)?;
        }
        let title = format!("FLAIR above its {quantile} quantile, {erosion} px inside{words}");
        self.join(&title, scores)
    }

    /// What the arms of a comparison say, in their order.
    pub(super) fn add_arms(&mut self, arms: &[Arm], scores: Vec<MaskScores>) -> Result<()> {
        ensure!(
            arms.len() == scores.len(),
            "expected scores of {} arms, got {}",
            arms.len(),
            scores.len()
        );
        for (arm, scores) in arms.iter().zip(scores) {
            self.join(&arm.title, scores)?;
        }
        Ok(())
    }
}
