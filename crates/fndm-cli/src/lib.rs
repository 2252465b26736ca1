//! The program `fndm`: find lesions in brain MR, train models, and judge them.
//!
//! ```sh
//! cargo install --path crates/fndm-cli
//! fndm detect --model assets/lgg --patient DIR --output out/detect
//! ```
//!
//! One subcommand is one module. What they share is in `common`. The library below it is in the crates `fndm` (inference) and
//! `fndm_study` (training, evaluation); this crate has no functions for other programs but the two that start it.

mod coarse_maps;
mod common;
mod convert;
mod detect;
mod evaluate;
mod inspect;
mod man;
mod metrics;
mod quickstart;
mod reproduce;
mod train;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Find lesions in brain MR, pixel by pixel, with a model that was trained on one bit per slice. Not a medical device.
#[derive(Debug, Parser)]
#[command(name = "fndm", version)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Options),
    Train(train::Options),
    Detect(detect::Options),
    Evaluate(evaluate::Options),
    Reproduce(reproduce::Options),
    Inspect(inspect::Options),
    Convert(convert::Options),
    Metrics(metrics::Options),
    CoarseMaps(coarse_maps::Options),
    Completions(man::Completions),
    Man(man::Man),
}

/// The program: parses the command line and runs the subcommand.
#[must_use]
pub fn main() -> ExitCode {
    finish(match Program::parse().command {
        Command::Quickstart(options) => quickstart::run(&options),
        Command::Train(options) => train::run(&options),
        Command::Detect(options) => detect::run(&options),
        Command::Evaluate(options) => evaluate::run(&options),
        Command::Reproduce(options) => reproduce::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Convert(options) => convert::run(&options),
        Command::Metrics(options) => metrics::run(&options),
        Command::CoarseMaps(options) => coarse_maps::run(&options),
        Command::Completions(options) => man::completions(&options),
        Command::Man(options) => man::pages(&options),
    })
}

/// The subcommand `quickstart` as a program of its own: the README's first command.
#[must_use]
pub fn quickstart() -> ExitCode {
    #[derive(Debug, Parser)]
    #[command(version)]
    struct Alone {
        #[command(flatten)]
        options: quickstart::Options,
    }
    finish(quickstart::run(&Alone::parse().options))
}

fn finish(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // The chain of causes, without the backtrace that the debug form may have.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
