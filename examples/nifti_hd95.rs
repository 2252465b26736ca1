//! From two NIfTI masks to HD95, in millimetres, by the definitions in use.
//!
//! `cargo run --release --example nifti_hd95`

use fndm::data::{Limits, Volume, is_lesion, nifti, phantom::PhantomConfig};
use fndm::metrics::{Definition, Result as Metric, Score, average_symmetric_surface_distance};
use fndm::metrics::{dice, hausdorff, percentile_hausdorff};
use fndm::ndarray::{Array3, s};

/// A score without a value says why; a distance that a definition doesn't have is an error.
fn words(score: Metric<Score>) -> String {
    match score.map(Score::value) {
        Ok(Some(value)) => format!("{value:.2}"),
        Ok(None) => "a mask is empty".into(),
        Err(_) => "none".into(),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Two files: a lesion of the phantom, and the same moved by a voxel, with a speck far away.
    let folder = tempfile::tempdir()?;
    let paths = ["result.nii.gz", "reference.nii.gz"].map(|name| folder.path().join(name));
    let truth = PhantomConfig::default()
        .patient(0)?
        .mask
        .ok_or("the phantom has a mask")?;
    let mut moved = Array3::zeros(truth.data.dim());
    moved
        .slice_mut(s![1.., .., ..])
        .assign(&truth.data.slice(s![..-1, .., ..]));
    moved[(2, 2, 2)] = 1.;
    nifti::write_mask(&paths[0], &Volume::new(moved, truth.affine))?;
    nifti::write_mask(&paths[1], &truth)?;

    let result = nifti::read(&paths[0], &Limits::default())?;
    let reference = nifti::read(&paths[1], &Limits::default())?;
    // Distances mean something on one grid alone.
    if result.shape() != reference.shape() || result.affine != reference.affine {
        return Err("expected two masks on one grid".into());
    }
    let spacing = reference.spacing();
    let (result, reference) = (result.data.mapv(is_lesion), reference.data.mapv(is_lesion));
    let (result, reference) = (result.view(), reference.view());
    println!(
        "voxels of {spacing:?} mm, Dice {}\n",
        words(dice(&result, &reference))
    );

    println!("| as in | HD95, mm | largest, mm | mean, mm |\n| --- | --- | --- | --- |");
    for definition in [
        Definition::Medpy,
        Definition::SurfaceDistance,
        Definition::SimpleItk,
    ] {
        let hd95 = percentile_hausdorff(&result, &reference, &spacing, 95., definition);
        let largest = hausdorff(&result, &reference, &spacing, definition);
        let mean = average_symmetric_surface_distance(&result, &reference, &spacing, definition);
        println!(
            "| {definition} | {} | {} | {} |",
            words(hd95),
            words(largest),
            words(mean)
        );
    }
    Ok(())
}
