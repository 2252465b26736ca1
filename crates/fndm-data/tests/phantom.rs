//! Properties of the phantom cohort.

use fndm_data::phantom::{LesionMix, PhantomConfig, SEQUENCES};
use fndm_data::{Error, Patient};
use ndarray::{Array3, Axis};

fn mask(patient: &Patient) -> &Array3<f32> {
    &patient.mask.as_ref().expect("a phantom has a mask").data
}

fn small() -> PhantomConfig {
    PhantomConfig {
        size: 32,
        slices: 8,
        slice_spacing: 7.5,
        ..PhantomConfig::default()
    }
}

#[test]
fn outside_the_mask_the_healthy_twin_is_equal_to_the_last_bit() {
    let phantom = PhantomConfig::default().build().expect("in range");
    for seed in 0..4 {
        let (ill, healthy) = (phantom.patient(seed), phantom.healthy_patient(seed));
        let mask = mask(&ill);
        assert!(mask.iter().any(|v| *v > 0.0), "seed {seed} has no lesion");
        assert!(
            healthy
                .mask
                .as_ref()
                .is_some_and(|m| m.data.iter().all(|v| *v == 0.0))
        );
        for ((name, a), (_, b)) in ill.sequences.iter().zip(&healthy.sequences) {
            for ((a, b), m) in a.data.iter().zip(&b.data).zip(mask) {
                assert!(*m > 0.0 || a.to_bits() == b.to_bits(), "{name}");
            }
        }
    }
}

#[test]
fn inside_the_mask_the_lesion_shows_above_the_noise() {
    // Without noise and bias, the change at each masked voxel in the sequence that shows it best.
    let quiet = PhantomConfig {
        noise: 0.0,
        bias: 0.0,
        gain: (1.0, 1.0),
        ..PhantomConfig::default()
    };
    let noise = PhantomConfig::default().noise;
    let phantom = quiet.build().expect("in range");
    let (mut all, mut clear) = (0, 0);
    for seed in 0..8 {
        let (ill, healthy) = (phantom.patient(seed), phantom.healthy_patient(seed));
        for (at, m) in mask(&ill).indexed_iter() {
            if *m > 0.0 {
                let best = ill
                    .sequences
                    .iter()
                    .zip(&healthy.sequences)
                    .map(|((_, a), (_, b))| f64::from((a.data[at] - b.data[at]).abs()))
                    .fold(0.0, f64::max);
                all += 1;
                clear += usize::from(best > 3.0 * noise);
            }
        }
    }
    let share = f64::from(clear as u32) / f64::from(all);
    println!("{share:.3} of the masked voxels differ by more than 3 times the noise");
    assert!(share > 0.9);
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
    let phantom = small().build().expect("in range");
    let on = |threads: usize| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads")
            .install(|| phantom.patient(11))
    };
    let one = on(1);
    assert_eq!(one, on(3));
    assert_ne!(one, phantom.patient(12));
}

#[test]
fn volumes_share_one_grid_in_the_order_of_the_sequences() {
    let config = small();
    let patient = config.patient(3).expect("in range");
    assert_eq!(patient.id, "phantom_000003");
    let names: Vec<&str> = patient.sequences.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, SEQUENCES);
    let mask = patient.mask.as_ref().expect("mask");
    for (_, volume) in &patient.sequences {
        assert_eq!(volume.shape(), [32, 32, 8]);
        assert_eq!(volume.affine, mask.affine);
        assert!(volume.data.iter().all(|v| v.is_finite() && *v >= 0.0));
    }
    assert_eq!(mask.axis_codes(), ['L', 'P', 'S']);
    assert_eq!(mask.spacing(), [6.0, 6.0, 7.5]);
    assert!(mask.data.iter().all(|v| *v == 0.0 || *v == 1.0));
}

#[test]
fn the_cohort_has_healthy_and_diseased_slices_of_teachable_size() {
    let phantom = PhantomConfig::default().build().expect("in range");
    let (mut areas, mut slices) = (Vec::new(), 0);
    let mut by_slice = vec![0usize; phantom.config().slices];
    let patients = 40;
    for seed in 1000..1000 + patients {
        let patient = phantom.patient(seed);
        for (z, slice) in mask(&patient).axis_iter(Axis(2)).enumerate() {
            slices += 1;
            let area = slice.iter().filter(|v| **v > 0.0).count();
            if area > 0 {
                areas.push(area);
                by_slice[z] += 1;
            }
        }
    }
    let share = areas.len() as f64 / f64::from(slices);
    areas.sort_unstable();
    let median = areas[areas.len() / 2];
    println!("diseased {share:.2}, median area {median}, by slice {by_slice:?}");
    assert!((0.4..0.7).contains(&share));
    assert!((120..240).contains(&median));
    let typical = areas.iter().filter(|a| (50..=500).contains(*a)).count();
    assert!(typical * 10 >= areas.len() * 8);
    // Position must not tell the label: the ends of the slab are ill about as often as the middle.
    let third = by_slice.len() / 3;
    let ends: usize = by_slice[..third / 2 + 1]
        .iter()
        .chain(&by_slice[by_slice.len() - third / 2 - 1..])
        .sum();
    let middle: usize = by_slice[third..2 * third].iter().sum();
    let ends = ends as f64 / (2 * (third / 2 + 1)) as f64;
    let middle = middle as f64 / third as f64;
    println!("ill per slice: ends {ends:.1}, middle {middle:.1} of {patients}");
    assert!(ends > 0.65 * middle && middle > 0.65 * ends);
}

