//! The cases of the reference data: what they hold, what of it was used, and how far ours is from it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Says it to the terminal, past the capture of what a passing test prints.
macro_rules! aloud {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// A case as the manifest has it.
#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    method: String,
    kind: String,
    args: Value,
    files: BTreeMap<String, String>,
    tensors: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    #[serde(rename = "rounding")]
    _rounding: BTreeMap<String, f64>,
    tolerance: BTreeMap<String, f64>,
    #[serde(rename = "bytes")]
    _bytes: u64,
    #[serde(default)]
    i64: BTreeSet<String>,
    #[serde(default, rename = "note")]
    _note: String,
    /// Everything else: a test must ask for it.
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    cases: Vec<Entry>,
    #[serde(rename = "set")]
    _set: String,
    #[serde(rename = "torch")]
    _torch: String,
    #[serde(rename = "torchvision")]
    _torchvision: String,
    #[serde(rename = "FrEIA")]
    _freia: String,
    float: String,
    int: String,
}

/// The optimiser of a training, as the manifest writes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Optimiser {
    pub(crate) name: String,
    pub(crate) lr: f64,
    pub(crate) betas: Option<(f64, f64)>,
    pub(crate) eps: Option<f64>,
    pub(crate) weight_decay: f64,
    pub(crate) amsgrad: Option<bool>,
    pub(crate) momentum: Option<f64>,
    pub(crate) dampening: Option<f64>,
    pub(crate) nesterov: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepCheck {
    absolute: f64,
    share_within: f64,
    #[serde(rename = "largest")]
    _largest: f64,
}

/// A case with its tensors. Whatever isn't used by the time of [`finish`](Self::finish) fails it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) id: String,
    entry: Entry,
    files: BTreeMap<String, Tensors>,
    used: RefCell<BTreeSet<String>>,
    worst: RefCell<BTreeMap<String, (f64, f64)>>,
    failures: RefCell<Vec<String>>,
}

fn folder() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let full = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| own.join("../../../shared/golden"), PathBuf::from);
    let whole = full.join("baselines");
    if whole.join("manifest.json").is_file() {
        return whole;
    }
    aloud!(
        "no reference data in {}: using the part in tests/golden/data",
        whole.display()
    );
    own.join("tests/golden/data")
}

fn manifest(folder: &Path) -> Manifest {
    let text = std::fs::read_to_string(folder.join("manifest.json"))
        .expect("a part of the reference data is kept in the repository");
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    assert_eq!((&*manifest.float, &*manifest.int), ("F32", "I64"));
    manifest
}

/// Id, method and kind of every case.
pub(crate) fn all_kinds() -> Vec<(String, String, String)> {
    let cases = manifest(&folder()).cases;
    cases
        .into_iter()
        .map(|c| (c.id, c.method, c.kind))
        .collect()
}

/// All cases of a method and kind.
pub(crate) fn cases(method: &str, kind: &str) -> Vec<Case> {
    let folder = folder();
    let entries = manifest(&folder).cases.into_iter();
    let cases: Vec<Case> = entries
        .filter(|e| e.method == method && e.kind == kind)
        .map(|entry| Case::read(&folder, entry))
        .collect();
    if cases.is_empty() {
        aloud!("{method}/{kind}: the reference data has no case");
    }
    cases
}

/// All values, in f64.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0f64, |a, v| a.max(v.abs()))
}

impl Case {
    fn read(folder: &Path, entry: Entry) -> Self {
        let mut files = BTreeMap::new();
        for (part, name) in &entry.files {
            let tensors = candle_core::safetensors::load(folder.join(name), &Device::Cpu).unwrap();
            let tensors: Tensors = tensors.into_iter().collect();
            let listed = &entry.tensors[part];
            assert_eq!(
                tensors.keys().collect::<Vec<_>>(),
                listed.keys().collect::<Vec<_>>(),
                "{name}"
            );
            for (key, tensor) in &tensors {
                // Counts of batches are whole numbers in every state of PyTorch's.
                let whole = entry.i64.contains(key) || key.ends_with("num_batches_tracked");
                let dtype = match whole {
                    true => DType::I64,
                    false => DType::F32,
                };
                assert_eq!(
                    (tensor.dims(), tensor.dtype()),
                    (&listed[key][..], dtype),
                    "{name}: {key}"
                );
            }
            files.insert(part.clone(), tensors);
        }
        Self {
            id: entry.id.clone(),
            entry,
            files,
            used: RefCell::default(),
            worst: RefCell::default(),
            failures: RefCell::default(),
        }
    }

