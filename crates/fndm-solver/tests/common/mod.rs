//! Reference data and the Gaussian mixture whose noise prediction is known exactly.
#![allow(dead_code)]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The folder of reference data: `$FNDM_GOLDEN` (relative to the workspace), else the one beside the repository, else
/// the small part in the crate.
pub(crate) fn golden_folder() -> PathBuf {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = crate_root.join("../..");
    let mut candidates = Vec::new();
    if let Some(root) = foreign() {
        let root = workspace.join(root);
        candidates.push(root.join("solver"));
        candidates.push(root.clone());
        assert!(
            root.is_dir(),
            "FNDM_GOLDEN is no folder: {}",
            root.display()
        );
    }
    candidates.push(workspace.join("../shared/golden/solver"));
    if let Some(found) = candidates
        .iter()
        .find(|p| p.join("manifest.json").is_file())
    {
        return found.clone();
    }
    println!(
        "SKIPPED: no reference data in {candidates:?}; only the small part in the crate is compared"
    );
    crate_root.join("tests/golden")
}

/// The folder that `$FNDM_GOLDEN` names: a set that this repository may know nothing of.
fn foreign() -> Option<std::ffi::OsString> {
    std::env::var_os("FNDM_GOLDEN")
}

/// Python writes NaN and the infinities bare, which isn't JSON: as texts they can be read.
fn quote_infinities(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let (mut rest, mut inside) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|w| !inside && rest.starts_with(w));
        if let Some(word) = word {
            quoted.push('"');
            quoted.push_str(word);
            quoted.push('"');
            rest = &rest[word.len()..];
            continue;
        }
        let mut len = c.len_utf8();
        if inside && c == '\\' {
            len += rest[1..].chars().next().map_or(0, char::len_utf8);
        } else if c == '"' {
            inside = !inside;
        }
        quoted.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    quoted
}

/// One array, whatever its stored type.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

impl Array {
    pub(crate) fn tensor(&self) -> Tensor {
        Tensor::from_vec(self.values.clone(), self.shape.clone(), &Device::Cpu)
            .expect("a stored array has its shape")
    }

    /// The `i`-th entry along the first axis.
    pub(crate) fn entry(&self, i: usize) -> Array {
        let len = self.values.len() / self.shape[0];
        Array {
            shape: self.shape[1..].to_vec(),
            values: self.values[i * len..(i + 1) * len].to_vec(),
        }
    }

    pub(crate) fn last(&self) -> Array {
        self.entry(self.shape[0] - 1)
    }
}

/// The whole reference folder.
pub(crate) struct Golden {
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Value,
    files: HashMap<String, HashMap<String, Array>>,
}

impl Golden {
    pub(crate) fn load() -> Self {
        let folder = golden_folder();
        println!("reference data: {}", folder.display());
        let text = std::fs::read_to_string(folder.join("manifest.json")).expect("the manifest");
        let manifest =
            serde_json::from_str(&quote_infinities(&text)).expect("the manifest is JSON");
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(&folder).expect("the folder") {
            let path = entry.expect("a folder entry").path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let name = path
                    .file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                files.insert(name, read_safetensors(&path));
            }
        }
        Self {
            folder,
            manifest,
            files,
        }
    }

    pub(crate) fn cases(&self, family: &str) -> Vec<Value> {
        self.manifest
            .get(family)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    }

    /// Says so where the folder has no part of this name, in its manifest or as a file.
    pub(crate) fn lacks(&self, part: &str) -> bool {
        let lacks = self.manifest.get(part).is_none() && !self.files.contains_key(part);
        if lacks {
            println!("SKIPPED: {} has no {part}", self.folder.display());
        }
        lacks
    }

    pub(crate) fn file(&self, name: &str) -> &HashMap<String, Array> {
        self.files
            .get(name)
            .unwrap_or_else(|| panic!("{name}.safetensors is missing"))
    }

    pub(crate) fn get(&self, file: &str, key: &str) -> &Array {
        self.find(file, key)
            .unwrap_or_else(|| panic!("{file}.safetensors has no {key}"))
    }

    pub(crate) fn find(&self, file: &str, key: &str) -> Option<&Array> {
        self.files.get(file).and_then(|f| f.get(key))
    }

    pub(crate) fn mixture(&self, dim: usize) -> Mixture {
        let get = |n: &str| self.get("mixtures", &format!("d{dim}.{n}")).clone();
        let mu = get("mu");
        Mixture {
            w: get("w").values,
            mu: (0..mu.shape[0]).map(|k| mu.entry(k).values).collect(),
            var: get("var").values,
        }
    }
}

