//! Values of options that may also be "none".

use std::str::FromStr;

use fndm::{GuidedSmoothing, VolumeScale};

/// An option's value, or none where "none" was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrNone<T>(pub(crate) Option<T>);

/// What the text of such an option stands for.
pub(crate) trait Value: Sized {
    /// What is expected, in words.
    const FORM: &'static str;

    /// The value of `text`; none where it has another form.
    fn read(text: &str) -> Option<Self>;

    /// Whether it is in its range.
    fn check(&self) -> fndm::Result<()> {
        Ok(())
    }
}

impl<T: Value> FromStr for OrNone<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let wrong = || format!("expected \"none\" or {}, got {text:?}", T::FORM);
        let value = T::read(text).ok_or_else(wrong)?;
        value.check().map_err(|e| e.to_string())?;
        Ok(Self(Some(value)))
    }
}

impl Value for f64 {
    const FORM: &'static str = "a number";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Value for VolumeScale {
    const FORM: &'static str = "numbers as 3:0.1";

    fn read(text: &str) -> Option<Self> {
        let (steepness, least) = text.split_once(':').unwrap_or((text, "0"));
        Some(Self {
            steepness: steepness.parse().ok()?,
            least: least.parse().ok()?,
        })
    }

    fn check(&self) -> fndm::Result<()> {
        self.check()
    }
}

impl Value for GuidedSmoothing {
    const FORM: &'static str = "three numbers as 5:0.06:1";

    fn read(text: &str) -> Option<Self> {
        let numbers: Result<Vec<f64>, _> = text.split(':').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[space, range, z]) => Some(Self { space, range, z }),
            _ => None,
        }
    }

    fn check(&self) -> fndm::Result<()> {
        self.check()
    }
}
