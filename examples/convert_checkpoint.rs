//! A checkpoint of PyTorch converted to safetensors, with the network's config in it.
//!
//! `cargo run --release --example convert_checkpoint`

use fndm::candle_core::{DType, Device, Tensor};
use fndm::models::{Classifier, ClassifierConfig, Limits, Parameters, StateDict};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (
        folder.path().join("classifier.pt"),
        folder.path().join("classifier.safetensors"),
    );
    let (device, limits) = (Device::Cpu, Limits::default());

    // A `.pt` as PyTorch writes it, here of a classifier that nobody has trained. guided-diffusion's own are read alike.
    let parameters = Parameters::new(1, DType::F32, &device);
    let made = ClassifierConfig {
        image_size: 32,
        ..ClassifierConfig::small_64(4)
    };
    Classifier::new(&made, parameters.builder())?;
    parameters.state_dict()?.save_torch(&input)?;

    // No code in the file is run: anything but tensors by name is an error, and so is more memory than the limits allow.
    let state = StateDict::read(&input, &limits)?;
    println!(
        "read {} tensors, {} values",
        state.tensors().len(),
        state.len_elements()
    );
    for (name, tensor) in state.tensors().iter().take(3) {
        println!("  {name} {:?} {:?}", tensor.dims(), tensor.dtype());
    }

    // It has no config. The shapes tell most of it; the rest has to be known.
    let guess = ClassifierConfig::guess(&state)?;
    println!("the shapes can't tell {}", guess.undetermined.join(", "));
    let config = ClassifierConfig {
        image_size: 32,
        num_head_channels: Some(32),
        ..guess.config
    };

    // A network that differs is refused, with every tensor that doesn't fit.
    let other = ClassifierConfig {
        out_channels: 3,
        ..config.clone()
    };
    if let Err(refused) = Classifier::from_state_dict(&other, &state, DType::F32, &device) {
        println!("\nwith three classes: {refused}\n");
    }

    // With the config in it, the new file needs no other.
    state.with_config(&config)?.save(&output)?;
    let classifier = Classifier::load(&output, &limits, DType::F32, &device)?;
    println!(
        "classifier.safetensors: {} bytes",
        std::fs::metadata(&output)?.len()
    );
    let image = Tensor::zeros((1, config.in_channels, 32, 32), DType::F32, &device)?;
    let logits = classifier.forward(&image, &Tensor::new(&[0f32], &device)?)?;
    println!("a grey slice has the logits {:?}", logits.to_vec2::<f32>()?);
    Ok(())
}
