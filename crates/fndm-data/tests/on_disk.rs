//! Patients whose volumes are read one after the other: to the last bit what a patient in memory gives.

use std::path::{Path, PathBuf};

use fndm_data::phantom::PhantomConfig;
use fndm_data::profile::PatientProfile;
use fndm_data::{
    Error, HistogramReference, ImagesOnDisk, Limits, Normalization, Patient, PatientSlices, Plane,
    Preprocess, SliceImages, Volume, affine, find_identical_sequences, neighbours, neighbours_of,
    nifti, read_sequences, with_neighbours,
};
use ndarray::Array4;

/// A patient of odd sizes, without its mask.
fn patient(slices: usize, size: usize) -> Patient {
    let phantom = PhantomConfig {
        size,
        slices,
        ..PhantomConfig::default()
    };
    Patient {
        mask: None,
        ..phantom.patient(3).unwrap()
    }
}

/// Writes the patient's volumes, each packed or not, and reads them again: the files, and the patient as files have it.
fn written(patient: &Patient, folder: &Path) -> (Vec<(String, PathBuf)>, Patient) {
    let mut files = Vec::new();
    for (n, (name, volume)) in patient.sequences.iter().enumerate() {
        let end = ["nii", "nii.gz"][n % 2];
        let path = folder.join(format!("p_{name}.{end}"));
        nifti::write_map(&path, volume).unwrap();
        files.push((name.clone(), path));
    }
    let read = |(name, path): &(String, PathBuf)| {
        (name.clone(), nifti::read(path, &Limits::default()).unwrap())
    };
    let again = Patient {
        id: "p".into(),
        sequences: files.iter().map(read).collect(),
        mask: None,
    };
    (files, again)
}

fn bits(images: &Array4<f32>) -> Vec<u32> {
    images.iter().map(|v| v.to_bits()).collect()
}

fn file() -> std::fs::File {
    tempfile::tempfile().unwrap()
}

fn compare(patient: &Patient, preprocess: &Preprocess) {
    let folder = tempfile::tempdir().unwrap();
    let (files, patient) = written(patient, folder.path());
    let limits = Limits::default();
    let memory = preprocess.turn(&patient).unwrap();
    let disk = preprocess.turn_files("p", &files, &limits, file()).unwrap();
    assert_eq!(memory.names(), disk.names());
    let count = memory.names().len();
    for n in 0..count {
        assert_eq!(memory.sequence(n).unwrap(), disk.sequence(n).unwrap());
    }
    assert!(disk.sequence(count).is_err() && memory.sequence(count).is_err());
    assert_eq!(
        find_identical_sequences(&patient),
        disk.identical_sequences().unwrap()
    );
    // Exactly: a verdict's numbers stand in results.
    assert_eq!(
        PatientProfile::of_turned(&memory).unwrap(),
        PatientProfile::of_turned(&disk).unwrap()
    );
    let whole = memory.slices().unwrap();
    let parts = disk.slices_on_disk(file()).unwrap();
    let again = ImagesOnDisk::in_memory(&parts).unwrap();
    assert_eq!(bits(&whole.images), bits(&again.images));
    assert_eq!(whole, *again);
    assert_eq!(whole, disk.slices().unwrap());
    parts.check().unwrap();
    for first in 0..whole.len() {
        let range = first..first + 3;
        let (a, b) = (whole.images.part(range.clone()), parts.images.part(range));
        assert_eq!(a.unwrap(), b.unwrap());
    }
    // The way back needs no images.
    let map = whole.head.mapv(|bit| f32::from(u8::from(bit)) * 0.3);
    assert_eq!(
        whole.to_volume(&map).unwrap(),
        parts.to_volume(&map).unwrap()
    );
    assert_eq!(
        whole.to_mask(&whole.head).unwrap(),
        parts.to_mask(&whole.head).unwrap()
    );
}

#[test]
fn volumes_of_any_orientation_give_the_same_bits() {
    let patient = patient(11, 37);
    for codes in ["RAS", "LPS", "LAI", "SRP", "ILA", "PSR", "AIL", "RSA"] {
        let codes: Vec<char> = codes.chars().collect();
        let turned = Patient {
            sequences: (patient.sequences.iter())
                .map(|(name, volume)| {
                    let codes = [codes[0], codes[1], codes[2]];
                    (name.clone(), affine::reorient(volume, codes).unwrap())
                })
                .collect(),
            ..patient.clone()
        };
        for plane in [Plane::Axial, Plane::Coronal, Plane::Sagittal] {
            let preprocess = Preprocess {
                image_size: 24,
                plane,
                ..Preprocess::default()
            };
            compare(&turned, &preprocess);
        }
    }
}

