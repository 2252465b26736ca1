//! Whole patients from files to files: the program `fndm detect`, as a user runs it, start and loading of the model included.

use super::{Case, number};
use anyhow::{Context, Result, ensure};
use fndm_data::{Limits, nifti};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Detect {
    program: PathBuf,
    patients: PathBuf,
    /// Where each run's folder lies.
    outputs: PathBuf,
    runs: usize,
}

impl Detect {
    /// The folder of the run before.
    fn last(&self) -> PathBuf {
        self.outputs.join(self.runs.to_string())
    }
}

impl Case for Detect {
    fn run(&mut self) -> Result<()> {
        if self.runs > 0 {
            std::fs::remove_dir_all(self.last())?;
        }
        self.runs += 1;
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
        let done = Command::new(&self.program)
            .arg("detect")
            .args([Path::new("--model"), &model])
            .args([Path::new("--data"), &self.patients])
            .args([Path::new("--output"), &self.last()])
            .args(["--method", "fndm", "--report", "none"])
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("can't start {}", self.program.display()))?;
        ensure!(done.success(), "fndm detect ended with {done}");
        Ok(())
    }

    /// Of the first patient's anomaly map, as `check` of `peers/detect.py`.
    fn check(&mut self) -> Result<Vec<f64>> {
        let mut patients = Vec::new();
        for entry in std::fs::read_dir(&self.patients)? {
            patients.push(entry?.file_name().to_string_lossy().into_owned());
        }
        let first = patients.iter().min().context("no patients")?;
        let file = self
            .last()
            .join(first)
            .join(format!("{first}_anomaly.nii.gz"));
        let volume = nifti::read(&file, &Limits::default())?;
        // First axis fastest.
        let values = volume.data.t();
        Ok(values.iter().step_by(997).map(|v| f64::from(*v)).collect())
    }
}

impl Drop for Detect {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.outputs);
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let count = number(spec, "patients")?;
    let program = match std::env::var_os("FNDM_COMPARE_FNDM") {
        Some(program) => program.into(),
        None => std::env::current_exe()?.with_file_name("fndm"),
    };
    let folder = std::env::temp_dir();
    // The peer makes the patients, by `phantoms` of `peers/end_to_end/phantoms.py`.
    let patients = folder.join(format!("fndm-compare-phantoms-{count}"));
    let outputs = folder.join(format!("fndm-compare-detect-{}", std::process::id()));
    std::fs::create_dir(&outputs)?;
    Ok(Box::new(Detect {
        program,
        patients,
        outputs,
        runs: 0,
    }))
}
