//! Which file is the lesion mask.
//!
//! A file's name, without the patient's id, decides. A mask of something else (the brain, above all) must
//! not be taken for one of lesions: the numbers would look right and be wrong. A name that may mean either is
//! asked about.

use std::path::PathBuf;

use super::names::is_sequence_word;
use super::walk::stem;

/// Names that are taken for a lesion mask, as patterns for the user; the first that fits is taken.
/// `<id>` is the name of the patient's folder, `_` may also be `-` or `.`.
#[must_use]
pub fn mask_names() -> Vec<String> {
    [
        "<id>_seg",
        "<id>_lesion_mask",
        "<id>_label-lesion_mask",
        "<id>_desc-lesion_mask",
        "<id>_lesion",
        "<id>_msk",
        "<id>_mask",
        "<id>_segm",
    ]
    .map(String::from)
    .to_vec()
}

/// What a file is, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A lesion mask. Files of a lower rank are taken first.
    Lesion(u8),
    /// A mask of something else.
    OtherMask,
    /// A mask of lesions or of something else.
    Unclear,
    /// No mask.
    Image,
}

/// Last words of the names of masks, and their rank where nothing else is said.
const MASKS: [(&str, u8); 5] = [("seg", 0), ("msk", 2), ("mask", 3), ("segm", 4), ("roi", 9)];

/// Last words that say by themselves what is masked.
const LESIONS: [&str; 9] = [
    "lesion",
    "lesions",
    "lesionmask",
    "lesionseg",
    "tumor",
    "tumour",
    "tumormask",
    "tumorseg",
    "wmh",
];

/// Words that say that the head or a healthy part of it is masked: those of BET, HD-BET, `SynthStrip`, ROBEX,
/// BSE, ANTs, FAST, `FreeSurfer` and fMRIPrep among them.
const OTHERS: [&str; 51] = [
    "bet",
    "bet2",
    "hdbet",
    "synthstrip",
    "robex",
    "bse",
    "bfc",
    "deepbrain",
    "deepbet",
    "mass",
    "brain",
    "brainmask",
    "brainextraction",
    "brainextractionmask",
    "extraction",
    "braintissue",
    "head",
    "skull",
    "skullstrip",
    "skullstripped",
    "noskull",
    "ss",
    "strip",
    "stripped",
    "icv",
    "tiv",
    "intracranial",
    "foreground",
    "background",
    "fg",
    "bg",
    "fov",
    "face",
    "deface",
    "defaced",
    "tissue",
    "gm",
    "wm",
    "csf",
    "pve",
    "pveseg",
    "fast",
    "aseg",
    "aparc",
    "synthseg",
    "ventricle",
    "ventricles",
    "vessel",
    "vessels",
    "cortex",
    "n4",
];

/// Keys of BIDS that say nothing of what is masked.
const NEUTRAL: [&str; 14] = [
    "sub", "ses", "acq", "run", "space", "rec", "res", "den", "echo", "part", "chunk", "dir",
    "task", "inv",
];

fn is_lesion_word(word: &str) -> bool {
    let start = ["lesion", "tumor", "tumour", "wmh", "infarct", "stroke"];
    let negated = word.starts_with("no");
    !negated && (start.iter().any(|w| word.starts_with(w)) || word.ends_with("lesion"))
}

pub(super) fn is_other_word(word: &str) -> bool {
    OTHERS.contains(&word)
}

/// Whether a word, as the last before a sequence's, says that the file is a mask drawn on it.
pub(super) fn is_mask_word(word: &str) -> bool {
    MASKS.iter().any(|(mask, _)| *mask == word) || LESIONS.contains(&word) || word == "brainmask"
}

/// A file's name in lower case, without the patient's at its beginning.
pub(super) fn without_id<'a>(stem: &'a str, name: &str) -> &'a str {
    match stem.strip_prefix(&name.to_ascii_lowercase()) {
        Some(rest) if rest.is_empty() || rest.starts_with(['_', '-', '.']) => rest,
        _ => stem,
    }
}

/// Whether a file beside a patient's sequences that is called so, `<id>_<called>`, is a lesion mask.
pub(crate) fn is_lesion_mask_name(called: &str) -> bool {
    let file = PathBuf::from(format!("id_{called}.nii.gz"));
    matches!(role(&file, "id", &[]), Role::Lesion(_))
}

/// The role of a file. `name` is the patient's; `all` are the patient's files.
pub(super) fn role(file: &PathBuf, name: &str, all: &[PathBuf]) -> Role {
    let stem = stem(file);
    let rest = without_id(&stem, name);
    let (before, last) = rest.rsplit_once(['_', '-', '.']).unwrap_or(("", rest));
    if LESIONS.contains(&last) {
        return Role::Lesion(1);
    }
    if last == "brainmask" || last == "brainextractionmask" {
        return Role::OtherMask;
    }
    let Some(&(_, rank)) = MASKS.iter().find(|(mask, _)| *mask == last) else {
        return Role::Image;
    };
    let said = Said::of(before);
    match said.last {
        Some(Word::Lesion) => return Role::Lesion(1),
        Some(Word::Other) => return Role::OtherMask,
        _ if last == "roi" => return Role::OtherMask,
        // `msk` and `segm` are used for lesions alone.
        Some(Word::Sequence | Word::Unknown) if last == "mask" || last == "seg" => {
            return Role::Unclear;
        }
        _ => {}
    }
    if !said.more {
        return Role::Lesion(rank);
    }
    // Words of no known meaning: the name of the patient, other than the folder's, if other files have it as well.
    let prefix = &stem[..stem.len() - last.len()];
    let shared = all
        .iter()
        .any(|other| other != file && super::walk::stem(other).starts_with(prefix));
    match last {
        "mask" if !shared => Role::Unclear,
        _ => Role::Lesion(rank + 4),
    }
}

/// What a word of a name tells of the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Lesion,
    Other,
    /// The image on which it was drawn: lesions and brains are both named so.
    Sequence,
    /// Of `desc-` or `label-`, which say what it is in words that are not known here.
    Unknown,
}

/// What the words before the last tell.
#[derive(Debug, Default)]
struct Said {
    /// The last word that means something.
    last: Option<Word>,
    /// Whether there are words of no known meaning.
    more: bool,
}

impl Said {
    fn of(before: &str) -> Self {
        let mut said = Self::default();
        for token in before.split('_').filter(|token| !token.is_empty()) {
            match token.split_once('-') {
                Some((key, _)) if NEUTRAL.contains(&key) => {}
                Some(("desc" | "label", value)) => {
                    said.last = match meaning(value) {
                        None if said.last != Some(Word::Lesion) => Some(Word::Unknown),
                        None => said.last,
                        known => known,
                    };
                }
                _ => {
                    for word in token.split(['-', '.']).filter(|word| !word.is_empty()) {
                        said.more |= meaning(word).is_none();
                        said.last = meaning(word).or(said.last);
                    }
                }
            }
        }
        said
    }
}

fn meaning(word: &str) -> Option<Word> {
    if is_lesion_word(word) {
        Some(Word::Lesion)
    } else if is_other_word(word) {
        Some(Word::Other)
    } else {
        is_sequence_word(word).then_some(Word::Sequence)
    }
}
