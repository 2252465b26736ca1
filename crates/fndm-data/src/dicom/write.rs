//! Writes objects: explicit types, little endian, sequences and items with their lengths.

use std::collections::BTreeMap;

use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};

use super::elements::PREAMBLE;

/// Elements by their tags, in whose order they are written.
#[derive(Debug, Clone, Default)]
pub(super) struct Object(BTreeMap<Tag, ([u8; 2], Vec<u8>)>);

impl Object {
    /// A value as it stands in a file, padded to an even length: UIDs and bytes by zero, text by a space.
    pub(super) fn raw(&mut self, tag: Tag, kind: &[u8; 2], mut bytes: Vec<u8>) -> &mut Self {
        if bytes.len() % 2 == 1 {
            bytes.push(match kind {
                b"UI" | b"OB" | b"UN" => 0,
                _ => b' ',
            });
        }
        self.0.insert(tag, (*kind, bytes));
        self
    }

    pub(super) fn text(&mut self, tag: Tag, kind: &[u8; 2], text: &str) -> &mut Self {
        self.raw(tag, kind, text.as_bytes().to_vec())
    }

    pub(super) fn uid(&mut self, tag: Tag, uid: &str) -> &mut Self {
        self.text(tag, b"UI", uid)
    }

    pub(super) fn shorts(&mut self, tag: Tag, values: &[u16]) -> &mut Self {
        self.raw(
            tag,
            b"US",
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    pub(super) fn longs(&mut self, tag: Tag, values: &[u32]) -> &mut Self {
        self.raw(
            tag,
            b"UL",
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    pub(super) fn tag(&mut self, tag: Tag, value: Tag) -> &mut Self {
        let parts = [value.0, value.1];
        self.raw(
            tag,
            b"AT",
            parts.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    pub(super) fn decimals(&mut self, tag: Tag, values: &[f64]) -> &mut Self {
        let parts: Vec<String> = values.iter().map(|v| decimal(*v)).collect();
        self.text(tag, b"DS", &parts.join("\\"))
    }

    pub(super) fn sequence(&mut self, tag: Tag, items: Vec<Self>) -> &mut Self {
        let mut bytes = Vec::new();
        for item in items {
            let inner = item.encode();
            bytes.extend([0xfe, 0xff, 0x00, 0xe0]);
            bytes.extend((inner.len() as u32).to_le_bytes());
            bytes.extend(inner);
        }
        self.raw(tag, b"SQ", bytes)
    }

    /// A sequence of one code.
    pub(super) fn code(&mut self, tag: Tag, [value, scheme, meaning]: [&str; 3]) -> &mut Self {
        let mut code = Self::default();
        code.text(tags::CODE_VALUE, b"SH", value)
            .text(tags::CODING_SCHEME_DESIGNATOR, b"SH", scheme)
            .text(tags::CODE_MEANING, b"LO", meaning);
        self.sequence(tag, vec![code])
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, (kind, bytes)) in &self.0 {
            out.extend(tag.0.to_le_bytes());
            out.extend(tag.1.to_le_bytes());
            out.extend(kind);
            if matches!(kind, b"SQ" | b"OB" | b"UN") {
                out.extend([0, 0]);
                out.extend((bytes.len() as u32).to_le_bytes());
            } else {
                // Texts are shorter: those that come from files are cut to 4096 bytes.
                out.extend((bytes.len() as u16).to_le_bytes());
            }
            out.extend(bytes);
        }
        out
    }

    /// A file of this object.
    pub(super) fn file(&self, class: &str, instance: &str) -> Vec<u8> {
        let mut meta = Self::default();
        meta.raw(tags::FILE_META_INFORMATION_VERSION, b"OB", vec![0, 1])
            .uid(tags::MEDIA_STORAGE_SOP_CLASS_UID, class)
            .uid(tags::MEDIA_STORAGE_SOP_INSTANCE_UID, instance)
            .uid(tags::TRANSFER_SYNTAX_UID, uids::EXPLICIT_VR_LITTLE_ENDIAN)
            .uid(tags::IMPLEMENTATION_CLASS_UID, IMPLEMENTATION)
            .text(
                tags::IMPLEMENTATION_VERSION_NAME,
                b"SH",
                concat!("FNDM_", env!("CARGO_PKG_VERSION")),
            );
        let meta = meta.encode();
        let mut group = Self::default();
        group.longs(
            tags::FILE_META_INFORMATION_GROUP_LENGTH,
            &[meta.len() as u32],
        );
        let mut out = vec![0; PREAMBLE - 4];
        out.extend(b"DICM");
        out.extend(group.encode());
        out.extend(meta);
        out.extend(self.encode());
        out
    }
}

/// A UUID of these programs, drawn once.
const IMPLEMENTATION: &str = "2.25.333500838485822868707990457803470711864";

/// At most sixteen characters, with as many digits as fit.
fn decimal(value: f64) -> String {
    let plain = format!("{value}");
    if plain.len() <= 16 {
        return plain;
    }
    for digits in (0..=14).rev() {
        let fixed = format!("{value:.digits$}");
        if fixed.len() <= 16 && value.abs() >= 1e-4 {
            return fixed;
        }
        let short = format!("{value:.digits$e}");
        if short.len() <= 16 {
            return short;
        }
    }
    "0".into()
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn decimals_fit_and_keep_their_value() {
        for value in [
            0.,
            1.,
            -0.5,
            1. / 3.,
            -1_234.567_890_123_456,
            1e-9 / 3.,
            -1e6 / 7.,
            0.000_123_456_789_123,
        ] {
            let text = decimal(value);
            assert!(text.len() <= 16, "{text}");
            let read: f64 = text.parse().unwrap();
            assert!(
                (read - value).abs() <= 1e-9 * value.abs().max(1e-9),
                "{text} for {value}"
            );
        }
    }
}
