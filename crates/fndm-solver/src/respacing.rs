//! Which training steps guided-diffusion visits when it samples in fewer steps.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A choice of training steps, as guided-diffusion spells it: "50", "10,15,20" or "ddim50".
///
/// With [`NoiseSchedule::time_of_index`](crate::NoiseSchedule::time_of_index) the indices become an explicit
/// [`Grid`](crate::Grid).
///
/// ```
/// use fndm_solver::Respacing;
/// # fn main() -> fndm_solver::Result<()> {
/// assert_eq!("ddim4".parse::<Respacing>()?.indices(1000)?, [0, 250, 500, 750]);
/// assert_eq!("4".parse::<Respacing>()?.indices(1000)?, [0, 333, 666, 999]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Respacing {
    /// The training steps are cut into as many parts of about the same size, and this many steps are spread evenly
    /// over each, both ends included.
    Sections(Vec<usize>),
    /// This many steps with one whole stride, starting at index 0.
    Ddim(usize),
}

impl Respacing {
    /// The chosen training indices, rising, out of `0..steps`.
    ///
    /// # Errors
    /// When a part is smaller than the number of steps asked of it, or no whole stride gives that number.
    pub fn indices(&self, steps: usize) -> Result<Vec<usize>> {
        match self {
            Self::Ddim(count) => (1..steps)
                .find(|stride| steps.div_ceil(*stride) == *count)
                .map(|stride| (0..steps).step_by(stride).collect())
                .ok_or_else(|| {
                    Error::config(
                        "respacing",
                        format!("a count that a whole stride through {steps} steps gives"),
                        count,
                    )
                }),
            Self::Sections(counts) => {
                let mut indices = Vec::new();
                let mut start = 0;
                for (i, &count) in counts.iter().enumerate() {
                    let size = steps / counts.len() + usize::from(i < steps % counts.len());
                    if size < count {
                        return Err(Error::config(
                            "respacing",
                            format!("at most {size} steps in part {i}"),
                            count,
                        ));
                    }
                    let stride = if count <= 1 {
                        1.0
                    } else {
                        (size - 1) as f64 / (count - 1) as f64
                    };
                    let mut at = 0.0f64;
                    for _ in 0..count {
                        indices.push(start + at.round_ties_even() as usize);
                        at += stride;
                    }
                    start += size;
                }
                indices.dedup();
                Ok(indices)
            }
        }
    }
}

impl FromStr for Respacing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |s: &str| {
            s.trim().parse().map_err(|_| {
                Error::config(
                    "respacing",
                    "counts as in \"50\", \"10,15,20\" or \"ddim50\"",
                    text,
                )
            })
        };
        match text.trim().strip_prefix("ddim") {
            Some(count) => Ok(Self::Ddim(number(count)?)),
            None => Ok(Self::Sections(
                text.split(',').map(number).collect::<Result<_>>()?,
            )),
        }
    }
}
