//! Joins what shards wrote into one report, and says what is missing.
//!
//! fndm collect out/detect --output out/collect

mod detect;
mod evaluate;
mod joined;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use fndm::kernels::keeping_nothing;
use fndm_files::{Inputs, OutputFolder};

use crate::common::place;
use crate::shards::progress::Times;
use joined::Joined;

/// Join the results of `detect --shard` or `evaluate --shard` into one table, JSON and report, and say which patients are missing or
/// failed. Ends with 2 where some are
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder that the shards wrote to, or several
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Where the tables go
    #[arg(long, value_name = "DIR", default_value = "out/collect")]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    // What is read of a patient has another size than what was read of the last one, and the tables grow: kept blocks would add up.
    keeping_nothing(|| join(options))
}

fn join(options: &Options) -> Result<ExitCode> {
    let inputs = options.folders.iter();
    let inputs = inputs.fold(Inputs::new(), Inputs::folder);
    let maker = place::maker("collect", "cohort");
    place::check_output(&options.output, &maker, &inputs)?;
    let joined = Joined::read(&options.folders)?;
    let mut folder = OutputFolder::create(&options.output, &maker, &inputs)?;
    // A form of the report more is one function more of what was joined.
    let words = match joined.how.program.as_str() {
        "detect" => detect::write(&joined, &options.output, &mut folder)?,
        "evaluate" => evaluate::write(&joined, &options.output, &mut folder)?,
        other => bail!("expected records of detect or evaluate, got {other}"),
    };
    folder.finish()?;
    say!("{words}");
    // On the screen alone: it differs from run to run.
    let times: Vec<Times> = options
        .folders
        .iter()
        .flat_map(|f| Times::read_all(f))
        .collect();
    let networks: f64 = times.iter().flat_map(|t| t.milliseconds.values()).sum();
    if networks > 0. {
        say!(
            "the networks took {:.0} s in the last runs, which took {:.0} s of all shards together",
            networks / 1e3,
            times.iter().map(|t| t.seconds).sum::<f64>()
        );
    }
    say!("wrote {}", options.output.display());
    for line in joined.missing_in_words(SHOWN) {
        tell!("{line}");
    }
    Ok(ExitCode::from(if joined.is_whole() { 0 } else { 2 }))
}

/// Patients of each kind that the screen shows by name; files have all.
const SHOWN: usize = 20;
