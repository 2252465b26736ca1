//! The elements of a file: which there are, how they nest, and where their values lie.
//!
//! Nothing is copied: values are slices of the file. Nesting has a limit, lengths are checked before they are
//! followed, and only what the reader asks for is kept, so a file costs no more memory than its own size.

use std::collections::BTreeMap;
use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use super::{header, syntax};
use crate::{Error, Limits, Result};

/// Bytes before the first element: a preamble and the letters DICM.
pub(super) const PREAMBLE: usize = 132;
/// Deepest nesting of sequences. What scanners write has less than ten levels.
const DEPTH: usize = 64;
/// Most items of one sequence: the frames of a multi-frame file.
pub(super) const FRAMES: usize = 20_000;
const UNDEFINED: u32 = u32::MAX;

const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);

/// Sequences that are kept; all others are walked over.
const SEQUENCES: [Tag; 7] = [
    tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
    tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
    tags::PIXEL_MEASURES_SEQUENCE,
    tags::PLANE_POSITION_SEQUENCE,
    tags::PLANE_ORIENTATION_SEQUENCE,
    tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE,
    tags::MODALITY_LUT_SEQUENCE,
];

/// Values that are kept, beside those of the header.
const VALUES: [Tag; 22] = [
    tags::DIFFUSION_B_VALUE,
    tags::MEDIA_STORAGE_SOP_CLASS_UID,
    tags::TRANSFER_SYNTAX_UID,
    tags::SLICE_THICKNESS,
    tags::SPACING_BETWEEN_SLICES,
    tags::IMAGE_POSITION_PATIENT,
    tags::IMAGE_ORIENTATION_PATIENT,
    tags::SAMPLES_PER_PIXEL,
    tags::PHOTOMETRIC_INTERPRETATION,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::COLUMNS,
    tags::PIXEL_SPACING,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::RESCALE_INTERCEPT,
    tags::RESCALE_SLOPE,
    tags::EXTENDED_OFFSET_TABLE,
    tags::FLOAT_PIXEL_DATA,
    tags::DOUBLE_FLOAT_PIXEL_DATA,
];

/// How the elements are written.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Coding {
    /// Elements carry their type.
    explicit: bool,
    /// Numbers have the most significant byte first.
    big: bool,
}

impl Coding {
    const META: Self = Self {
        explicit: true,
        big: false,
    };
    /// What a sequence of unknown type has inside, whatever the file has (CP-246).
    const UNKNOWN: Self = Self {
        explicit: false,
        big: false,
    };

    fn of(syntax: &str) -> Self {
        Self {
            explicit: syntax != syntax::IMPLICIT,
            big: syntax == syntax::BIG_ENDIAN,
        }
    }
}

/// One element's value.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// As in the file.
    Bytes(&'a [u8]),
    /// Of a sequence.
    Items(Vec<Dataset<'a>>),
}

/// One element.
#[derive(Debug)]
pub(super) struct Element<'a> {
    /// Its type; `None` where the file has none, as implicit ones have not.
    pub(super) kind: Option<[u8; 2]>,
    pub(super) big: bool,
    pub(super) value: Value<'a>,
}

/// A set of elements: those of a file, or of an item.
#[derive(Debug, Default)]
pub(super) struct Dataset<'a>(BTreeMap<Tag, Element<'a>>);

impl<'a> Dataset<'a> {
    /// No elements.
    pub(super) const NONE: Self = Self(BTreeMap::new());

    pub(super) fn get(&self, tag: Tag) -> Option<&Element<'a>> {
        self.0.get(&tag)
    }

    /// The items of a sequence; none where there is no such sequence.
    pub(super) fn items(&self, tag: Tag) -> &[Self] {
        match self.get(tag).map(|e| &e.value) {
            Some(Value::Items(items)) => items,
            _ => &[],
        }
    }

    /// A value as text, without the padding.
    pub(super) fn text(&self, tag: Tag) -> Option<String> {
        match self.get(tag)?.value {
            Value::Bytes(bytes) => Some(text(bytes)),
            Value::Items(_) => None,
        }
    }
}

