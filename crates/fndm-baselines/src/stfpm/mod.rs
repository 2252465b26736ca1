//! Student-teacher feature pyramid matching (STFPM, Wang et al. 2021): a student learns a teacher's features of healthy slices.

mod loss;
mod map;
mod method;
mod student;

pub use loss::{LossScale, layer_differences, loss};
pub use map::{MapStyle, OFFICIAL_SIZE, score_map, scores};
pub use method::{Stfpm, StfpmMethod, StfpmSettings};
pub use student::StudentConfig;
