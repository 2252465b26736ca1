//! A look at the lengths in a file before it is parsed.
//!
//! The parser takes memory for what an element claims to hold. So a file is walked through first,
//! from header to header, and one that claims more than it holds is refused.

use std::path::Path;

use crate::{Error, Result};

/// Bytes before the first element: a preamble and the letters DICM.
const PREAMBLE: usize = 132;
const UNDEFINED: u32 = u32::MAX;

const IMPLICIT: &str = "1.2.840.10008.1.2";
/// Numbers are most significant byte first, or the elements are packed: not walked through.
const OTHER: [&str; 3] = [
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.8.1",
];

/// Whether the bytes begin as a DICOM file does.
pub(super) fn is_dicom(start: &[u8]) -> bool {
    start.get(128..PREAMBLE) == Some(b"DICM")
}

/// One element's header.
struct Element {
    tag: (u16, u16),
    sequence: bool,
    length: u32,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..self.at.checked_add(N)?)?;
        self.at += N;
        found.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next header; `None` where the file ends within it.
    fn element(&mut self, explicit: bool) -> Option<Element> {
        let tag = (self.u16()?, self.u16()?);
        // Items and their ends have no type.
        if !explicit || tag.0 == 0xfffe {
            let length = self.u32()?;
            return Some(Element {
                tag,
                // Without types, only an undefined length tells a sequence.
                sequence: length == UNDEFINED,
                length,
            });
        }
        let kind: [u8; 2] = self.take()?;
        let long = matches!(
            &kind,
            b"OB"
                | b"OD"
                | b"OF"
                | b"OL"
                | b"OV"
                | b"OW"
                | b"SQ"
                | b"SV"
                | b"UC"
                | b"UN"
                | b"UR"
                | b"UT"
                | b"UV"
        );
        let length = if long {
            self.u16()?;
            self.u32()?
        } else {
            u32::from(self.u16()?)
        };
        Some(Element {
            tag,
            sequence: &kind == b"SQ" || length == UNDEFINED,
            length,
        })
    }
}

/// Checks that every value lies within the file, up to the end of the pixels.
///
/// Returns the transfer syntax.
pub(super) fn check(bytes: &[u8], path: &Path) -> Result<String> {
    let mut walk = Walk {
        bytes,
        at: PREAMBLE,
    };
    let short = |what: &'static str, expected: usize| Error::Truncated {
        path: path.to_path_buf(),
        what,
        expected: expected as u64,
        got: bytes.len() as u64,
    };
    let mut syntax = String::new();
    let mut fragments = false;
    while walk.at < bytes.len() {
        // The group of the file itself always has types.
        let group: Option<[u8; 2]> = bytes
            .get(walk.at..walk.at + 2)
            .and_then(|b| b.try_into().ok());
        let meta = group == Some([2, 0]);
        if !meta && OTHER.contains(&syntax.as_str()) {
            break;
        }
        let explicit = meta || syntax != IMPLICIT;
        let Some(element) = walk.element(explicit) else {
            return Err(short("the header of an element", walk.at + 8));
        };
        let start = walk.at;
        let item = element.tag == (0xfffe, 0xe000);
        if element.sequence || (item && !fragments) {
            // What is inside is walked through as well.
            fragments |= element.tag == (0x7fe0, 0x0010);
            continue;
        }
        if element.tag == (0xfffe, 0xe0dd) {
            fragments = false;
        }
        let end = start.saturating_add(element.length as usize);
        let Some(value) = bytes.get(start..end) else {
            return Err(short("the value of an element", end));
        };
        if element.tag == (2, 0x10) {
            let text = String::from_utf8_lossy(value);
            syntax = text.trim_end_matches(['\0', ' ']).to_string();
        }
        walk.at = end;
        if element.tag == (0x7fe0, 0x0010) {
            break;
        }
    }
    Ok(syntax)
}
