//! What a file says of its patient, study and series: kept as it stands, to tell sequences apart and to write objects that refer to
//! it.

use std::collections::BTreeMap;

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use super::attributes::Attributes;
use super::elements::{Value, text};
use crate::Result;

/// The elements that are kept, all of them text.
pub(super) const KEPT: [Tag; 33] = [
    tags::SPECIFIC_CHARACTER_SET,
    tags::IMAGE_TYPE,
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::STUDY_DATE,
    tags::SERIES_DATE,
    tags::STUDY_TIME,
    tags::SERIES_TIME,
    tags::ACCESSION_NUMBER,
    tags::MODALITY,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_DESCRIPTION,
    tags::SERIES_DESCRIPTION,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::CONTRAST_BOLUS_AGENT,
    tags::SCANNING_SEQUENCE,
    tags::SEQUENCE_VARIANT,
    tags::SEQUENCE_NAME,
    tags::REPETITION_TIME,
    tags::ECHO_TIME,
    tags::INVERSION_TIME,
    tags::PROTOCOL_NAME,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::STUDY_ID,
    tags::FRAME_OF_REFERENCE_UID,
    tags::POSITION_REFERENCE_INDICATOR,
    tags::LOSSY_IMAGE_COMPRESSION,
    tags::SERIES_NUMBER,
];

const B_VALUE: (Tag, &str) = (tags::DIFFUSION_B_VALUE, "DiffusionBValue");

/// The kept elements of one file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Header {
    /// As in the file, but for the padding.
    values: BTreeMap<Tag, Vec<u8>>,
    pub(super) b_value: Option<f64>,
}

impl Header {
    pub(super) fn read(get: Attributes<'_>) -> Result<Self> {
        let mut values = BTreeMap::new();
        for tag in KEPT {
            let Some(element) = get.dataset.get(tag) else {
                continue;
            };
            if let Value::Bytes(bytes) = element.value {
                let end = bytes.iter().rposition(|b| !matches!(b, 0 | b' '));
                let bytes = &bytes[..end.map_or(0, |end| end + 1)];
                if !bytes.is_empty() && bytes.len() <= 4096 {
                    values.insert(tag, bytes.to_vec());
                }
            }
        }
        let b_value = get.numbers::<1>(B_VALUE).ok().flatten().map(|[b]| b);
        Ok(Self { values, b_value })
    }

    /// The bytes of a value, none where it's absent or empty.
    pub(super) fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        self.values.get(&tag).map(Vec::as_slice)
    }

    /// A value as text, empty where there is none.
    pub(super) fn text(&self, tag: Tag) -> String {
        self.bytes(tag).map(text).unwrap_or_default()
    }

    /// A decimal in text; none where it can't be read.
    pub(super) fn decimal(&self, tag: Tag) -> Option<f64> {
        let number: f64 = self.text(tag).parse().ok()?;
        number.is_finite().then_some(number)
    }
}
