use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// A value with some of its fields changed by JSON that is laid over it (as a merge patch of RFC 7396, but null is a value).
///
/// # Errors
/// When there is no such field, or a value doesn't fit it.
pub fn overlay<T: Serialize, U: DeserializeOwned>(value: &T, patch: &Value) -> Result<U> {
    fn merge(target: &mut Value, patch: &Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
            (target, patch) => *target = patch.clone(),
        }
    }
    let mut whole = serde_json::to_value(value).map_err(Error::Overlay)?;
    merge(&mut whole, patch);
    serde_json::from_value(whole).map_err(Error::Overlay)
}
