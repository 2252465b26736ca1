//! Whether a patient is like those that a model was trained on.
//!
//! [`PatientProfile`] measures a patient: voxels, extent, the head's size and place, how bright which part of it is in every sequence.
//! [`DataStatistics`] keeps what training patients have in common; it is a few kilobytes and has no patient in it.
//! [`DataStatistics::judge`] compares, and gives a [`Verdict`]: green, yellow or red, with reasons and advice.
//!
//! ```
//! use fndm_data::phantom::PhantomConfig;
//! use fndm_data::profile::{DataStatistics, Light, PatientProfile};
//! use fndm_data::{Patient, Preprocess};
//!
//! let phantom = PhantomConfig { size: 32, slices: 12, ..PhantomConfig::default() };
//! let preprocess = Preprocess::default();
//! let profiles = (0..10)
//!     .map(|seed| PatientProfile::of(&phantom.patient(seed)?, &preprocess))
//!     .collect::<Result<Vec<_>, _>>()?;
//! let training = DataStatistics::learn(&profiles, "ten phantoms")?;
//! // Somebody wrote millimetres for tenths of them.
//! let mut patient = Patient { mask: None, ..phantom.patient(11)? };
//! for (_, volume) in &mut patient.sequences {
//!     for row in &mut volume.affine[..3] {
//!         row.iter_mut().for_each(|v| *v *= 10.);
//!     }
//! }
//! let verdict = training.judge(&PatientProfile::of(&patient, &preprocess)?);
//! assert_eq!(verdict.light, Light::Red);
//! assert!(verdict.findings[0].reason.contains("mm"));
//! # Ok::<(), fndm_data::Error>(())
//! ```

mod depth;
mod feature;
mod identity;
mod intensity;
mod measure;
mod picture;
mod skull;
mod standing;
mod statistics;
mod verdict;

pub use feature::{Aspect, Feature, Scale};
pub use identity::Identity;
pub use measure::{PatientProfile, SequenceProfile};
pub use skull::ScalpStatistics;
pub use standing::Standing;
pub use statistics::{AspectLimit, DataStatistics, FalseAlarms, FeatureStatistics};
pub use verdict::{AspectScore, Finding, Light, Verdict, missing_sequence};