#[test]
fn every_way_of_scaling_and_choosing_gives_the_same_bits() {
    let patient = patient(13, 32);
    let reference = HistogramReference::fit([&patient], &Preprocess::default()).unwrap();
    for normalization in [
        Normalization::ZScore { clip: 3. },
        Normalization::Histogram { reference },
    ] {
        compare(
            &patient,
            &Preprocess {
                image_size: 40,
                normalization,
                drop_lower: 2,
                z_range: (0.1, 0.8),
                pad_to: Some(50),
                crop_to: Some(31),
                ..Preprocess::default()
            },
        );
    }
}

/// Wherever the mask stands among the volumes.
#[test]
fn a_brain_mask_gives_the_same_bits() {
    let whole = patient(11, 37);
    let reference = &whole.sequences[0].1;
    let mask = ndarray::Array3::from_shape_fn(reference.data.dim(), |(i, j, k)| {
        f32::from(u8::from(
            i.abs_diff(18) + j.abs_diff(15) < 14 && k > 1 && (i + j + k) % 5 > 0,
        ))
    });
    let mask = Volume {
        data: mask,
        affine: reference.affine,
        header: None,
    };
    let preprocess = Preprocess {
        image_size: 24,
        brain_mask: Some("brain".into()),
        ..Preprocess::default()
    };
    for place in 0..=whole.sequences.len() {
        let mut patient = whole.clone();
        patient
            .sequences
            .insert(place, ("brain".into(), mask.clone()));
        compare(&patient, &preprocess);
        let slices = preprocess.apply(&patient).unwrap();
        assert_eq!(slices.images.dim().1, whole.sequences.len());
    }
}

#[test]
fn copies_are_told() {
    let mut patient = patient(9, 32);
    let first = patient.sequences[0].1.clone();
    patient.sequences[2].1 = first;
    compare(&patient, &Preprocess::default());
}

/// What is wrong with a patient is told in the same words.
#[test]
fn the_same_patients_are_refused() {
    let preprocess = Preprocess::default();
    let limits = Limits::default();
    let good = patient(9, 32);
    let spoil: [&dyn Fn(&mut Patient); 5] = [
        &|patient| patient.sequences[1].1.data[[3, 4, 5]] = f32::NAN,
        &|patient| patient.sequences[2].1.data.fill(4.),
        &|patient| patient.sequences[0].1.data.fill(4.),
        &|patient| patient.sequences[1].1.affine[0][3] += 2.,
        // Constant and, in a later one, not finite: the latter comes first.
        &|patient| {
            patient.sequences[0].1.data.fill(4.);
            patient.sequences[3].1.data[[0, 0, 0]] = f32::INFINITY;
        },
    ];
    for spoil in spoil {
        let mut patient = good.clone();
        spoil(&mut patient);
        let folder = tempfile::tempdir().unwrap();
        let (files, patient) = written(&patient, folder.path());
        let words = |error: Error| error.to_string();
        let memory = preprocess.turn(&patient).err().map(words);
        let disk = preprocess.turn_files("p", &files, &limits, file());
        assert!(memory.is_some());
        assert_eq!(memory, disk.err().map(words));
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut files, _) = written(&good, folder.path());
    std::fs::remove_file(&files[1].1).unwrap();
    let error = read_sequences(folder.path(), &["flair", "t1"], &limits);
    assert!(error.is_err());
    let error = preprocess.turn_files("p", &files, &limits, file());
    assert!(matches!(error, Err(Error::Io { .. })));
    files.clear();
    let error = preprocess.turn_files("p", &files, &limits, file());
    assert!(matches!(error, Err(Error::InvalidConfig { .. })));
}

/// A file that can't be written, as on a full disk, is an error, and no slices.
#[test]
fn a_working_file_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = written(&patient(5, 32), folder.path());
    let path = folder.path().join("working");
    std::fs::write(&path, "").unwrap();
    let for_reading = || std::fs::File::open(&path).unwrap();
    let (preprocess, limits) = (Preprocess::default(), Limits::default());
    let error = preprocess.turn_files("p", &files, &limits, for_reading());
    assert!(matches!(error, Err(Error::Io { .. })));
    let turned = preprocess.turn_files("p", &files, &limits, file()).unwrap();
    let error = turned.slices_on_disk(for_reading());
    assert!(matches!(error, Err(Error::Io { .. })));
}

#[test]
fn neighbours_of_some_slices_are_those_of_all() {
    let preprocess = Preprocess {
        image_size: 16,
        ..Preprocess::default()
    };
    let slices: PatientSlices = preprocess.apply(&patient(7, 32)).unwrap();
    let patients = vec![0; slices.len()];
    let all = with_neighbours(slices.images.view(), &patients, &slices.z, 2).unwrap();
    let table = neighbours(&patients, &slices.z, 2).unwrap();
    for first in 0..slices.len() {
        let rows = table.slice(ndarray::s![first..first + 1, ..]);
        let one = neighbours_of(&slices.images, rows).unwrap();
        assert_eq!(one, all.slice(ndarray::s![first..first + 1, .., .., ..]));
    }
    let beyond = ndarray::array![[0, slices.len()]];
    assert!(neighbours_of(&slices.images, beyond.view()).is_err());
}
