//! What reading costs in memory: measured, with every allocation of the process counted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;
use fndm_data::nifti::{self, DataType};
use fndm_data::profile::PatientProfile;
use fndm_data::{Limits, Preprocess, Volume, affine};
use ndarray::{Array3, ShapeBuilder};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The counters are those of the whole process: one measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

const MB: f64 = 1024.0 * 1024.0;

/// What `work` holds at its peak beyond what was held before, in MiB, and its result.
fn peak<T>(work: impl FnOnce() -> T) -> (f64, T) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = work();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    (peak as f64 / MB, result)
}

#[test]
fn a_volume_costs_at_most_twice_its_size() {
    let _alone = ALONE.lock();
    let root = tempfile::tempdir().unwrap();
    let shape = (240, 240, 155);
    let value = |(i, j, k): (usize, usize, usize)| ((i * j + 31 * k) % 1000) as f32;
    let data = Array3::from_shape_fn(shape.f(), value);
    let size = 4.0 * data.len() as f64 / MB;
    let volume = Volume::new(data, affine::diagonal([1.0; 3]));
    // Threads of the pool take their stacks and queues once.
    rayon::join(|| (), || ());
    for kind in [DataType::U16, DataType::I16, DataType::F32, DataType::F64] {
        for name in ["v.nii", "v.nii.gz"] {
            let path = root.path().join(name);
            nifti::write(&path, &volume, kind).unwrap();
            let (cost, read) = peak(|| nifti::read(&path, &Limits::default()).unwrap());
            println!("{kind:?} {name}: {cost:.1} MiB for {size:.1}");
            assert!(
                cost <= 2.0 * size,
                "{kind:?} {name}: {cost:.1} for {size:.1}"
            );
            assert_eq!(read.data, volume.data);
        }
    }
    // From within the pool as well, where files are read several at a time.
    let path = root.path().join("v.nii.gz");
    let (cost, _) = peak(|| {
        let limits = Limits::default();
        let read = || nifti::read(&path, &limits).unwrap();
        rayon::join(read, || ()).0
    });
    assert!(cost <= 2.0 * size, "{cost:.1}");
}

/// A patient from its files to its slices, and what a check of the input measures: with the volumes one after the other, the cost is that
/// of a few arrays of a volume's size, and doesn't grow with the number of sequences.
#[test]
fn a_patient_from_files_costs_a_few_volumes() {
    let _alone = ALONE.lock();
    let root = tempfile::tempdir().unwrap();
    let (slices, size) = (200, 64);
    let shape = (size, size, slices);
    let volume = 4.0 * (slices * size * size) as f64 / MB;
    let mut files = Vec::new();
    for n in 0..6 {
        // A ball, brighter towards one side.
        let value = |(i, j, k): (usize, usize, usize)| {
            let far = (i as f32 - 32.)
                .hypot(j as f32 - 32.)
                .hypot(0.3 * (k as f32 - 100.));
            if far < 29. {
                (100 + n * i + j * k % 7) as f32
            } else {
                0.
            }
        };
        let data = Array3::from_shape_fn(shape.f(), value);
        let path = root.path().join(format!("p_{n}.nii.gz"));
        let volume = Volume::new(data, affine::diagonal([1.0; 3]));
        nifti::write(&path, &volume, DataType::F32).unwrap();
        files.push((n.to_string(), path));
    }
    rayon::join(|| (), || ());
    let preprocess = Preprocess::default();
    let cut = |count: usize| {
        let files = &files[..count];
        let file = || tempfile::tempfile().unwrap();
        let turned = preprocess.turn_files("p", files, &Limits::default(), file());
        let turned = turned.unwrap();
        PatientProfile::of_turned(&turned).unwrap();
        turned.slices_on_disk(file()).unwrap()
    };
    let (two, _) = peak(|| cut(2));
    let (six, slices) = peak(|| cut(6));
    println!("{two:.1} MiB of 2 sequences, {six:.1} of 6; a volume has {volume:.1}");
    assert_eq!(slices.len(), 200);
    assert!(two < 4.5 * volume, "{two:.1} for {volume:.1}");
    assert!(six < two + 0.1 * volume, "{six:.1} and {two:.1}");
}

fn golden() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| here.join("../../../shared/golden"), PathBuf::from);
    let mut folders = vec![here.join("tests/golden/nifti/bad")];
    if root.join("nifti/bad").is_dir() {
        folders.push(root.join("nifti/bad"));
    } else {
        println!("{} is not there: the small set is used", root.display());
    }
    let list = |folder: &PathBuf| {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path())
    };
    folders.iter().flat_map(list).collect()
}

/// What a broken file may cost.
const MOST: f64 = 64.0;

#[test]
fn broken_files_cost_little() {
    let _alone = ALONE.lock();
    let mut worst = (0.0, PathBuf::new());
    let files = golden();
    assert!(files.len() >= 22);
    for path in files {
        let limits = Limits::default();
        let (single, _) = peak(|| nifti::read_image::<f32>(&path, &limits).is_ok());
        let (double, _) = peak(|| nifti::read_image::<f64>(&path, &limits).is_ok());
        let cost = single.max(double);
        assert!(cost < MOST, "{}: {cost:.1} MiB", path.display());
        if cost > worst.0 {
            worst = (cost, path);
        }
    }
    println!("worst: {:.2} MiB, {}", worst.0, worst.1.display());
}

/// A small packed file that claims all that its size allows, and ends early.
#[test]
fn a_claim_costs_little_until_it_is_kept() {
    let _alone = ALONE.lock();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("v.nii.gz");
    let small = Volume::new(Array3::ones((4, 4, 4)), affine::diagonal([1.0; 3]));
    let plain = root.path().join("v.nii");
    nifti::write(&plain, &small, DataType::U8).unwrap();
    let mut header = std::fs::read(&plain).unwrap()[..352].to_vec();
    for (axis, size) in [600i16, 600, 700].into_iter().enumerate() {
        header[42 + 2 * axis..44 + 2 * axis].copy_from_slice(&size.to_le_bytes());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&header).unwrap();
    encoder.write_all(&vec![7; 1 << 20]).unwrap();
    let mut packed = encoder.finish().unwrap();
    // Padding, so that the file is long enough for the claim of 252 million voxels.
    packed.resize(300_000, 0);
    std::fs::write(&path, &packed).unwrap();
    let (cost, read) = peak(|| nifti::read(&path, &Limits::default()));
    let error = read.unwrap_err();
    assert!(
        matches!(error, fndm_data::Error::Truncated { .. }),
        "{error}"
    );
    println!("{cost:.1} MiB: {error}");
    assert!(cost < MOST, "{cost:.1} MiB");
}
