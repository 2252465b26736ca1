//! Patients beside those of a training: as they are, and with one thing wrong in each.

use std::sync::OnceLock;

use fndm_data::phantom::PhantomConfig;
use fndm_data::profile::{Aspect, DataStatistics, Light, PatientProfile, Verdict};
use fndm_data::{Patient, Preprocess, is_lesion};
use ndarray::{Array2, Axis, Slice};

const SEQUENCES: [&str; 3] = ["flair", "t1", "t1ce"];

fn patient(seed: u64) -> Patient {
    let config = PhantomConfig {
        slices: 16,
        slice_spacing: 4.,
        samples: 1,
        ..PhantomConfig::default()
    };
    let mut patient = config.patient(seed).unwrap();
    patient
        .sequences
        .retain(|(name, _)| SEQUENCES.contains(&name.as_str()));
    // A check never sees one.
    patient.mask = None;
    patient
}

fn profile(patient: &Patient) -> PatientProfile {
    PatientProfile::of(patient, &Preprocess::default()).unwrap()
}

/// What 24 phantoms are like.
fn training() -> &'static DataStatistics {
    static TRAINING: OnceLock<DataStatistics> = OnceLock::new();
    TRAINING.get_or_init(|| {
        let profiles: Vec<PatientProfile> = (0..24).map(|seed| profile(&patient(seed))).collect();
        DataStatistics::learn(&profiles, "phantoms").unwrap()
    })
}

/// A new patient that is like the training's: not all are.
fn new_patient() -> Patient {
    static SEED: OnceLock<u64> = OnceLock::new();
    let green = |&seed: &u64| training().judge(&profile(&patient(seed))).light == Light::Green;
    patient(*SEED.get_or_init(|| (100..120).find(green).unwrap()))
}

fn judge(change: impl FnOnce(&mut Patient)) -> Verdict {
    let mut changed = new_patient();
    change(&mut changed);
    training().judge(&profile(&changed))
}

/// Asserts that a red finding is about this, and says these words.
fn assert_red(verdict: &Verdict, aspect: Aspect, words: &str) {
    let of = verdict.findings.iter().filter(|f| f.aspect == aspect);
    let red = of
        .clone()
        .any(|f| f.light == Light::Red && f.reason.contains(words));
    assert!(red, "expected red {aspect} with {words:?} in {verdict:#?}");
    assert!(verdict.findings.iter().all(|f| !f.advice.is_empty()));
}

#[test]
fn new_patients_of_the_same_kind_are_mostly_green_and_never_red() {
    let lights: Vec<Light> = (100..120)
        .map(|seed| training().judge(&profile(&patient(seed))).light)
        .collect();
    let green = lights.iter().filter(|l| **l == Light::Green).count();
    assert!(green >= 14, "{lights:?}");
    assert!(!lights.contains(&Light::Red), "{lights:?}");
    assert_eq!(judge(|_| {}).light, Light::Green);
    let alarms = &training().false_alarms;
    assert_eq!(alarms.patients, 24);
    assert!(alarms.yellow + alarms.red <= 10, "{alarms:?}");
}

#[test]
fn a_voxel_size_ten_times_too_large() {
    let verdict = judge(|patient| {
        for (_, volume) in &mut patient.sequences {
            let rows = volume.affine.iter_mut().take(3);
            rows.flatten().for_each(|v| *v *= 10.);
        }
    });
    assert_red(
        &verdict,
        Aspect::VoxelSize,
        "30 mm between rows, in training 3",
    );
    // Field of view, head and skull are measured with the same wrong number, and told as following from it.
    assert_eq!(verdict.findings.len(), 1, "{verdict:#?}");
    let reason = &verdict.findings[0].reason;
    let follows = "with the training's voxels field of view and head size would be as in training";
    assert!(reason.contains(follows), "{reason}");
}

#[test]
fn a_field_of_view_that_is_larger_by_itself_is_told() {
    // As many background voxels again on every side: voxels are as they were.
    let verdict = judge(|patient| {
        for (_, volume) in &mut patient.sequences {
            let (x, y, z) = volume.data.dim();
            let mut wide = ndarray::Array3::zeros((2 * x, 2 * y, z));
            let middle = ndarray::s![x / 2..x / 2 + x, y / 2..y / 2 + y, ..];
            wide.slice_mut(middle).assign(&volume.data);
            volume.data = wide;
        }
    });
    assert_red(
        &verdict,
        Aspect::FieldOfView,
        "384 mm over all rows, in training 192",
    );
}

