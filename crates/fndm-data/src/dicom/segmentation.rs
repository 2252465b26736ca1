//! A mask as a DICOM Segmentation object that refers to the series that it was made from.

use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};
use xxhash_rust::xxh3::xxh3_128;

use super::header::Header;
use super::series::{Series, Slice, matrix_of};
use super::write::Object;
use crate::{Error, Result, Volume, is_lesion};

/// What made a mask.
#[derive(Debug, Clone)]
pub struct Algorithm {
    /// Its name, as people read it: at most 64 characters.
    pub name: String,
    /// Its version.
    pub version: String,
    /// All that decides on what it gives, in any form: together with the sources and the mask it makes the object's UIDs.
    pub settings: String,
}

/// Writes a mask as a binary Segmentation of one segment, "Lesion", a frame for each slice of the first source, empty ones too. Its
/// patient, study and frame of reference are the source's; every frame refers to the slice that it lies on, and the object to all
/// instances of all sources.
///
/// Nothing in the file is of the moment or by chance. The UIDs follow from sources, settings and mask (a UUID under 2.25), dates and
/// times are those of the series: the same command gives the same bytes.
///
/// # Errors
/// [`Error::InvalidConfig`] without a source; [`Error::GridMismatch`] when the mask isn't on the first source's grid, as
/// [`Series::read`] gives it; and when the file can't be written.
pub fn write_segmentation(
    path: impl AsRef<Path>,
    mask: &Volume,
    sources: &[&Series],
    algorithm: &Algorithm,
) -> Result<()> {
    let Some(source) = sources.first() else {
        return Err(Error::config("sources", "at least one", "none"));
    };
    let slices = source.ordered()?;
    let (Some(first), Some(header)) = (slices.first(), source.header()) else {
        return Err(Error::config(
            "sources",
            "series of at least one slice",
            "an empty one",
        ));
    };
    check_grid(mask, source, &slices)?;
    let uids = Uids::new(mask, sources, algorithm);
    let object = &mut Object::default();
    patient_and_study(object, header);
    equipment(object, algorithm);
    let frame_of_reference = match source.frame_of_reference() {
        uid if uid.is_empty() => uids.make("frame of reference"),
        uid => uid,
    };
    let date = digits(
        &[
            header.text(tags::SERIES_DATE),
            header.text(tags::STUDY_DATE),
        ],
        8,
        "19700101",
    );
    let time = digits(
        &[
            header.text(tags::SERIES_TIME),
            header.text(tags::STUDY_TIME),
        ],
        6,
        "000000",
    );
    let instance = uids.make("instance");
    object
        .uid(tags::SOP_CLASS_UID, uids::SEGMENTATION_STORAGE)
        .uid(tags::SOP_INSTANCE_UID, &instance)
        .text(tags::IMAGE_TYPE, b"CS", "DERIVED\\PRIMARY")
        .text(tags::CONTENT_DATE, b"DA", &date)
        .text(tags::CONTENT_TIME, b"TM", &time)
        .text(tags::SERIES_DATE, b"DA", &date)
        .text(tags::SERIES_TIME, b"TM", &time)
        .text(tags::MODALITY, b"CS", "SEG")
        .text(tags::SERIES_DESCRIPTION, b"LO", "Lesions found by fndm")
        .text(tags::SERIES_NUMBER, b"IS", &number(source).to_string())
        .text(tags::INSTANCE_NUMBER, b"IS", "1")
        .uid(tags::SERIES_INSTANCE_UID, &uids.make("series"))
        .uid(tags::FRAME_OF_REFERENCE_UID, &frame_of_reference)
        .text(tags::CONTENT_LABEL, b"CS", "LESIONS")
        .text(tags::CONTENT_DESCRIPTION, b"LO", "Lesions found by a model")
        // No person made it.
        .text(tags::CONTENT_CREATOR_NAME, b"PN", "")
        .text(tags::SEGMENTATION_TYPE, b"CS", "BINARY");
    let reference = header.bytes(tags::POSITION_REFERENCE_INDICATOR);
    let reference = reference.unwrap_or_default().to_vec();
    object.raw(tags::POSITION_REFERENCE_INDICATOR, b"LO", reference);
    pixels(object, mask, header, first);
    object.sequence(tags::SEGMENT_SEQUENCE, vec![segment(algorithm)]);
    object.sequence(
        tags::REFERENCED_SERIES_SEQUENCE,
        sources.iter().map(|series| referenced(series)).collect(),
    );
    dimensions(object, &uids.make("dimensions"));
    object.sequence(
        tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
        vec![shared(mask, first)],
    );
    let frames = slices.iter().enumerate();
    object.sequence(
        tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
        frames.map(|(n, slice)| frame(n, slice)).collect(),
    );
    let bytes = object.file(uids::SEGMENTATION_STORAGE, &instance);
    Ok(fndm_files::write_atomic(path, bytes)?)
}