/// Text without the padding. What is no UTF-8 is replaced; what is asked for is ASCII, but for descriptions.
pub(super) fn text(bytes: &[u8]) -> String {
    let most = bytes.get(..4096).unwrap_or(bytes);
    let text = String::from_utf8_lossy(most);
    text.trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_string()
}

/// The pixels as they are in the file.
#[derive(Debug)]
pub(super) enum Pixels<'a> {
    /// All frames one after the other.
    Native {
        bytes: &'a [u8],
        /// 16-bit words have the most significant byte first.
        big: bool,
        /// Bytes stand in 16-bit words.
        words: bool,
    },
    /// Compressed: the table of offsets, then the pieces of the frames.
    Fragments {
        offsets: &'a [u8],
        pieces: Vec<&'a [u8]>,
    },
}

/// A file's elements up to its pixels.
#[derive(Debug)]
pub(super) struct Elements<'a> {
    /// UID of the transfer syntax.
    pub(super) syntax: String,
    pub(super) meta: Dataset<'a>,
    pub(super) dataset: Dataset<'a>,
    pub(super) pixels: Option<Pixels<'a>>,
}

/// Whether the bytes begin as a DICOM file does.
pub(super) fn is_dicom(start: &[u8]) -> bool {
    start.get(128..PREAMBLE) == Some(b"DICM")
}

/// The transfer syntax, and where the elements after the file's own begin.
pub(super) fn start(bytes: &[u8], path: &Path) -> Result<(String, usize)> {
    let mut walk = Walk::new(bytes, path);
    let meta = walk.meta()?;
    Ok((syntax_of(&meta), walk.at))
}

fn syntax_of(meta: &Dataset<'_>) -> String {
    meta.text(tags::TRANSFER_SYNTAX_UID).unwrap_or_default()
}

/// Reads the elements of a file, of which `bytes` are all.
pub(super) fn parse<'a>(bytes: &'a [u8], path: &'a Path) -> Result<Elements<'a>> {
    let mut walk = Walk::new(bytes, path);
    let meta = walk.meta()?;
    let syntax = syntax_of(&meta);
    if syntax.is_empty() {
        return Err(walk.broken("the file names no transfer syntax"));
    }
    let coding = Coding::of(&syntax);
    let mut dataset = Dataset::default();
    let mut pixels = None;
    while walk.at < bytes.len() {
        let header = walk.header(coding)?;
        match header.tag {
            tags::PIXEL_DATA => {
                pixels = Some(walk.pixels(&header, coding)?);
                break;
            }
            // Some programs leave the end of a sequence behind that nothing began.
            SEQUENCE_END | ITEM_END if header.length == 0 => {}
            _ => walk.element(&header, coding, bytes.len(), 0, Some(&mut dataset))?,
        }
    }
    Ok(Elements {
        syntax,
        meta,
        dataset,
        pixels,
    })
}

/// One element's header.
struct Header {
    tag: Tag,
    kind: Option<[u8; 2]>,
    length: u32,
    /// Where the header begins.
    at: usize,
}

