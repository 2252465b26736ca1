//! Pixels as PNG.

use png::ColorType;

use crate::{Error, Result};

/// Rows of (red, green, blue) as PNG.
///
/// # Errors
/// [`Error::Png`] when the number of bytes isn't `3 * width * height`.
pub fn rgb_png(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    encode(pixels, width, height, ColorType::Rgb)
}

/// Rows of grey values as PNG.
///
/// # Errors
/// [`Error::Png`] when the number of bytes isn't `width * height`.
pub fn grey_png(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    encode(pixels, width, height, ColorType::Grayscale)
}

fn encode(pixels: &[u8], width: usize, height: usize, colours: ColorType) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut bytes, side(width), side(height));
    encoder.set_color(colours);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(pixels));
    match written {
        Ok(()) => Ok(bytes),
        Err(source) => Err(Error::Png {
            width,
            height,
            source: source.into(),
        }),
    }
}
