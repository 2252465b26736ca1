//! Working memory of the surface distances of a volume of `BraTS` size: below six times the mask.
//!
//! Alone in its program, since it watches the peak of the whole process (Linux only).

use fndm_metrics::{
    BorderDistances, Connectivity, LesionConfig, SurfelDistances, VoxelDistances, lesion_detection,
};
use ndarray::Array3;

/// The largest memory the process has held so far, in bytes.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[test]
fn working_memory_is_below_six_times_the_mask() {
    let shape = (240, 240, 155);
    let ellipsoid = |scale: f64, shift: f64| {
        Array3::from_shape_fn(shape, |(x, y, z)| {
            let u = (x as f64 - 119.5 - shift) / 110.0;
            let v = (y as f64 - 119.5) / 110.0;
            let w = (z as f64 - 77.0) / 70.0;
            u * u + v * v + w * w < scale * scale
        })
    };
    let (result, reference) = (ellipsoid(1.0, 3.0), ellipsoid(0.9, 0.0));
    let far = ellipsoid(0.5, 0.0);
    let size = result.len();
    let (a, b, spacing) = (result.view(), reference.view(), [1.0; 3]);
    let Some(before) = peak() else {
        println!("skipped: no /proc/self/status");
        return;
    };
    // The smaller ones first: the peak only grows.
    let check = |what: &str| {
        let used = peak().unwrap() - before;
        println!("{what}: {:.1} times the mask", used as f64 / size as f64);
        assert!(used < 6 * size, "{what}: {used} bytes for masks of {size}");
    };
    BorderDistances::of(&a, &b, &spacing, Connectivity::Faces)
        .unwrap()
        .unwrap();
    check("border distances");
    let inside = far.view();
    BorderDistances::of(&a, &inside, &spacing, Connectivity::Faces)
        .unwrap()
        .unwrap();
    check("border distances, far apart");
    VoxelDistances::of(&a, &b, &spacing).unwrap().unwrap();
    check("voxel distances");
    SurfelDistances::of(&a, &b, &spacing).unwrap().unwrap();
    check("surfel distances");
    lesion_detection(&a, &b, &spacing, &LesionConfig::default()).unwrap();
    check("lesions");
}
