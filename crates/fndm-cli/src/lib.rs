#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! One subcommand is one module. What they share is in `common`.

#![allow(
    clippy::doc_markdown,
    reason = "comments on options are the program's help, which has no backticks"
)]

#[macro_use]
mod screen;

#[cfg(test)]
mod book;
mod check;
mod coarse_maps;
mod collect;
mod common;
mod convert;
mod describe;
mod detect;
mod distill;
mod evaluate;
mod inspect;
mod log;
mod man;
mod metrics;
mod model_card;
mod phantom;
mod quickstart;
mod reproduce;
mod shards;
mod slicer;
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
    Train(Box<train::Options>),
    Distill(distill::Options),
    Detect(detect::Options),
    Check(check::Options),
    Describe(describe::Options),
    ModelCard(model_card::Options),
    Evaluate(evaluate::Options),
    Collect(collect::Options),
    Reproduce(reproduce::Options),
    Inspect(inspect::Options),
    Convert(convert::Options),
    Metrics(metrics::Options),
    Phantom(phantom::Options),
    CoarseMaps(coarse_maps::Options),
    Completions(man::Completions),
    Man(man::Man),
}

/// The program: parses the command line and runs the subcommand.
#[must_use]
pub fn main() -> ExitCode {
    finish(|program: Program| match program.command {
        Command::Quickstart(options) => quickstart::run(&options),
        Command::Train(options) => train::run(&options),
        Command::Distill(options) => distill::run(&options),
        Command::Detect(options) => detect::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Describe(options) => describe::run(&options),
        Command::ModelCard(options) => model_card::run(&options),
        Command::Evaluate(options) => evaluate::run(&options),
        Command::Collect(options) => collect::run(&options),
        Command::Reproduce(options) => reproduce::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Convert(options) => convert::run(&options),
        Command::Metrics(options) => metrics::run(&options),
        Command::Phantom(options) => phantom::run(&options),
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
    finish(|alone: Alone| quickstart::run(&alone.options))
}

/// The program `fndm-slicer`: a command line module of 3D Slicer.
#[must_use]
pub fn slicer() -> ExitCode {
    finish(|options: slicer::Options| slicer::run(&options))
}

/// Parses, runs, and tells what went wrong, with the exit codes of docs/design.md.
fn finish<P: Parser>(run: impl FnOnce(P) -> Result<ExitCode>) -> ExitCode {
    let result = match P::try_parse() {
        Ok(options) => log::start().and_then(|()| run(options)),
        Err(told) if told.use_stderr() => {
            // Nothing was done: 1, not clap's 2. Where standard error is gone too, the code says it alone.
            let _ = told.print();
            Ok(ExitCode::FAILURE)
        }
        Err(help) => {
            // Clap knows whether the screen takes colours.
            screen::keep(help.print());
            Ok(ExitCode::SUCCESS)
        }
    };
    let code = result.unwrap_or_else(|error| {
        tell!("error: {}", fndm_files::chain(error.as_ref()));
        ExitCode::FAILURE
    });
    match screen::end() {
        Ok(()) => code,
        Err(error) => {
            tell!("error: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
