//! Which sequence an image is.

use super::mask::is_lesion_mask;
use super::name::Name;
use crate::layout::common_name;

/// Whether a file of this name can be the sequence: by its suffix, and by whether a contrast agent is named.
pub(super) fn is_sequence(name: &Name, sequence: &str) -> bool {
    let named = sequence.to_ascii_lowercase();
    let (suffix, agent) = match common_name(&named) {
        "flair" => ("FLAIR", Some(false)),
        "t1" => ("T1w", Some(false)),
        "t1ce" => ("T1w", Some(true)),
        "t2" => ("T2w", Some(false)),
        "pd" => ("PDw", Some(false)),
        "t2star" => ("T2starw", Some(false)),
        // dwi, adc, swi and what else there is: the suffix itself.
        other => (other, None),
    };
    let fits = agent.is_none_or(|agent| agent == name.get("ce").is_some());
    fits && (name.suffix.eq_ignore_ascii_case(suffix) || is_mask_of(name, &named))
}

/// Whether a file is the mask of something that isn't lesions, as `desc-brain_mask` is of the brain.
fn is_mask_of(name: &Name, what: &str) -> bool {
    let says = |key| {
        name.get(key)
            .is_some_and(|said| said.eq_ignore_ascii_case(what))
    };
    name.suffix == "mask" && !is_lesion_mask(name) && ["desc", "label"].into_iter().any(says)
}

/// What a file of the sequence would be called.
pub(super) fn example(prefix: &str, sequence: &str) -> String {
    let named = sequence.to_ascii_lowercase();
    let end = match common_name(&named) {
        "flair" => "FLAIR",
        "t1" => "T1w",
        "t1ce" => "ce-<agent>_T1w",
        "t2" => "T2w",
        "pd" => "PDw",
        "t2star" => "T2starw",
        other => other,
    };
    format!("{prefix}_{end}.nii.gz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_by_suffix_and_agent() {
        let is = |file: &str, sequence: &str| is_sequence(&Name::parse(file).unwrap(), sequence);
        assert!(is("sub-1_FLAIR.nii.gz", "flair"));
        assert!(is("sub-1_T1w.nii.gz", "t1"));
        assert!(is("sub-1_T1w.nii.gz", "T1n"));
        assert!(!is("sub-1_T1w.nii.gz", "t1ce"));
        assert!(is("sub-1_ce-gadolinium_T1w.nii.gz", "t1ce"));
        assert!(is("sub-1_ce-gadolinium_T1w.nii.gz", "t1gd"));
        assert!(!is("sub-1_ce-gadolinium_T1w.nii.gz", "t1"));
        assert!(!is("sub-1_ce-gadolinium_FLAIR.nii.gz", "flair"));
        assert!(is("sub-1_adc.nii.gz", "adc"));
        assert!(is("sub-1_ADC.nii.gz", "adc"));
        assert!(is("sub-1_dwi.nii.gz", "dwi"));
        assert!(!is("sub-1_T2w.nii.gz", "t1"));
        assert!(!is("sub-1_label-lesion_mask.nii.gz", "flair"));
        assert!(is("sub-1_desc-brain_mask.nii.gz", "brain"));
        assert!(is("sub-1_space-T1w_label-Brain_mask.nii.gz", "brain"));
        assert!(!is("sub-1_desc-brain_mask.nii.gz", "flair"));
        assert!(!is("sub-1_desc-brain_T1w.nii.gz", "brain"));
        assert!(!is("sub-1_label-lesion_mask.nii.gz", "lesion"));
    }
}
