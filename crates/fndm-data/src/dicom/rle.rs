//! Run lengths, as part 5 of the standard has them in its annex G.

/// The pixels of a frame: `count` of `width` bytes each.
pub(super) fn decode(packed: &[u8], count: usize, width: usize) -> Result<Vec<u32>, String> {
    let (words, _) = packed.as_chunks::<4>();
    let words = words
        .get(..16)
        .ok_or("the header of 64 bytes is cut short")?;
    let mut header = words.iter().map(|w| u32::from_le_bytes(*w) as usize);
    let segments = header.next().unwrap_or_default();
    if segments != width {
        return Err(format!(
            "expected {width} segments, one for each byte of a pixel, got {segments}"
        ));
    }
    let starts: Vec<usize> = header.take(segments).collect();
    // Two bytes make 128 at most.
    if packed.len().saturating_mul(64) < count.saturating_mul(width) {
        return Err(format!(
            "{} bytes are too few for {count} pixels",
            packed.len()
        ));
    }
    let mut pixels = vec![0u32; count];
    for (n, start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(packed.len());
        let bytes = packed.get(*start..end);
        let bytes = bytes.filter(|_| *start >= 64);
        let bytes = bytes.ok_or_else(|| format!("segment {} lies outside of the frame", n + 1))?;
        // The most significant bytes of all pixels come first.
        segment(bytes, &mut pixels)
            .map_err(|got| format!("segment {} ends after {got} of {count} pixels", n + 1))?;
    }
    Ok(pixels)
}

/// Appends one byte to every pixel; how many had one if that were not all.
fn segment(mut bytes: &[u8], pixels: &mut [u32]) -> Result<(), usize> {
    let mut done = 0;
    while done < pixels.len() {
        let Some((&code, rest)) = bytes.split_first() else {
            return Err(done);
        };
        bytes = rest;
        let mut put = |byte: u8| {
            // What goes on past the last pixel is padding.
            if let Some(pixel) = pixels.get_mut(done) {
                *pixel = *pixel << 8 | u32::from(byte);
                done += 1;
            }
        };
        match code {
            0..128 => {
                let length = usize::from(code) + 1;
                let (own, rest) = bytes.split_at(length.min(bytes.len()));
                own.iter().for_each(|byte| put(*byte));
                bytes = rest;
            }
            128 => {}
            129.. => {
                let Some((&byte, rest)) = bytes.split_first() else {
                    return Err(done);
                };
                (0..257 - usize::from(code)).for_each(|_| put(byte));
                bytes = rest;
            }
        }
    }
    Ok(())
}
