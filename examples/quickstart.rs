//! The whole method on a cohort that everybody has: the phantom, with the weights in assets/.
//!
//! `cargo run --release --example quickstart`

use std::process::ExitCode;

/// Activations are large and short-lived: keeping their blocks saves the page faults.
#[global_allocator]
static ALLOCATOR: fndm::kernels::CachingAlloc = fndm::kernels::CachingAlloc::new();

fn main() -> ExitCode {
    fndm_cli::quickstart()
}
