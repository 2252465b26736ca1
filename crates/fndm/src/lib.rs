//! Fast Non-Markovian Diffusion Model: find lesions in brain MR from image-level labels.
