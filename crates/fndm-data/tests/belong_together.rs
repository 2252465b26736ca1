//! Slices whose arrays don't belong together are refused, and nothing panics.

use fndm_data::phantom::PhantomConfig;
use fndm_data::{Error, PatientSlices, Preprocess, SliceSet};
use ndarray::{Array3, Axis};

/// What is told, and how to spoil it.
type Spoil<T> = (&'static str, fn(&mut T));

fn slices() -> PatientSlices {
    let phantom = PhantomConfig {
        size: 16,
        slices: 6,
        ..PhantomConfig::default()
    };
    let preprocess = Preprocess {
        image_size: 16,
        ..Preprocess::default()
    };
    preprocess.apply(&phantom.patient(1).unwrap()).unwrap()
}

fn is_of_a_shape(error: &Error) -> bool {
    matches!(error, Error::Shape { .. })
}

#[test]
fn of_one_patient() {
    let whole = slices();
    whole.check().unwrap();
    let wrong: [Spoil<PatientSlices>; 6] = [
        ("positions", |s| {
            s.z.pop();
        }),
        ("sequences", |s| s.sequences.push("more".into())),
        ("labels", |s| s.labels = Some(vec![0])),
        ("head", |s| s.head = Array3::from_elem((6, 16, 15), true)),
        ("mask", |s| {
            s.mask = Some(Array3::from_elem((5, 16, 16), true));
        }),
        ("positions", |s| {
            s.images = s.images.select(Axis(0), &[0, 1]);
        }),
    ];
    for (what, change) in wrong {
        let mut slices = whole.clone();
        change(&mut slices);
        let error = slices.check().unwrap_err();
        assert!(is_of_a_shape(&error), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(is_of_a_shape(&slices.select(&[0]).unwrap_err()), "{what}");
        let joined = SliceSet::from_patients([whole.clone(), slices]);
        assert!(is_of_a_shape(&joined.unwrap_err()), "{what}");
    }
}

#[test]
fn of_a_set() {
    let whole = SliceSet::from_patients([slices()]).unwrap();
    whole.check().unwrap();
    let wrong: [Spoil<SliceSet>; 6] = [
        ("labels", |s| s.labels.push(0)),
        ("patients", |s| {
            s.patient.pop();
        }),
        ("positions", |s| s.z.push(9)),
        ("sequences", |s| {
            s.sequences.pop();
        }),
        ("head", |s| s.head = Array3::from_elem((6, 15, 16), true)),
        ("patient of a slice", |s| s.patient[2] = 1),
    ];
    for (what, change) in wrong {
        let mut set = whole.clone();
        change(&mut set);
        let error = set.check().unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(set.select(&[0, 5]).is_err(), "{what}");
    }
    assert!(whole.select(&[6]).is_err());
}
