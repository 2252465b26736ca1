#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! - [`Chart`], [`Curve`], [`Axis`]: curves in one pair of axes.
//! - [`Forest`], [`Estimate`]: estimates with their intervals.
//! - [`outlined_png`], [`Outline`]: a slice with masks as outlines.
//! - [`Sheet`], [`Tile`], [`Legend`]: rows of images, maps and masks.
//! - [`rgb_png`], [`grey_png`], [`bit_png`]: pixels as PNG.

mod axis;
mod chart;
mod error;
mod forest;
mod letters;
mod outlined;
mod pixels;
mod sheet;

pub use axis::Axis;
pub use chart::{Chart, Colour, Curve};
pub use error::{Error, Result};
pub use forest::{Estimate, Forest};
pub use outlined::{Outline, outlined_png};
pub use pixels::{bit_png, grey_png, rgb_png};
pub use sheet::{Legend, Sheet, Tile, upper_end};
