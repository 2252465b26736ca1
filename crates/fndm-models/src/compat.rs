//! guided-diffusion's constructor arguments, read as configs.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{ClassifierConfig, Error, Result, UNetConfig};

impl UNetConfig {
    /// The config for the arguments of guided-diffusion's `UNetModel`, a JSON object. Arguments that aren't named
    /// have guided-diffusion's defaults; -1 means none, as there.
    ///
    /// # Errors
    /// For an unknown argument, a wrong type, `dims` other than 2, or options that don't fit together.
    pub fn from_guided_diffusion(arguments: &Value) -> Result<Self> {
        let config: Self = read(arguments, &[])?;
        config.check()?;
        Ok(config)
    }
}

impl ClassifierConfig {
    /// The config for the arguments of guided-diffusion's `EncoderUNetModel`, a JSON object.
    ///
    /// diffusion-anomaly calls another head `spatial`: set `pool` to
    /// [`Pool::SpatialAverage8`](crate::Pool::SpatialAverage8) for its models.
    ///
    /// # Errors
    /// As [`UNetConfig::from_guided_diffusion`].
    pub fn from_guided_diffusion(arguments: &Value) -> Result<Self> {
        let config: Self = read(arguments, &["num_heads_upsample"])?;
        config.check()?;
        Ok(config)
    }
}

/// Options that change how the original computes, not what.
const WITHOUT_EFFECT: [&str; 2] = ["use_checkpoint", "use_fp16"];

fn read<T: DeserializeOwned>(arguments: &Value, ignored: &[&str]) -> Result<T> {
    let Value::Object(arguments) = arguments else {
        return Err(Error::config(
            "guided-diffusion arguments: expected a JSON object",
        ));
    };
    let mut kept = Map::new();
    for (name, value) in arguments {
        let name = name.as_str();
        if name == "dims" {
            if value.as_u64() != Some(2) {
                return Err(Error::Config(format!("dims: expected 2, got {value}")));
            }
        } else if WITHOUT_EFFECT.contains(&name) || ignored.contains(&name) {
        } else if name.starts_with("num_") && value.as_i64() == Some(-1) {
            kept.insert(name.to_owned(), Value::Null);
        } else {
            kept.insert(name.to_owned(), value.clone());
        }
    }
    serde_json::from_value(Value::Object(kept))
        .map_err(|e| Error::Config(format!("guided-diffusion arguments: {e}")))
}
