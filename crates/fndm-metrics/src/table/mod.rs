//! Tables of methods against metrics: Markdown, CSV, JSON and LaTeX.

mod csv;
mod format;
mod json;
mod latex;
mod markdown;

use crate::aggregate::Aggregate;
use crate::error::{Error, Result};
use crate::score::Score;
use serde::{Deserialize, Serialize};

/// Which values of a column are the better ones; the best is set in bold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Dice, AUROC.
    Higher,
    /// Distances, times.
    Lower,
    /// Neither: counts, settings.
    #[default]
    Neither,
}

/// A metric of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The name in CSV and JSON: `dice_otsu`.
    pub key: String,
    /// The heading: "Dice".
    pub title: String,
    /// A heading over several columns that stand side by side: the data set, in the paper's
    /// layout.
    pub group: Option<String>,
    /// Digits after the point in Markdown and LaTeX. CSV and JSON have them all.
    pub decimals: usize,
    /// Whether Markdown and LaTeX show 100 times the value.
    pub percent: bool,
    /// Which values are the better ones.
    pub better: Better,
}

impl Column {
    /// A column of shares in percent with two decimals, higher is better: Dice, similarity.
    #[must_use]
    pub fn percent(key: &str, title: &str) -> Self {
        Self {
            percent: true,
            better: Better::Higher,
            ..Self::number(key, title, 2)
        }
    }

    /// A column of distances with two decimals, lower is better.
    #[must_use]
    pub fn distance(key: &str, title: &str) -> Self {
        Self {
            better: Better::Lower,
            ..Self::number(key, title, 2)
        }
    }

    /// A column of plain numbers.
    #[must_use]
    pub fn number(key: &str, title: &str, decimals: usize) -> Self {
        Self {
            key: key.to_owned(),
            title: title.to_owned(),
            group: None,
            decimals,
            percent: false,
            better: Better::Neither,
        }
    }

    /// The column under a common heading.
    #[must_use]
    pub fn in_group(mut self, group: &str) -> Self {
        self.group = Some(group.to_owned());
        self
    }
}

/// What a table shows of one method and one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// The mean of many scores; how many were skipped goes below the table.
    Aggregate(Aggregate),
    /// One score.
    Score(Score),
    /// Words.
    Text(String),
}

impl Cell {
    /// The number that is shown.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Aggregate(aggregate) => aggregate.mean,
            Self::Score(score) => score.value(),
            Self::Text(_) => None,
        }
    }
}

impl From<Aggregate> for Cell {
    fn from(aggregate: Aggregate) -> Self {
        Self::Aggregate(aggregate)
    }
}

impl From<Score> for Cell {
    fn from(score: Score) -> Self {
        Self::Score(score)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Score(Score::Value(number))
    }
}

/// The line of one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The name in CSV and JSON: `fndm`.
    pub key: String,
    /// The name in Markdown and LaTeX.
    pub title: String,
    /// A cell per column.
    pub cells: Vec<Cell>,
}

/// Methods down, metrics across.
///
/// ```
/// use fndm_metrics::{Aggregate, Column, Score, Table, Undefined};
///
/// let mut table = Table::new(vec![Column::percent("dice", "Dice"), Column::distance("hd95", "HD95")])?;
/// let dice = Aggregate::of([Score::Value(0.75), Score::Value(0.25)]);
/// let hd95 = Aggregate::of([Score::Value(4.0), Score::Undefined(Undefined::ResultEmpty)]);
/// table.push("fndm", "FNDM", vec![dice.into(), hd95.into()])?;
/// assert_eq!(table.to_markdown(), "\
/// | Method | Dice (%) | HD95 |
/// | :-- | --: | --: |
/// | FNDM | **50.00** | **4.00** |
///
/// FNDM, HD95: 1 of 2 skipped (1 result empty).
/// ");
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

impl Table {
    /// An empty table.
    ///
    /// # Errors
    /// If two columns have the same key, or one is called `method`, `aggregates` or `undefined`.
    pub fn new(columns: Vec<Column>) -> Result<Self> {
        for (i, column) in columns.iter().enumerate() {
            let taken = columns[..i].iter().any(|other| other.key == column.key);
            let reserved = ["method", "aggregates", "undefined"];
            if taken || reserved.contains(&column.key.as_str()) {
                return Err(Error::Table(format!(
                    "expected column keys that differ from each other and from {reserved:?}, found \
                     \"{}\"",
                    column.key
                )));
            }
        }
        Ok(Self {
            columns,
            rows: Vec::new(),
        })
    }

    /// Adds a method.
    ///
    /// # Errors
    /// If it has not one cell per column.
    pub fn push(&mut self, key: &str, title: &str, cells: Vec<Cell>) -> Result<()> {
        if cells.len() != self.columns.len() {
            return Err(Error::Table(format!(
                "row \"{key}\": expected {} cells, one per column, found {}",
                self.columns.len(),
                cells.len()
            )));
        }
        self.rows.push(Row {
            key: key.to_owned(),
            title: title.to_owned(),
            cells,
        });
        Ok(())
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The rows so far.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}
