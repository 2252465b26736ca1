//! Options that say where the bit of each slice comes from.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use fndm::data::labels::{SliceOrder, SlicesFrom};
use fndm_study::LabelSource;
use serde::Serialize;
use serde_json::{Value, json};

use super::one_of;

/// A table of labels, and how it is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct TableOptions {
    /// Table of labels, CSV or TSV with a header: patient, slice (a number, a range first-last, or nothing for all), label
    /// (healthy or 0, diseased or 1, unknown or nothing). Slices without a row are unknown. Lesion masks are then not looked at
    #[arg(long = "labels", value_name = "FILE")]
    table: Option<PathBuf>,
    /// Number of a volume's first slice in that table, where its header doesn't say it (a column slice0 or slice1)
    #[arg(long, value_name = "0|1", requires = "table", value_parser = first())]
    slices_from: Option<SlicesFrom>,
    /// How the table counts slices
    #[arg(long, requires = "table", default_value = "stored", value_parser = order())]
    slice_order: SliceOrder,
}

fn first() -> impl TypedValueParser<Value = SlicesFrom> {
    PossibleValuesParser::new(["0", "1"]).map(|number| match number.as_str() {
        "0" => SlicesFrom::Zero,
        _ => SlicesFrom::One,
    })
}

fn order() -> impl TypedValueParser<Value = SliceOrder> {
    one_of([
        PossibleValue::new("stored").help("As the file stores them, which viewers show"),
        PossibleValue::new("upward").help("From the lower end of the head upwards"),
    ])
}

impl TableOptions {
    /// The table, if one was given.
    pub(crate) fn source(&self) -> Option<LabelSource> {
        let path = self.table.clone()?;
        Some(LabelSource::Table {
            path,
            slices_from: self.slices_from,
            order: self.slice_order,
        })
    }

    /// What decides on the bits: what the table says, and how it is meant.
    pub(crate) fn how(&self, contents: impl Serialize) -> Value {
        json!({
            "table": contents,
            "slices_from": self.slices_from,
            "order": self.slice_order,
        })
    }

    /// The file, for the rule that no output changes an input.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        self.table.as_ref()
    }
}
