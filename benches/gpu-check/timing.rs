//! Forward pass, training step and detection of a volume, each until the GPU is done.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_nn::VarBuilder;
use fndm::candle_core::{DType, Device, Tensor, Var};
use fndm::data::phantom::PhantomConfig;
use fndm::kernels::{
    AdamStep, AdamTensor, MatrixMath, Tape, adam_step_all, matrix_math, set_matrix_math,
};
use fndm::memory::MemoryBank;
use fndm::models::{Classifier, ClassifierConfig, Parameters, UNet, UNetConfig};
use fndm::{Detector, Method, ModelConfig};

use crate::report::Report;
use crate::{Options, has_bf16};

/// Runs before the clock starts: kernels are compiled, algorithms chosen, memory taken.
const WARM_UP: usize = 3;

fn repeat(device: &Device, n: usize, mut f: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    for _ in 0..WARM_UP.min(n) {
        f()?;
    }
    (0..n)
        .map(|_| {
            device.synchronize()?;
            let start = Instant::now();
            f()?;
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

fn network(options: &Options, inputs: usize, outputs: usize) -> UNetConfig {
    match options.size {
        256 => UNetConfig::paper_256(inputs, outputs),
        128 => UNetConfig::paper_128(inputs, outputs),
        _ => UNetConfig::paper_64(inputs, outputs),
    }
}

/// DiffANO's configuration: four sequences, learned variance.
fn diffano(options: &Options) -> UNetConfig {
    network(options, 4, 8)
}

/// A network of random weights.
fn random_unet(config: &UNetConfig, dtype: DType, device: &Device) -> Result<UNet> {
    let parameters = Parameters::new(1, DType::F32, device);
    let _registered = UNet::new(config, parameters.builder())?;
    let tensors = parameters
        .iter()
        .map(|(name, var)| Ok((name, var.as_detached_tensor().to_dtype(dtype)?)))
        .collect::<Result<_>>()?;
    let builder = VarBuilder::from_tensors(tensors, dtype, device);
    Ok(UNet::new(config, builder)?)
}

struct Batch {
    x: Tensor,
    t: Tensor,
    y: Tensor,
    target: Tensor,
}

impl Batch {
    fn new(options: &Options, config: &UNetConfig, device: &Device) -> Result<Self> {
        let (b, size) = (options.batch, options.size);
        let noise = |channels: usize| -> Result<Tensor> {
            let n = b * channels * size * size;
            let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            Ok(Tensor::from_vec(values, (b, channels, size, size), device)?)
        };
        let times: Vec<f32> = (0..b).map(|i| 500. - 7. * i as f32).collect();
        let labels: Vec<u32> = (0..b as u32).map(|i| i % 2).collect();
        Ok(Self {
            x: noise(config.in_channels)?,
            t: Tensor::new(times, device)?,
            y: Tensor::new(labels, device)?,
            target: noise(config.out_channels)?,
        })
    }
}

/// The ways of computing that are timed.
fn settings(device: &Device) -> Vec<(&'static str, DType, MatrixMath)> {
    let mut all = vec![("f32", DType::F32, MatrixMath::Full)];
    if has_bf16(device) {
        all.push(("tf32", DType::F32, MatrixMath::Tf32));
        all.push(("bf16", DType::BF16, MatrixMath::Full));
    }
    all
}

fn builder(parameters: &Parameters, dtype: DType, device: &Device) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(parameters.clone()), dtype, device.clone())
}

pub(crate) fn run(device: &Device, options: &Options, report: &mut Report) -> Result<()> {
    let before = matrix_math();
    for (setting, dtype, math) in settings(device) {
        set_matrix_math(math);
        forward(device, options, (setting, dtype), report)?;
        training_step(device, options, (setting, dtype), report)?;
    }
    for (setting, dtype, math) in settings(device).into_iter().rev().take(1) {
        set_matrix_math(math);
        detection(device, options, (setting, dtype), report)?;
    }
    set_matrix_math(before);
    Ok(())
}

fn forward(
    device: &Device,
    options: &Options,
    (setting, dtype): (&str, DType),
    report: &mut Report,
) -> Result<()> {
    let config = diffano(options);
    let batch = Batch::new(options, &config, device)?;
    let unet = random_unet(&config, dtype, device)?;
    let mut times = repeat(device, options.repetitions, || {
        unet.forward(&batch.x, &batch.t, Some(&batch.y))?;
        Ok(())
    })?;
    let case = format!("forward, {} px, batch {}", options.size, options.batch);
    report.timing(&case, setting, &mut times)
}

fn training_step(
    device: &Device,
    options: &Options,
    (setting, dtype): (&str, DType),
    report: &mut Report,
) -> Result<()> {
    let config = diffano(options);
    let batch = Batch::new(options, &config, device)?;
    let parameters = Parameters::new(1, DType::F32, device);
    let _registered = UNet::new(&config, parameters.builder())?;
    let vars: Vec<(String, Var)> = parameters.iter().collect();
    let zeros = |var: &Var| Var::zeros(var.dims(), DType::F32, device);
    let moments = vars
        .iter()
        .map(|(_, var)| Ok((zeros(var)?, zeros(var)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut step = 0;
    let mut times = repeat(device, options.repetitions, || {
        let tape = Tape::start()?;
        // Narrow copies of the weights, through which the gradients reach the weights themselves.
        let unet = UNet::new(&config, builder(&parameters, dtype, device))?;
        let output = unet.forward(&batch.x, &batch.t, Some(&batch.y))?;
        let loss = (output - &batch.target)?.sqr()?.mean_all()?;
        let grads = tape.backward(&loss)?;
        step += 1;
        let adam = AdamStep {
            lr: 1e-4,
            step,
            ..AdamStep::default()
        };
        let mut tensors = Vec::new();
        for ((name, param), (m, v)) in vars.iter().zip(&moments) {
            let grad = grads
                .get(param)
                .with_context(|| format!("{name}: no gradient"))?;
            tensors.push(AdamTensor { param, m, v, grad });
        }
        Ok(adam_step_all(&tensors, &adam, 1.)?)
    })?;
    let case = format!(
        "training step, {} px, batch {}",
        options.size, options.batch
    );
    report.timing(&case, setting, &mut times)
}

/// The round trip of a volume with random weights, guided by the classifier. The memory bank
/// is left out, since it would need a trained classifier of this size.
fn detection(
    device: &Device,
    options: &Options,
    (setting, dtype): (&str, DType),
    report: &mut Report,
) -> Result<()> {
    let mut config = ModelConfig::read(&options.model.join("model.json"))?;
    let channels = config.sequences.len();
    config.preprocess.image_size = options.size;
    let unet_config = network(options, 2 * channels + 1, channels);
    let classifier_config = match options.size {
        256 => ClassifierConfig::paper_256(channels),
        128 => ClassifierConfig::paper_128(channels),
        _ => ClassifierConfig::paper_64(channels),
    };
    config.contrast = false;
    config.student = None;
    config.separate.clear();
    let unet = Parameters::new(1, DType::F32, device);
    UNet::new(&unet_config, unet.builder())?;
    let classifier = Parameters::new(2, DType::F32, device);
    Classifier::new(&classifier_config, classifier.builder())?;
    (config.unet, config.classifier) = (Some(unet_config), Some(classifier_config));
    let bank = MemoryBank::load(options.model.join("memory.safetensors"))?;
    let phantom = PhantomConfig {
        size: options.size,
        slices: options.slices,
        slice_spacing: (60. / options.slices as f64).clamp(0.2, 2.5),
        samples: 1,
        ..PhantomConfig::default()
    };
    let patient = phantom.patient(1)?;
    let mut settings = config.detect_config(Method::Fndm);
    settings.parts.memory_bank = false;
    settings.steps = options.evaluations;
    settings.batch = options.batch;
    let detector = Detector::builder(config)
        .device(device)
        .precision(dtype)
        .unet(unet.state_dict()?)
        .classifier(classifier.state_dict()?)
        .bank(bank)
        .build()?;
    let slices = detector.slices(&patient)?;
    let n = slices.len();
    let mut times = repeat(device, 1, || {
        detector.examine(&slices, &settings, &mut |_| {})?;
        Ok(())
    })?;
    let (size, steps) = (options.size, options.evaluations);
    let case = format!("round trip of {n} slices, {size} px, {steps} + {steps}");
    report.timing(&case, setting, &mut times)
}
