//! Any bytes as a PyTorch file, and as the pickle of one in a sound archive; what is read is written and read again.
#![no_main]

use std::io::{Cursor, Write};

use fndm_models::{Limits, StateDict};
use libfuzzer_sys::fuzz_target;
use zip::write::{SimpleFileOptions, ZipWriter};

const LIMITS: Limits = Limits {
    tensor_bytes: 1 << 16,
    header_bytes: 1 << 14,
};

fn read(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a");
    std::fs::write(&path, bytes).expect("a temporary file");
    for key in [None, Some("ema")] {
        let state = match key {
            Some(key) => StateDict::read_key(&path, key, &LIMITS),
            None => StateDict::read(&path, &LIMITS),
        };
        let Ok(state) = state else { continue };
        let again = folder.path().join("b");
        state
            .save_torch(&again)
            .expect("what was read can be written");
        let second =
            StateDict::read(&again, &Limits::default()).expect("what was written can be read");
        let shapes = |s: &StateDict| -> Vec<_> {
            let tensors = s.tensors().iter();
            tensors
                .map(|(n, t)| (n.clone(), t.dims().to_vec(), t.dtype()))
                .collect()
        };
        assert_eq!(shapes(&second), shapes(&state));
    }
}

/// The archive that `torch.save` writes, with this pickle and three storages of 64 bytes.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let files = [
        ("a/data.pkl", pickle),
        ("a/data/0", &[0; 64]),
        ("a/data/1", &[1; 64]),
        ("a/data/2", &[2; 64]),
    ];
    for (name, bytes) in files {
        zip.start_file(name, options).expect("a new entry");
        zip.write_all(bytes).expect("bytes in memory");
    }
    zip.finish().expect("an archive in memory").into_inner()
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&archive(bytes));
});
