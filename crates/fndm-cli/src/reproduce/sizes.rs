//! Dice by the size of the lesion.

use fndm_study::{Evaluation, Level};

/// Upper ends of the classes in pixels of the model's grid; the last class has none.
const CLASSES: [usize; 3] = [20, 80, 200];

/// Mean Dice at Otsu's threshold of the slices of each class.
pub(crate) fn table(rows: &[(&str, &Evaluation)]) -> String {
    let class = |pixels: usize| CLASSES.iter().filter(|&&end| pixels > end).count();
    let mut header = vec!["method".to_string()];
    let mut low = 1;
    for class_end in CLASSES {
        header.push(format!("{low} to {class_end} px"));
        low = class_end + 1;
    }
    header.push(format!("{low} px and more"));
    let mut cells = vec![header];
    for (i, (title, evaluation)) in rows.iter().enumerate() {
        debug_assert_eq!(evaluation.row.level, Level::Slice);
        let mut sums = [(0., 0usize); CLASSES.len() + 1];
        for case in &evaluation.cases {
            if let Some(dice) = case.dice_otsu.value() {
                let sum = &mut sums[class(case.lesion_pixels)];
                *sum = (sum.0 + dice, sum.1 + 1);
            }
        }
        let mut row = vec![(*title).to_string()];
        row.extend(sums.iter().map(|&(sum, count)| match (count, i) {
            (0, _) => "-".to_string(),
            // How many there are is the same in every row.
            (_, 0) => format!("{:.3} ({count})", sum / count as f64),
            _ => format!("{:.3}", sum / count as f64),
        }));
        cells.push(row);
    }
    fndm_study::markdown(&cells)
}
