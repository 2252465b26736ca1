//! Which image of a session is the mask of lesions.
//!
//! A mask of something else, the brain or its tissues, must not be taken for one of lesions: the figures would look right and be wrong.

use super::name::Name;

/// Suffixes of images of whole numbers: a mask, a segmentation, and what data sets before BIDS 1.4 have.
const SUFFIXES: [&str; 3] = ["mask", "dseg", "roi"];

/// Whether a name says a mask of lesions.
pub(super) fn is_lesion_mask(name: &Name) -> bool {
    // BIDS's own abbreviation among the labels of segmentations.
    let label = name.get("label") == Some("L");
    let words = ["label", "desc", "seg"]
        .iter()
        .filter_map(|key| name.get(key));
    SUFFIXES.contains(&name.suffix.as_str()) && (label || words.into_iter().any(is_lesion))
}

/// Whether a name says a mask, and not of what.
pub(super) fn is_bare_mask(name: &Name) -> bool {
    let said = ["label", "desc", "seg", "atlas"]
        .iter()
        .any(|key| name.get(key).is_some());
    SUFFIXES.contains(&name.suffix.as_str()) && !said
}

fn is_lesion(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let known = ["lesion", "tumor", "tumour", "stroke", "infarct", "wmh"];
    known.iter().any(|known| word.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_lesions_by_name() {
        let name = |file: &str| Name::parse(file).unwrap();
        for file in [
            "sub-1_label-lesion_mask.nii.gz",
            "sub-1_space-orig_label-L_desc-manual_mask.nii",
            "sub-1_desc-T1lesion_mask.nii.gz",
            "sub-1_ses-2_label-Tumour_dseg.nii.gz",
            "sub-1_seg-lesions_dseg.nii.gz",
            "sub-1_label-lesion_roi.nii.gz",
        ] {
            assert!(is_lesion_mask(&name(file)), "{file}");
            assert!(!is_bare_mask(&name(file)), "{file}");
        }
        for file in [
            "sub-1_dseg.nii.gz",
            "sub-1_mask.nii.gz",
            "sub-1_desc-brain_mask.nii.gz",
            "sub-1_label-GM_dseg.nii.gz",
            "sub-1_desc-lesion_T1w.nii.gz",
            "sub-1_label-lesion_probseg.nii.gz",
            "sub-lesion_T1w.nii.gz",
        ] {
            assert!(!is_lesion_mask(&name(file)), "{file}");
        }
        assert!(is_bare_mask(&name("sub-1_dseg.nii.gz")));
        assert!(is_bare_mask(&name("sub-1_space-orig_mask.nii.gz")));
        assert!(!is_bare_mask(&name("sub-1_desc-brain_mask.nii.gz")));
        assert!(!is_bare_mask(&name("sub-1_T1w.nii.gz")));
    }
}
