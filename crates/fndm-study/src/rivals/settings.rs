//! The rows of the table, as a file has them.

use std::path::Path;

use candle_core::Device;
use fndm_baselines::cflow::{CflowMethod, CflowSettings};
use fndm_baselines::csflow::{CsFlowMethod, CsFlowSettings};
use fndm_baselines::dae::{DaeMethod, DaeSettings};
use fndm_baselines::fastflow::{FastFlowMethod, FastFlowSettings};
use fndm_baselines::padim::{PadimMethod, PadimSettings};
use fndm_baselines::patch_core::{self, PatchCoreMethod};
use fndm_baselines::reverse_distillation::{ReverseMethod, ReverseSettings};
use fndm_baselines::stfpm::{StfpmMethod, StfpmSettings};
use fndm_baselines::{Extractor, Method, PostProcessing};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FeatureSettings, Features, Pretrained};
use crate::{Error, Result, overlay};

/// Which method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RivalKind {
    /// Wang et al. 2021.
    Stfpm,
    /// Deng and Li 2022.
    ReverseDistillation,
    /// Gudovskiy et al. 2022.
    Cflow,
    /// Rudolph et al. 2022.
    Csflow,
    /// Yu et al. 2021.
    Fastflow,
    /// Defard et al. 2021.
    Padim,
    /// Roth et al. 2022.
    PatchCore,
    /// Kascenas et al. 2022.
    Dae,
}

impl RivalKind {
    /// The name in keys.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Stfpm => "stfpm",
            Self::ReverseDistillation => "reverse_distillation",
            Self::Cflow => "cflow",
            Self::Csflow => "csflow",
            Self::Fastflow => "fastflow",
            Self::Padim => "padim",
            Self::PatchCore => "patch_core",
            Self::Dae => "dae",
        }
    }

    /// The authors' settings with some of them changed: all of them as JSON, each known and of its kind.
    fn settings(self, changes: &Value) -> Result<Value> {
        fn of<T: Serialize + DeserializeOwned>(from: &T, changes: &Value) -> Result<Value> {
            let settings: T = overlay(from, changes)?;
            overlay(&settings, &no_changes())
        }
        match self {
            Self::Stfpm => of(&StfpmSettings::official(), changes),
            Self::ReverseDistillation => of(&ReverseSettings::official(), changes),
            Self::Cflow => of(&CflowSettings::official(), changes),
            Self::Csflow => of(&CsFlowSettings::official(), changes),
            Self::Fastflow => of(&FastFlowSettings::official(), changes),
            Self::Padim => of(&PadimSettings::official(), changes),
            Self::PatchCore => of(&patch_core::official(), changes),
            Self::Dae => of(&DaeSettings::official(), changes),
        }
    }

    /// The method with these settings.
    fn method(self, settings: &Value, features: Option<&Features>) -> Result<Box<dyn Method>> {
        fn of<T: DeserializeOwned>(settings: &Value) -> Result<T> {
            overlay(settings, &no_changes())
        }
        let extractor = || -> Result<Extractor> {
            let found = features.map(|f| f.extractor.clone());
            let expected = "some, for this method";
            found.ok_or_else(|| Error::option("features", expected, "none"))
        };
        Ok(match self {
            Self::Stfpm => Box::new(StfpmMethod {
                settings: of(settings)?,
                extractor: extractor()?,
            }),
            Self::ReverseDistillation => Box::new(ReverseMethod {
                settings: of(settings)?,
                extractor: extractor()?,
            }),
            Self::Cflow => Box::new(CflowMethod {
                settings: of(settings)?,
                extractor: extractor()?,
            }),
            Self::Csflow => Box::new(CsFlowMethod {
                settings: of(settings)?,
                extractor: extractor()?,
            }),
            Self::Fastflow => Box::new(FastFlowMethod {
                settings: of(settings)?,
                extractor: extractor()?,
            }),
            Self::Padim => Box::new(PadimMethod {
                settings: of(settings)?,
                extractor: extractor()?,
            }),
            Self::PatchCore => Box::new(PatchCoreMethod {
                config: of(settings)?,
                extractor: extractor()?,
            }),
            Self::Dae => Box::new(DaeMethod {
                settings: of(settings)?,
            }),
        })
    }
}

fn no_changes() -> Value {
    Value::Object(serde_json::Map::new())
}