fn check_grid(mask: &Volume, source: &Series, slices: &[Slice<'_>]) -> Result<()> {
    let mismatch = |what, values| Error::GridMismatch {
        patient: source.patient().0,
        first: source.name(),
        second: "mask".into(),
        what,
        values,
    };
    let image = slices[0].image;
    let shape = [image.columns, image.rows, slices.len()];
    if mask.shape() != shape {
        let values = format!("{shape:?} and {:?}", mask.shape());
        return Err(mismatch("shape", values));
    }
    let own = matrix_of(source, slices)?;
    let pairs = own.iter().flatten().zip(mask.affine.iter().flatten());
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-3;
    // NaN is near nothing.
    if !pairs.into_iter().all(near) {
        let values = format!("{own:?} and {:?}", mask.affine);
        return Err(mismatch("affine", values));
    }
    Ok(())
}

/// UIDs that follow from what the object is made of.
struct Uids(Vec<u8>);

impl Uids {
    fn new(mask: &Volume, sources: &[&Series], algorithm: &Algorithm) -> Self {
        let mut of = Vec::new();
        let mut add = |part: &[u8]| {
            of.extend((part.len() as u64).to_le_bytes());
            of.extend(part);
        };
        let images = sources.iter().flat_map(|series| series.images());
        let instances = images.filter_map(|image| image.header.bytes(tags::SOP_INSTANCE_UID));
        let mut instances: Vec<&[u8]> = instances.collect();
        // Whatever the files are called.
        instances.sort_unstable();
        for instance in instances {
            add(instance);
        }
        for text in [&algorithm.name, &algorithm.version, &algorithm.settings] {
            add(text.as_bytes());
        }
        add(&bits(mask));
        Self(xxh3_128(&of).to_le_bytes().to_vec())
    }

    fn make(&self, what: &str) -> String {
        let mut of = self.0.clone();
        of.extend(what.as_bytes());
        // Version 8 and the variant of a UUID, whose other bits are free.
        let hash = xxh3_128(&of) & !(0xf << 76) & !(0x3 << 62) | (0x8 << 76) | (0x2 << 62);
        format!("2.25.{hash}")
    }
}

/// What belongs to the patient and the study is the source's, as it stands there.
fn patient_and_study(object: &mut Object, header: &Header) {
    let optional = [
        (tags::SPECIFIC_CHARACTER_SET, b"CS"),
        (tags::ISSUER_OF_PATIENT_ID, b"LO"),
        (tags::STUDY_DESCRIPTION, b"LO"),
    ];
    // Those that must be there, be it without a value.
    let always = [
        (tags::PATIENT_NAME, b"PN"),
        (tags::PATIENT_ID, b"LO"),
        (tags::PATIENT_BIRTH_DATE, b"DA"),
        (tags::PATIENT_SEX, b"CS"),
        (tags::STUDY_INSTANCE_UID, b"UI"),
        (tags::STUDY_DATE, b"DA"),
        (tags::STUDY_TIME, b"TM"),
        (tags::REFERRING_PHYSICIAN_NAME, b"PN"),
        (tags::STUDY_ID, b"SH"),
        (tags::ACCESSION_NUMBER, b"SH"),
    ];
    for (tag, kind) in optional {
        if let Some(bytes) = header.bytes(tag) {
            object.raw(tag, kind, bytes.to_vec());
        }
    }
    for (tag, kind) in always {
        object.raw(tag, kind, header.bytes(tag).unwrap_or_default().to_vec());
    }
}

fn equipment(object: &mut Object, algorithm: &Algorithm) {
    object
        .text(tags::MANUFACTURER, b"LO", "fndm")
        .text(tags::MANUFACTURER_MODEL_NAME, b"LO", "fndm")
        .text(tags::DEVICE_SERIAL_NUMBER, b"LO", "0")
        .text(tags::SOFTWARE_VERSIONS, b"LO", &algorithm.version);
}

fn pixels(object: &mut Object, mask: &Volume, header: &Header, first: &Slice<'_>) {
    let [columns, rows, frames] = mask.shape();
    let lossy = match header.text(tags::LOSSY_IMAGE_COMPRESSION).as_str() {
        "01" => "01",
        _ => "00",
    };
    debug_assert_eq!((columns, rows), (first.image.columns, first.image.rows));
    object
        .shorts(tags::SAMPLES_PER_PIXEL, &[1])
        .text(tags::PHOTOMETRIC_INTERPRETATION, b"CS", "MONOCHROME2")
        .text(tags::NUMBER_OF_FRAMES, b"IS", &frames.to_string())
        .shorts(tags::ROWS, &[rows as u16])
        .shorts(tags::COLUMNS, &[columns as u16])
        .shorts(tags::BITS_ALLOCATED, &[1])
        .shorts(tags::BITS_STORED, &[1])
        .shorts(tags::HIGH_BIT, &[0])
        .shorts(tags::PIXEL_REPRESENTATION, &[0])
        .text(tags::LOSSY_IMAGE_COMPRESSION, b"CS", lossy)
        .raw(tags::PIXEL_DATA, b"OB", bits(mask));
}

/// One bit for each voxel, the lowest bit of a byte first: along columns, rows, then frames, which needn't begin with a byte.
fn bits(mask: &Volume) -> Vec<u8> {
    let [columns, rows, frames] = mask.shape();
    let mut out = vec![0u8; (columns * rows * frames).div_ceil(8)];
    for ((column, row, frame), &value) in mask.data.indexed_iter() {
        if is_lesion(value) {
            let place = (frame * rows + row) * columns + column;
            out[place / 8] |= 1 << (place % 8);
        }
    }
    out
}

fn segment(algorithm: &Algorithm) -> Object {
    let name: String = algorithm.name.chars().take(64).collect();
    let mut identity = Object::default();
    identity
        .code(
            tags::ALGORITHM_FAMILY_CODE_SEQUENCE,
            ["123109", "DCM", "Artificial Intelligence"],
        )
        .text(tags::ALGORITHM_NAME, b"LO", &name)
        .text(tags::ALGORITHM_VERSION, b"LO", &algorithm.version);
    let mut segment = Object::default();
    segment
        .shorts(tags::SEGMENT_NUMBER, &[1])
        .text(tags::SEGMENT_LABEL, b"LO", "Lesion")
        .text(tags::SEGMENT_ALGORITHM_TYPE, b"CS", "AUTOMATIC")
        .text(tags::SEGMENT_ALGORITHM_NAME, b"LO", &name)
        .sequence(
            tags::SEGMENTATION_ALGORITHM_IDENTIFICATION_SEQUENCE,
            vec![identity],
        )
        .code(
            tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE,
            ["49755003", "SCT", "Morphologically Abnormal Structure"],
        )
        .code(
            tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE,
            ["52988006", "SCT", "Lesion"],
        )
        .code(tags::ANATOMIC_REGION_SEQUENCE, ["12738006", "SCT", "Brain"])
        // Red, in CIELab as DICOM counts it.
        .shorts(
            tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE,
            &[34896, 53485, 50171],
        );
    segment
}

/// A series with all its instances.
fn referenced(series: &Series) -> Object {
    let instances = series.images().iter().map(|image| instance(&image.header));
    let mut item = Object::default();
    item.uid(tags::SERIES_INSTANCE_UID, series.uid())
        .sequence(tags::REFERENCED_INSTANCE_SEQUENCE, instances.collect());
    item
}

fn instance(header: &Header) -> Object {
    let mut item = Object::default();
    item.uid(
        tags::REFERENCED_SOP_CLASS_UID,
        &header.text(tags::SOP_CLASS_UID),
    )
    .uid(
        tags::REFERENCED_SOP_INSTANCE_UID,
        &header.text(tags::SOP_INSTANCE_UID),
    );
    item
}

/// Frames are told apart by segment and place.
fn dimensions(object: &mut Object, uid: &str) {
    let index = |pointer: Tag, group: Tag, label: &str| {
        let mut item = Object::default();
        item.uid(tags::DIMENSION_ORGANIZATION_UID, uid)
            .tag(tags::DIMENSION_INDEX_POINTER, pointer)
            .tag(tags::FUNCTIONAL_GROUP_POINTER, group)
            .text(tags::DIMENSION_DESCRIPTION_LABEL, b"LO", label);
        item
    };
    let mut organization = Object::default();
    organization.uid(tags::DIMENSION_ORGANIZATION_UID, uid);
    object
        .sequence(tags::DIMENSION_ORGANIZATION_SEQUENCE, vec![organization])
        .sequence(
            tags::DIMENSION_INDEX_SEQUENCE,
            vec![
                index(
                    tags::REFERENCED_SEGMENT_NUMBER,
                    tags::SEGMENT_IDENTIFICATION_SEQUENCE,
                    "Segment",
                ),
                index(
                    tags::IMAGE_POSITION_PATIENT,
                    tags::PLANE_POSITION_SEQUENCE,
                    "Place",
                ),
            ],
        );
}

/// What all frames have in common.
fn shared(mask: &Volume, first: &Slice<'_>) -> Object {
    let [x, y] = first.frame.directions;
    let mut orientation = Object::default();
    orientation.decimals(
        tags::IMAGE_ORIENTATION_PATIENT,
        &[x[0], x[1], x[2], y[0], y[1], y[2]],
    );
    let step = mask.spacing()[2];
    let mut measures = Object::default();
    measures
        .decimals(tags::SLICE_THICKNESS, &[step])
        .decimals(tags::SPACING_BETWEEN_SLICES, &[step])
        .decimals(tags::PIXEL_SPACING, &first.frame.spacing);
    let mut shared = Object::default();
    shared
        .sequence(tags::PLANE_ORIENTATION_SEQUENCE, vec![orientation])
        .sequence(tags::PIXEL_MEASURES_SEQUENCE, vec![measures]);
    shared
}

fn frame(n: usize, slice: &Slice<'_>) -> Object {
    let mut content = Object::default();
    content.longs(tags::DIMENSION_INDEX_VALUES, &[1, n as u32 + 1]);
    let mut position = Object::default();
    position.decimals(tags::IMAGE_POSITION_PATIENT, &slice.frame.position);
    let mut segment = Object::default();
    segment.shorts(tags::REFERENCED_SEGMENT_NUMBER, &[1]);
    let mut source = instance(&slice.image.header);
    if slice.image.frames.len() > 1 {
        let number = (slice.number + 1).to_string();
        source.text(tags::REFERENCED_FRAME_NUMBER, b"IS", &number);
    }
    source.code(
        tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE,
        [
            "121322",
            "DCM",
            "Source image for image processing operation",
        ],
    );
    let mut derivation = Object::default();
    derivation
        .sequence(tags::SOURCE_IMAGE_SEQUENCE, vec![source])
        .code(
            tags::DERIVATION_CODE_SEQUENCE,
            ["113076", "DCM", "Segmentation"],
        );
    let mut frame = Object::default();
    frame
        .sequence(tags::FRAME_CONTENT_SEQUENCE, vec![content])
        .sequence(tags::PLANE_POSITION_SEQUENCE, vec![position])
        .sequence(tags::SEGMENT_IDENTIFICATION_SEQUENCE, vec![segment])
        .sequence(tags::DERIVATION_IMAGE_SEQUENCE, vec![derivation]);
    frame
}

/// The first text that is of so many digits at least, which are taken.
fn digits(texts: &[String], count: usize, otherwise: &str) -> String {
    let found = texts.iter().filter_map(|text| text.get(..count));
    let mut found = found.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    found.next().unwrap_or(otherwise).to_owned()
}

/// Behind the numbers that scanners give.
fn number(source: &Series) -> i64 {
    i64::from(source.number()).clamp(0, 1_000_000) + 900
}