    /// The arguments. `T` must have `deny_unknown_fields`, and use every field.
    pub(crate) fn args<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.entry.args.clone())
            .unwrap_or_else(|e| panic!("{}: args: {e}", self.id))
    }

    /// A further key of the case in the manifest, where it has it.
    pub(crate) fn extra<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let value = self.entry.extra.get(key)?;
        self.used.borrow_mut().insert(format!("case/{key}"));
        let read = serde_json::from_value(value.clone());
        Some(read.unwrap_or_else(|e| panic!("{}: {key}: {e}", self.id)))
    }

    /// The optimiser of the training.
    pub(crate) fn optimiser(&self) -> Optimiser {
        self.extra("optimiser").expect("an optimiser")
    }

    fn file(&self, part: &str) -> &Tensors {
        static NONE: Tensors = Tensors::new();
        self.files.get(part).unwrap_or(&NONE)
    }

    fn use_all(&self, part: &str, keys: impl IntoIterator<Item = String>) {
        let mut used = self.used.borrow_mut();
        used.extend(keys.into_iter().map(|key| format!("{part}/{key}")));
    }

    /// The state before training, all of it.
    pub(crate) fn weights(&self) -> Tensors {
        let weights = self.file("weights");
        self.use_all("weights", weights.keys().cloned());
        weights.clone()
    }

    /// The weights whose names begin with `prefix`, without it.
    pub(crate) fn weights_of(&self, prefix: &str) -> Tensors {
        let all = self.file("weights").iter();
        let of: Tensors = all
            .filter_map(|(k, t)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone())))
            .collect();
        self.use_all("weights", of.keys().map(|k| format!("{prefix}{k}")));
        of
    }

    /// A tensor of the `io` file, where there is one.
    pub(crate) fn find(&self, name: &str) -> Option<Tensor> {
        let tensor = self.file("io").get(name)?.clone();
        self.use_all("io", [name.to_owned()]);
        Some(tensor)
    }

    /// A tensor of the `io` file.
    pub(crate) fn io(&self, name: &str) -> Tensor {
        self.find(name)
            .unwrap_or_else(|| panic!("{} has no {name}", self.id))
    }

    /// Whether the `io` file has a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file("io").contains_key(name)
    }

    /// Names in the `io` file.
    pub(crate) fn names(&self) -> Vec<String> {
        self.file("io").keys().cloned().collect()
    }

    /// A tensor of the `train` file.
    pub(crate) fn train(&self, name: &str) -> Tensor {
        let tensor = self.file("train").get(name);
        let tensor = tensor.unwrap_or_else(|| panic!("{} has no {name}", self.id));
        self.use_all("train", [name.to_owned()]);
        tensor.clone()
    }

    /// The tensors of the `train` file under `prefix/`, by the rest of their names.
    pub(crate) fn train_of(&self, prefix: &str) -> Tensors {
        let start = format!("{prefix}/");
        let all = self.file("train").iter();
        let of: Tensors = all
            .filter_map(|(k, t)| Some((k.strip_prefix(&start)?.to_owned(), t.clone())))
            .collect();
        self.use_all("train", of.keys().map(|k| format!("{start}{k}")));
        of
    }

    /// The first parts of the names in the `train` file that have more than one: `grad`, `step1`, ...
    pub(crate) fn train_parts(&self) -> BTreeSet<String> {
        let keys = self.file("train").keys();
        keys.filter_map(|k| Some(k.split_once('/')?.0.to_owned()))
            .collect()
    }

    /// Notes an error beside what is allowed.
    pub(crate) fn note(&self, name: &str, error: f64, allowed: f64) {
        // Written so that NaN fails.
        if error.is_nan() || error > allowed {
            let line = format!("{name}: error {error:.3e}, allowed {allowed:.1e}");
            self.failures.borrow_mut().push(line);
        }
        let mut worst = self.worst.borrow_mut();
        let entry = worst.entry(name.to_owned()).or_insert((0.0, allowed));
        entry.0 = match error.is_nan() {
            true => f64::NAN,
            false => entry.0.max(error),
        };
    }

    fn tolerance(&self, name: &str) -> f64 {
        let tolerance = self.entry.tolerance.get(name);
        *tolerance.unwrap_or_else(|| panic!("{}: no tolerance for {name}", self.id))
    }

    /// Compares values of one's own with those of the `io` file, by the manifest's tolerance.
    pub(crate) fn check_values(&self, name: &str, got: &[f64]) {
        let expected = values(&self.io(name));
        self.compare(name, got, &expected, largest(&expected), name);
    }

    /// Compares a tensor with the one of the same name in the `io` file; shapes may differ by dimensions of 1.
    pub(crate) fn check(&self, name: &str, got: &Tensor) {
        let expected = self.io(name);
        let bare =
            |t: &Tensor| -> Vec<usize> { t.dims().iter().copied().filter(|&n| n != 1).collect() };
        assert_eq!(bare(got), bare(&expected), "{}: {name}", self.id);
        self.check_values(name, &values(got));
    }

    /// Compares values with others that were made of the case's, by the tolerance of `name`.
    pub(crate) fn check_against(&self, name: &str, got: &[f64], expected: &[f64]) {
        self.compare(name, got, expected, largest(expected), name);
    }

    /// Compares a tensor of the `train` file, by its own tolerance.
    pub(crate) fn check_train(&self, name: &str, got: &[f64]) {
        let expected = values(&self.train(name));
        self.compare(name, got, &expected, largest(&expected), name);
    }

    /// Integers must be equal.
    pub(crate) fn check_integers(&self, name: &str, got: &[usize]) {
        let expected = self.io(name).flatten_all().unwrap().to_vec1::<i64>();
        let expected: Vec<usize> = expected.unwrap().into_iter().map(|v| v as usize).collect();
        self.note(name, f64::from(u8::from(got != expected)), 0.0);
    }

    fn compare(&self, name: &str, got: &[f64], expected: &[f64], scale: f64, tolerance: &str) {
        assert_eq!(got.len(), expected.len(), "{}: {name}", self.id);
        let scale = if scale > 0.0 { scale } else { 1.0 };
        let mut worst = 0f64;
        for (g, e) in got.iter().zip(expected) {
            let error = (g - e).abs() / scale;
            worst = if error.is_nan() || worst.is_nan() {
                f64::NAN
            } else {
                worst.max(error)
            };
        }
        self.note(name, worst, self.tolerance(tolerance));
    }

    /// Compares all tensors under `part/` of the `train` file, such as gradients, each by the larger of its own largest value and a
    /// thousandth of the largest of all. Names must be the same on both sides.
    pub(crate) fn check_all(&self, part: &str, got: &Tensors) {
        let expected = self.train_of(part);
        assert_eq!(
            got.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "{}: {part}",
            self.id
        );
        let of_all = expected
            .values()
            .fold(0f64, |a, t| a.max(largest(&values(t))));
        for (key, expected) in &expected {
            assert_eq!(
                got[key].dims(),
                expected.dims(),
                "{}: {part}/{key}",
                self.id
            );
            let (got, expected) = (values(&got[key]), values(expected));
            let scale = largest(&expected).max(of_all / 1000.0);
            self.compare(&format!("{part}/{key}"), &got, &expected, scale, part);
        }
    }

    /// Compares the state after some steps of gradient descent with `part/`, each tensor by the larger of its own largest value and a
    /// thousandth of the largest gradient. What isn't there must be as it was in `start`.
    pub(crate) fn check_changed(&self, part: &str, start: &Tensors, got: &Tensors) {
        let expected = self.train_of(part);
        let gradients = self.train_of("grad");
        let largest_of = |t: &Tensor| largest(&values(t));
        let of_all = gradients.values().map(largest_of).fold(0f64, f64::max);
        for key in expected.keys() {
            assert!(
                got.contains_key(key),
                "{}: {part}: ours lacks {key}",
                self.id
            );
        }
        for (key, got) in got {
            let Some(expected) = expected.get(key) else {
                let same = values(&start[key]) == values(got);
                assert!(same, "{}: {part}: {key} has changed", self.id);
                continue;
            };
            assert_eq!(got.dims(), expected.dims(), "{}: {part}/{key}", self.id);
            let (got, expected) = (values(got), values(expected));
            let scale = largest(&expected).max(of_all / 1000.0);
            self.compare(&format!("{part}/{key}"), &got, &expected, scale, part);
        }
    }

    /// Compares the state after some steps of Adam with `part/`, by the manifest's share within a fiftieth of the rate. What isn't
    /// there must be as it was in `start`. Where the share is of no use, this says so.
    pub(crate) fn check_state(&self, part: &str, start: &Tensors, got: &Tensors) {
        let checks: BTreeMap<String, StepCheck> = self.extra("step_check").expect("a step_check");
        let check = checks
            .get(part)
            .unwrap_or_else(|| panic!("{}: no step_check of {part}", self.id));
        let expected = self.train_of(part);
        for key in expected.keys() {
            assert!(
                got.contains_key(key),
                "{}: {part}: ours lacks {key}",
                self.id
            );
        }
        let (mut within, mut all, mut far) = (0usize, 0usize, 0f64);
        for (key, got) in got {
            let Some(expected) = expected.get(key) else {
                let same = values(&start[key]) == values(got);
                assert!(same, "{}: {part}: {key} has changed", self.id);
                continue;
            };
            assert_eq!(got.dims(), expected.dims(), "{}: {part}/{key}", self.id);
            for (g, e) in values(got).iter().zip(values(expected)) {
                let error = (g - e).abs();
                within += usize::from(error <= check.absolute);
                all += 1;
                far = if error.is_nan() {
                    f64::NAN
                } else {
                    far.max(error)
                };
            }
        }
        let share = within as f64 / all as f64;
        let lacking = 1.0 - check.share_within;
        let least = check.share_within - 0.002 - 0.3 * lacking;
        if least <= 0.0 {
            aloud!(
                "{}: {part} can't be judged: training amplifies rounding",
                self.id
            );
        }
        println!(
            "{} {part}: {share:.5} within {:.1e} (at least {least:.5}), largest {far:.1e}",
            self.id, check.absolute
        );
        self.note(&format!("{part}: share outside"), 1.0 - share, 1.0 - least);
    }

    /// Fails where something is beyond its tolerance, or wasn't used. Prints the worst error.
    pub(crate) fn finish(self) {
        let worst = self.worst.borrow();
        let share = |(error, allowed): &(f64, f64)| error / allowed.max(f64::MIN_POSITIVE);
        let worst_of = worst
            .iter()
            .max_by(|a, b| share(a.1).total_cmp(&share(b.1)));
        if let Some((name, (error, allowed))) = worst_of {
            aloud!(
                "{}: {} compared, worst {name}: {error:.2e} of {allowed:.1e}",
                self.id,
                worst.len()
            );
        }
        let mut failures = self.failures.borrow().clone();
        let used = self.used.borrow();
        let all = self
            .files
            .iter()
            .flat_map(|(part, tensors)| tensors.keys().map(move |key| format!("{part}/{key}")));
        let extra = self.entry.extra.keys().map(|key| format!("case/{key}"));
        let unused = all.chain(extra).filter(|key| !used.contains(key));
        failures.extend(unused.map(|key| format!("{key}: not used")));
        assert!(failures.is_empty(), "{}:\n{}", self.id, failures.join("\n"));
    }
}

/// Tensors as a builder of networks takes them.
pub(crate) fn builder(tensors: &Tensors) -> candle_nn::VarBuilder<'static> {
    let floats = tensors.iter().filter(|(_, t)| t.dtype() == DType::F32);
    let all: HashMap<String, Tensor> = floats.map(|(k, t)| (k.clone(), t.clone())).collect();
    candle_nn::VarBuilder::from_tensors(all, DType::F32, &Device::Cpu)
}
