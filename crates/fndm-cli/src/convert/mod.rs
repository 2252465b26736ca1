//! Converts a checkpoint of the UNet or the classifier between PyTorch and safetensors, and checks it on the way.
//!
//! fndm convert ema_0.9999_100000.pt unet.safetensors --config flags.json
//! fndm convert --onnx out/model out/onnx

mod onnx;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use fndm::candle_core::{DType, Device, Tensor};
use fndm::models::{
    Classifier, ClassifierConfig, Guess, Limits, NetworkConfig, StateDict, UNet, UNetConfig,
};
use fndm_files::{Inputs, write_by};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::common::place;

/// Convert a checkpoint: .pt or .pth to .safetensors, or the other way. The names of the tensors stay guided-diffusion's. Or a model
/// folder's networks to ONNX, with --onnx.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Checkpoint to read: safetensors or PyTorch, whatever its name; with --onnx, a model folder
    input: PathBuf,
    /// File to write; its ending says the format: .safetensors, .pt or .pth; with --onnx, a folder
    output: PathBuf,
    /// Write every network of a model folder as an ONNX file: student, UNet, classifier (forward)
    #[arg(long, conflicts_with_all = ["kind", "config", "key", "limit", "overwrite"])]
    onnx: bool,
    #[command(flatten)]
    overwrite: place::Overwrite,
    /// What the checkpoint is; told from the names of its tensors if not given
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// JSON file with the network's config, or with guided-diffusion's constructor arguments
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the state dict in a PyTorch file that has several
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Type of the values written; as they are if not given. With --onnx: f32 (if not given) or f16, which the networks widen
    #[arg(long, value_parser = dtype())]
    dtype: Option<DType>,
    /// Most bytes that all tensors together may have
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().tensor_bytes)]
    limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Unet,
    Classifier,
    /// Any other network: nothing is checked but the copy
    Other,
}

fn dtype() -> impl TypedValueParser<Value = DType> {
    PossibleValuesParser::new(["f32", "f16", "bf16"]).try_map(|name| name.parse::<DType>())
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.onnx {
        return onnx::run(options);
    }
    let torch = match options.output.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => false,
        Some("pt" | "pth") => true,
        _ => bail!(
            "{}: expected a name that ends in .safetensors, .pt or .pth",
            options.output.display()
        ),
    };
    let mut inputs = Inputs::new().file(&options.input);
    if let Some(config) = &options.config {
        inputs = inputs.file(config);
    }
    options.overwrite.check(&options.output, &inputs)?;
    let limits = Limits {
        tensor_bytes: options.limit,
        ..Limits::default()
    };
    let mut state = match &options.key {
        Some(key) => StateDict::read_key(&options.input, key, &limits)?,
        None => StateDict::read(&options.input, &limits)?,
    };
    say!(
        "{}: {} tensors, {} values",
        options.input.display(),
        state.tensors().len(),
        state.len_elements()
    );
    if let Some(dtype) = options.dtype {
        state = narrowed(&state, dtype)?;
    }
    state = match options.kind.unwrap_or_else(|| kind_of(&state)) {
        Kind::Unet => with_config(state, options.config.as_deref(), &UNET)?,
        Kind::Classifier => with_config(state, options.config.as_deref(), &CLASSIFIER)?,
        Kind::Other => state,
    };
    place::make_parent(&options.output)?;
    // Under its name only when it has been read back.
    write_by(&options.output, |path| -> Result<()> {
        if torch {
            state.save_torch(path)?;
        } else {
            state.save(path)?;
        }
        check_equal(&state, &StateDict::read(path, &limits)?)
    })?;
    if torch && !state.metadata().is_empty() {
        say!("The format has no place for the config and other words about the file.");
    }
    say!(
        "{}: written, read back, equal in all names, shapes, types and bits",
        options.output.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn kind_of(state: &StateDict) -> Kind {
    if state.get("time_embed.0.weight").is_none() {
        Kind::Other
    } else if state
        .tensors()
        .keys()
        .any(|name| name.starts_with("output_blocks."))
    {
        Kind::Unet
    } else {
        Kind::Classifier
    }
}

/// What is done with a config of one kind.
struct Network<C> {
    parse: fn(&Value) -> fndm::models::Result<C>,
    guess: fn(&StateDict) -> fndm::models::Result<Guess<C>>,
    check: fn(&C, &StateDict) -> fndm::models::Result<()>,
}

const UNET: Network<UNetConfig> = Network {
    parse: UNetConfig::from_guided_diffusion,
    guess: UNetConfig::guess,
    check: |config, state| {
        UNet::from_state_dict(config, state, DType::F32, &Device::Cpu).map(|_| ())
    },
};

const CLASSIFIER: Network<ClassifierConfig> = Network {
    parse: ClassifierConfig::from_guided_diffusion,
    guess: ClassifierConfig::guess,
    check: |config, state| {
        Classifier::from_state_dict(config, state, DType::F32, &Device::Cpu).map(|_| ())
    },
};

/// The state with the config that was given, or that it has, after a check of every tensor against it.
fn with_config<C>(state: StateDict, file: Option<&Path>, network: &Network<C>) -> Result<StateDict>
where
    C: NetworkConfig + DeserializeOwned,
{
    let config = match file {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
            let value: Value =
                serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
            Some((network.parse)(&value).with_context(|| format!("{}", path.display()))?)
        }
        None => state.config::<C>()?,
    };
    let Some(config) = config else {
        let guess = (network.guess)(&state)?;
        (network.check)(&guess.config, &state)?;
        say!(
            "The shapes fit this {} config, and can't tell {}:\n{}\nThe file is written without a config. Put the right one in a JSON file and give it with --config.",
            C::KIND,
            guess.undetermined.join(", "),
            serde_json::to_string_pretty(&guess.config)?
        );
        return Ok(state);
    };
    (network.check)(&config, &state)?;
    say!("{}: every tensor fits the config", C::KIND);
    Ok(state.with_config(&config)?)
}

fn narrowed(state: &StateDict, dtype: DType) -> Result<StateDict> {
    let tensors = state
        .tensors()
        .iter()
        .map(|(name, tensor)| {
            if !tensor.dtype().is_float() {
                return Ok((name.clone(), tensor.clone()));
            }
            let narrow = tensor.to_dtype(dtype)?;
            ensure!(
                infinities(&narrow)? == infinities(tensor)?,
                "{name}: {dtype:?} can't hold some of its values"
            );
            Ok((name.clone(), narrow))
        })
        .collect::<Result<_>>()?;
    let mut out = StateDict::new(tensors);
    for (name, value) in state.metadata() {
        out = out.with_metadata(name, value);
    }
    Ok(out)
}

fn infinities(tensor: &Tensor) -> Result<usize> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.iter().filter(|v| v.is_infinite()).count())
}

fn check_equal(a: &StateDict, b: &StateDict) -> Result<()> {
    ensure!(
        a.tensors().keys().eq(b.tensors().keys()),
        "the written file has other names"
    );
    for ((name, x), y) in a.tensors().iter().zip(b.tensors().values()) {
        ensure!(
            x.dims() == y.dims() && x.dtype() == y.dtype() && bits(x)? == bits(y)?,
            "{name}: the written file has another shape, type or value"
        );
    }
    Ok(())
}

/// The values widened to f64, which keeps every one apart, and compared as bits.
fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    let values: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().map(f64::to_bits).collect())
}
