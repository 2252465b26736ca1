//! Tables of labels: CSV, TSV, and what spreadsheets make of them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Label, LabelProblem, Labels, SliceOrder};
use crate::{Error, Limits, Result, text};

/// The number of a volume's first slice, as a table counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlicesFrom {
    /// The first slice is slice 0.
    Zero,
    /// The first slice is slice 1.
    One,
}

/// How a table is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// The number of the first slice. None: the header says it (`slice0`, `slice1`), or the table names no slices.
    pub slices_from: Option<SlicesFrom>,
    /// How the numbers count.
    pub order: SliceOrder,
}

/// A range of more slices than this is a slip of the pen.
const LONGEST_RANGE: usize = 10_000;
/// Most slices of all patients: what a table may ask for in memory.
const MOST_SLICES: usize = 4_000_000;

/// Columns, by their names in small letters with everything but letters and digits left out.
const PATIENT: &[&str] = &[
    "patient",
    "patientid",
    "subject",
    "subjectid",
    "participant",
    "participantid",
    "case",
    "caseid",
    "id",
    "volume",
    "volumeid",
];
const SLICE: &[&str] = &[
    "slice",
    "sliceid",
    "sliceindex",
    "slicenumber",
    "slices",
    "z",
];
const SLICE_FROM_0: &[&str] = &["slice0", "slicefrom0", "slice0based", "z0"];
const SLICE_FROM_1: &[&str] = &["slice1", "slicefrom1", "slice1based", "z1"];
const LABEL: &[&str] = &[
    "label",
    "class",
    "diagnosis",
    "disease",
    "diseased",
    "lesion",
    "haslesion",
    "abnormal",
    "target",
    "y",
];

impl Labels {
    /// Reads a table of labels: CSV or TSV (comma, semicolon or tab, by its header line), with a header, quoted fields, and a byte
    /// order mark where a spreadsheet wrote one.
    ///
    /// ```text
    /// patient,slice1,label
    /// p01,17-20,diseased
    /// p01,21,healthy
    /// p02,,healthy
    /// ```
    ///
    /// - `patient` (or `subject`, `case`, `id`, …): the patient's id, the path of its folder below the data folder.
    /// - `slice` (or `slice_index`, `z`, …): a number, a range `first-last` with both ends in it, or nothing for all slices of the
    ///   patient; a table without this column is one of whole volumes. Whether numbers count from 0 or from 1 must be said: by
    ///   [`TableOptions::slices_from`], or by the name `slice0` or `slice1`.
    /// - `label` (or `class`, `diseased`, …): 0, healthy, normal, negative, no, false; 1, diseased, abnormal, lesion, positive, yes,
    ///   true; unknown, ?, n/a or nothing.
    ///
    /// Other columns are passed over. A slice that no row is about is unknown.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Limit`]; [`Error::LabelTable`] with the number of the line: a column that is missing or there twice, a
    /// value that can't be read, two rows that contradict each other, a table without rows.
    pub fn read(path: impl AsRef<Path>, options: &TableOptions, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let content = text::read(path, limits)?;
        Self::parse(&content, options).map_err(|source| Error::LabelTable {
            path: path.to_path_buf(),
            source,
        })
    }

    /// As [`Labels::read`], of a text.
    ///
    /// # Errors
    /// What is wrong, and the line.
    pub fn parse(text: &str, options: &TableOptions) -> std::result::Result<Self, LabelProblem> {
        let text = text.trim_start_matches('\u{feff}');
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter(text))
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let header = reader.headers().map_err(|e| unreadable(&e))?.clone();
        let columns = Columns::of(&header, options)?;
        let mut labels = Self::new(options.order);
        if matches!(columns.slice, Some((_, Some(SlicesFrom::One)))) {
            labels.first = 1;
        }
        let mut left = MOST_SLICES;
        for record in reader.records() {
            let record = record.map_err(|e| unreadable(&e))?;
            if record.iter().all(str::is_empty) {
                continue;
            }
            let line = record.position().map(|place| line_of(text, place));
            // Spreadsheets may end every line with empty fields.
            let fields = (0..record.len()).rfind(|&n| !record[n].is_empty());
            if record.len() < header.len() || fields.is_some_and(|last| last >= header.len()) {
                return Err(LabelProblem {
                    line,
                    reason: format!(
                        "expected {} fields as in the header, found {}",
                        header.len(),
                        record.len()
                    ),
                });
            }
            columns
                .add(&record, &mut labels, line, &mut left)
                .map_err(|problem| LabelProblem {
                    line: problem.line.or(line),
                    ..problem
                })?;
        }
        if labels.is_empty() {
            return Err(said(
                "expected at least one row below the header, found none",
            ));
        }
        Ok(labels)
    }
}

/// The line of a record: the reader's own place is before the empty lines that it passes over.
fn line_of(text: &str, place: &csv::Position) -> u64 {
    let start = usize::try_from(place.byte()).unwrap_or(usize::MAX);
    let rest = text.as_bytes().get(start..).unwrap_or_default();
    let empty = rest
        .iter()
        .take_while(|&&byte| byte == b'\n' || byte == b'\r');
    place.line() + empty.filter(|&&byte| byte == b'\n').count() as u64
}

fn said(reason: impl Into<String>) -> LabelProblem {
    LabelProblem {
        line: None,
        reason: reason.into(),
    }
}

