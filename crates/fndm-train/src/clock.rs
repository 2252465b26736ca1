use std::time::Instant;

/// Seconds of training over all sessions; runs from the first iteration on.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    earlier_s: f64,
    started: Option<Instant>,
}

impl Clock {
    /// A clock that goes on from an earlier session's end.
    pub(crate) fn after(earlier_s: f64) -> Self {
        Self {
            earlier_s,
            started: None,
        }
    }

    pub(crate) fn start(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    pub(crate) fn elapsed_s(&self) -> f64 {
        self.earlier_s + self.started.map_or(0.0, |s| s.elapsed().as_secs_f64())
    }
}
