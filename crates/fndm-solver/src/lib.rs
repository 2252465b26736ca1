//! Noise schedules, time grids and diffusion ODE solvers, encoding and sampling.
