//! JPEG 2000, by the decoder of the `hayro` project.

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Start of a codestream and of its first segment, which has the size.
const BEGIN: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];

/// The bits of a frame's pixels, each of at most `allocated`.
pub(super) fn decode(
    packed: &[u8],
    (rows, columns): (usize, usize),
    allocated: u32,
) -> Result<Vec<u32>, Failure> {
    let signed = check(packed, rows, columns)?;
    let settings = DecodeSettings {
        resolve_palette_indices: false,
        strict: true,
        target_resolution: None,
    };
    let image = Image::new(packed, &settings)?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context)?;
    let [component] = decoded.components() else {
        return Err(format!("expected 1 component, got {}", decoded.components().len()).into());
    };
    let bits = u32::from(component.bit_depth());
    // The decoder works with floats of 24 bits, and moves the range of signed pixels to begin at 0.
    let limit = allocated.min(24);
    if bits > limit {
        return Err(format!("expected up to {limit} bits, got {bits}").into());
    }
    let most = ((1u32 << bits) - 1) as f32;
    let shift = if signed { 1i64 << (bits - 1) } else { 0 };
    let pixel = |sample: &f32| {
        if !sample.is_finite() {
            return Err("a pixel is no number".into());
        }
        // What was lost by the packing may go beyond the range.
        Ok((sample.round().clamp(0.0, most) as i64 - shift) as u32)
    };
    component.samples().iter().map(pixel).collect()
}

/// Looks at the size before anything is decoded; whether the pixels are signed.
fn check(packed: &[u8], rows: usize, columns: usize) -> Result<bool, String> {
    let start = packed.windows(4).position(|w| w == BEGIN);
    let header = start.and_then(|at| packed.get(at..at + 45));
    let header = header.ok_or("the header of a codestream is not there")?;
    let word = |at: usize| {
        let bytes = header.get(at..at + 4).unwrap_or_default();
        bytes.iter().fold(0u32, |sum, b| sum << 8 | u32::from(*b)) as usize
    };
    let end = (word(8), word(12));
    let offset = (word(16), word(20));
    let (height, width) = (
        end.1.saturating_sub(offset.1),
        end.0.saturating_sub(offset.0),
    );
    if (height, width) != (rows, columns) {
        return Err(format!(
            "expected {rows} rows of {columns} pixels, got {height} of {width}"
        ));
    }
    let components = u16::from_be_bytes([header[40], header[41]]);
    let steps = [header[43], header[44]];
    if components != 1 || steps != [1, 1] {
        return Err(format!(
            "expected 1 component of every pixel, got {components} of every {steps:?}"
        ));
    }
    Ok(header[42] & 0x80 != 0)
}
