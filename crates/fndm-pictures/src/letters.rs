//! The one font.

use std::sync::OnceLock;

use epaint_default_fonts::HACK_REGULAR;
use plotters::prelude::*;
use plotters::style::{TextStyle, register_font};

/// Drawn text of this size in pixels and colour.
pub(crate) fn style(size: u32, colour: RGBColor) -> TextStyle<'static> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    // Where it failed, drawing says so.
    REGISTERED.get_or_init(|| register_font("monospace", FontStyle::Normal, HACK_REGULAR).is_ok());
    ("monospace", size).into_font().color(&colour)
}
