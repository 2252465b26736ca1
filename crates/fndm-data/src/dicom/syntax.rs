//! Transfer syntaxes and kinds of objects, by their UIDs.

use dicom_core::dictionary::UidDictionary;
use dicom_dictionary_std::{sop_class::StandardSopClassDictionary, uids};

pub(super) const IMPLICIT: &str = uids::IMPLICIT_VR_LITTLE_ENDIAN;
/// Retired, and still found.
pub(super) const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
pub(super) const DEFLATED: &str = uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN;

/// How the pixels of a frame are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    Native,
    /// Run lengths.
    Rle,
    /// JPEG lossless, process 14.
    JpegLossless,
    /// JPEG 2000, with or without loss.
    Jpeg2000,
}

/// How a transfer syntax packs pixels; its name where it cannot be read.
pub(super) fn packing(syntax: &str) -> Result<Packing, String> {
    let name = match syntax {
        IMPLICIT
        | BIG_ENDIAN
        | DEFLATED
        | uids::EXPLICIT_VR_LITTLE_ENDIAN
        | "1.2.840.10008.1.2.1.98" => return Ok(Packing::Native),
        uids::RLE_LOSSLESS => return Ok(Packing::Rle),
        uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => return Ok(Packing::JpegLossless),
        uids::JPEG2000_LOSSLESS | uids::JPEG2000 => return Ok(Packing::Jpeg2000),
        uids::JPEG_BASELINE8_BIT => "JPEG Baseline (Process 1)",
        uids::JPEG_EXTENDED12_BIT => "JPEG Extended (Process 2 and 4)",
        uids::JPEGLS_LOSSLESS => "JPEG-LS Lossless",
        uids::JPEGLS_NEAR_LOSSLESS => "JPEG-LS Near-lossless",
        uids::JPEG2000MC_LOSSLESS => "JPEG 2000 Part 2 Multi-component Lossless",
        uids::JPEG2000MC => "JPEG 2000 Part 2 Multi-component",
        "1.2.840.10008.1.2.4.201" => "High-Throughput JPEG 2000 Lossless",
        "1.2.840.10008.1.2.4.202" => "High-Throughput JPEG 2000 RPCL Lossless",
        "1.2.840.10008.1.2.4.203" => "High-Throughput JPEG 2000",
        uids::JPEGXL_LOSSLESS => "JPEG XL Lossless",
        uids::JPEGXLJPEG_RECOMPRESSION => "JPEG XL JPEG Recompression",
        uids::JPEGXL => "JPEG XL",
        uids::DEFLATED_IMAGE_FRAME_COMPRESSION => "Deflated Image Frame Compression",
        other if other.starts_with("1.2.840.10008.1.2.4.10") => "MPEG video",
        _ => "not of the standard",
    };
    Err(format!(
        "{name} ({syntax}); convert the file to an uncompressed one"
    ))
}

/// Kinds of objects whose images are slices: MR, CT and PET, one slice or many in a file.
const IMAGES: [&str; 9] = [
    uids::MR_IMAGE_STORAGE,
    uids::ENHANCED_MR_IMAGE_STORAGE,
    uids::LEGACY_CONVERTED_ENHANCED_MR_IMAGE_STORAGE,
    uids::CT_IMAGE_STORAGE,
    uids::ENHANCED_CT_IMAGE_STORAGE,
    uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE,
    uids::POSITRON_EMISSION_TOMOGRAPHY_IMAGE_STORAGE,
    uids::ENHANCED_PET_IMAGE_STORAGE,
    uids::LEGACY_CONVERTED_ENHANCED_PET_IMAGE_STORAGE,
];

/// The index of a disc, which is no instance.
pub(super) const DIRECTORY: &str = uids::MEDIA_STORAGE_DIRECTORY_STORAGE;

/// Whether objects of this kind are slices.
pub(super) fn is_image(class: &str) -> bool {
    IMAGES.contains(&class)
}

/// Name and UID of a kind of objects.
pub(super) fn class_name(class: &str) -> String {
    match StandardSopClassDictionary.by_uid(class) {
        Some(entry) => format!("{} ({class})", entry.name),
        None => format!("{class:?}"),
    }
}
