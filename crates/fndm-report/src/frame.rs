use serde::Serialize;

use crate::{Error, Result};

/// The picture that all layers of a page lie in: a whole slice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Frame {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// From one row to the next and from one column to the next, in millimetres.
    pub spacing: [f64; 2],
    /// Directions in which slices, rows and columns grow, as letters: `['S', 'P', 'L']` for axial slices, the patient's right at the
    /// left of the picture.
    pub directions: [char; 3],
}

impl Frame {
    /// What lies at the edges of the picture: left, right, top, bottom.
    #[must_use]
    pub fn edges(&self) -> [char; 4] {
        let [_, rows, columns] = self.directions;
        [opposite(columns), columns, opposite(rows), rows]
    }

    pub(crate) fn check(&self) -> Result<()> {
        let spaced = self.spacing.iter().all(|s| s.is_finite() && *s > 0.);
        if self.rows > 0 && self.columns > 0 && spaced {
            return Ok(());
        }
        let expected = "rows and columns of finite spacing above 0";
        Err(Error::input("frame", expected, format!("{self:?}")))
    }

    /// The edges in words, for who doesn't see the letters.
    pub(crate) fn words(&self) -> String {
        let [left, right, top, bottom] = self.edges().map(word);
        format!(
            "The picture's left is the patient's {left}, its right the {right}, its top the {top}, its bottom the {bottom}."
        )
    }
}

fn opposite(letter: char) -> char {
    match letter {
        'R' => 'L',
        'L' => 'R',
        'A' => 'P',
        'P' => 'A',
        'S' => 'I',
        'I' => 'S',
        other => other,
    }
}

fn word(letter: char) -> &'static str {
    match letter {
        'R' => "right",
        'L' => "left",
        'A' => "front",
        'P' => "back",
        'S' => "upper end",
        'I' => "lower end",
        _ => "unknown side",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_axial_slices_are_those_of_radiology() {
        let frame = Frame {
            rows: 4,
            columns: 4,
            spacing: [1., 1.],
            directions: ['S', 'P', 'L'],
        };
        assert_eq!(frame.edges(), ['R', 'L', 'A', 'P']);
        assert!(frame.words().contains("left is the patient's right"));
        let sagittal = Frame {
            directions: ['R', 'I', 'P'],
            ..frame
        };
        assert_eq!(sagittal.edges(), ['A', 'P', 'S', 'I']);
    }
}
