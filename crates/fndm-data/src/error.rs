//! The crate's error type.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong in this crate. Each variant says what was
/// expected, what came, and which file or patient it was.
///
/// The message is what this level knows; what the system or a parser said is the
/// [`source`](std::error::Error::source) and not told twice. Print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be written.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),
    /// The operating system refused to read or write.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The file asks for more than [`Limits`](crate::Limits) allows.
    #[error("{}: {what} is {got}, above the limit of {limit}", path.display())]
    Limit {
        /// File or folder.
        path: PathBuf,
        /// What is too large: "voxels", "bytes of the file", ...
        what: &'static str,
        /// The bound from `Limits`.
        limit: u64,
        /// What the file asks for; at least this, where the rest was not read.
        got: u64,
    },
    /// The file is not NIfTI at all: no known header size or magic string.
    #[error("{}: not a NIfTI file: {reason}", path.display())]
    NotNifti {
        /// File.
        path: PathBuf,
        /// What was looked at and what was found.
        reason: String,
    },
    /// The header is NIfTI but a field of it cannot be right.
    #[error("{}: header field {field}: expected {expected}, got {got}", path.display())]
    InvalidHeader {
        /// File.
        path: PathBuf,
        /// Name of the field as in the NIfTI standard.
        field: &'static str,
        /// What the field may hold.
        expected: String,
        /// What it holds.
        got: String,
    },
    /// A valid file of a kind that this crate does not read.
    #[error("{}: {what} is not supported: {got}", path.display())]
    Unsupported {
        /// File.
        path: PathBuf,
        /// The feature: "data type", "number of axes", ...
        what: &'static str,
        /// What the file has.
        got: String,
    },
    /// The file ends before its data does.
    #[error("{}: cut short: expected {expected} bytes of {what}, got {got}", path.display())]
    Truncated {
        /// File.
        path: PathBuf,
        /// "header" or "voxels".
        what: &'static str,
        /// Bytes needed.
        expected: u64,
        /// Bytes there. Of a packed file that is too short to hold what it claims, the most that it can hold.
        got: u64,
    },
    /// The gzip stream is broken, or ends in bytes that are not gzip.
    #[error("{}: broken gzip stream", path.display())]
    Gzip {
        /// File.
        path: PathBuf,
        /// The unpacker's own error.
        source: io::Error,
    },
    /// A DICOM file cannot be parsed or decoded.
    #[error("{}: not a usable DICOM file: {reason}", path.display())]
    Dicom {
        /// File.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// DICOM slices that make no single volume.
    #[error("{}: not one DICOM series: {reason}", folder.display())]
    MixedSeries {
        /// Folder.
        folder: PathBuf,
        /// What does not fit together.
        reason: String,
    },
    /// Neighbouring slices of a DICOM series are not one step apart.
    #[error(
        "{}: slices are missing or stand twice: {} and {} are {gap:.3} mm apart, the others {usual:.3} mm",
        folder.display(), first.display(), second.display()
    )]
    MissingSlices {
        /// Folder.
        folder: PathBuf,
        /// File of the slice before the gap.
        first: PathBuf,
        /// File of the slice after it.
        second: PathBuf,
        /// Distance of the two in millimetres.
        gap: f64,
        /// The usual distance.
        usual: f64,
    },
    /// Neighbouring frames of a multi-frame DICOM file are not one step apart.
    #[error(
        "{}: frames are missing or stand twice, as those of several volumes in one file do: frames {first} and {second} are {gap:.3} mm apart, the others {usual:.3} mm",
        path.display()
    )]
    MissingFrames {
        /// File.
        path: PathBuf,
        /// The frame before the gap, from 1.
        first: usize,
        /// The frame after it.
        second: usize,
        /// Distance of the two in millimetres.
        gap: f64,
        /// The usual distance.
        usual: f64,
    },
    /// The pixels of a DICOM file cannot be decoded.
    #[error("{}: the pixels of frame {frame} cannot be decoded", path.display())]
    Pixels {
        /// File.
        path: PathBuf,
        /// Which frame of the file, from 1.
        frame: usize,
        /// What the decoder says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text file (splits, manifest, table) cannot be understood.
    #[error("{}: {reason}", path.display())]
    Text {
        /// File.
        path: PathBuf,
        /// Line or key, and what is wrong with it.
        reason: String,
    },
    /// A file is not the JSON that is expected.
    #[error("{}: not the JSON that is expected", path.display())]
    Json {
        /// File.
        path: PathBuf,
        /// What the parser says, with the line.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A patient has no file for a sequence that was asked for.
    #[error("patient {patient}: sequence {sequence} not found in {}: expected one of {}", folder.display(), expected.join(", "))]
    MissingSequence {
        /// Patient.
        patient: String,
        /// Sequence asked for.
        sequence: String,
        /// Folder that was searched.
        folder: PathBuf,
        /// File names that would have been taken.
        expected: Vec<String>,
    },
    /// Two files could each be the sequence that was asked for.
    #[error("patient {patient}: {sequence} could be {} or {}: give the one that isn't meant another name, or name the files one by one", first.display(), second.display())]
    AmbiguousSequence {
        /// Patient.
        patient: String,
        /// Sequence asked for.
        sequence: String,
        /// One candidate.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Several images of a BIDS session could each be the sequence that was asked for.
    #[error("patient {patient}: {sequence} could be {}: choose by a filter, as {filter}", images.join(" or "))]
    AmbiguousImage {
        /// The session, as `sub-01/ses-pre`.
        patient: String,
        /// Sequence asked for.
        sequence: String,
        /// Names of the images.
        images: Vec<String>,
        /// A filter that takes the first and not the second.
        filter: String,
    },
    /// A folder was given as one patient's, and a sequence lies in several folders of it.
    #[error("{} isn't one patient's folder: {sequence} is in {} and in {}. Give one of these, or the whole as the data folder (--data)", folder.display(), first.display(), second.display())]
    SeveralPatients {
        /// The folder that was given.
        folder: PathBuf,
        /// Sequence asked for, or "mask".
        sequence: String,
        /// One folder that has it.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A file may be a lesion mask, or a mask of something else.
    #[error("patient {patient}: is {} a mask of lesions? If it is, name it as one of {expected} (.nii.gz); if it isn't, give it a name that says what is masked (as _brain_mask)", file.display())]
    UnclearMask {
        /// Patient.
        patient: String,
        /// The file.
        file: PathBuf,
        /// Names of lesion masks.
        expected: String,
    },
    /// A folder bears the marker of our own results, which are never taken for data.
    #[error("{} holds results of these programs (it has a file .fndm.json): results are not read as data", folder.display())]
    OwnOutput {
        /// Folder.
        folder: PathBuf,
    },
    /// A name that can't be written in a report.
    #[error("{}: the name is not UTF-8: rename it", path.display())]
    NotUtf8 {
        /// File or folder; shown with a sign in place of what can't be.
        path: PathBuf,
    },
    /// A link to a folder that it lies in.
    #[error("{} is a link to a folder that it lies in", path.display())]
    LinkLoop {
        /// The link.
        path: PathBuf,
    },
    /// Two volumes of one patient do not lie on the same grid.
    #[error("patient {patient}: {first} and {second} have a different {what}: {values}")]
    GridMismatch {
        /// Patient.
        patient: String,
        /// Name of the first volume: a sequence, or "mask".
        first: String,
        /// Name of the second volume.
        second: String,
        /// "shape" or "affine".
        what: &'static str,
        /// The value of the first "and" that of the second.
        values: String,
    },
    /// A volume has voxels that are NaN or infinite, or are so as float32.
    #[error(
        "patient {patient}: {sequence} has {count} of {total} voxels that are NaN, infinite, or beyond float32 (3.4e38)"
    )]
    NotFinite {
        /// Patient.
        patient: String,
        /// Sequence, or "mask".
        sequence: String,
        /// Number of such voxels.
        count: usize,
        /// Number of voxels.
        total: usize,
    },
    /// Every voxel of a sequence is the same: there is no image in it.
    #[error("patient {patient}: every voxel of {sequence} is {value}: the volume is empty")]
    ConstantVolume {
        /// Patient.
        patient: String,
        /// Sequence.
        sequence: String,
        /// The one value.
        value: f32,
    },
    /// No head is found in a volume, or no slice of it is left.
    #[error("patient {patient}: no slice left: {reason}")]
    NoSlices {
        /// Patient.
        patient: String,
        /// Which rule left none.
        reason: String,
    },
    /// The patient has no mask, where one is needed.
    #[error("patient {patient}: no lesion mask: {reason}")]
    NoMask {
        /// Patient.
        patient: String,
        /// Why it is needed, and which files would have been taken.
        reason: String,
    },
    /// A folder holds no patient.
    #[error("{}: no patient found: {reason}", folder.display())]
    NoPatients {
        /// Folder.
        folder: PathBuf,
        /// What a patient would look like.
        reason: String,
    },
    /// A label fits no slice, or contradicts another.
    #[error("labels of slices")]
    Label {
        /// What is wrong.
        source: crate::labels::LabelProblem,
    },
    /// A table of labels can't be used.
    #[error("{}", path.display())]
    LabelTable {
        /// The table.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: crate::labels::LabelProblem,
    },
    /// A patient stands on two sides of the split, or twice on one.
    #[error("patient {patient} stands {}", twice(first, second))]
    PatientOnTwoSides {
        /// Patient.
        patient: String,
        /// One side.
        first: String,
        /// The other; the same where the patient is listed twice.
        second: String,
    },
    /// A patient of the split has no folder.
    #[error("patient {patient} of the {side} split has no folder in {}", folder.display())]
    PatientWithoutFolder {
        /// Patient.
        patient: String,
        /// Side of the split.
        side: String,
        /// Folder that was searched.
        folder: PathBuf,
    },
    /// A side of the split that is needed has no patient.
    #[error("the {side} split has no patient")]
    EmptySplit {
        /// Side of the split.
        side: String,
    },
    /// An array does not have the shape that is needed.
    #[error("{what}: expected shape {expected}, got {got:?}")]
    Shape {
        /// Name of the array.
        what: String,
        /// The shape needed.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A setting is out of its range.
    #[error("{what}: expected {expected}, got {got}")]
    InvalidConfig {
        /// Name of the setting, as `Struct.field`.
        what: String,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
}

impl Error {
    /// Shorthand for [`Error::InvalidConfig`].
    pub(crate) fn config(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::InvalidConfig {
            what: what.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// Shorthand for [`Error::Shape`].
    pub(crate) fn shape(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: &[usize],
    ) -> Self {
        Self::Shape {
            what: what.into(),
            expected: expected.into(),
            got: got.to_vec(),
        }
    }

    /// For `map_err` on an input or output of the system.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Where a patient of two sides stands.
fn twice(first: &str, second: &str) -> String {
    match first == second {
        true => format!("twice on the side {first} of the split"),
        false => format!("on two sides of the split: {first} and {second}"),
    }
}
