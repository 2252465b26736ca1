//! Trainers' checkpoints: the state dict is found beside what isn't one, or the candidates are named; nothing is dropped in silence.
//!
//! The files are PyTorch's own, by `golden/layouts/make.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;
use fndm_models::{Limits, StateDict};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

fn layout(name: &str) -> PathBuf {
    here("golden/layouts").join(format!("{name}.pt"))
}

fn values(state: &StateDict) -> BTreeMap<String, Vec<f32>> {
    let value = |t: &candle_core::Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
    let all = state.tensors().iter();
    all.map(|(name, t)| (name.clone(), value(t).unwrap()))
        .collect()
}

fn wanted() -> BTreeMap<String, Vec<f32>> {
    let text = std::fs::read_to_string(here("golden/layouts/state.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn error(path: &Path) -> String {
    StateDict::read(path, &Limits::default())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_one_state_dict_is_found() {
    let limits = Limits::default();
    for (name, key) in [
        ("accuracy", "state_dict"),
        ("rng", "model"),
        ("history", "model"),
        ("nested", "checkpoint/model"),
        ("lightning", "state_dict"),
        ("scaler", "net"),
        ("by_name", "model"),
        ("beside_itself", "."),
        ("distributed", "state_dict"),
        ("numbered_beside", "model"),
    ] {
        let found =
            StateDict::read(layout(name), &limits).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(values(&found), wanted(), "{name}");
        let named = StateDict::read_key(layout(name), key, &limits).unwrap();
        assert_eq!(values(&named), wanted(), "{name}");
    }
}

#[test]
fn of_several_none_is_taken() {
    let limits = Limits::default();
    for (name, names, key) in [
        ("averages", "name one of them: ema, model", "model"),
        ("two_levels", "name one of them: a/ema, a/model", "a/model"),
        (
            "extra",
            "name one of them: ., extra (. is the file's own)",
            ".",
        ),
    ] {
        let error = error(&layout(name));
        assert!(error.contains(names), "{name}: {error}");
        let named = StateDict::read_key(layout(name), key, &limits).unwrap();
        assert_eq!(values(&named), wanted(), "{name}");
    }
    // Names without a dot could be those of anything.
    let text = error(&layout("bare"));
    assert!(text.contains("name one of them: ., model"), "{text}");
    assert_eq!(
        StateDict::read_key(layout("bare"), "model", &limits)
            .unwrap()
            .len_elements(),
        8
    );
    let absent = StateDict::read_key(layout("averages"), "nothing", &limits).unwrap_err();
    let text = absent.to_string();
    assert!(
        text.contains("under nothing; there is: ., ema, model"),
        "{text}"
    );
}

#[test]
fn tensors_without_names_are_not_dropped() {
    let text = error(&layout("numbered"));
    assert!(
        text.contains("without names") && text.contains(". (keys that aren't text)"),
        "{text}"
    );
    let text = error(&layout("half_numbered"));
    assert!(text.contains("keys that aren't text: 7"), "{text}");
    let text = error(&layout("numbered_below"));
    for part in ["model (keys that aren't text)", "shadow_params (a list)"] {
        assert!(text.contains(part), "{text}");
    }
    let limits = Limits::default();
    let text = StateDict::read_key(layout("numbered"), ".", &limits).unwrap_err();
    assert!(
        text.to_string().contains("keys that aren't text: 0, 1"),
        "{text}"
    );
}

/// Files as users sent them.
#[test]
fn reported_files() {
    let read = |name: &str| StateDict::read(here("regressions").join(name), &Limits::default());
    for name in ["checkpoint.pt", "rng.pt"] {
        let state = read(name).unwrap();
        let shapes: Vec<(&str, &[usize])> = state
            .tensors()
            .iter()
            .map(|(name, t)| (name.as_str(), t.dims()))
            .collect();
        let expected: [(&str, &[usize]); 2] = [("layer.bias", &[2]), ("layer.weight", &[2, 3])];
        assert_eq!(shapes, expected, "{name}");
        assert_eq!(state.len_elements(), 8);
    }
    for (name, part) in [
        ("deflated.pt", "expected entries that aren't compressed"),
        ("legacy_cut.pt", "cut short"),
    ] {
        let text = read(name).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
        assert!(text.contains(name), "{text}");
    }
}
