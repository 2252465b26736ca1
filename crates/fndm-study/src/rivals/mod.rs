//! The methods that the paper's first table compares with: fitted to healthy slices, kept, and examined like our own.

mod features;
mod fitting;
mod latex;
mod map;
mod picture;
mod search;
mod settings;

pub use features::{FeatureSettings, Features, Pretrained};
pub use fitting::{FitRecord, FittedRival, fit_or_load};
pub use latex::{LatexRow, latex};
pub use map::{raw_map, rival_map};
pub use picture::MethodSheet;
pub use search::{Found, PostGrid, RawCase, search};
pub use settings::{RivalKind, RivalPlan, RivalRow, RowSettings, TableSettings};
