//! Outputs, maps and gradients against guided-diffusion's own, with convolutions computed fast, as by default.

mod common;

use fndm_kernels::{Precision, set_precision};

#[test]
fn outputs_and_gradients_in_fast_mode() {
    set_precision(Precision::Fast);
    common::check_forward(1e-4, 1e-4);
}
