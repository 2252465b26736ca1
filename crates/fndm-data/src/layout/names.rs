//! What data sets call the sequences.

/// Sequences that data sets call by several names: what BraTS 2023, BIDS and scanners write.
const OTHERS: [(&str, &[&str]); 4] = [
    ("flair", &["t2f", "t2flair"]),
    ("t1", &["t1n", "t1w"]),
    ("t1ce", &["t1c", "t1gd", "t1gad", "ce-t1w"]),
    ("t2", &["t2w"]),
];

/// The ends of file names that mean a sequence, the best first. The name itself is
/// always the first.
#[must_use]
pub fn sequence_names(sequence: &str) -> Vec<String> {
    let named = sequence.to_ascii_lowercase();
    let others = OTHERS.iter().find(|(name, _)| *name == named);
    std::iter::once(sequence)
        .chain(others.iter().flat_map(|(_, names)| names.iter().copied()))
        .map(str::to_ascii_lowercase)
        .collect()
}

/// The ends of file names that mean the lesion mask, the best first. `segm` stands in one patient of
/// BraTS 2020 (number 355).
#[must_use]
pub fn mask_names() -> Vec<String> {
    ["seg", "msk", "mask", "lesion", "segm"]
        .map(String::from)
        .to_vec()
}

/// What a name is called here: the sequence whose names it is one of, else the name itself.
pub(super) fn common_name(name: &str) -> &str {
    let known = OTHERS.iter().find(|(_, names)| names.contains(&name));
    known.map_or(name, |(common, _)| common)
}
