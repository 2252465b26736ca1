use candle_nn::VarBuilder;

/// Where a flow's tensors come from: what is trained, and what is drawn once and stays.
#[derive(Clone)]
pub struct Source<'a> {
    /// Weights that are trained.
    pub trained: VarBuilder<'a>,
    /// Permutations and rotations.
    pub fixed: VarBuilder<'a>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl<'a> Source<'a> {
    /// Everything from one place, as of a file.
    #[must_use]
    pub fn of(all: VarBuilder<'a>) -> Self {
        Self {
            trained: all.clone(),
            fixed: all,
        }
    }

    /// The part under this name.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "names are passed by value, as to `VarBuilder::pp`"
    )]
    pub fn pp(&self, name: impl ToString) -> Self {
        let name = name.to_string();
        Self {
            trained: self.trained.pp(&name),
            fixed: self.fixed.pp(&name),
        }
    }
}