/// One method on one kind of features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowSettings {
    /// The method.
    pub method: RivalKind,
    /// Its features.
    pub features: FeatureSettings,
    /// What differs from the authors' settings: laid over them.
    #[serde(default = "no_changes")]
    pub changes: Value,
    /// From a map to a mask.
    pub post: PostProcessing,
    /// The method's own way from a map to a mask.
    #[serde(default = "PostProcessing::none")]
    pub own_post: PostProcessing,
}

/// All rows, as a JSON file has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSettings {
    /// 1.
    pub format: u32,
    /// The seed of all trainings.
    pub seed: u64,
    /// The rows.
    pub rows: Vec<RowSettings>,
}

/// A row with its features, before it is fitted.
#[derive(Debug)]
pub struct RivalRow {
    /// Its key: method and features.
    pub key: String,
    /// The method's name for people.
    pub title: &'static str,
    /// The features' name; none where the method sees slices.
    pub features: Option<String>,
    /// What its features are known by.
    pub(super) fingerprint: Option<String>,
    /// The method.
    pub method: Box<dyn Method>,
    /// All of its settings.
    pub settings: Value,
    /// From a map to a mask.
    pub post: PostProcessing,
    /// The method's own way.
    pub own_post: PostProcessing,
}

/// All rows that can be fitted with the networks at hand.
#[derive(Debug)]
pub struct RivalPlan {
    /// The rows, in the order of the file.
    pub rows: Vec<RivalRow>,
    /// Rows of the file that take weights of ImageNet, where none were given.
    pub without_weights: Vec<&'static str>,
}

impl TableSettings {
    /// The format that this version reads.
    const FORMAT: u32 = 1;

    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it can't be read, or a setting makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let settings: Self = fndm_files::read_json(path, "settings of the rivals")?;
        settings.check()?;
        Ok(settings)
    }

    /// Fails on the first setting that makes no sense by itself.
    ///
    /// # Errors
    /// The setting, and what was expected.
    pub fn check(&self) -> Result<()> {
        if self.format != Self::FORMAT {
            return Err(Error::option(
                "format",
                Self::FORMAT.to_string(),
                self.format,
            ));
        }
        for row in &self.rows {
            let settings = row.method.settings(&row.changes);
            settings.map_err(|e| Error::Row {
                key: row.method.key(),
                source: Box::new(e),
            })?;
            row.post.check()?;
            row.own_post.check()?;
            if (row.features == FeatureSettings::None) != (row.method == RivalKind::Dae) {
                let expected = "none for dae, some for every other method";
                return Err(Error::option("features", expected, row.method.key()));
            }
        }
        Ok(())
    }

    /// The rows with their features: one for each network with weights of ImageNet that was given, where a row takes such.
    ///
    /// # Errors
    /// When a row's settings or features make no sense.
    pub fn plan(
        &self,
        model: &Path,
        pretrained: &[Pretrained],
        device: &Device,
    ) -> Result<RivalPlan> {
        let mut plan = RivalPlan {
            rows: Vec::new(),
            without_weights: Vec::new(),
        };
        for row in &self.rows {
            let features: Vec<Option<Features>> = match &row.features {
                FeatureSettings::None => vec![None],
                FeatureSettings::Classifier { blocks } => {
                    vec![Some(Features::classifier(model, blocks, device)?)]
                }
                FeatureSettings::Pretrained {
                    strides,
                    channels,
                    size,
                } => {
                    let of = |network| Features::pretrained(network, strides, *channels, *size);
                    let all = pretrained.iter().map(|network| of(network).map(Some));
                    all.collect::<Result<_>>()?
                }
            };
            if features.is_empty() {
                plan.without_weights.push(row.method.key());
            }
            for features in features {
                plan.rows.push(row.with(features.as_ref())?);
            }
        }
        Ok(plan)
    }
}

impl RowSettings {
    fn with(&self, features: Option<&Features>) -> Result<RivalRow> {
        let key = self.method.key();
        let settings = self.method.settings(&self.changes)?;
        let method = self.method.method(&settings, features)?;
        Ok(RivalRow {
            key: features.map_or_else(|| key.to_owned(), |f| format!("{key}_{}", f.name)),
            title: method.name(),
            features: features.map(|f| f.name.clone()),
            fingerprint: features.and_then(|f| f.extractor.fingerprint()),
            method,
            settings,
            post: self.post,
            own_post: self.own_post,
        })
    }
}
