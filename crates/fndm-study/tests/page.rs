//! The page of a patient: the same however the file is stored, with the patient's sides where they belong.

use fndm_data::{Patient, PatientSlices, Preprocess, Volume, affine};
use fndm_study::{PageBase, PageMethod, measure};
use ndarray::{Array3, s};

/// A head of 20 x 24 x 8 voxels in RAS order, of 1 x 1 x 2 mm, with a bright lesion of 3 x 3 x 2 voxels at the patient's left front, and
/// one voxel that touches it by a corner.
fn patient() -> Patient {
    let mut image = Array3::from_elem((20, 24, 8), 100f32);
    image[(0, 0, 0)] = 0.;
    let mut lesion = Array3::zeros((20, 24, 8));
    lesion.slice_mut(s![2..5, 18..21, 3..5]).fill(1.);
    lesion[(5, 21, 5)] = 1.;
    lesion[(15, 4, 2)] = 1.;
    image.zip_mut_with(&lesion, |v, l| *v += 300. * l);
    let matrix = affine::diagonal([1., 1., 2.]);
    Patient {
        id: "p".into(),
        sequences: vec![("flair".into(), Volume::new(image, matrix))],
        mask: Some(Volume::new(lesion, matrix)),
    }
}

fn turned(codes: [char; 3]) -> Patient {
    let Patient {
        id,
        sequences,
        mask,
    } = patient();
    let turn = |volume: &Volume| affine::reorient(volume, codes).unwrap();
    Patient {
        id,
        sequences: sequences
            .iter()
            .map(|(n, v)| (n.clone(), turn(v)))
            .collect(),
        mask: mask.as_ref().map(turn),
    }
}

fn slices_of(patient: &Patient) -> PatientSlices {
    let preprocess = Preprocess {
        image_size: 24,
        percentiles: (0., 100.),
        ..Preprocess::default()
    };
    preprocess.apply(patient).unwrap()
}

fn page_of(patient: &Patient, volumes: bool) -> fndm_study::fndm_report::PatientPage {
    let slices = slices_of(patient);
    let mask = slices.mask.clone().unwrap();
    let anomaly = mask.mapv(|v| f32::from(u8::from(v)));
    let method = PageMethod {
        title: "own",
        anomaly: &anomaly,
        mask: &mask,
        thresholds: &[],
        coarse: None,
        healthy: None,
        probability: false,
    };
    let base = match volumes {
        true => PageBase::of_volumes(&slices, patient),
        false => PageBase::of_slices(&slices),
    };
    base.unwrap().page(&slices, &[method]).unwrap()
}

#[test]
fn a_mirrored_file_gives_the_same_page() {
    for volumes in [true, false] {
        let straight = page_of(&patient(), volumes);
        assert_eq!(straight.frame.edges(), ['R', 'L', 'A', 'P']);
        let html = straight.html().unwrap();
        // Mirrored from left to right, front to back, and with axes exchanged: the order of slices stays.
        for codes in [
            ['L', 'A', 'S'],
            ['L', 'P', 'S'],
            ['P', 'L', 'S'],
            ['S', 'R', 'A'],
        ] {
            assert_eq!(
                page_of(&turned(codes), volumes).html().unwrap(),
                html,
                "{codes:?}"
            );
        }
        // Stored from the top, the slices of the file have other numbers.
        let upside = page_of(&turned(['R', 'A', 'I']), volumes);
        assert_eq!(upside.slices[0].z, straight.slices[0].z);
        assert_eq!(upside.slices[0].stored, 7 - straight.slices[0].stored);
        assert_eq!(upside.measures, straight.measures);
    }
}

/// What lies at the patient's left is drawn where the L stands: in the right half, here in the upper one.
#[test]
fn left_is_where_the_letter_stands() {
    for codes in [['R', 'A', 'S'], ['L', 'A', 'S'], ['L', 'P', 'I']] {
        let patient = turned(codes);
        let slices = slices_of(&patient);
        let image = slices.images.slice(s![3, 0, .., ..]);
        let bright: Vec<(usize, usize)> = image
            .indexed_iter()
            .filter(|(_, v)| **v > 0.5)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(bright.len(), 9);
        // 20 columns stand in 24, from the patient's right: x = 2 to 4 is column 15 to 17, and 2 more.
        assert!(
            bright
                .iter()
                .all(|(y, x)| (3..6).contains(y) && (17..20).contains(x)),
            "{bright:?}"
        );
    }
}

#[test]
fn volumes_and_lesions_are_those_counted_by_hand() {
    for codes in [['R', 'A', 'S'], ['I', 'L', 'P']] {
        let patient = turned(codes);
        let slices = slices_of(&patient);
        let mask = patient.mask.as_ref().unwrap();
        let found = measure("truth", mask, &slices.geometry, &[2, 3, 5, 100]).unwrap();
        assert_eq!(found.voxels, 20);
        assert!((found.mm3 - 40.).abs() < 1e-9);
        assert_eq!(found.areas, [1., 9., 1., 0.]);
        // The voxel at the corner belongs to the large one.
        let [large, small] = found.lesions.as_slice() else {
            panic!("{:?}", found.lesions);
        };
        assert!((large.mm3 - 38.).abs() < 1e-9 && (small.mm3 - 2.).abs() < 1e-9);
        assert_eq!(
            (large.first_slice, large.last_slice, large.largest_slice),
            (3, 5, 3)
        );
        let expected = [15., 4., 4.];
        assert!(
            small
                .centre
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-9)
        );
        let x = (18. * 3. + 5.) / 19.;
        assert!((large.centre[0] - x).abs() < 1e-9);
    }
}

#[test]
fn maps_of_other_slices_are_refused() {
    let patient = patient();
    let slices = slices_of(&patient);
    let mask = Array3::from_elem((1, 24, 24), false);
    let anomaly = Array3::zeros((8, 24, 24));
    let method = PageMethod {
        title: "own",
        anomaly: &anomaly,
        mask: &mask,
        thresholds: &[],
        coarse: None,
        healthy: None,
        probability: true,
    };
    let base = PageBase::of_volumes(&slices, &patient).unwrap();
    let error = base.page(&slices, &[method]).unwrap_err().to_string();
    assert!(error.contains("page of p: own: expected"), "{error}");
    let mut other = patient;
    other.sequences[0].1 = Volume::new(Array3::zeros((4, 4, 4)), affine::diagonal([1.; 3]));
    assert!(PageBase::of_volumes(&slices, &other).is_err());
}
