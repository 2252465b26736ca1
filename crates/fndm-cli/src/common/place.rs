//! Where results go.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use fndm_files::{Inputs, Maker, OutputFolder, WorkFolder, check_writable};

/// What a program's marker says of a folder of results.
pub(crate) fn maker(program: &str, what: &str) -> Maker {
    Maker::new(program, env!("CARGO_PKG_VERSION"), what)
}

/// Asked in the first second: whether the folder may be replaced, and can be written.
pub(crate) fn check_output(output: &Path, maker: &Maker, inputs: &Inputs) -> Result<()> {
    OutputFolder::check(output, maker, inputs)?;
    Ok(check_writable(output)?)
}

/// As [`check_output`], of a folder that is filled piece by piece.
pub(crate) fn check_work(output: &Path, maker: &Maker, inputs: &Inputs) -> Result<()> {
    WorkFolder::check(output, maker, inputs)?;
    Ok(check_writable(output)?)
}

/// What to do where a file that the user names exists.
#[derive(Debug, Clone, Args)]
pub(crate) struct Overwrite {
    /// Replace an existing file; one that is read by the same command never is
    #[arg(long)]
    overwrite: bool,
}

impl Overwrite {
    /// Asked in the first second: whether the file may be written, and can be.
    pub(crate) fn check(&self, output: &Path, inputs: &Inputs) -> Result<()> {
        inputs.check_file(output, self.overwrite)?;
        Ok(check_writable(output)?)
    }
}

/// The folder of a file that is to be written.
pub(crate) fn make_parent(output: &Path) -> Result<()> {
    if let Some(folder) = output.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| {
            anyhow::Error::new(e).context(format!("cannot make the folder {}", folder.display()))
        })?;
    }
    Ok(())
}
