//! Values of elements as numbers and texts. What cannot be read is an error that shows what is there.

use std::path::Path;

use dicom_core::Tag;

use super::elements::{Dataset, Element, Value, text};
use crate::{Error, Result};

/// Most characters of a value that an error shows.
const SHOWN: usize = 64;

/// The elements of a data set, with errors that name file, element and, in a multi-frame file, the frame.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) dataset: &'a Dataset<'a>,
    pub(super) path: &'a Path,
    /// Which of several frames this is, from 1.
    pub(super) frame: Option<usize>,
}

impl Attributes<'_> {
    /// An element holds what it may not.
    pub(super) fn invalid(
        &self,
        (tag, field): (Tag, &'static str),
        expected: &str,
        got: impl Into<String>,
    ) -> Error {
        let frame = match self.frame {
            Some(frame) => format!(" of frame {frame}"),
            None => String::new(),
        };
        Error::InvalidHeader {
            path: self.path.to_path_buf(),
            field,
            expected: format!("{expected} in {tag}{frame}"),
            got: got.into(),
        }
    }

    pub(super) fn text(&self, tag: Tag) -> Option<String> {
        self.dataset.text(tag).filter(|text| !text.is_empty())
    }

    /// The numbers of an element; `None` where it's absent or empty.
    pub(super) fn numbers<const N: usize>(
        &self,
        name: (Tag, &'static str),
    ) -> Result<Option<[f64; N]>> {
        let Some(element) = self.dataset.get(name.0) else {
            return Ok(None);
        };
        let expected = if N == 1 {
            "one number, with a point for decimals,".to_string()
        } else {
            format!("{N} numbers, with points for decimals and backslashes between,")
        };
        let (found, shown) = parse(element, b"DS");
        if found.as_deref() == Some(&[]) {
            return Ok(None);
        }
        found
            .and_then(|found| <[f64; N]>::try_from(found).ok())
            .filter(|found| found.iter().all(|n| n.is_finite()))
            .map(Some)
            .ok_or_else(|| self.invalid(name, &expected, shown))
    }

    /// As [`Self::numbers`], of an element that must be there.
    pub(super) fn needed<const N: usize>(&self, name: (Tag, &'static str)) -> Result<[f64; N]> {
        let missing = || self.invalid(name, &format!("{N} numbers"), "nothing");
        self.numbers(name)?.ok_or_else(missing)
    }

    /// A whole number from `least` to `most`; `None` where it's absent or empty. `kind` is the type of the
    /// standard, for files without types.
    pub(super) fn whole(
        &self,
        name: (Tag, &'static str),
        kind: [u8; 2],
        [least, most]: [i64; 2],
    ) -> Result<Option<i64>> {
        let Some(element) = self.dataset.get(name.0) else {
            return Ok(None);
        };
        let (found, shown) = parse(element, &kind);
        match found.as_deref() {
            Some([]) => Ok(None),
            // Within these bounds a float holds every whole number.
            Some([one]) if one.fract() == 0.0 && *one >= least as f64 && *one <= most as f64 => {
                Ok(Some(*one as i64))
            }
            _ => Err(self.invalid(
                name,
                &format!("a whole number from {least} to {most}"),
                shown,
            )),
        }
    }

    /// A 16-bit count that must be there.
    pub(super) fn count(&self, name: (Tag, &'static str), bounds: [i64; 2]) -> Result<usize> {
        let [least, most] = bounds;
        let missing = || {
            self.invalid(
                name,
                &format!("a whole number from {least} to {most}"),
                "nothing",
            )
        };
        let found = self.whole(name, *b"US", bounds)?.ok_or_else(missing)?;
        usize::try_from(found).map_err(|_| missing())
    }
}

/// An element's numbers, `None` where they cannot be read, and what is there.
///
/// Whatever the type that a file gives a number, its value tells: decimals stand as text in types that the
/// standard has not for them (UT, LO, UN), and as binary numbers in others.
fn parse(element: &Element<'_>, kind: &[u8; 2]) -> (Option<Vec<f64>>, String) {
    let Value::Bytes(bytes) = element.value else {
        return (None, "a sequence".into());
    };
    // Of unknown type, or of none, it's the standard's.
    let unknown = matches!(element.kind.as_ref(), None | Some(b"UN"));
    let kind = element.kind.as_ref().filter(|_| !unknown).unwrap_or(kind);
    let big = element.big;
    match kind {
        b"US" => binary(bytes, big, |b: [u8; 2]| u16::from_le_bytes(b).into()),
        b"SS" => binary(bytes, big, |b: [u8; 2]| i16::from_le_bytes(b).into()),
        b"UL" => binary(bytes, big, |b: [u8; 4]| u32::from_le_bytes(b).into()),
        b"SL" => binary(bytes, big, |b: [u8; 4]| i32::from_le_bytes(b).into()),
        b"UV" => binary(bytes, big, |b: [u8; 8]| u64::from_le_bytes(b) as f64),
        b"SV" => binary(bytes, big, |b: [u8; 8]| i64::from_le_bytes(b) as f64),
        b"FL" => binary(bytes, big, |b: [u8; 4]| f32::from_le_bytes(b).into()),
        b"FD" => binary(bytes, big, |b: [u8; 8]| f64::from_le_bytes(b)),
        _ => {
            let text = text(bytes);
            let shown = shown(&text);
            if text.is_empty() {
                return (Some(Vec::new()), shown);
            }
            let parts = text.split('\\').map(|part| part.trim().parse().ok());
            (parts.collect(), shown)
        }
    }
}

fn binary<const N: usize>(
    bytes: &[u8],
    big: bool,
    number: impl Fn([u8; N]) -> f64,
) -> (Option<Vec<f64>>, String) {
    let (chunks, rest) = bytes.as_chunks::<N>();
    // No element that is asked for has more than six numbers.
    if !rest.is_empty() || chunks.len() > 16 {
        return (None, format!("{} bytes", bytes.len()));
    }
    let numbers = chunks.iter().map(|chunk| {
        let mut chunk = *chunk;
        if big {
            chunk.reverse();
        }
        number(chunk)
    });
    let numbers: Vec<f64> = numbers.collect();
    let shown = format!("{numbers:?}");
    (Some(numbers), shown)
}

/// A text for an error: in quotes, control characters replaced, cut where it's long.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let short: String = text.chars().take(SHOWN).map(plain).collect();
    let more = if text.chars().nth(SHOWN).is_some() {
        "..."
    } else {
        ""
    };
    format!("\"{short}\"{more}")
}
