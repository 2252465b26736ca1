//! Tables of labels: what spreadsheets and people write.

use fndm_data::labels::{Label, Labels, SliceOrder, SlicesFrom, TableOptions};
use fndm_data::phantom::PhantomConfig;
use fndm_data::{Error, Limits, Preprocess, SliceSet};
use proptest::prelude::*;

fn from(slices_from: SlicesFrom) -> TableOptions {
    TableOptions {
        slices_from: Some(slices_from),
        ..TableOptions::default()
    }
}

fn parse(text: &str) -> Result<Labels, String> {
    Labels::parse(text, &from(SlicesFrom::Zero)).map_err(|problem| problem.to_string())
}

#[test]
fn tables_are_read_as_people_write_them() {
    let texts = [
        "patient,slice,label\np/1,2,1\np/1,3,0\n",
        "\u{feff}Patient ID;Slice;Label\r\np/1;2;Diseased\r\np/1;3;Healthy\r\n",
        "subject\tz\tclass\np/1\t2\tyes\np/1\t3\tno\n",
        "\"label\",\"note\",\"patient\",\"slice\"\n1,\"a, b\",\"p/1\",2\n\n0,\"two\nlines\",p/1,3\n",
        "case_id, slice_index, abnormal\n p/1 , 2.0 , TRUE \n p/1 , 3-3 , False\n",
        "patient,slice1,label\np/1,3,positive\np/1,4,negative\n",
    ];
    for text in texts {
        let options = match text.contains("slice1") {
            true => TableOptions::default(),
            false => from(SlicesFrom::Zero),
        };
        let labels = Labels::parse(text, &options).unwrap_or_else(|e| panic!("{text}: {e}"));
        let found = [1, 2, 3, 4].map(|z| labels.get("p/1", z));
        let wanted = [
            Label::Unknown,
            Label::Diseased,
            Label::Healthy,
            Label::Unknown,
        ];
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn whole_volumes_and_ranges() {
    let labels = parse("patient,slice,label\na,,healthy\nb,10-12,1\nb,13,?\nc,,\n").unwrap();
    assert_eq!(labels.get("a", 77), Label::Healthy);
    let found = [9, 10, 12, 13].map(|z| labels.get("b", z));
    let wanted = [
        Label::Unknown,
        Label::Diseased,
        Label::Diseased,
        Label::Unknown,
    ];
    assert_eq!(found, wanted);
    assert_eq!(labels.get("c", 0), Label::Unknown);
    // Of volumes alone: nothing counts from anywhere.
    let labels = Labels::parse("id,label\na,1\n", &TableOptions::default()).unwrap();
    assert_eq!(labels.get("a", 0), Label::Diseased);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let cases = [
        (
            "patient,slice\na,1\n",
            "line 1: expected a column label, found patient, slice",
        ),
        ("slice,label\n1,1\n", "line 1: expected a column patient"),
        (
            "patient,id,label\na,a,1\n",
            "line 1: two columns could be the patient: patient and id",
        ),
        (
            "patient,slice,label\na,1,2\n",
            "line 2: label: expected healthy or 0, diseased or 1, unknown or nothing, got \"2\"",
        ),
        ("patient,slice,label\na,1,-1\n", "line 2: label"),
        (
            "patient,slice,label\n\na,x,1\n",
            "line 3: slice: expected a number from 0",
        ),
        ("patient,slice,label\na,-3,1\n", "line 2: slice"),
        (
            "patient,slice,label\na,9-3,1\n",
            "line 2: slices 9-3: expected a range",
        ),
        (
            "patient,slice,label\na,0-99999999999,1\n",
            "line 2: slices 0-99999999999",
        ),
        ("patient,slice,label\n,1,1\n", "line 2: expected a patient"),
        (
            "patient,slice,label\na,1,1\na,0-5,0\n",
            "line 3: patient a, slice 1: healthy here, diseased before (line 2)",
        ),
        (
            "patient,slice,label\na,,0\na,4,1\n",
            "line 3: patient a: healthy as a whole, and slice 4 diseased (line 2)",
        ),
        (
            "patient,slice,label\na,3,1,healthy\n",
            "line 2: expected 3 fields as in the header, found 4",
        ),
        (
            "patient,slice,label\na,1,0\na,3",
            "line 3: expected 3 fields as in the header, found 2",
        ),
        ("patient,slice,label\n", "expected at least one row"),
        ("", "expected a column patient"),
    ];
    for (text, wanted) in cases {
        let told = parse(text).unwrap_err();
        assert!(told.contains(wanted), "{text:?}: {told}");
    }
    let unsaid = Labels::parse("patient,slice,label\na,1,1\n", &TableOptions::default());
    let told = unsaid.unwrap_err().to_string();
    assert!(
        told.starts_with("line 2: it isn't said whether slices count from 0"),
        "{told}"
    );
    // In the table's own numbers.
    let text = "patient,slice1,label\na,1,1\na,1,0\n";
    let told = Labels::parse(text, &TableOptions::default()).unwrap_err();
    assert!(told.to_string().contains("slice 1: healthy here"), "{told}");
    let text = "patient,slice1,label,,\na,9,1,,\n";
    let labels = Labels::parse(text, &TableOptions::default()).unwrap();
    let told = labels.check_slices("a", 8).unwrap_err().to_string();
    assert!(
        told.contains("slice 9, but the volume has 8 slices, counted from 1"),
        "{told}"
    );
    let both = Labels::parse("patient,slice0,label\na,1,1\n", &from(SlicesFrom::One));
    assert!(
        both.unwrap_err()
            .to_string()
            .starts_with("line 1: the column slice0")
    );
    let zero = Labels::parse("patient,slice,label\na,0,1\n", &from(SlicesFrom::One));
    assert!(
        zero.unwrap_err()
            .to_string()
            .contains("expected a number from 1")
    );
}

#[test]
fn a_file_is_named_and_its_size_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.csv");
    let options = TableOptions::default();
    let read = |limits: &Limits| Labels::read(&path, &options, limits);
    assert!(matches!(read(&Limits::default()), Err(Error::Io { .. })));
    std::fs::write(&path, "id,label\na,2\n").unwrap();
    let error = read(&Limits::default()).unwrap_err();
    assert!(error.to_string().contains("labels.csv"), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("line 2: label"), "{source}");
    let limits = Limits {
        text_bytes: 5,
        ..Limits::default()
    };
    assert!(matches!(read(&limits), Err(Error::Limit { .. })));
}

/// Slices nothing is said of are left out, not healthy; numbers count as the file stores the slices.
#[test]
fn unknown_slices_are_left_out() {
    let config = PhantomConfig {
        slices: 12,
        ..PhantomConfig::default()
    };
    let mut patient = config.patient(5).unwrap();
    patient.id = "p".into();
    let preprocess = Preprocess {
        image_size: 32,
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&patient).unwrap();
    let labels = parse("patient,slice,label\np,2-3,1\np,4,0\n").unwrap();
    let known = slices.labelled(&labels).unwrap();
    assert_eq!(known.z, [2, 3, 4]);
    assert_eq!(known.labels, Some(vec![1, 1, 0]));
    assert!(known.mask.is_none(), "pixels go no further");
    assert_eq!(SliceSet::from_patients([known]).unwrap().labels, [1, 1, 0]);

    // The same volume stored from the top down.
    let turned = |volume: &fndm_data::Volume| {
        let mut data = volume.data.clone();
        data.invert_axis(ndarray::Axis(2));
        let mut affine = volume.affine;
        for row in affine.iter_mut().take(3) {
            row[3] += 11. * row[2];
            row[2] = -row[2];
        }
        fndm_data::Volume::new(data.as_standard_layout().to_owned(), affine)
    };
    for (_, volume) in &mut patient.sequences {
        *volume = turned(volume);
    }
    patient.mask = None;
    let down = preprocess.apply(&patient).unwrap();
    assert_eq!(down.images, slices.images);
    let known = down.labelled(&labels).unwrap();
    assert_eq!(known.z, [7, 8, 9]);
    assert_eq!(known.labels, Some(vec![0, 1, 1]));
    let options = TableOptions {
        order: SliceOrder::Upward,
        ..from(SlicesFrom::Zero)
    };
    let upward = Labels::parse("patient,slice,label\np,2-3,1\np,4,0\n", &options).unwrap();
    assert_eq!(down.labelled(&upward).unwrap().z, [2, 3, 4]);

    let beyond = parse("patient,slice,label\np,12,1\n").unwrap();
    let error = slices.labelled(&beyond).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.starts_with("line 2: ") && source.contains("12 slices"),
        "{source}"
    );
}