fn read_safetensors(path: &Path) -> HashMap<String, Array> {
    let bytes = std::fs::read(path).expect("a readable file");
    let st = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    st.tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F64 => data
                    .chunks_exact(8)
                    .map(|c| f64::from_le_bytes(c.try_into().unwrap()))
                    .collect(),
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap())))
                    .collect(),
                Dtype::I64 => data
                    .chunks_exact(8)
                    .map(|c| i64::from_le_bytes(c.try_into().unwrap()) as f64)
                    .collect(),
                Dtype::I32 => data
                    .chunks_exact(4)
                    .map(|c| f64::from(i32::from_le_bytes(c.try_into().unwrap())))
                    .collect(),
                Dtype::BOOL => data.iter().map(|&b| f64::from(b)).collect(),
                other => panic!("{name}: unexpected type {other:?}"),
            };
            (
                name,
                Array {
                    // A scalar is a list of one.
                    shape: if view.shape().is_empty() {
                        vec![1]
                    } else {
                        view.shape().to_vec()
                    },
                    values,
                },
            )
        })
        .collect()
}

/// A mixture of isotropic Gaussians.
#[derive(Debug, Clone)]
pub(crate) struct Mixture {
    pub(crate) w: Vec<f64>,
    pub(crate) mu: Vec<Vec<f64>>,
    pub(crate) var: Vec<f64>,
}

impl Mixture {
    /// A two-dimensional one for tests that need no reference data.
    pub(crate) fn example() -> Self {
        Self {
            w: vec![0.5, 0.3, 0.2],
            mu: vec![vec![0.8, -0.4], vec![-0.7, 0.5], vec![0.1, 0.9]],
            var: vec![0.04, 0.09, 0.06],
        }
    }

    /// The components with these numbers, their weights made to sum to 1.
    pub(crate) fn part(&self, components: &[usize]) -> Self {
        let sum: f64 = components.iter().map(|&k| self.w[k]).sum();
        Self {
            w: components.iter().map(|&k| self.w[k] / sum).collect(),
            mu: components.iter().map(|&k| self.mu[k].clone()).collect(),
            var: components.iter().map(|&k| self.var[k]).collect(),
        }
    }

    /// The exact noise and the clean image in one sample, neither by a division by `a` or `s`.
    fn parts_of(&self, x: &[f64], a: f64, s: f64) -> (Vec<f64>, Vec<f64>) {
        let d = x.len() as f64;
        let v: Vec<f64> = self.var.iter().map(|var| a * a * var + s * s).collect();
        let logits: Vec<f64> = (0..self.w.len())
            .map(|k| {
                let r2: f64 = x
                    .iter()
                    .zip(&self.mu[k])
                    .map(|(x, m)| (x - a * m).powi(2))
                    .sum();
                self.w[k].ln() - r2 / (2.0 * v[k]) - 0.5 * d * v[k].ln()
            })
            .collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let r: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
        let total: f64 = r.iter().sum();
        let sum = |of: &dyn Fn(usize) -> f64| -> f64 {
            (0..v.len()).map(|k| r[k] / total * of(k) / v[k]).sum()
        };
        let noise = |i: usize| s * sum(&|k| x[i] - a * self.mu[k][i]);
        let x0 = |i: usize| sum(&|k| a * self.var[k] * x[i] + s * s * self.mu[k][i]);
        (
            (0..x.len()).map(noise).collect(),
            (0..x.len()).map(x0).collect(),
        )
    }

    /// The exact noise in a batch `(B, D, 1...)`, computed in f64, given in the batch's own type.
    pub(crate) fn noise(&self, x: &Tensor, a: f64, s: f64) -> candle_core::Result<Tensor> {
        Ok(self.noise_and_x0(x, a, s)?.0)
    }

    /// The exact noise and clean image, likewise.
    pub(crate) fn noise_and_x0(
        &self,
        x: &Tensor,
        a: f64,
        s: f64,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let d = self.mu[0].len();
        let values = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let (mut noise, mut x0) = (Vec::new(), Vec::new());
        for x in values.chunks_exact(d) {
            let parts = self.parts_of(x, a, s);
            noise.extend(parts.0);
            x0.extend(parts.1);
        }
        let tensor = |v: Vec<f64>| Tensor::from_vec(v, x.dims(), &Device::Cpu)?.to_dtype(x.dtype());
        Ok((tensor(noise)?, tensor(x0)?))
    }
}

/// All values, widened.
pub(crate) fn array(t: &Tensor) -> Array {
    let wide = t.to_dtype(DType::F64).and_then(|t| t.flatten_all());
    Array {
        shape: t.dims().to_vec(),
        values: wide.and_then(|t| t.to_vec1()).expect("values"),
    }
}