fn unreadable(error: &csv::Error) -> LabelProblem {
    LabelProblem {
        line: error.position().map(csv::Position::line),
        reason: format!("not a table: {error}"),
    }
}

/// The one of comma, semicolon and tab that the header line has most of.
fn delimiter(text: &str) -> u8 {
    let header = text.lines().find(|line| !line.trim().is_empty());
    let header = header.unwrap_or_default().as_bytes();
    let count = |&of: &u8| header.iter().filter(|&&byte| byte == of).count();
    // The last of equals wins: a comma.
    let all = [b';', b'\t', b','];
    all.into_iter().max_by_key(count).unwrap_or(b',')
}

fn plain(name: &str) -> String {
    let kept = name.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

struct Columns {
    patient: usize,
    slice: Option<(usize, Option<SlicesFrom>)>,
    label: usize,
}

impl Columns {
    fn of(
        header: &csv::StringRecord,
        options: &TableOptions,
    ) -> std::result::Result<Self, LabelProblem> {
        let names: Vec<String> = header.iter().map(plain).collect();
        let listed = || header.iter().collect::<Vec<_>>().join(", ");
        let find = |what: &str, known: &[&str]| {
            let mut found = (0..names.len()).filter(|&n| known.contains(&names[n].as_str()));
            match (found.next(), found.next()) {
                (Some(first), Some(second)) => Err(LabelProblem {
                    line: Some(1),
                    reason: format!(
                        "two columns could be the {what}: {} and {}",
                        &header[first], &header[second]
                    ),
                }),
                (first, _) => Ok(first),
            }
        };
        let needed = |what: &str, known: &[&str]| {
            find(what, known)?.ok_or_else(|| LabelProblem {
                line: Some(1),
                reason: format!("expected a column {what}, found {}", listed()),
            })
        };
        let all: Vec<&str> = [SLICE, SLICE_FROM_0, SLICE_FROM_1].concat();
        let slice = match find("slice", &all)? {
            None => None,
            Some(n) => {
                let named = |known: &[&str]| known.contains(&names[n].as_str());
                let from = match options.slices_from {
                    _ if named(SLICE_FROM_0) => Some(SlicesFrom::Zero),
                    _ if named(SLICE_FROM_1) => Some(SlicesFrom::One),
                    other => other,
                };
                if options.slices_from.is_some() && from != options.slices_from {
                    return Err(LabelProblem {
                        line: Some(1),
                        reason: format!(
                            "the column {} says where slices count from, and the options say otherwise",
                            &header[n]
                        ),
                    });
                }
                Some((n, from))
            }
        };
        Ok(Self {
            patient: needed("patient", PATIENT)?,
            slice,
            label: needed("label", LABEL)?,
        })
    }

    fn add(
        &self,
        record: &csv::StringRecord,
        labels: &mut Labels,
        line: Option<u64>,
        left: &mut usize,
    ) -> std::result::Result<(), LabelProblem> {
        let field = |n: usize| record.get(n).unwrap_or("");
        let patient = field(self.patient);
        if patient.is_empty() {
            return Err(said("expected a patient, found an empty field"));
        }
        let label = label(field(self.label))?;
        let slices = self.slice.map(|(n, from)| (field(n), from));
        let Some((slices, from)) = slices.filter(|(slices, _)| !slices.is_empty()) else {
            return labels.set_from(patient, None, label, line);
        };
        let Some(from) = from else {
            return Err(said(
                "it isn't said whether slices count from 0 or from 1: name the column slice0 or slice1, or give the option",
            ));
        };
        for slice in range(slices, from)? {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| said(format!("expected at most {MOST_SLICES} slices in a table")))?;
            labels.set_from(patient, Some(slice), label, line)?;
        }
        Ok(())
    }
}

fn label(word: &str) -> std::result::Result<Label, LabelProblem> {
    match word.to_lowercase().as_str() {
        "0" | "0.0" | "healthy" | "normal" | "negative" | "neg" | "no" | "false" => {
            Ok(Label::Healthy)
        }
        "1" | "1.0" | "diseased" | "abnormal" | "lesion" | "positive" | "pos" | "yes" | "true" => {
            Ok(Label::Diseased)
        }
        "" | "?" | "unknown" | "na" | "n/a" | "nan" => Ok(Label::Unknown),
        _ => Err(said(format!(
            "label: expected healthy or 0, diseased or 1, unknown or nothing, got \"{word}\""
        ))),
    }
}

/// The slices of "17" or "17-20", counted from 0.
fn range(
    text: &str,
    from: SlicesFrom,
) -> std::result::Result<std::ops::RangeInclusive<usize>, LabelProblem> {
    let number = |word: &str| {
        let word = word.trim();
        let first = match from {
            SlicesFrom::Zero => 0usize,
            SlicesFrom::One => 1,
        };
        // Spreadsheets make 17.0 of 17.
        let whole = word.strip_suffix(".0").unwrap_or(word);
        let digits = !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit());
        let number = whole.parse::<usize>().ok().filter(|_| digits);
        number.and_then(|n| n.checked_sub(first)).ok_or_else(|| {
            said(format!(
                "slice: expected a number from {first} or a range first-last, got \"{text}\""
            ))
        })
    };
    let (first, last) = match text.split_once(['-', '–', ':']) {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last || last - first >= LONGEST_RANGE {
        return Err(said(format!(
            "slices {text}: expected a range from a lower to a higher number, of at most {LONGEST_RANGE} slices"
        )));
    }
    Ok(first..=last)
}