/// A phantom with a dark box low in front, by which a head can be told from one that is turned.
fn marked(mut patient: Patient) -> Patient {
    for (_, volume) in &mut patient.sequences {
        // Columns go to the left, rows to the back, slices up.
        let place = ndarray::s![20..44, 8..28, 1..7];
        volume
            .data
            .slice_mut(place)
            .mapv_inplace(|value| 0.2 * value);
    }
    patient
}

fn marked_training() -> &'static DataStatistics {
    static TRAINING: OnceLock<DataStatistics> = OnceLock::new();
    TRAINING.get_or_init(|| {
        let profiles = (0..16).map(|seed| profile(&marked(patient(seed))));
        let profiles: Vec<PatientProfile> = profiles.collect();
        DataStatistics::learn(&profiles, "marked phantoms").unwrap()
    })
}

/// The header says one thing, the array another.
fn turn(patient: &mut Patient, axis: usize) {
    for (_, volume) in &mut patient.sequences {
        let whole = Slice::new(0, None, -1);
        volume.data = volume.data.slice_axis(Axis(axis), whole).to_owned();
    }
}

#[test]
fn a_head_that_stands_on_its_head_or_looks_backwards() {
    let judge = |axis: usize| {
        let mut patient = marked(patient(100));
        turn(&mut patient, axis);
        marked_training().judge(&profile(&patient))
    };
    assert_red(&judge(1), Aspect::Orientation, "front and back exchanged");
    assert_red(&judge(2), Aspect::Orientation, "top and bottom exchanged");
    // Left and right are as good as equal: nobody can tell, and nothing is said.
    let of = |verdict: &Verdict| {
        let mut found = verdict.findings.iter().map(|f| f.aspect);
        found.any(|aspect| aspect == Aspect::Orientation)
    };
    assert!(!of(&judge(0)));
    // Nor is it of heads as they stand.
    for seed in 100..110 {
        let verdict = marked_training().judge(&profile(&marked(patient(seed))));
        assert!(!of(&verdict), "{verdict:#?}");
    }
}

/// Front and back of a phantom are nearly alike: noise would decide.
#[test]
fn what_the_training_cannot_tell_is_not_told() {
    for seed in 100..112 {
        let mut patient = patient(seed);
        turn(&mut patient, 1);
        let verdict = training().judge(&profile(&patient));
        let mut aspects = verdict.findings.iter().map(|f| f.aspect);
        assert!(aspects.all(|a| a != Aspect::Orientation), "{verdict:#?}");
    }
}

#[test]
fn axes_in_another_order() {
    let mut patient = marked(patient(100));
    for (_, volume) in &mut patient.sequences {
        // Square slices: the shape says nothing.
        volume.data.swap_axes(0, 1);
    }
    let verdict = marked_training().judge(&profile(&patient));
    assert_red(
        &verdict,
        Aspect::Orientation,
        "front and back where left and right should be",
    );
}

#[test]
fn an_orientation_that_the_header_tells_is_fine() {
    let verdict = judge(|patient| {
        for (_, volume) in &mut patient.sequences {
            let (_, height, _) = volume.data.dim();
            let whole = Slice::new(0, None, -1);
            volume.data = volume.data.slice_axis(Axis(1), whole).to_owned();
            for row in &mut volume.affine[..3] {
                row[3] += row[1] * (height - 1) as f64;
                row[1] = -row[1];
            }
        }
    });
    assert_eq!(verdict.light, Light::Green, "{verdict:#?}");
}

#[test]
fn t1_for_flair() {
    // Under both names: one image twice.
    let copied = judge(|patient| {
        patient.sequences[0].1 = patient.sequences[1].1.clone();
    });
    assert_red(&copied, Aspect::Copies, "t1 and flair are one image");
    // The same in other numbers.
    let scaled = judge(|patient| {
        patient.sequences[0].1 = patient.sequences[1].1.clone();
        patient.sequences[0].1.data.mapv_inplace(|v| 0.37 * v + 5.);
    });
    assert_red(&scaled, Aspect::Copies, "t1 and flair are one image");
    // Exchanged.
    let exchanged = judge(|patient| {
        let (first, rest) = patient.sequences.split_at_mut(1);
        std::mem::swap(&mut first[0].1, &mut rest[0].1);
    });
    let words = "what is given as flair looks like the training's t1";
    assert_red(&exchanged, Aspect::Sequences, words);
}

