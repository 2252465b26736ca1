#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! - [`Chart`], [`Curve`], [`Axis`]: curves in one pair of axes.
//! - [`Sheet`], [`Tile`]: rows of images, maps and masks.
//! - [`rgb_png`], [`grey_png`]: pixels as PNG.

mod axis;
mod chart;
mod error;
mod letters;
mod pixels;
mod sheet;

pub use axis::Axis;
pub use chart::{Chart, Colour, Curve};
pub use error::{Error, Result};
pub use pixels::{grey_png, rgb_png};
pub use sheet::{Sheet, Tile, upper_end};
