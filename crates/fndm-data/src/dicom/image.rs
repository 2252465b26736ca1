//! One file: which series it is of, where its frames lie, and their values.

use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use super::attributes::Attributes;
use super::elements::{self, Dataset, Elements, FRAMES};
use super::header::Header;
use super::pixels::{self, Format};
use super::syntax;
use crate::{Error, Limits, Result, open};

const ROWS: (Tag, &str) = (tags::ROWS, "Rows");
const COLUMNS: (Tag, &str) = (tags::COLUMNS, "Columns");
const ORIENTATION: (Tag, &str) = (tags::IMAGE_ORIENTATION_PATIENT, "ImageOrientationPatient");
const POSITION: (Tag, &str) = (tags::IMAGE_POSITION_PATIENT, "ImagePositionPatient");
const SPACING: (Tag, &str) = (tags::PIXEL_SPACING, "PixelSpacing");
const BETWEEN: (Tag, &str) = (tags::SPACING_BETWEEN_SLICES, "SpacingBetweenSlices");
const THICKNESS: (Tag, &str) = (tags::SLICE_THICKNESS, "SliceThickness");
const SLOPE: (Tag, &str) = (tags::RESCALE_SLOPE, "RescaleSlope");
const INTERCEPT: (Tag, &str) = (tags::RESCALE_INTERCEPT, "RescaleIntercept");
const NUMBER: (Tag, &str) = (tags::SERIES_NUMBER, "SeriesNumber");
const COUNT: (Tag, &str) = (tags::NUMBER_OF_FRAMES, "NumberOfFrames");

/// Directions have at least three decimals: the squares of their lengths, and their product, are off by at
/// most 2 x 0.0005 x sqrt(3).
const ROUNDED: f64 = 2e-3;

/// Farthest place and greatest distance of pixels or slices that are believed, in millimetres.
const FAR: f64 = 1e6;

/// For functional groups that a file has not.
static NOTHING: Dataset<'static> = Dataset::NONE;

/// One slice's place and scale.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    /// Direction of growing columns, then of growing rows, of length 1; x to the left, y to the back.
    pub(super) directions: [[f64; 3]; 2],
    /// Middle of the first pixel, in millimetres.
    pub(super) position: [f64; 3],
    /// Distance of rows, then of columns.
    pub(super) spacing: [f64; 2],
    /// Distance of slices, where the file says it.
    pub(super) step: Option<f64>,
    /// From stored to real values.
    pub(super) slope: f64,
    pub(super) intercept: f64,
}

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) series: String,
    pub(super) number: Option<i32>,
    pub(super) description: String,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) format: Format,
    pub(super) frames: Vec<Frame>,
    pub(super) header: Header,
}

/// A DICOM file that gives no slice.
pub(super) struct Refused {
    pub(super) error: Error,
    /// `SeriesInstanceUID`, where it could be read.
    pub(super) series: Option<String>,
    /// It could be a slice. `false` for an object of another kind, which is none.
    pub(super) damaged: bool,
}

/// An image; none of what is not DICOM, and of the index of a disc.
pub(super) type Opened = std::result::Result<Option<Image>, Box<Refused>>;

impl Refused {
    fn damaged(error: Error) -> Box<Self> {
        Box::new(Self {
            error,
            series: None,
            damaged: true,
        })
    }
}

/// The bytes of a file; `None` for one that is not DICOM.
fn bytes(path: &Path, limits: &Limits) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let (mut file, size) = open::open(path)?;
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, most: u64| {
        let taken = (&mut file).take(most).read_to_end(bytes);
        taken.map_err(Error::io(path))
    };
    read(&mut bytes, elements::PREAMBLE as u64)?;
    if !elements::is_dicom(&bytes) {
        return Ok(None);
    }
    if size > limits.file_bytes {
        return Err(Error::Limit {
            path: path.to_path_buf(),
            what: "file size in bytes",
            limit: limits.file_bytes,
            got: size,
        });
    }
    let rest = limits.file_bytes.saturating_sub(bytes.len() as u64);
    read(&mut bytes, rest)?;
    elements::inflate(bytes, path, limits).map(Some)
}