/// Everything within this many pixels of the head's border becomes background.
fn strip(patient: &mut Patient, width: usize) {
    let slices = Preprocess::default().apply(patient).unwrap();
    let inner = slices.eroded_head(width);
    let mask = slices.to_mask(&inner).unwrap();
    for (_, volume) in &mut patient.sequences {
        ndarray::Zip::from(&mut volume.data)
            .and(&mask.data)
            .for_each(|v, &inside| *v *= f32::from(u8::from(is_lesion(inside))));
    }
}

#[test]
fn a_brain_without_its_skull() {
    let verdict = judge(|patient| strip(patient, 5));
    assert_red(&verdict, Aspect::Skull, "the skull seems to be stripped");
}

/// A model of stripped brains, and a whole head.
#[test]
fn a_skull_where_there_was_none() {
    let stripped = (0..12).map(|seed| {
        let mut patient = patient(seed);
        strip(&mut patient, 6);
        profile(&patient)
    });
    let stripped: Vec<PatientProfile> = stripped.collect();
    let training = DataStatistics::learn(&stripped, "brains").unwrap();
    let verdict = training.judge(&profile(&patient(100)));
    assert_red(&verdict, Aspect::Skull, "the skull seems to be there");
}

#[test]
fn the_upper_half_of_a_head() {
    let verdict = judge(|patient| {
        for (_, volume) in &mut patient.sequences {
            volume.data = volume
                .data
                .slice_axis(Axis(2), Slice::from(11..))
                .to_owned();
        }
    });
    let told = verdict
        .findings
        .iter()
        .any(|f| f.aspect == Aspect::SliceRange);
    assert!(told && verdict.light > Light::Green, "{verdict:#?}");
}

#[test]
fn a_sequence_that_is_missing_is_named() {
    let verdict = judge(|patient| {
        patient.sequences.remove(1);
    });
    assert_red(
        &verdict,
        Aspect::Sequences,
        "t1 is missing: the model takes flair, t1, t1ce",
    );
}

#[test]
fn noise_is_no_head() {
    let verdict = judge(|patient| {
        let mut state = 1u32;
        for (_, volume) in &mut patient.sequences {
            volume.data.mapv_inplace(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32
            });
        }
    });
    assert_eq!(verdict.light, Light::Red, "{verdict:#?}");
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.json");
    std::fs::write(&path, training().to_bytes().unwrap()).unwrap();
    let back = DataStatistics::read(&path).unwrap();
    for seed in 100..104 {
        let patient = profile(&patient(seed));
        assert_eq!(back.judge(&patient), training().judge(&patient));
    }
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() < 64 << 10, "{} bytes", bytes.len());
    // Cut short, or of a later version.
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(DataStatistics::read(&path).is_err());
    let text = String::from_utf8(bytes).unwrap();
    std::fs::write(
        &path,
        text.replacen("\"format\":2", "\"format\":9,\"more\":1", 1),
    )
    .unwrap();
    let error = DataStatistics::read(&path).unwrap_err().to_string();
    assert!(error.contains("format 9"), "{error}");
}

#[test]
fn few_patients_are_enough_for_a_record_and_none_is_not() {
    assert!(DataStatistics::learn(&[], "nobody").is_err());
    let one = DataStatistics::learn(&[profile(&patient(0))], "one").unwrap();
    // Whoever is compared with a single patient: nothing panics, and the same patient is green.
    assert_eq!(one.judge(&profile(&patient(0))).light, Light::Green);
    let _ = one.judge(&profile(&patient(1)));
    let other = Patient {
        sequences: patient(0).sequences[..2].to_vec(),
        ..patient(0)
    };
    assert!(DataStatistics::learn(&[profile(&patient(0)), profile(&other)], "two kinds").is_err());
}

/// The median and the range that are kept, by sorting.
#[test]
fn what_is_kept_is_the_median_and_the_ends() {
    let profiles: Vec<PatientProfile> = (0..9).map(|seed| profile(&patient(seed))).collect();
    let learned = DataStatistics::learn(&profiles, "nine").unwrap();
    let values: Array2<f64> = Array2::from_shape_fn((9, learned.features.len()), |(n, m)| {
        profiles[n].all_features().nth(m).unwrap().compared()
    });
    for (column, kept) in values.columns().into_iter().zip(&learned.features) {
        let mut sorted = column.to_vec();
        sorted.sort_by(f64::total_cmp);
        assert!((sorted[4] - kept.middle).abs() < 1e-4, "{kept:?}");
        assert!(kept.low <= kept.high && kept.reach > 0.);
    }
}