/// Largest absolute difference.
pub(crate) fn distance(a: &Tensor, b: &Array) -> f64 {
    let a = array(a);
    assert_eq!(a.values.len(), b.values.len(), "as many values");
    a.values
        .iter()
        .zip(&b.values)
        .map(|(a, b)| {
            if a.is_nan() || b.is_nan() {
                f64::INFINITY
            } else {
                (a - b).abs()
            }
        })
        .fold(0.0, f64::max)
}

pub(crate) fn largest(a: &Array) -> f64 {
    a.values.iter().map(|v| v.abs()).fold(0.0, f64::max)
}

/// Counts the cases that were compared and those that were left out, and why.
#[derive(Default)]
pub(crate) struct Tally {
    cases: BTreeSet<String>,
    values: usize,
    left_out: Vec<(String, String)>,
    failed: Vec<String>,
    worst: f64,
    worst_at: String,
}

impl Tally {
    /// `error` is that of the part `what` of a case.
    pub(crate) fn compare(&mut self, case: &str, what: &str, error: f64, tolerance: f64) {
        self.cases.insert(case.to_string());
        self.values += 1;
        if error > self.worst || error.is_nan() {
            self.worst = error;
            self.worst_at = format!("{case} {what}");
        }
        if error.is_nan() || error > tolerance {
            self.failed.push(format!(
                "{case} {what}: {error:.3e}, allowed {tolerance:.1e}"
            ));
        }
    }

    /// Every state of a case, relative to the largest value of its reference.
    pub(crate) fn compare_states(
        &mut self,
        case: &str,
        states: &[Tensor],
        want: &Array,
        tolerance: f64,
    ) {
        if states.len() != want.shape[0] {
            self.fail(
                case,
                &format!("{} states, expected {}", states.len(), want.shape[0]),
            );
            return;
        }
        for (i, state) in states.iter().enumerate() {
            let want = want.entry(i);
            let error = distance(state, &want) / largest(&want).max(1.0);
            self.compare(case, &format!("state {i}"), error, tolerance);
        }
    }

    /// A case that differs in something else than numbers.
    pub(crate) fn fail(&mut self, case: &str, why: &str) {
        self.cases.insert(case.to_string());
        self.values += 1;
        self.failed.push(format!("{case}: {why}"));
    }

    /// Where the peer failed or left the finite numbers, this crate refuses with an error of its own, or gives finite
    /// numbers: it never panics and never ends in NaN.
    pub(crate) fn peer_failed(
        &mut self,
        case: &str,
        peer: &str,
        ours: Result<Vec<Tensor>, fndm_solver::Error>,
    ) {
        match ours {
            Ok(states) => {
                let all = states.iter().flat_map(|s| array(s).values);
                let finite = all.map(f64::is_finite).fold(true, |a, b| a & b);
                println!("  {case}: the peer: {peer}; ours: finite {finite}");
                self.compare(case, "finite", if finite { 0.0 } else { 1.0 }, 0.0);
            }
            Err(error) => {
                println!("  {case}: the peer: {peer}; ours: {error}");
                self.compare(case, "refused", 0.0, 0.0);
            }
        }
    }

    pub(crate) fn leave_out(&mut self, case: &str, reason: &str) {
        self.left_out.push((case.to_string(), reason.to_string()));
    }

    /// Prints the figures; fails when a case failed or, of the sets that this repository knows, more than a tenth was
    /// left out.
    pub(crate) fn finish(self, what: &str) {
        println!(
            "{what}: {} cases compared ({} values), {} left out, worst error {:.3e} ({})",
            self.cases.len(),
            self.values,
            self.left_out.len(),
            self.worst,
            self.worst_at
        );
        for (id, reason) in &self.left_out {
            println!("  left out {id}: {reason}");
        }
        for failure in &self.failed {
            println!("  FAILED {failure}");
        }
        assert!(
            self.failed.is_empty(),
            "{what}: {} of {} values failed",
            self.failed.len(),
            self.values
        );
        if foreign().is_some() {
            // Nobody has said what is in such a set.
            if self.cases.is_empty() {
                println!("  NOTHING WAS COMPARED");
            }
            return;
        }
        let all = self.cases.len() + self.left_out.len();
        assert!(
            self.left_out.len() * 10 <= all,
            "{what}: {} of {all} cases left out",
            self.left_out.len()
        );
        assert!(!self.cases.is_empty(), "{what}: no case found");
    }
}

pub(crate) fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case.get(key)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text {key} in {case}"))
}
