//! Any bytes as a safetensors file, as they are and with the length of the header put right; what is read is written
//! and read again.
#![no_main]

use fndm_models::{ClassifierConfig, Limits, StateDict, UNetConfig};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    tensor_bytes: 1 << 16,
    header_bytes: 1 << 14,
};

fn read(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a");
    std::fs::write(&path, bytes).expect("a temporary file");
    let Ok(state) = StateDict::read(&path, &LIMITS) else {
        return;
    };
    let _ = state.config::<UNetConfig>();
    let _ = state.config::<ClassifierConfig>();
    let _ = UNetConfig::guess(&state);
    let _ = ClassifierConfig::guess(&state);
    let again = folder.path().join("b");
    state.save(&again).expect("what was read can be written");
    let second = StateDict::read(&again, &Limits::default()).expect("what was written can be read");
    assert_eq!(second.metadata(), state.metadata());
    assert!(second.tensors().keys().eq(state.tensors().keys()));
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // Rarely would a random length fit: the text as far as its last bracket is the header.
    if let Some(end) = bytes.iter().rposition(|b| *b == b'}') {
        let mut whole = (end as u64 + 1).to_le_bytes().to_vec();
        whole.extend(bytes);
        read(&whole);
    }
});
