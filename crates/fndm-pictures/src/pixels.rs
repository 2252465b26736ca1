//! Pixels as PNG.

use png::{BitDepth, ColorType};

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

/// Rows of black (`false`) and white (`true`) as PNG, one bit a pixel.
///
/// # Errors
/// [`Error::Png`] when the number of pixels isn't `width * height`.
pub fn bit_png(pixels: &[bool], width: usize, height: usize) -> Result<Vec<u8>> {
    if pixels.len() != width * height {
        let source = format!("{} pixels", pixels.len());
        return Err(Error::Png {
            width,
            height,
            source: source.into(),
        });
    }
    let mut packed = Vec::with_capacity(width.div_ceil(8) * height);
    for row in pixels.chunks(width.max(1)) {
        for eight in row.chunks(8) {
            let bits = eight.iter().enumerate();
            packed.push(bits.fold(0u8, |byte, (n, &bit)| byte | u8::from(bit) << (7 - n)));
        }
    }
    encode_deep(&packed, width, height, ColorType::Grayscale, BitDepth::One)
}

fn encode(pixels: &[u8], width: usize, height: usize, colours: ColorType) -> Result<Vec<u8>> {
    encode_deep(pixels, width, height, colours, BitDepth::Eight)
}

fn encode_deep(
    pixels: &[u8],
    width: usize,
    height: usize,
    colours: ColorType,
    depth: BitDepth,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut bytes, side(width), side(height));
    encoder.set_color(colours);
    encoder.set_depth(depth);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back() {
        let bits: Vec<bool> = (0..3 * 11).map(|n| n % 3 == 0 || n == 10).collect();
        let bytes = bit_png(&bits, 11, 3).unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let expected: Vec<u8> = bits.iter().map(|&bit| 255 * u8::from(bit)).collect();
        assert_eq!(pixels, expected);
        assert!(bit_png(&bits, 12, 3).is_err());
        assert!(bit_png(&[], 0, 0).is_err());
    }
}