/// A place in the file that goes forward.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], path: &'a Path) -> Self {
        Self {
            bytes,
            at: PREAMBLE,
            path,
        }
    }

    fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Dicom {
            path: self.path.to_path_buf(),
            reason: reason.into(),
        }
    }

    fn short(&self, what: &'static str, expected: usize) -> Error {
        Error::Truncated {
            path: self.path.to_path_buf(),
            what,
            expected: expected as u64,
            got: self.bytes.len() as u64,
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let end = self.at.saturating_add(N);
        let found = self.bytes.get(self.at..end).and_then(|b| b.try_into().ok());
        let found = found.ok_or_else(|| self.short("the header of an element", end))?;
        self.at = end;
        Ok(found)
    }

    fn u16(&mut self, big: bool) -> Result<u16> {
        let bytes = self.take()?;
        Ok(if big {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    fn u32(&mut self, big: bool) -> Result<u32> {
        let bytes = self.take()?;
        Ok(if big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn header(&mut self, coding: Coding) -> Result<Header> {
        let at = self.at;
        let tag = Tag(self.u16(coding.big)?, self.u16(coding.big)?);
        // Items and their ends have no type.
        if !coding.explicit || tag.0 == 0xfffe {
            let length = self.u32(coding.big)?;
            return Ok(Header {
                tag,
                kind: None,
                length,
                at,
            });
        }
        let kind: [u8; 2] = self.take()?;
        let length = match &kind {
            b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FD" | b"FL" | b"IS"
            | b"LO" | b"LT" | b"PN" | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL"
            | b"US" => self.u16(coding.big)?.into(),
            // All others, those of later years too, have a long length.
            [b'A'..=b'Z', b'A'..=b'Z'] => {
                self.u16(coding.big)?;
                self.u32(coding.big)?
            }
            [a, b] => {
                return Err(self.broken(format!(
                    "element {tag} at byte {at}: expected a type of two letters, got the bytes {a:02x} {b:02x}"
                )));
            }
        };
        Ok(Header {
            tag,
            kind: Some(kind),
            length,
            at,
        })
    }

    /// Where a value of a known length ends, which is within the file and within what it is part of.
    fn end(&self, header: &Header, bound: usize) -> Result<usize> {
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let end = self.at.saturating_add(length);
        if end > self.bytes.len() {
            return Err(self.short("the value of an element", end));
        }
        if end > bound {
            return Err(self.broken(format!(
                "element {} at byte {} ends at byte {end}, behind the end of its item at byte {bound}",
                header.tag, header.at
            )));
        }
        Ok(end)
    }

    /// The file's own elements, which always have types.
    fn meta(&mut self) -> Result<Dataset<'a>> {
        let mut meta = Dataset::default();
        while self.bytes.get(self.at..self.at + 2) == Some(&[2, 0]) {
            let header = self.header(Coding::META)?;
            self.element(&header, Coding::META, self.bytes.len(), 0, Some(&mut meta))?;
        }
        Ok(meta)
    }

    /// Walks over one element whose header was read, and keeps it in `into` if it is one of those asked for.
    fn element(
        &mut self,
        header: &Header,
        coding: Coding,
        bound: usize,
        depth: usize,
        into: Option<&mut Dataset<'a>>,
    ) -> Result<()> {
        let Header {
            tag, kind, length, ..
        } = *header;
        if tag.0 == 0xfffe {
            return Err(self.broken(format!(
                "{tag} at byte {} is an item or an end that nothing began",
                header.at
            )));
        }
        let sequence = SEQUENCES.contains(&tag);
        let value = VALUES.contains(&tag) || header::KEPT.contains(&tag);
        let keep = into.is_some() && (sequence || value);
        let unknown = kind == Some(*b"UN");
        let inner = if unknown { Coding::UNKNOWN } else { coding };
        let value = if length == UNDEFINED {
            match kind.as_ref() {
                None | Some(b"SQ" | b"UN") => {
                    Value::Items(self.items(header, inner, bound, false, depth, keep)?)
                }
                Some(b"OB" | b"OW") => {
                    self.fragments()?;
                    return Ok(());
                }
                Some(other) => {
                    return Err(self.broken(format!(
                        "element {tag} at byte {} of type {} has no length",
                        header.at,
                        String::from_utf8_lossy(other)
                    )));
                }
            }
        } else {
            let end = self.end(header, bound)?;
            let items = matches!(kind.as_ref(), None | Some(b"SQ" | b"UN"));
            if keep && sequence && items {
                Value::Items(self.items(header, inner, end, true, depth, true)?)
            } else {
                let start = std::mem::replace(&mut self.at, end);
                Value::Bytes(self.bytes.get(start..end).unwrap_or_default())
            }
        };
        if let (true, Some(into)) = (keep, into) {
            let element = Element {
                kind,
                big: coding.big,
                value,
            };
            if into.0.insert(tag, element).is_some() {
                return Err(self.broken(format!("element {tag} stands twice")));
            }
        }
        Ok(())
    }

    /// The items of a sequence, up to `bound` where it has a length, else up to its end.
    fn items(
        &mut self,
        header: &Header,
        coding: Coding,
        bound: usize,
        bounded: bool,
        depth: usize,
        keep: bool,
    ) -> Result<Vec<Dataset<'a>>> {
        let limit = |what, limit: usize, got: usize| Error::Limit {
            path: self.path.to_path_buf(),
            what,
            limit: limit as u64,
            got: got as u64,
        };
        if depth >= DEPTH {
            return Err(limit("depth of nested sequences", DEPTH, depth + 1));
        }
        let open = |walk: &Self| {
            walk.broken(format!(
                "sequence {} at byte {} does not end",
                header.tag, header.at
            ))
        };
        let mut items = Vec::new();
        loop {
            if self.at >= bound {
                return if bounded { Ok(items) } else { Err(open(self)) };
            }
            let item = self.header(coding)?;
            match item.tag {
                ITEM => {}
                SEQUENCE_END => return Ok(items),
                other => {
                    return Err(self.broken(format!(
                        "sequence {} at byte {}: expected an item, got {other} at byte {}",
                        header.tag, header.at, item.at
                    )));
                }
            }
            let closed = item.length != UNDEFINED;
            let end = if closed {
                self.end(&item, bound)?
            } else {
                bound
            };
            let mut inside = Dataset::default();
            loop {
                if self.at >= end {
                    if closed {
                        break;
                    }
                    return Err(open(self));
                }
                let next = self.header(coding)?;
                if next.tag == ITEM_END {
                    if closed {
                        // Written by some programs although the item has a length.
                        continue;
                    }
                    break;
                }
                let into = keep.then_some(&mut inside);
                self.element(&next, coding, end, depth + 1, into)?;
            }
            if keep {
                if items.len() == FRAMES {
                    return Err(Error::Limit {
                        path: self.path.to_path_buf(),
                        what: "number of frames",
                        limit: FRAMES as u64,
                        got: FRAMES as u64 + 1,
                    });
                }
                items.push(inside);
            }
        }
    }

    /// The pieces of a compressed value.
    fn fragments(&mut self) -> Result<Vec<&'a [u8]>> {
        let mut pieces = Vec::new();
        loop {
            let item = self.header(Coding::META)?;
            match item.tag {
                ITEM if item.length != UNDEFINED => {
                    let end = self.end(&item, self.bytes.len())?;
                    let start = std::mem::replace(&mut self.at, end);
                    pieces.push(self.bytes.get(start..end).unwrap_or_default());
                }
                SEQUENCE_END => return Ok(pieces),
                other => {
                    return Err(self.broken(format!(
                        "compressed pixels: expected a piece or the end, got {other} at byte {}",
                        item.at
                    )));
                }
            }
        }
    }

    fn pixels(&mut self, header: &Header, coding: Coding) -> Result<Pixels<'a>> {
        if header.length != UNDEFINED {
            let end = self.end(header, self.bytes.len())?;
            let bytes = self.bytes.get(self.at..end).unwrap_or_default();
            return Ok(Pixels::Native {
                bytes,
                big: coding.big,
                words: header.kind != Some(*b"OB"),
            });
        }
        let pieces = self.fragments()?;
        let Some((offsets, pieces)) = pieces.split_first() else {
            return Err(self.broken("the compressed pixels have no table of offsets"));
        };
        Ok(Pixels::Fragments {
            offsets,
            pieces: pieces.to_vec(),
        })
    }
}

/// Unpacks what follows the file's own elements, where the transfer syntax says that it is deflated.
pub(super) fn inflate(bytes: Vec<u8>, path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    use std::io::Read;
    let (syntax, start) = start(&bytes, path)?;
    if syntax != syntax::DEFLATED {
        return Ok(bytes);
    }
    let (own, packed) = bytes.split_at(start);
    let mut out = own.to_vec();
    let room = limits.unpacked_bytes.saturating_sub(start as u64);
    let stream = flate2::read::DeflateDecoder::new(packed);
    let got = stream.take(room.saturating_add(1)).read_to_end(&mut out);
    let got = got.map_err(|error| Error::Dicom {
        path: path.to_path_buf(),
        reason: format!("broken deflate stream: {error}"),
    })?;
    if got as u64 > room {
        return Err(Error::Limit {
            path: path.to_path_buf(),
            what: "unpacked size in bytes",
            limit: limits.unpacked_bytes,
            got: out.len() as u64,
        });
    }
    Ok(out)
}
