//! Completions for shells, and manual pages.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use fndm_files::{Inputs, write_atomic};

use crate::Program;
use crate::common::place::Overwrite;

/// Print the completions of a shell.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Write manual pages: fndm.1 and one for each subcommand.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder that the pages go to
    folder: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

pub(crate) fn completions(options: &Completions) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Program::command(), "fndm", &mut script);
    crate::screen::print(format_args!("{}", String::from_utf8_lossy(&script)));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn pages(options: &Man) -> Result<ExitCode> {
    std::fs::create_dir_all(&options.folder)
        .with_context(|| options.folder.display().to_string())?;
    let mut program = Program::command();
    program.build();
    page(options, program.clone(), "fndm".into())?;
    for command in program.get_subcommands() {
        let name = format!("fndm-{}", command.get_name());
        page(options, command.clone(), name)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn page(options: &Man, command: clap::Command, name: String) -> Result<()> {
    let file = options.folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    clap_mangen::Man::new(command.name(name)).render(&mut text)?;
    options.overwrite.check(&file, &Inputs::new())?;
    Ok(write_atomic(&file, text)?)
}
