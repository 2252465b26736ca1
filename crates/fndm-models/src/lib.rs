//! The guided-diffusion UNet and encoder classifier, with checkpoints in and out.
