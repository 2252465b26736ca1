//! One case of a manifest. Every key is used, or the case is left out aloud.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// What a key holds, or why the case is left out.
pub(crate) type Read<T> = Result<T, String>;

/// An object of a manifest that remembers which of its keys were asked for. A key that holds null isn't there.
pub(crate) struct Case<'a> {
    fields: &'a Map<String, Value>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(value: &'a Value) -> Read<Self> {
        let fields = value
            .as_object()
            .ok_or_else(|| format!("an object is expected, not {value}"))?;
        Ok(Self {
            fields,
            used: RefCell::default(),
        })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(key.to_string());
        self.fields.get(key).filter(|v| !v.is_null())
    }

    fn read<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Read<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let read = read(value).ok_or_else(|| format!("{key}: {what} is expected, not {value}"))?;
        Ok(Some(read))
    }

    pub(crate) fn text_or(&self, key: &str, otherwise: &'a str) -> Read<&'a str> {
        Ok(self
            .read(key, "a text", Value::as_str)?
            .unwrap_or(otherwise))
    }

    pub(crate) fn text(&self, key: &str) -> Read<&'a str> {
        self.read(key, "a text", Value::as_str)?
            .ok_or_else(|| format!("no {key}"))
    }

    pub(crate) fn flag(&self, key: &str, otherwise: bool) -> Read<bool> {
        Ok(self
            .read(key, "true or false", Value::as_bool)?
            .unwrap_or(otherwise))
    }

    pub(crate) fn real(&self, key: &str) -> Read<Option<f64>> {
        self.read(key, "a number", real)
    }

    pub(crate) fn real_or(&self, key: &str, otherwise: f64) -> Read<f64> {
        Ok(self.real(key)?.unwrap_or(otherwise))
    }

    /// A whole number, also one that is written as 10.0.
    pub(crate) fn whole(&self, key: &str) -> Read<Option<usize>> {
        self.read(key, "a whole number", |v| real(v).and_then(whole))
    }

    pub(crate) fn number(&self, key: &str) -> Read<usize> {
        self.whole(key)?.ok_or_else(|| format!("no {key}"))
    }

    /// A list of whole numbers; one number is a list of one.
    pub(crate) fn numbers(&self, key: &str) -> Read<Option<Vec<usize>>> {
        self.read(key, "whole numbers", |v| match v {
            Value::Array(all) => all.iter().map(|v| real(v).and_then(whole)).collect(),
            one => real(one).and_then(whole).map(|n| vec![n]),
        })
    }

    /// The first key that holds something and was never asked for.
    pub(crate) fn all_used(&self) -> Read<()> {
        let used = self.used.borrow();
        match self
            .fields
            .iter()
            .find(|(key, value)| !value.is_null() && !used.contains(*key))
        {
            Some((key, value)) => Err(format!("{key} = {value} isn't known here")),
            None => Ok(()),
        }
    }
}

fn real(value: &Value) -> Option<f64> {
    // JSON has no infinity; see `Golden::load`.
    match value.as_str() {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

fn whole(value: f64) -> Option<usize> {
    (value.fract() == 0.0 && (0.0..=9e15).contains(&value)).then_some(value as usize)
}

#[test]
fn what_is_not_known_is_named() {
    let value = serde_json::json!({
        "steps": 10.0, "one": 3, "list": [1, 2], "low": "-Infinity", "nothing": null, "mystery": true
    });
    let case = Case::new(&value).unwrap();
    assert_eq!(case.number("steps"), Ok(10));
    assert_eq!(case.numbers("one"), Ok(Some(vec![3])));
    assert_eq!(case.numbers("list"), Ok(Some(vec![1, 2])));
    assert_eq!(case.real("low"), Ok(Some(f64::NEG_INFINITY)));
    assert_eq!(case.text_or("absent", "usual"), Ok("usual"));
    assert!(case.text("steps").is_err() && case.whole("list").is_err());
    assert_eq!(
        case.all_used(),
        Err("mystery = true isn't known here".to_string())
    );
    assert_eq!(case.flag("mystery", false), Ok(true));
    assert_eq!(case.all_used(), Ok(()));
}
