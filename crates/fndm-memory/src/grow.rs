use candle_core::Tensor;
use ndarray::{Array2, ArrayView3, Axis, concatenate};

use crate::builder::BankBuilder;
use crate::coarse::HealthyModel;
use crate::coreset::greedy_more;
use crate::progress::OnProgress;
use crate::tensor::check_images;
use crate::{Error, FeatureExtractor, MemoryBank, Result};

impl MemoryBank {
    /// Joins two banks of the same config. Where both together exceed the budget, the rows that are farthest apart stay.
    ///
    /// The calibration is dropped: scores shrink as rows are added.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when features, standardisation, storage or score differ; when the caller stops it.
    pub fn merge(&self, other: &Self, on_progress: OnProgress<'_>) -> Result<Self> {
        let (a, b) = (&self.config, &other.config);
        let differs = [
            ("patch features", a.patch != b.patch),
            ("position weights", a.position_weight != b.position_weight),
            ("storage", a.storage != b.storage),
            ("numbers of neighbours", a.neighbours != b.neighbours),
            ("scores", a.score != b.score),
            (
                "standardisation",
                self.standardisation != other.standardisation,
            ),
            (
                "extractors",
                self.extractor.is_some()
                    && other.extractor.is_some()
                    && self.extractor != other.extractor,
            ),
        ];
        if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
            return Err(Error::Incompatible {
                message: format!("their {what} differ"),
            });
        }
        let seen = self.patches_seen.saturating_add(other.patches_seen);
        self.with_more(other.index.to_array()?, seen, on_progress)
    }

    /// Adds healthy images `(N, C, H, W)` without building anew: what is farthest from the rows there are is added.
    ///
    /// The coreset's size is taken of the new patches. The rest is as in [`MemoryBank::build`] and [`MemoryBank::merge`].
    ///
    /// # Errors
    /// As [`MemoryBank::build`].
    pub fn extend(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        check_images(images, head)?;
        self.check_extractor(extractor)?;
        let mut builder = BankBuilder::resume(self.config.clone(), self.standardisation.clone());
        builder.push_all(extractor, images, head, on_progress)?;
        let (seen, new) = builder.into_pool()?;
        let count = self.config.coreset.count(new.nrows()).max(1);
        let old = self.index.to_array()?;
        let all = join(&old, &new)?;
        let more = greedy_more(all.view(), old.nrows(), count, on_progress)?;
        let new = all.select(Axis(0), &more);
        self.with_more(new, self.patches_seen.saturating_add(seen), on_progress)
    }

    /// The own rows and these, within the budget.
    fn with_more(&self, more: Array2<f32>, seen: u64, on_progress: OnProgress<'_>) -> Result<Self> {
        let mut rows = join(&self.index.to_array()?, &more)?;
        drop(more);
        let limit = self.config.max_rows();
        if rows.nrows() > limit {
            let kept = self
                .config
                .coreset
                .reduce(rows.view(), limit, on_progress)?;
            rows = rows.select(Axis(0), &kept);
        }
        let config = self.config.clone();
        let bank = Self::assemble(config, self.standardisation.clone(), rows, seen)?;
        Ok(Self {
            extractor: self.extractor.clone(),
            ..bank
        })
    }
}

fn join(a: &Array2<f32>, b: &Array2<f32>) -> Result<Array2<f32>> {
    concatenate(Axis(0), &[a.view(), b.view()]).map_err(|_| Error::Dimension {
        expected: a.ncols(),
        got: b.ncols(),
    })
}
