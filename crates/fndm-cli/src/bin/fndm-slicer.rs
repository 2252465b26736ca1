//! The program `fndm-slicer`: a command line module of 3D Slicer.

use std::process::ExitCode;

/// Activations are large and short-lived: keeping their blocks saves the page faults.
#[global_allocator]
static ALLOCATOR: fndm::kernels::CachingAlloc = fndm::kernels::CachingAlloc::new();

fn main() -> ExitCode {
    fndm_cli::slicer()
}