proptest! {
    /// Whatever was said is read back, in any of the forms that a table can have.
    #[test]
    fn what_is_written_is_read(
        rows in prop::collection::btree_map((0u8..5, 0usize..200), prop::bool::ANY, 1..60),
        from_one: bool,
        delimiter in prop::sample::select(vec![',', ';', '\t']),
        quote: bool,
        mark: bool,
    ) {
        let q = if quote { "\"" } else { "" };
        let mut text = if mark { "\u{feff}".to_string() } else { String::new() };
        text += &format!("patient{delimiter}slice{delimiter}label\r\n");
        for (&(patient, slice), &diseased) in &rows {
            let shown = slice + usize::from(from_one);
            text += &format!("{q}x/{patient}{q}{delimiter}{shown}{delimiter}{}\r\n", u8::from(diseased));
        }
        let options = from(if from_one { SlicesFrom::One } else { SlicesFrom::Zero });
        let labels = Labels::parse(&text, &options).unwrap();
        for patient in 0..5u8 {
            for slice in 0..200usize {
                let wanted = match rows.get(&(patient, slice)) {
                    None => Label::Unknown,
                    Some(true) => Label::Diseased,
                    Some(false) => Label::Healthy,
                };
                prop_assert_eq!(labels.get(&format!("x/{patient}"), slice), wanted);
            }
        }
    }

    /// No text stops the program.
    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9,;\t\"\n\r\\-. ]{0,200}") {
        let _ = Labels::parse(&format!("patient,slice,label\n{text}"), &from(SlicesFrom::Zero));
        let _ = Labels::parse(&text, &TableOptions::default());
    }
}
