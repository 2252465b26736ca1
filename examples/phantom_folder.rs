//! A data set that anybody can make: a folder of phantom patients, and a table with one bit per slice.
//!
//! `cargo run --release --example phantom_folder -- FOLDER PATIENTS [FIRST_SEED]`

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use fndm::data::{is_lesion, nifti, phantom::PhantomConfig};
use fndm::ndarray::Axis;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "expected FOLDER PATIENTS [FIRST_SEED]";
    let folder = PathBuf::from(arguments.next().ok_or(usage)?);
    let patients: u64 = arguments.next().ok_or(usage)?.parse()?;
    let first: u64 = arguments.next().map_or(Ok(20_000), |seed| seed.parse())?;
    if folder.exists() {
        return Err(format!("{} is there: expected a new folder", folder.display()).into());
    }
    let config = PhantomConfig::default();
    let mut table = "patient,slice0,label\n".to_owned();
    for n in 0..patients {
        let id = format!("p{:02}", n + 1);
        let patient = config.patient(first + n)?;
        let place = folder.join(&id);
        fs::create_dir_all(&place)?;
        for (name, volume) in &patient.sequences {
            nifti::write_map(place.join(format!("{id}_{name}.nii.gz")), volume)?;
        }
        let mask = patient.mask.ok_or("the phantom has a mask")?;
        nifti::write_mask(place.join(format!("{id}_seg.nii.gz")), &mask)?;
        for (z, slice) in mask.data.axis_iter(Axis(2)).enumerate() {
            let bit = match slice.iter().any(|&v| is_lesion(v)) {
                true => "diseased",
                false => "healthy",
            };
            writeln!(table, "{id},{z},{bit}")?;
        }
    }
    fs::write(folder.join("labels.csv"), table)?;
    println!(
        "{} and labels.csv in {}",
        fndm::files::counted(usize::try_from(patients)?, "patient"),
        folder.display()
    );
    Ok(())
}
