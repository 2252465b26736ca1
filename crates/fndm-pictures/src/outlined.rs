//! A slice with masks on it as outlines.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

use ndarray::ArrayView2;

use crate::{Colour, Error, Result, rgb_png};

/// An outline over an image.
#[derive(Debug, Clone, Copy)]
pub struct Outline<'a> {
    /// The mask, `(H, W)` as the image.
    pub mask: ArrayView2<'a, bool>,
    /// The line's colour.
    pub colour: Colour,
    /// Whether the line is dashed, which tells two apart for who doesn't tell their colours apart.
    pub dashed: bool,
}

/// An image `(H, W)` in grey, `range[0]` black and `range[1]` white, drawn `zoom` pixels a pixel, with outlines; later ones lie over
/// earlier ones. As PNG.
///
/// # Errors
/// [`Error::Row`] for a mask of another shape, an image without pixels or a zoom of 0; [`Error::Png`].
pub fn outlined_png(
    image: ArrayView2<'_, f32>,
    range: [f32; 2],
    outlines: &[Outline<'_>],
    zoom: usize,
) -> Result<Vec<u8>> {
    let (height, width) = image.dim();
    if outlines.iter().any(|o| o.mask.dim() != (height, width)) || zoom * height * width == 0 {
        let got: Vec<_> = outlines.iter().map(|o| o.mask.dim()).collect();
        return Err(Error::Row {
            expected: "an image with pixels, a zoom above 0, masks of the image's shape".into(),
            got: format!("{:?} x {zoom}, {got:?}", image.dim()),
        });
    }
    let (rows, columns) = (height * zoom, width * zoom);
    let mut pixels = Vec::with_capacity(rows * columns * 3);
    for y in 0..rows {
        for x in 0..columns {
            let mut colour =
                [crate::sheet::to_byte(image[(y / zoom, x / zoom)], range[0], range[1]); 3];
            for outline in outlines {
                let gap = outline.dashed && (x + y) / DASH % 2 == 1;
                if !gap && on_edge(outline.mask, y, x, zoom) {
                    colour = outline.colour;
                }
            }
            pixels.extend(colour);
        }
    }
    rgb_png(&pixels, columns, rows)
}

/// Length of a dash, and of the gap behind it.
const DASH: usize = 3;

/// Whether a drawn pixel lies in the mask, at an edge of it.
fn on_edge(mask: ArrayView2<'_, bool>, y: usize, x: usize, zoom: usize) -> bool {
    let is = |y: usize, x: usize| mask.get((y, x)).copied().unwrap_or(false);
    let (row, column) = (y / zoom, x / zoom);
    if !is(row, column) {
        return false;
    }
    let (dy, dx) = (y % zoom, x % zoom);
    let above = dy == 0 && (row == 0 || !is(row - 1, column));
    let below = dy == zoom - 1 && !is(row + 1, column);
    let left = dx == 0 && (column == 0 || !is(row, column - 1));
    let right = dx == zoom - 1 && !is(row, column + 1);
    above || below || left || right
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn decoded(bytes: Vec<u8>) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn the_line_goes_round_the_mask_and_the_inside_is_the_image() {
        let image = Array2::from_elem((4, 5), 0.5);
        let mut mask = Array2::from_elem((4, 5), false);
        mask[(1, 2)] = true;
        let red = [255, 0, 0];
        let outline = |dashed| Outline {
            mask: mask.view(),
            colour: red,
            dashed,
        };
        let png = outlined_png(image.view(), [0., 1.], &[outline(false)], 3).unwrap();
        let (width, height, pixels) = decoded(png);
        assert_eq!((width, height), (15, 12));
        let at = |y: usize, x: usize| &pixels[(y * 15 + x) * 3..][..3];
        // Of 3 x 3 drawn pixels all but the middle one.
        let red_ones = pixels.chunks_exact(3).filter(|p| **p == red).count();
        assert_eq!(red_ones, 8);
        assert_eq!(
            (at(4, 7), at(3, 6), at(2, 6)),
            (&[128; 3][..], &red[..], &[128; 3][..])
        );
        let png = outlined_png(image.view(), [0., 1.], &[outline(true)], 3).unwrap();
        let dashed = decoded(png)
            .2
            .chunks_exact(3)
            .filter(|p| **p == red)
            .count();
        assert!(dashed > 0 && dashed < 8);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let image = Array2::zeros((4, 5));
        let mask = Array2::from_elem((5, 4), true);
        let outline = Outline {
            mask: mask.view(),
            colour: [0; 3],
            dashed: false,
        };
        assert!(outlined_png(image.view(), [0., 1.], &[outline], 1).is_err());
        assert!(outlined_png(image.view(), [0., 1.], &[], 0).is_err());
        assert!(outlined_png(Array2::zeros((0, 3)).view(), [0., 1.], &[], 1).is_err());
    }
}
