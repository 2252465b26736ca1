use super::*;

/// Either one first: a healthy patient has no diseased slice.
#[test]
fn a_contradiction_is_found_in_either_order() {
    for healthy_first in [true, false] {
        let mut labels = Labels::default();
        let whole = |labels: &mut Labels| labels.set_from("a", None, Label::Healthy, Some(2));
        let slice = |labels: &mut Labels| labels.set_from("a", Some(4), Label::Diseased, Some(3));
        let (first, second) = if healthy_first {
            (whole(&mut labels), slice(&mut labels))
        } else {
            (slice(&mut labels), whole(&mut labels))
        };
        assert_eq!(first, Ok(()));
        let told = second.unwrap_err().to_string();
        let lines = if healthy_first {
            "line 3: "
        } else {
            "line 2: "
        };
        let other = if healthy_first {
            "(line 2)"
        } else {
            "(line 3)"
        };
        assert!(told.starts_with(lines) && told.ends_with(other), "{told}");
    }
}

#[test]
fn a_slice_of_its_own_counts_before_the_patient() {
    let mut labels = Labels::default();
    labels.set("a", None, Label::Diseased).unwrap();
    labels.set("a", Some(1), Label::Healthy).unwrap();
    labels.set("a", Some(2), Label::Unknown).unwrap();
    let found = [0, 1, 2].map(|z| labels.get("a", z));
    assert_eq!(found, [Label::Diseased, Label::Healthy, Label::Unknown]);
    assert_eq!(labels.get("b", 0), Label::Unknown);
    // The same again is no contradiction.
    labels.set("a", Some(1), Label::Healthy).unwrap();
    labels.set("a", Some(1), Label::Diseased).unwrap_err();
}

#[test]
fn strangers_and_slices_beyond_the_volume_are_named() {
    let mut labels = Labels::default();
    labels
        .set_from("a", Some(9), Label::Healthy, Some(2))
        .unwrap();
    labels.set_from("b", None, Label::Healthy, Some(3)).unwrap();
    labels.check_patients(&["a", "b", "c"]).unwrap();
    let told = labels.check_patients(&["a"]).unwrap_err().to_string();
    assert!(told.starts_with("line 3: patient b"), "{told}");
    labels.check_slices("a", 10).unwrap();
    let told = labels.check_slices("a", 9).unwrap_err().to_string();
    assert!(
        told.starts_with("line 2: ") && told.contains("9 slices"),
        "{told}"
    );
}
