use std::hash::Hasher;

use fnv::FnvHasher;
use safetensors::tensor::TensorView;

/// FNV-1a (64 bits) of the description, then of every tensor in the order of names.
pub(crate) fn checksum<S: AsRef<str>>(bank: &str, tensors: &[(S, TensorView<'_>)]) -> String {
    let mut hash = FnvHasher::default();
    hash.write(bank.as_bytes());
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
    for (name, tensor) in sorted {
        let (name, dtype, shape) = (name.as_ref(), tensor.dtype(), tensor.shape());
        hash.write(format!("\n{name}:{dtype:?}:{shape:?}:").as_bytes());
        hash.write(tensor.data());
    }
    format!("fnv1a64:{:016x}", hash.finish())
}