#[test]
fn other_sizes_show_the_same_anatomy() {
    // Twice as fine: the mean of 2 x 2 voxels is the coarse voxel, but for the samples' places.
    let quiet = PhantomConfig {
        size: 32,
        slices: 3,
        slice_spacing: 10.0,
        samples: 4,
        noise: 0.0,
        bias: 0.0,
        gain: (1.0, 1.0),
        ..PhantomConfig::default()
    };
    let fine = PhantomConfig {
        size: 64,
        samples: 2,
        ..quiet.clone()
    };
    let (a, b) = (
        quiet.healthy_patient(5).expect("in range"),
        fine.healthy_patient(5).expect("in range"),
    );
    for ((name, a), (_, b)) in a.sequences.iter().zip(&b.sequences) {
        for ((i, j, k), v) in a.data.indexed_iter() {
            let block = b
                .data
                .slice(ndarray::s![2 * i..2 * i + 2, 2 * j..2 * j + 2, k]);
            // Texture is taken at the middle of a voxel, hence the allowance.
            let mean = block.sum() / 4.0;
            assert!((v - mean).abs() < 0.05, "{name} {v} {mean}");
        }
    }
}

#[test]
fn kinds_of_lesions_can_be_chosen() {
    let only = |tumour: f64, stroke: f64, multiple: f64| PhantomConfig {
        lesions: LesionMix {
            tumour,
            stroke,
            multiple,
            ..LesionMix::default()
        },
        ..small()
    };
    for config in [
        only(1.0, 0.0, 0.0),
        only(0.0, 1.0, 0.0),
        only(0.0, 0.0, 1.0),
    ] {
        let voxels: usize = (0..6)
            .map(|seed| {
                let patient = config.patient(seed).expect("in range");
                mask(&patient).iter().filter(|v| **v > 0.0).count()
            })
            .sum();
        assert!(voxels > 0);
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let base = PhantomConfig::default();
    let lesions = LesionMix::default();
    let cases = [
        (
            PhantomConfig {
                size: 4,
                ..base.clone()
            },
            "size",
        ),
        (
            PhantomConfig {
                slices: 0,
                ..base.clone()
            },
            "slices",
        ),
        (
            PhantomConfig {
                samples: 0,
                ..base.clone()
            },
            "samples",
        ),
        (
            PhantomConfig {
                field_of_view: f64::NAN,
                ..base.clone()
            },
            "field_of_view",
        ),
        (
            PhantomConfig {
                slice_spacing: 0.0,
                ..base.clone()
            },
            "slice_spacing",
        ),
        (
            PhantomConfig {
                noise: -0.1,
                ..base.clone()
            },
            "noise",
        ),
        (
            PhantomConfig {
                bias: 2.0,
                ..base.clone()
            },
            "bias",
        ),
        (
            PhantomConfig {
                gain: (2.0, 1.0),
                ..base.clone()
            },
            "gain",
        ),
        (
            PhantomConfig {
                gain: (0.0, 1.0),
                ..base.clone()
            },
            "gain",
        ),
        (
            PhantomConfig {
                lesions: LesionMix {
                    tumour: -1.0,
                    ..lesions.clone()
                },
                ..base.clone()
            },
            "tumour",
        ),
        (
            PhantomConfig {
                lesions: LesionMix {
                    hidden: 1.5,
                    ..lesions.clone()
                },
                ..base.clone()
            },
            "hidden",
        ),
        (
            PhantomConfig {
                lesions: LesionMix {
                    strength: (0.9, 0.5),
                    ..lesions.clone()
                },
                ..base.clone()
            },
            "strength",
        ),
        (
            PhantomConfig {
                lesions: LesionMix {
                    min_area: -1.0,
                    ..lesions
                },
                ..base
            },
            "min_area",
        ),
    ];
    for (config, name) in cases {
        match config.patient(0) {
            Err(Error::InvalidConfig { what, .. }) => assert!(what.contains(name), "{what}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_settings_file_comes_back_and_unknown_keys_are_refused() {
    let config = PhantomConfig {
        size: 96,
        ..PhantomConfig::default()
    };
    let text = serde_json::to_string(&config).expect("json");
    assert_eq!(
        serde_json::from_str::<PhantomConfig>(&text).expect("json"),
        config
    );
    assert_eq!(
        serde_json::from_str::<PhantomConfig>("{}").expect("json"),
        PhantomConfig::default()
    );
    assert!(serde_json::from_str::<PhantomConfig>("{\"sise\": 3}").is_err());
}
