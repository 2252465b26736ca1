//! Tables of labels.
#![no_main]

use fndm_data::labels::{Labels, SlicesFrom, TableOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for slices_from in [None, Some(SlicesFrom::Zero), Some(SlicesFrom::One)] {
        let options = TableOptions {
            slices_from,
            ..TableOptions::default()
        };
        if let Ok(labels) = Labels::parse(text, &options) {
            assert!(!labels.is_empty(), "a table without rows is refused");
            for patient in labels.patients() {
                let _ = labels.get(patient, 0);
                let _ = labels.check_slices(patient, 1);
            }
        }
    }
});
