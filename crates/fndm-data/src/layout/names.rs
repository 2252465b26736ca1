//! What data sets call the sequences.

/// The ends of file names that mean a sequence, the best first. The name itself is
/// always the first; the others are what BraTS 2023, BIDS and scanners write.
#[must_use]
pub fn sequence_names(sequence: &str) -> Vec<String> {
    let more: &[&str] = match sequence.to_ascii_lowercase().as_str() {
        "flair" => &["t2f", "t2flair"],
        "t1" => &["t1n", "t1w"],
        "t1ce" => &["t1c", "t1gd", "ce-t1w"],
        "t2" => &["t2w"],
        _ => &[],
    };
    std::iter::once(sequence)
        .chain(more.iter().copied())
        .map(str::to_ascii_lowercase)
        .collect()
}

/// The ends of file names that mean the lesion mask, the best first.
#[must_use]
pub fn mask_names() -> Vec<String> {
    ["seg", "msk", "mask", "lesion"].map(String::from).to_vec()
}
