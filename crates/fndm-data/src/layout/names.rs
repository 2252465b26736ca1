//! What data sets call the sequences.

use crate::{Error, Result};

/// Sequences that data sets call by several names: what BraTS 2023, BIDS and scanners write.
const OTHERS: [(&str, &[&str]); 4] = [
    ("flair", &["t2f", "t2flair"]),
    ("t1", &["t1n", "t1w"]),
    ("t1ce", &["t1c", "t1gd", "t1gad", "ce-t1w"]),
    ("t2", &["t2w"]),
];

/// Sequences of one name.
const SINGLE: [&str; 8] = ["dwi", "adc", "swi", "pd", "pdw", "t2star", "asl", "b0"];

/// The ends of file names that mean a sequence, the best first. The name itself is
/// always the first.
///
/// In BIDS the agent is told apart from the sequence: `sub-01_ce-gadolinium_T1w` is `t1ce`, not `t1`.
#[must_use]
pub fn sequence_names(sequence: &str) -> Vec<String> {
    let named = sequence.to_ascii_lowercase();
    let others = OTHERS.iter().find(|(name, _)| *name == named);
    std::iter::once(sequence)
        .chain(others.iter().flat_map(|(_, names)| names.iter().copied()))
        .map(str::to_ascii_lowercase)
        .collect()
}

/// What a name is called here: the sequence whose names it is one of, else the name itself.
pub(crate) fn common_name(name: &str) -> &str {
    let known = OTHERS.iter().find(|(_, names)| names.contains(&name));
    known.map_or(name, |(common, _)| common)
}

/// Whether a word is the name of a sequence.
pub(super) fn is_sequence_word(word: &str) -> bool {
    let common = common_name(word);
    SINGLE.contains(&word) || OTHERS.iter().any(|(name, _)| *name == common)
}

/// Whether a file's name has BIDS's key for a contrast agent.
pub(super) fn has_agent(stem: &str) -> bool {
    stem.split('_').any(|token| token.starts_with("ce-"))
}

/// At least one sequence, none twice.
pub(super) fn check_sequences<S: AsRef<str>>(sequences: &[S]) -> Result<()> {
    let names: Vec<&str> = sequences.iter().map(AsRef::as_ref).collect();
    let twice = (1..names.len()).find(|&n| names[..n].contains(&names[n]));
    match twice {
        _ if names.is_empty() => Err(Error::config("sequences", "at least one", "none")),
        Some(n) => Err(Error::config("sequences", "each named once", names[n])),
        None => Ok(()),
    }
}
