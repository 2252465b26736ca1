use safetensors::tensor::TensorView;

/// FNV-1a (64 bits) of the description, then of every tensor in the order of names.
pub(crate) fn checksum<S: AsRef<str>>(bank: &str, tensors: &[(S, TensorView<'_>)]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(bank.as_bytes());
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
    for (name, tensor) in sorted {
        add(format!(
            "\n{}:{:?}:{:?}:",
            name.as_ref(),
            tensor.dtype(),
            tensor.shape()
        )
        .as_bytes());
        add(tensor.data());
    }
    format!("fnv1a64:{hash:016x}")
}