impl Image {
    /// Reads a file's elements. `None` for what is not DICOM, and for the index of a disc.
    pub(super) fn open(path: &Path, limits: &Limits) -> Opened {
        match bytes(path, limits).map_err(Refused::damaged)? {
            Some(bytes) => Self::parse(&bytes, path),
            None => Ok(None),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Opened {
        let file = elements::parse(bytes, path).map_err(|error| {
            // Of a transfer syntax that isn't known, what the elements are isn't either.
            let named = elements::start(bytes, path)
                .ok()
                .filter(|(syntax, _)| !syntax.is_empty())
                .and_then(|(syntax, _)| syntax::packing(&syntax).err());
            Refused::damaged(match named {
                Some(name) => unsupported(path, "transfer syntax", name),
                None => error,
            })
        })?;
        let get = Attributes {
            dataset: &file.dataset,
            path,
            frame: None,
        };
        let class = get
            .text(tags::SOP_CLASS_UID)
            .or_else(|| file.meta.text(tags::MEDIA_STORAGE_SOP_CLASS_UID))
            .unwrap_or_default();
        if class == syntax::DIRECTORY {
            return Ok(None);
        }
        let refused = |error: Error, damaged: bool| {
            Box::new(Refused {
                error,
                series: get.text(tags::SERIES_INSTANCE_UID),
                damaged,
            })
        };
        other_kind(&get, &class).map_err(|error| refused(error, false))?;
        let image = Self::read(&file, get).map_err(|error| refused(error, true))?;
        Ok(Some(image))
    }

    fn read(file: &Elements<'_>, get: Attributes<'_>) -> Result<Self> {
        let path = get.path;
        let series = get.text(tags::SERIES_INSTANCE_UID).ok_or_else(|| {
            let name = (tags::SERIES_INSTANCE_UID, "SeriesInstanceUID");
            get.invalid(name, "a UID", "nothing")
        })?;
        let rows = get.count(ROWS, [1, 65535])?;
        let columns = get.count(COLUMNS, [1, 65535])?;
        let format = Format::read(file, get)?;
        if !get.dataset.items(tags::MODALITY_LUT_SEQUENCE).is_empty() {
            let got = "values by a table (ModalityLUTSequence)".into();
            return Err(unsupported(path, "rescaling", got));
        }
        let frames = frames(get)?;
        format.check_size(file, path, rows * columns, frames.len())?;
        let bounds = [i32::MIN.into(), i32::MAX.into()];
        let number = get.whole(NUMBER, *b"IS", bounds)?;
        Ok(Self {
            path: path.to_path_buf(),
            series,
            number: number.and_then(|n| i32::try_from(n).ok()),
            description: get.text(tags::SERIES_DESCRIPTION).unwrap_or_default(),
            rows,
            columns,
            format,
            frames,
            header: Header::read(get)?,
        })
    }

    /// Reads the values of some frames, each row after row to the place given with it.
    pub(super) fn values(&self, limits: &Limits, frames: &mut [(usize, &mut [f32])]) -> Result<()> {
        let changed = || Error::Dicom {
            path: self.path.clone(),
            reason: "changed while it was read".into(),
        };
        let bytes = bytes(&self.path, limits)?.ok_or_else(changed)?;
        match Self::parse(&bytes, &self.path) {
            Ok(Some(again)) if again == *self => {}
            Ok(_) => return Err(changed()),
            Err(refused) => return Err(refused.error),
        }
        let file = elements::parse(&bytes, &self.path)?;
        for (number, values) in frames {
            let frame = self.frames.get(*number).ok_or_else(changed)?;
            let scale = (frame.slope, frame.intercept);
            let place = pixels::Place {
                path: &self.path,
                rows: self.rows,
                columns: self.columns,
                frame: *number,
                frames: self.frames.len(),
            };
            self.format.values(&file, &place, scale, values)?;
        }
        Ok(())
    }
}

fn unsupported(path: &Path, what: &'static str, got: String) -> Error {
    Error::Unsupported {
        path: path.to_path_buf(),
        what,
        got,
    }
}

/// Refuses objects that are no slices of a volume, however sound they are.
fn other_kind(get: &Attributes<'_>, class: &str) -> Result<()> {
    let path = get.path;
    // Where no kind is named, an image is told by its rows.
    let image = if class.is_empty() {
        get.dataset.get(tags::ROWS).is_some()
    } else {
        syntax::is_image(class)
    };
    if !image {
        return Err(unsupported(path, "SOP class", syntax::class_name(class)));
    }
    for (tag, what) in [
        (tags::FLOAT_PIXEL_DATA, "FloatPixelData"),
        (tags::DOUBLE_FLOAT_PIXEL_DATA, "DoubleFloatPixelData"),
    ] {
        if get.dataset.get(tag).is_some() {
            return Err(unsupported(path, "kind of pixels", what.into()));
        }
    }
    if let Some(colours) = get.text(tags::PHOTOMETRIC_INTERPRETATION)
        && !colours.starts_with("MONOCHROME")
    {
        return Err(unsupported(path, "photometric interpretation", colours));
    }
    // One image of all slices side by side, whose place is that of none of them.
    let types = get.text(tags::IMAGE_TYPE).unwrap_or_default();
    if types.split('\\').any(|part| part.trim() == "MOSAIC") {
        let got = "a mosaic of slices (ImageType); export them as single slices".into();
        return Err(unsupported(path, "kind of image", got));
    }
    // A number that can't be read is told later: it may be that of a slice.
    if let Ok(Some(count @ 2..)) = get.whole(COUNT, *b"IS", [1, i32::MAX.into()])
        && groups(get.dataset, 0).is_none()
    {
        let got = format!(
            "{count} frames, and no PerFrameFunctionalGroupsSequence that says where each lies"
        );
        return Err(unsupported(path, "a multi-frame file of this kind", got));
    }
    Ok(())
}

/// The functional groups of one frame, and those shared by all.
struct Groups<'a> {
    own: &'a Dataset<'a>,
    shared: Option<&'a Dataset<'a>>,
}

fn groups<'a>(dataset: &'a Dataset<'a>, frame: usize) -> Option<Groups<'a>> {
    Some(Groups {
        own: dataset
            .items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
            .get(frame)?,
        shared: dataset
            .items(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE)
            .first(),
    })
}

impl<'a> Groups<'a> {
    /// The item of a group: the frame's own before the shared one.
    fn get(&self, sequence: Tag) -> Option<&'a Dataset<'a>> {
        let own = self.own.items(sequence).first();
        own.or_else(|| self.shared.and_then(|s| s.items(sequence).first()))
    }
}

/// The frames of a file, whose places stand in the file itself, or in functional groups.
fn frames(get: Attributes<'_>) -> Result<Vec<Frame>> {
    let most = FRAMES as i64;
    let claimed = get.whole(COUNT, *b"IS", [1, i32::MAX.into()])?;
    let count = claimed.unwrap_or(1);
    if count > most {
        return Err(Error::Limit {
            path: get.path.to_path_buf(),
            what: "number of frames",
            limit: most as u64,
            got: count as u64,
        });
    }
    let listed = get
        .dataset
        .items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
        .len();
    if listed == 0 {
        return Ok(vec![Frame::read(&|_| get)?]);
    }
    if listed as i64 != count {
        let expected = format!("{listed}, as PerFrameFunctionalGroupsSequence has items,");
        return Err(get.invalid(COUNT, &expected, count.to_string()));
    }
    let frame = |n: usize| {
        let groups = groups(get.dataset, n);
        Frame::read(&|sequence| {
            let found = groups.as_ref().and_then(|g| g.get(sequence));
            // The scale of frames that have none of their own is the file's.
            let scale = sequence == tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE;
            Attributes {
                dataset: found.unwrap_or(if scale { get.dataset } else { &NOTHING }),
                frame: Some(n + 1),
                ..get
            }
        })
    };
    (0..listed).map(frame).collect()
}

impl Frame {
    /// Reads a frame; `group` gives the elements of a functional group, or all where the file has no groups.
    fn read<'a>(group: &dyn Fn(Tag) -> Attributes<'a>) -> Result<Self> {
        let get = group(tags::PLANE_ORIENTATION_SEQUENCE);
        let [a, b, c, d, e, f] = get.needed(ORIENTATION)?;
        let directions = [[a, b, c], [d, e, f]];
        let square = |v: [f64; 3]| v.iter().map(|x| x * x).sum::<f64>();
        let across: f64 = (0..3).map(|n| directions[0][n] * directions[1][n]).sum();
        let long = |d: &[f64; 3]| (square(*d) - 1.0).abs() > ROUNDED;
        if directions.iter().any(long) || across.abs() > ROUNDED {
            let expected = "two directions of length 1 at a right angle";
            return Err(get.invalid(ORIENTATION, expected, format!("{directions:?}")));
        }
        let directions = directions.map(|d| d.map(|x| x / square(d).sqrt()));

        let get = group(tags::PLANE_POSITION_SEQUENCE);
        let position = get.needed(POSITION)?;
        if position.iter().any(|x| x.abs() > FAR) {
            let expected = format!("within {FAR} mm");
            return Err(get.invalid(POSITION, &expected, format!("{position:?}")));
        }

        let get = group(tags::PIXEL_MEASURES_SEQUENCE);
        let spacing = get.needed(SPACING)?;
        if spacing.iter().any(|s| *s <= 1.0 / FAR || *s > FAR) {
            let expected = format!("above 0, up to {FAR} mm,");
            return Err(get.invalid(SPACING, &expected, format!("{spacing:?}")));
        }
        // Some write the distance of slices with a sign.
        let between = get.numbers(BETWEEN)?.map(|[step]| step.abs());
        let thickness = get.numbers(THICKNESS)?.map(|[step]| step);
        let steps = [between, thickness];
        let step = steps.into_iter().flatten().find(|s| *s > 0.0);
        if step.is_some_and(|s| s > FAR) || thickness.is_some_and(|t| t < 0.0) {
            let expected = format!("0 to {FAR} mm, as SpacingBetweenSlices,");
            return Err(get.invalid(THICKNESS, &expected, format!("{steps:?}")));
        }

        let get = group(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE);
        let [slope] = get.numbers(SLOPE)?.unwrap_or([1.0]);
        let [intercept] = get.numbers(INTERCEPT)?.unwrap_or([0.0]);
        if slope == 0.0 {
            return Err(get.invalid(SLOPE, "other than 0", "0"));
        }
        Ok(Self {
            directions,
            position,
            spacing,
            step,
            slope,
            intercept,
        })
    }
}
