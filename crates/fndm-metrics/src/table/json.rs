//! JSON with every figure at full precision.

use super::{Cell, Table};
use crate::error::{Error, Result};
use crate::score::Score;
use serde_json::{Map, Value};

impl Table {
    /// The table as a JSON value: `{"rows": [{"method": "fndm", "dice": 0.76, ...}]}`, null where
    /// there is no value. Aggregates are there too, in full, under `"aggregates"`, and the reasons of
    /// scores without a value under `"undefined"`.
    ///
    /// # Errors
    /// If an aggregate cannot be written, which no aggregate of this crate is known to do.
    pub fn to_json_value(&self) -> Result<Value> {
        let mut rows = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let mut fields = Map::new();
            let (mut aggregates, mut undefined) = (Map::new(), Map::new());
            fields.insert("method".to_owned(), Value::from(row.key.clone()));
            for (column, cell) in self.columns.iter().zip(&row.cells) {
                let value = match cell {
                    Cell::Text(text) => Value::from(text.clone()),
                    cell => cell.number().map_or(Value::Null, Value::from),
                };
                fields.insert(column.key.clone(), value);
                match cell {
                    Cell::Aggregate(aggregate) => {
                        aggregates.insert(column.key.clone(), value_of(aggregate)?);
                    }
                    Cell::Score(Score::Undefined(reason)) => {
                        undefined.insert(column.key.clone(), value_of(reason)?);
                    }
                    _ => {}
                }
            }
            for (key, details) in [("aggregates", aggregates), ("undefined", undefined)] {
                if !details.is_empty() {
                    fields.insert(key.to_owned(), Value::from(details));
                }
            }
            rows.push(Value::from(fields));
        }
        let mut table = Map::new();
        table.insert("rows".to_owned(), Value::from(rows));
        Ok(Value::from(table))
    }

    /// [`Table::to_json_value`] as text, indented.
    ///
    /// # Errors
    /// As [`Table::to_json_value`].
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(&self.to_json_value()?).map_err(|e| Error::Json(Box::new(e)))
    }
}

fn value_of(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::Json(Box::new(e)))
}
