//! Options that say where the bit of each slice comes from.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fndm::data::labels::{SliceOrder, SlicesFrom};
use fndm_study::LabelSource;

/// A table of labels, and how it is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct TableOptions {
    /// Table of labels, CSV or TSV with a header: patient, slice (a number, a range first-last, or nothing for all), label
    /// (healthy or 0, diseased or 1, unknown or nothing). Slices without a row are unknown. Lesion masks are then not looked at
    #[arg(long = "labels", value_name = "FILE")]
    table: Option<PathBuf>,
    /// Number of a volume's first slice in that table, where its header doesn't say it (a column slice0 or slice1)
    #[arg(long, value_name = "0|1", requires = "table")]
    slices_from: Option<First>,
    /// How the table counts slices
    #[arg(long, requires = "table", default_value = "stored")]
    slice_order: Order,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum First {
    #[value(name = "0")]
    Zero,
    #[value(name = "1")]
    One,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// As the file stores them, which viewers show
    Stored,
    /// From the lower end of the head upwards
    Upward,
}

impl TableOptions {
    /// The table, if one was given.
    pub(crate) fn source(&self) -> Option<LabelSource> {
        let path = self.table.clone()?;
        Some(LabelSource::Table {
            path,
            slices_from: self.slices_from.map(|first| match first {
                First::Zero => SlicesFrom::Zero,
                First::One => SlicesFrom::One,
            }),
            order: match self.slice_order {
                Order::Stored => SliceOrder::Stored,
                Order::Upward => SliceOrder::Upward,
            },
        })
    }

    /// The file, for the rule that no output changes an input.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        self.table.as_ref()
    }
}
